//! Results as a table for people and as JSON for programs.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use rtc_bench_common::stats::{Spread, pairwise};
use serde_json::{Value, json};

use crate::load::Load;
use crate::measure::{Figures, Metric};
use crate::server::Kind;

/// What all ratios are to.
const REFERENCE: Kind = Kind::Coturn;

/// Figures with the round they are of.
type Rounds = Vec<(usize, f64)>;

/// All figures of a run.
#[derive(Default)]
pub(crate) struct Results {
    /// By load's name and metric.
    figures: BTreeMap<(&'static str, Metric), BTreeMap<Kind, Rounds>>,
    failures: Vec<String>,
}

impl Results {
    /// Adds what one measurement gave.
    pub(crate) fn add(&mut self, load: &Load, kind: Kind, round: usize, figures: Figures) {
        for (metric, figure) in figures {
            let by_kind = self.figures.entry((load.name, metric)).or_default();
            by_kind.entry(kind).or_default().push((round, figure));
        }
    }

    /// Notes a measurement that failed.
    pub(crate) fn fail(&mut self, reason: String) {
        self.failures.push(reason);
    }

    /// Measurements that failed, and why.
    pub(crate) fn failures(&self) -> &[String] {
        &self.failures
    }

    /// The figures of one load: a line per server and metric.
    pub(crate) fn table(&self, load: &Load) -> String {
        let mut text = format!("\n{}: {}\n", load.name, load.title);
        let ours = self.figures.iter().filter(|((name, _), _)| *name == load.name);
        for ((_, metric), by_kind) in ours {
            let (unit, factor, digits) = metric.form();
            for (kind, rounds) in by_kind {
                let Some(spread) = Spread::of(&values(rounds)) else { continue };
                let [min, median, max] = [spread.min, spread.median, spread.max]
                    .map(|value| format!("{:.digits$}", value * factor));
                let ratio = self.ratio(load, *metric, *kind).map_or(String::new(), |ratio| {
                    format!("x{:.2} ({:.2}-{:.2})", ratio.median, ratio.min, ratio.max)
                });
                // Writing to a String cannot fail.
                let _ = writeln!(
                    text,
                    "  {unit:<15} {:<9} {median:>10}  ({min} - {max}, {} rounds)  {ratio}",
                    kind.name(),
                    rounds.len()
                );
            }
        }
        text
    }

    fn ratio(&self, load: &Load, metric: Metric, kind: Kind) -> Option<Spread> {
        let by_kind = self.figures.get(&(load.name, metric))?;
        if kind == REFERENCE || matches!(metric, Metric::Busy | Metric::UserShare | Metric::Lost) {
            return None;
        }
        Spread::of(&pairwise(by_kind.get(&kind)?, by_kind.get(&REFERENCE)?))
    }

    /// Everything, with what it was measured on.
    pub(crate) fn json(&self, loads: &[Load], machine: Value) -> Value {
        let loads: Vec<Value> = loads
            .iter()
            .map(|load| {
                let mut servers: BTreeMap<&str, BTreeMap<String, Value>> = BTreeMap::new();
                for ((_, metric), by_kind) in self.figures.iter().filter(|((name, _), _)| *name == load.name)
                {
                    for (kind, rounds) in by_kind {
                        let name = json!(metric).as_str().unwrap_or_default().to_owned();
                        let figure = json!({
                            "spread": Spread::of(&values(rounds)),
                            "ratioToCoturn": self.ratio(load, *metric, *kind),
                            "rounds": values(rounds),
                        });
                        servers.entry(kind.name()).or_default().insert(name, figure);
                    }
                }
                json!({"load": load.name, "title": load.title, "servers": servers})
            })
            .collect();
        json!({"machine": machine, "loads": loads, "failures": self.failures})
    }
}

fn values(rounds: &[(usize, f64)]) -> Vec<f64> {
    rounds.iter().map(|(_, figure)| *figure).collect()
}
