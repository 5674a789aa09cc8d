//! One measurement: a fresh server, one load, its figures.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rtc_bench_common::{pin::Cores, report::Form};

use crate::calls::{Calls, Manner};
use crate::load::{Load, Work};
use crate::rooms::{Fanout, Idle};
use crate::server::{Kind, Running};

/// What a figure says.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Metric {
    /// CPU-seconds of the server's processes per 1000 calls.
    CpuPerThousandCalls,
    /// CPU-seconds of Redis per 1000 calls.
    RedisPerThousandCalls,
    /// CPU-seconds of the server per million deliveries.
    CpuPerMillionDeliveries,
    /// Resident bytes per idle connection.
    BytesPerConnection,
    /// Median of the time from sending to reading, nanoseconds.
    LatencyP50,
    /// 99th percentile of the same.
    LatencyP99,
    /// Calls that ended, per second.
    CallsPerSecond,
    /// Part of one CPU that the server and Redis used.
    Busy,
    /// Part of the server's CPU time spent in user mode, 0 to 1.
    UserShare,
}

impl rtc_bench_common::report::Metric for Metric {
    fn form(self) -> Form {
        let compared = !matches!(self, Metric::Busy | Metric::UserShare);
        let (name, unit, factor, digits) = match self {
            Metric::CpuPerThousandCalls => ("cpuPerThousandCalls", "CPU-s/1000", 1.0, 3),
            Metric::RedisPerThousandCalls => ("redisPerThousandCalls", "Redis CPU-s/1000", 1.0, 3),
            Metric::CpuPerMillionDeliveries => ("cpuPerMillionDeliveries", "CPU-s/million", 1.0, 2),
            Metric::BytesPerConnection => ("bytesPerConnection", "kB/connection", 1e-3, 1),
            Metric::LatencyP50 => ("p50", "p50 ms", 1e-6, 3),
            Metric::LatencyP99 => ("p99", "p99 ms", 1e-6, 3),
            Metric::CallsPerSecond => ("callsPerSecond", "calls/s", 1.0, 0),
            Metric::Busy => ("busy", "busy %", 100.0, 0),
            Metric::UserShare => ("userShare", "user %", 100.0, 0),
        };
        Form { name, unit, factor, digits, compared }
    }
}

/// The figures of one measurement.
pub(crate) type Figures = Vec<(Metric, f64)>;

/// How long to measure, and where.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Load before the measured time.
    pub(crate) warm: Duration,
    /// The measured time.
    pub(crate) measured: Duration,
    /// Idle connections.
    pub(crate) idle: usize,
    /// The CPUs.
    pub(crate) cores: Cores,
    /// The rtc-signaling to measure, if not this tree's.
    pub(crate) ours: Option<PathBuf>,
}

/// Starts `kind` anew, loads it and returns its figures.
///
/// # Errors
/// When the server fails, refuses, or what it delivers is not what was sent.
pub(crate) fn measure(kind: Kind, load: &Load, plan: &Plan) -> Result<Figures> {
    let server = kind.start(load.two, plan.cores.server, plan.ours.as_deref())?;
    let figures = match load.work {
        Work::Calls(manner) => calls(kind, &server, manner, plan),
        Work::Fanout => fanout(kind, &server, plan),
        Work::Idle => idle(kind, &server, plan),
    };
    figures.with_context(|| format!("the server's last words: {}", server.last_words()))
}

fn calls(kind: Kind, server: &Running, manner: Manner, plan: &Plan) -> Result<Figures> {
    let mut calls = Calls::new(kind.dialect(), server.addresses(), manner)?;
    calls.run(plan.warm)?;
    let (before, start) = (server.cpu()?, Instant::now());
    // At 100 calls a second, it takes longer to see as many.
    let time = if manner.rate.is_some() { plan.measured * 2 } else { plan.measured };
    let mut tally = calls.run(time)?;
    let (after, elapsed) = (server.cpu()?, start.elapsed());
    if tally.calls == 0 {
        bail!("no call ended");
    }
    let (cpu, redis) = (after.0 - before.0, after.1 - before.1);
    let thousands = tally.calls as f64 / 1e3;
    let mut figures = vec![(Metric::CpuPerThousandCalls, cpu.total.as_secs_f64() / thousands)];
    if !redis.total.is_zero() {
        figures.push((Metric::RedisPerThousandCalls, redis.total.as_secs_f64() / thousands));
    }
    figures.extend(percentiles(&mut tally.latencies));
    figures.push((Metric::CallsPerSecond, tally.calls as f64 / elapsed.as_secs_f64()));
    figures.push((Metric::Busy, (cpu.total + redis.total).as_secs_f64() / elapsed.as_secs_f64()));
    figures.push((Metric::UserShare, cpu.user_share()));
    Ok(figures)
}

fn fanout(kind: Kind, server: &Running, plan: &Plan) -> Result<Figures> {
    let mut rooms = Fanout::new(kind.dialect(), server.addresses()[0])?;
    rooms.run(plan.warm)?;
    let (before, start) = (server.cpu()?, Instant::now());
    let mut deliveries = rooms.run(plan.measured)?;
    let (cpu, elapsed) = (server.cpu()?.0 - before.0, start.elapsed());
    let count = deliveries.latencies.len() as f64;
    let mut figures = vec![(Metric::CpuPerMillionDeliveries, cpu.total.as_secs_f64() / count * 1e6)];
    figures.extend(percentiles(&mut deliveries.latencies));
    figures.push((Metric::Busy, cpu.total.as_secs_f64() / elapsed.as_secs_f64()));
    figures.push((Metric::UserShare, cpu.user_share()));
    Ok(figures)
}

fn idle(kind: Kind, server: &Running, plan: &Plan) -> Result<Figures> {
    let address = server.addresses()[0];
    // The first connections fill what a server sets up once; they are gone before the others come.
    let mut first = Idle::new(kind.dialect())?;
    first.fill(address, 32)?;
    drop(first);
    let before = server.memory()?;
    let mut idle = Idle::new(kind.dialect())?;
    idle.fill(address, plan.idle)?;
    let grown = server.memory()?.resident.saturating_sub(before.resident) as f64;
    Ok(vec![(Metric::BytesPerConnection, grown / idle.count as f64)])
}

fn percentiles(latencies: &mut [u32]) -> Vec<(Metric, f64)> {
    latencies.sort_unstable();
    let at = |part: f64| latencies.get((latencies.len().saturating_sub(1) as f64 * part) as usize);
    let figures = [(Metric::LatencyP50, at(0.50)), (Metric::LatencyP99, at(0.99))];
    figures.into_iter().filter_map(|(metric, nanos)| Some((metric, f64::from(*nanos?)))).collect()
}
