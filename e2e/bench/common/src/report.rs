//! Results as a table for people and as JSON for programs.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use crate::stats::{Spread, pairwise};

/// A server that is measured. They are listed in order.
pub trait Server: Copy + Ord {
    /// Its name on the command line and in results.
    fn name(self) -> &'static str;

    /// Its version, for the record.
    fn version(self) -> String;
}

/// What a figure says. They are listed in order.
pub trait Metric: Copy + Ord {
    /// How it is shown.
    fn form(self) -> Form;
}

/// How a figure is shown.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Form {
    /// Its name in JSON.
    pub name: &'static str,
    /// For people.
    pub unit: &'static str,
    /// What is measured, times this, is in the unit.
    pub factor: f64,
    /// After the point.
    pub digits: usize,
    /// Whether less of it, or more, is better: then its ratio to the reference is told.
    pub compared: bool,
}

impl Form {
    /// A figure with its unit.
    pub fn show(self, figure: f64) -> String {
        format!("{} {}", self.number(figure), self.unit)
    }

    fn number(self, figure: f64) -> String {
        format!("{:.*}", self.digits, figure * self.factor)
    }
}

/// A load by its name on the command line, and what it is, for people.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Named {
    /// On the command line and in results.
    pub name: &'static str,
    /// For people.
    pub title: &'static str,
}

/// Figures with the round they are of.
type Rounds = Vec<(usize, f64)>;

/// All figures of a run.
pub struct Results<S, M> {
    /// What all ratios are to.
    reference: S,
    /// By load's name and metric.
    figures: BTreeMap<(&'static str, M), BTreeMap<S, Rounds>>,
    failures: Vec<String>,
}

impl<S: Server, M: Metric> Results<S, M> {
    /// None yet.
    pub fn new(reference: S) -> Self {
        Self { reference, figures: BTreeMap::new(), failures: Vec::new() }
    }

    /// Adds what one measurement gave.
    pub fn add(&mut self, load: Named, server: S, round: usize, figures: Vec<(M, f64)>) {
        for (metric, figure) in figures {
            let by_server = self.figures.entry((load.name, metric)).or_default();
            by_server.entry(server).or_default().push((round, figure));
        }
    }

    /// Notes a measurement that failed.
    pub fn fail(&mut self, reason: String) {
        self.failures.push(reason);
    }

    /// Measurements that failed, and why.
    pub fn failures(&self) -> &[String] {
        &self.failures
    }

    /// Of one load, in order.
    fn of(&self, load: Named) -> impl Iterator<Item = (Form, S, &BTreeMap<S, Rounds>)> {
        let figures = self.figures.iter().filter(move |((name, _), _)| *name == load.name);
        figures.flat_map(|((_, metric), all)| all.keys().map(move |server| (metric.form(), *server, all)))
    }

    /// The figures of one load: a line per server and metric.
    pub fn table(&self, load: Named) -> String {
        let mut text = format!("\n{}: {}\n", load.name, load.title);
        for (form, server, all) in self.of(load) {
            let figures = values(all, server);
            let Some(spread) = Spread::of(&figures) else { continue };
            let [min, median, max] = [spread.min, spread.median, spread.max].map(|value| form.number(value));
            let ratio = self.ratio(form, server, all).map_or(String::new(), |ratio| {
                format!("x{:.2} ({:.2}-{:.2})", ratio.median, ratio.min, ratio.max)
            });
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "  {:<18} {:<13} {median:>9}  ({min} - {max}, {} rounds)  {ratio}",
                form.unit,
                server.name(),
                figures.len()
            );
        }
        text
    }

    /// Everything, with what it was measured on.
    pub fn json(&self, loads: &[Named], machine: &Value) -> Value {
        let of_load = |load: &Named| {
            let mut servers: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
            for (form, server, all) in self.of(*load) {
                let figures = values(all, server);
                let figure = json!({
                    "spread": Spread::of(&figures),
                    "ratio": self.ratio(form, server, all),
                    "rounds": figures,
                });
                servers.entry(server.name()).or_default().insert(form.name.to_owned(), figure);
            }
            json!({"load": load.name, "title": load.title, "servers": servers})
        };
        let loads: Vec<Value> = loads.iter().map(of_load).collect();
        let reference = self.reference.name();
        json!({"machine": machine, "ratiosTo": reference, "loads": loads, "failures": self.failures})
    }

    fn ratio(&self, form: Form, server: S, all: &BTreeMap<S, Rounds>) -> Option<Spread> {
        if server == self.reference || !form.compared {
            return None;
        }
        Spread::of(&pairwise(all.get(&server)?, all.get(&self.reference)?))
    }
}

fn values<S: Server>(all: &BTreeMap<S, Rounds>, server: S) -> Vec<f64> {
    all.get(&server).into_iter().flatten().map(|(_, figure)| *figure).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
    enum Either {
        Ours,
        Theirs,
    }

    impl Server for Either {
        fn name(self) -> &'static str {
            if self == Either::Ours { "ours" } else { "theirs" }
        }

        fn version(self) -> String {
            "1".into()
        }
    }

    #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
    enum What {
        Cost,
        Busy,
    }

    impl Metric for What {
        fn form(self) -> Form {
            let cost = self == What::Cost;
            let (name, unit) = if cost { ("cost", "CPU-s") } else { ("busy", "busy %") };
            Form { name, unit, factor: if cost { 1.0 } else { 100.0 }, digits: 1, compared: cost }
        }
    }

    #[test]
    fn ratios_are_to_the_reference_of_the_same_round_and_only_where_they_say_something() {
        let load = Named { name: "calls", title: "calls at once" };
        let mut results = Results::new(Either::Theirs);
        for (round, cost) in [(0, 1.0), (1, 3.0)] {
            results.add(load, Either::Ours, round, vec![(What::Cost, cost), (What::Busy, 0.5)]);
            results.add(load, Either::Theirs, round, vec![(What::Cost, 2.0), (What::Busy, 1.0)]);
        }
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>().join(" ");
        let lines: Vec<String> = results.table(load).trim().lines().map(words).collect();
        assert_eq!(
            lines,
            [
                "calls: calls at once",
                "CPU-s ours 2.0 (1.0 - 3.0, 2 rounds) x1.00 (0.50-1.50)",
                "CPU-s theirs 2.0 (2.0 - 2.0, 2 rounds)",
                "busy % ours 50.0 (50.0 - 50.0, 2 rounds)",
                "busy % theirs 100.0 (100.0 - 100.0, 2 rounds)",
            ]
        );
        let json = results.json(&[load], &json!("here"));
        assert_eq!(json["ratiosTo"], "theirs");
        assert_eq!(json["loads"][0]["servers"]["ours"]["cost"]["ratio"]["median"], 1.0);
        assert_eq!(json["loads"][0]["servers"]["ours"]["busy"]["ratio"], Value::Null);
    }
}
