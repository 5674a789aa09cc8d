//! The run: rounds that alternate between the servers, until done or out of time.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rtc_bench_common::{
    namespace::{self, Place},
    pin::{self, Cores},
};
use serde_json::{Value, json};

use crate::args::Args;
use crate::client::Dialect;
use crate::load::{Load, Work};
use crate::measure::{Plan, measure};
use crate::report::Results;
use crate::server::Kind;

/// Open files beside those of the idle allocations.
const OTHER_FILES: u64 = 4_000;

/// Builds and finds the servers; those that can be measured.
pub(crate) fn prepare(args: &Args) -> Vec<Kind> {
    let ready = args.servers.iter().filter(|kind| match kind.prepare(args.ours.as_deref()) {
        Ok(()) => true,
        Err(error) => {
            eprintln!("{} is left out: {error:#}", kind.name());
            false
        }
    });
    ready.copied().collect()
}

/// Measures and prints; whether every measurement gave figures.
///
/// # Errors
/// When the CPUs are not there or the results cannot be written.
pub(crate) fn run(args: &Args, kinds: &[Kind], place: Place) -> Result<bool> {
    let &[generator, server] = args.cores.as_slice() else { bail!("--cores takes two: GENERATOR,SERVER") };
    let cores = Cores::new(generator, server)?;
    pin::stay_on(generator)?;
    let loads = args.loads()?;
    let most = if args.quick { 2_000 } else { 20_000 };
    let files = namespace::raise_open_files(most + OTHER_FILES);
    let idle_limit = usize::try_from(files.saturating_sub(OTHER_FILES).min(most))?;
    let warm = Duration::from_millis(if args.quick { 100 } else { 300 });
    let plan = Plan { warm, measured: args.measured(), idle_limit, cores, ours: args.ours.clone() };

    let start = Instant::now();
    let mut results = Results::default();
    'rounds: for round in 0..args.rounds() {
        for load in &loads {
            // Memory does not vary from round to round.
            if matches!(load.work, Work::Idle { .. }) && round > 0 {
                continue;
            }
            if start.elapsed() > args.limit() {
                eprintln!("out of time in round {}; figures are of the rounds before it", round + 1);
                break 'rounds;
            }
            group(load, kinds, round, &plan, &mut results);
        }
    }

    println!("{}", heading(place, cores, kinds));
    for load in &loads {
        print!("{}", results.table(load));
    }
    for failure in results.failures() {
        eprintln!("failed: {failure}");
    }
    if let Some(file) = &args.json {
        let machine = machine(place, cores, kinds);
        let text = serde_json::to_string_pretty(&results.json(&loads, machine))?;
        std::fs::write(file, text + "\n").with_context(|| format!("{}", file.display()))?;
    }
    Ok(results.failures().is_empty())
}

/// Every server under one load, each round starting with another.
fn group(load: &Load, kinds: &[Kind], round: usize, plan: &Plan, results: &mut Results) {
    for position in 0..kinds.len() {
        let kind = kinds[(position + round) % kinds.len()];
        if kind.dialect() == Dialect::Bare && !matches!(load.work, Work::Relay { .. }) {
            continue;
        }
        match measure(kind, load, plan) {
            Ok(figures) => {
                let (metric, figure) = figures[0];
                let (unit, factor, digits) = metric.form();
                eprintln!(
                    "round {} {:<16} {:<9} {:.digits$} {unit}",
                    round + 1,
                    load.name,
                    kind.name(),
                    figure * factor
                );
                results.add(load, kind, round, figures);
            }
            Err(error) => {
                eprintln!("round {} {:<16} {:<9} failed: {error:#}", round + 1, load.name, kind.name());
                results.fail(format!("{} {} round {}: {error:#}", load.name, kind.name(), round + 1));
            }
        }
    }
}

fn heading(place: Place, cores: Cores, kinds: &[Kind]) -> String {
    let machine = machine(place, cores, kinds);
    let versions: Vec<String> =
        kinds.iter().map(|kind| format!("{} {}", kind.name(), kind.version())).collect();
    format!(
        "{}; {}, {} CPUs, generator on {}, server on {}; {}\n{}",
        machine["kernel"].as_str().unwrap_or_default(),
        machine["model"].as_str().unwrap_or_default(),
        machine["cpus"],
        cores.generator,
        cores.server,
        match place {
            Place::Isolated => "a network namespace of its own",
            Place::Shared => "the machine's network namespace",
        },
        versions.join(", ")
    )
}

fn machine(place: Place, cores: Cores, kinds: &[Kind]) -> Value {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let versions: serde_json::Map<String, Value> =
        kinds.iter().map(|kind| (kind.name().to_owned(), json!(kind.version()))).collect();
    json!({
        "kernel": format!("Linux {}", kernel.trim()),
        "model": model,
        "cpus": cpus.lines().filter(|line| line.starts_with("processor")).count(),
        "cores": {"generator": cores.generator, "server": cores.server},
        "ownNamespace": place == Place::Isolated,
        "loadAverage": load.trim(),
        "versions": versions,
    })
}
