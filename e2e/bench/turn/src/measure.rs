//! One measurement: a fresh server, one load, its figures.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rtc_bench_common::{
    pin::Cores,
    process::{Cpu, Memory},
    report::{Form, Server as _},
};

use crate::churn::Churn;
use crate::client::Session;
use crate::flow;
use crate::load::{Load, Work};
use crate::server::{Kind, Running};
use crate::traffic::{Rate, Traffic};

/// What a figure says.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Metric {
    /// CPU-seconds of the server per million delivered packets.
    CpuPerMillion,
    /// Packets the receivers got, per second.
    DeliveredPerSecond,
    /// Median of the time from send to receipt, microseconds.
    LatencyP50,
    /// 99th percentile of the same.
    LatencyP99,
    /// 99th percentile of the same, without the packets that were under way while the generator did not run.
    UndisturbedP99,
    /// Part of the packets that were, 0 to 1.
    HeldUp,
    /// Allocate-and-delete cycles per CPU-second of the server.
    CyclesPerCpuSecond,
    /// Allocate-and-delete cycles per second.
    CyclesPerSecond,
    /// Resident bytes per idle allocation.
    BytesPerAllocation,
    /// Most resident bytes of the server.
    PeakBytes,
    /// Part of the server's CPU in use, 0 to 1 per core.
    Busy,
    /// Part of the server's CPU time spent in user mode, 0 to 1.
    UserShare,
    /// Part of what was sent that never came, 0 to 1.
    Lost,
}

impl rtc_bench_common::report::Metric for Metric {
    fn form(self) -> Form {
        let compared = !matches!(self, Metric::Busy | Metric::UserShare | Metric::Lost);
        let (name, unit, factor, digits) = match self {
            Metric::CpuPerMillion => ("cpuPerMillion", "CPU-s/million", 1.0, 2),
            Metric::DeliveredPerSecond => ("deliveredPerSecond", "delivered/s", 1.0, 0),
            Metric::LatencyP50 => ("latencyP50", "p50 ms", 1e-3, 3),
            Metric::LatencyP99 => ("latencyP99", "p99 ms", 1e-3, 3),
            Metric::UndisturbedP99 => ("undisturbedP99", "undisturbed p99 ms", 1e-3, 3),
            Metric::HeldUp => ("heldUp", "held up %", 100.0, 2),
            Metric::CyclesPerCpuSecond => ("cyclesPerCpuSecond", "cycles/CPU-s", 1.0, 0),
            Metric::CyclesPerSecond => ("cyclesPerSecond", "cycles/s", 1.0, 0),
            Metric::BytesPerAllocation => ("bytesPerAllocation", "KiB/allocation", 1.0 / 1024.0, 1),
            Metric::PeakBytes => ("peakBytes", "peak MiB", 1.0 / (1024.0 * 1024.0), 0),
            Metric::Busy => ("busy", "busy %", 100.0, 0),
            Metric::UserShare => ("userShare", "user %", 100.0, 0),
            Metric::Lost => ("lost", "lost %", 100.0, 2),
        };
        Form { name, unit, factor, digits, compared }
    }
}

/// The figures of one measurement.
pub(crate) type Figures = Vec<(Metric, f64)>;

/// How long to measure, and where.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Traffic before the measured time.
    pub(crate) warm: Duration,
    /// The measured time.
    pub(crate) measured: Duration,
    /// At most this many idle allocations.
    pub(crate) idle_limit: usize,
    /// The CPUs.
    pub(crate) cores: Cores,
    /// The rtc-turn to measure, if not this tree's.
    pub(crate) ours: Option<PathBuf>,
}

/// Starts `kind` anew, loads it and returns its figures.
///
/// # Errors
/// When the server fails, refuses, or what it delivers is not what was sent.
pub(crate) fn measure(kind: Kind, load: &Load, plan: &Plan) -> Result<Figures> {
    let server = kind.start(plan.cores.server, plan.ours.as_deref())?;
    let figures = match load.work {
        Work::Relay { flows, other, shape } => {
            let flows = (0..flows).map(|number| flow::open(kind.dialect(), number, other));
            let flows = flows.collect::<Result<Vec<_>>>();
            let flows = flows.with_context(|| format!("setting up flows; {}", server.last_words()))?;
            relay(&server, Traffic::new(flows, shape)?, matches!(shape.rate, Rate::PerSecond(_)), plan)
        }
        Work::Churn => churn(&server, plan),
        Work::Idle { allocations } => idle(kind, &server, allocations.min(plan.idle_limit)),
    };
    figures.with_context(|| format!("{} under {}", kind.name(), load.name))
}

