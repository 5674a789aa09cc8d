//! What is measured of TURN servers, and how.

use std::time::Duration;

use anyhow::Result;
use rtc_bench_common::{
    namespace::{self, Place},
    pin::Cores,
    report::Named,
    rounds::{self, Bench, Conditions},
};

use crate::args::Args;
use crate::client::Dialect;
use crate::load::{Load, Work};
use crate::measure::{Figures, Metric, Plan, measure};
use crate::server::Kind;

/// Open files beside those of the idle allocations.
const OTHER_FILES: usize = 4_000;

impl Bench for Plan {
    type Server = Kind;
    type Metric = Metric;
    type Load = Load;

    const REFERENCE: Kind = Kind::Coturn;

    fn named(load: &Load) -> Named {
        Named { name: load.name, title: load.title }
    }

    fn is_steady(load: &Load) -> bool {
        matches!(load.work, Work::Idle { .. })
    }

    fn takes(kind: Kind, load: &Load) -> bool {
        kind.dialect() != Dialect::Bare || matches!(load.work, Work::Relay { .. })
    }

    fn measure(&self, kind: Kind, load: &Load) -> Result<Figures> {
        measure(kind, load, self)
    }
}

/// Builds and finds the servers; those that can be measured.
pub(crate) fn prepare(args: &Args) -> Vec<Kind> {
    rounds::ready(&args.servers, |kind| kind.prepare(args.ours.as_deref()))
}

/// Measures and prints; whether every measurement gave figures.
///
/// # Errors
/// When the CPUs are not there or the results cannot be written.
pub(crate) fn run(args: &Args, kinds: &[Kind], place: Place) -> Result<bool> {
    let cores = Cores::take(&args.cores)?;
    let loads = args.loads()?;
    let idle_limit = namespace::make_room(if args.quick { 2_000 } else { 20_000 }, OTHER_FILES);
    let warm = Duration::from_millis(if args.quick { 100 } else { 300 });
    let plan = Plan { warm, measured: args.measured(), idle_limit, cores, ours: args.ours.clone() };
    let json = args.json.as_deref();
    rounds::run(
        &plan,
        &loads,
        kinds,
        Conditions { rounds: args.rounds(), time: args.limit(), cores, place, json },
    )
}
