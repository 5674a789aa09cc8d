//! The run: rounds that alternate between the servers, until done or out of time.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use crate::namespace::Place;
use crate::pin::Cores;
use crate::report::{Metric, Named, Results, Server};

/// What is measured, and how.
pub trait Bench {
    /// The servers.
    type Server: Server;
    /// What figures say.
    type Metric: Metric;
    /// What servers are put under.
    type Load;

    /// What all ratios are to.
    const REFERENCE: Self::Server;

    /// What a load is called.
    fn named(load: &Self::Load) -> Named;

    /// Whether it makes no difference from round to round, as memory does not.
    fn is_steady(load: &Self::Load) -> bool;

    /// Whether a server can be put under it.
    fn takes(server: Self::Server, load: &Self::Load) -> bool;

    /// Starts a server anew, loads it and returns its figures.
    ///
    /// # Errors
    /// When the server fails, refuses, or what it delivers is not what was sent.
    fn measure(&self, server: Self::Server, load: &Self::Load) -> Result<Vec<(Self::Metric, f64)>>;
}

/// Where a run is made, when it ends, and what is left of it.
#[derive(Clone, Copy, Debug)]
pub struct Conditions<'a> {
    /// At most so many.
    pub rounds: usize,
    /// After so long nothing more is started.
    pub time: Duration,
    /// The CPUs.
    pub cores: Cores,
    /// Where it runs.
    pub place: Place,
    /// A file for all figures.
    pub json: Option<&'a Path>,
}

/// The servers that can be measured; of the others it is said why not.
pub fn ready<S: Server>(servers: &[S], prepare: impl Fn(S) -> Result<()>) -> Vec<S> {
    let ready = servers.iter().copied().filter(|server| match prepare(*server) {
        Ok(()) => true,
        Err(error) => {
            eprintln!("{} is left out: {error:#}", server.name());
            false
        }
    });
    ready.collect()
}

/// Measures and prints; whether every measurement gave figures.
///
/// # Errors
/// When the results cannot be written.
pub fn run<B: Bench>(
    bench: &B,
    loads: &[B::Load],
    servers: &[B::Server],
    conditions: Conditions<'_>,
) -> Result<bool> {
    let start = Instant::now();
    let mut results = Results::new(B::REFERENCE);
    'rounds: for round in 0..conditions.rounds {
        for load in loads.iter().filter(|load| round == 0 || !B::is_steady(load)) {
            if start.elapsed() > conditions.time {
                eprintln!("out of time in round {}; figures are of the rounds before it", round + 1);
                break 'rounds;
            }
            group(bench, load, servers, round, &mut results);
        }
    }
    let machine = machine(servers, conditions);
    println!("{}", heading(&machine));
    let named: Vec<Named> = loads.iter().map(B::named).collect();
    for load in &named {
        print!("{}", results.table(*load));
    }
    for failure in results.failures() {
        eprintln!("failed: {failure}");
    }
    if let Some(file) = conditions.json {
        let text = serde_json::to_string_pretty(&results.json(&named, &machine))?;
        std::fs::write(file, text + "\n").with_context(|| format!("{}", file.display()))?;
    }
    Ok(results.failures().is_empty())
}

/// Every server under one load, each round starting with another.
fn group<B: Bench>(
    bench: &B,
    load: &B::Load,
    servers: &[B::Server],
    round: usize,
    results: &mut Results<B::Server, B::Metric>,
) {
    let named = B::named(load);
    for position in 0..servers.len() {
        let server = servers[(position + round) % servers.len()];
        if !B::takes(server, load) {
            continue;
        }
        let what = format!("round {} {:<16} {:<13}", round + 1, named.name, server.name());
        match bench.measure(server, load) {
            Ok(figures) => {
                let words = figures.iter().map(|(metric, figure)| metric.form().show(*figure));
                eprintln!("{what} {}", words.collect::<Vec<_>>().join(", "));
                results.add(named, server, round, figures);
            }
            Err(error) => {
                eprintln!("{what} failed: {error:#}");
                results.fail(format!("{} {} round {}: {error:#}", named.name, server.name(), round + 1));
            }
        }
    }
}

fn heading(machine: &Value) -> String {
    let versions = machine["versions"].as_object().into_iter().flatten();
    let versions: Vec<String> =
        versions.map(|(name, version)| format!("{name} {}", version.as_str().unwrap_or_default())).collect();
    format!(
        "{}; {}, {} CPUs, load average {}, generator on {}, servers on {}; {}\n{}",
        machine["kernel"].as_str().unwrap_or_default(),
        machine["model"].as_str().unwrap_or_default(),
        machine["cpus"],
        machine["loadAverage"].as_str().unwrap_or_default(),
        machine["cores"]["generator"],
        machine["cores"]["server"],
        if machine["ownNamespace"] == true {
            "a network namespace of its own"
        } else {
            "the machine's network namespace"
        },
        versions.join(", ")
    )
}

fn machine<S: Server>(servers: &[S], Conditions { cores, place, .. }: Conditions<'_>) -> Value {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let versions: Map<String, Value> =
        servers.iter().map(|server| (server.name().to_owned(), json!(server.version()))).collect();
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