fn relay(server: &Running, mut traffic: Traffic, paced: bool, plan: &Plan) -> Result<Figures> {
    traffic.run(plan.warm);
    let (before, start) = (Cpu::of(server.pid())?, Instant::now());
    let mut tally = traffic.run(plan.measured);
    let (cpu, elapsed) = (Cpu::of(server.pid())? - before, start.elapsed());
    if tally.corrupt > 0 {
        bail!("{} packets arrived changed or on a flow not theirs", tally.corrupt);
    }
    if tally.delivered == 0 {
        bail!("nothing arrived; {} sends refused; {}", tally.refused, server.last_words());
    }
    let delivered = tally.delivered as f64;
    let mut figures = vec![
        (Metric::CpuPerMillion, cpu.total.as_secs_f64() / delivered * 1e6),
        (Metric::DeliveredPerSecond, delivered / elapsed.as_secs_f64()),
    ];
    if paced {
        let held_up = tally.held_up.len() as f64 / delivered;
        let undisturbed = quantile(&mut tally.latencies, 0.99);
        tally.latencies.append(&mut tally.held_up);
        figures.extend([
            (Metric::LatencyP50, quantile(&mut tally.latencies, 0.50)),
            (Metric::LatencyP99, quantile(&mut tally.latencies, 0.99)),
            (Metric::UndisturbedP99, undisturbed),
            (Metric::HeldUp, held_up),
        ]);
    }
    figures.extend(usage(cpu, elapsed));
    figures.push((Metric::Lost, tally.lost as f64 / (delivered + tally.lost as f64)));
    Ok(figures)
}

/// Of nanoseconds, in microseconds; of none, nothing.
fn quantile(nanoseconds: &mut [u32], part: f64) -> f64 {
    nanoseconds.sort_unstable();
    let index = (nanoseconds.len().saturating_sub(1) as f64 * part) as usize;
    nanoseconds.get(index).map_or(0.0, |ns| f64::from(*ns) / 1e3)
}

fn usage(cpu: Cpu, elapsed: Duration) -> [(Metric, f64); 2] {
    let busy = cpu.total.as_secs_f64() / elapsed.as_secs_f64();
    [(Metric::Busy, busy), (Metric::UserShare, cpu.user_share())]
}

fn churn(server: &Running, plan: &Plan) -> Result<Figures> {
    let mut churn = Churn::start()?;
    churn.run(plan.warm)?;
    let (before, start) = (Cpu::of(server.pid())?, Instant::now());
    let cycles = churn.run(plan.measured)?;
    let (cpu, elapsed) = (Cpu::of(server.pid())? - before, start.elapsed());
    // A relay port chosen at random and found taken is a refusal now and then; more is not a server.
    if cycles.refused * 50 > cycles.done || cycles.done == 0 {
        let (done, refused, code) = (cycles.done, cycles.refused, cycles.code);
        bail!("{done} cycles done, {refused} refused, last with {code:?}; {}", server.last_words());
    }
    let done = cycles.done as f64;
    let mut figures = vec![
        (Metric::CyclesPerCpuSecond, done / cpu.total.as_secs_f64()),
        (Metric::CyclesPerSecond, done / elapsed.as_secs_f64()),
    ];
    figures.extend(usage(cpu, elapsed));
    figures.push((Metric::Lost, cycles.repeated as f64 / (done * 3.0 + cycles.repeated as f64)));
    Ok(figures)
}

fn idle(kind: Kind, server: &Running, allocations: usize) -> Result<Figures> {
    let mut sessions = Vec::with_capacity(allocations);
    let mut allocate = |number| -> Result<()> {
        let mut session = Session::open(kind.dialect(), number)?;
        session.allocate().with_context(|| format!("allocation {number} of {allocations}"))?;
        sessions.push(session);
        Ok(())
    };
    // The first allocations fill what a server sets up once.
    let first = 10;
    (0..first).try_for_each(&mut allocate)?;
    let before = Memory::of(server.pid())?;
    (first..first + allocations).try_for_each(&mut allocate)?;
    let after = Memory::of(server.pid())?;
    let grown = after.resident.saturating_sub(before.resident) as f64;
    Ok(vec![(Metric::BytesPerAllocation, grown / allocations as f64), (Metric::PeakBytes, after.peak as f64)])
}
