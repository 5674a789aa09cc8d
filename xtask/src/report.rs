//! What ran, how long it took, and what came of it.

use std::time::{Duration, Instant};

use anyhow::Result;

/// How many tests passed and failed.
#[derive(Clone, Default, Debug, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    /// Those that failed, as far as they are named.
    pub(crate) names: Vec<String>,
}

impl Counts {
    /// A check that is one test of its own.
    pub(crate) const ONE: Self = Self { passed: 1, failed: 0, names: Vec::new() };

    /// Adds what a line of a test program's output counts: libtest's
    /// `test result: ok. 3 passed; 0 failed; …` or TAP's `# pass 3` and `# fail 0`; and names: libtest's
    /// `test NAME ... FAILED` or TAP's `not ok 3 - NAME`.
    pub(crate) fn read(&mut self, line: &str) {
        let line = line.trim();
        if let Some(rest) = line.strip_prefix("test result: ") {
            let number = |word: &str| {
                let before = rest.split(word).next()?;
                before.split_whitespace().next_back()?.parse::<usize>().ok()
            };
            self.passed += number(" passed").unwrap_or(0);
            self.failed += number(" failed").unwrap_or(0);
        } else if let Some(number) = line.strip_prefix("# pass ") {
            self.passed += number.parse().unwrap_or(0);
        } else if let Some(number) = line.strip_prefix("# fail ") {
            self.failed += number.parse().unwrap_or(0);
        } else if let Some(name) =
            line.strip_prefix("test ").and_then(|rest| rest.strip_suffix(" ... FAILED"))
        {
            self.names.push(name.to_owned());
        } else if let Some((_, name)) = line.strip_prefix("not ok ").and_then(|rest| rest.split_once(" - ")) {
            self.names.push(name.to_owned());
        }
    }
}

struct Row {
    name: String,
    counts: Counts,
    took: Duration,
    error: Option<String>,
}

/// The steps of one run.
pub(crate) struct Report {
    rows: Vec<Row>,
    started: Instant,
}

impl Report {
    pub(crate) fn new() -> Self {
        Self { rows: Vec::new(), started: Instant::now() }
    }

    /// Runs one step, and says whether it passed. A step that fails does not
    /// stop the run: the rest may have something to say too.
    pub(crate) fn step(&mut self, name: &str, work: impl FnOnce() -> Result<Counts>) -> bool {
        println!("\n──── {name}");
        let started = Instant::now();
        let (counts, error) = match work() {
            Ok(counts) if counts.failed == 0 => (counts, None),
            Ok(counts) => {
                let error = format!("{} failed", counts.failed);
                (counts, Some(error))
            }
            Err(error) => (Counts { failed: 1, ..Counts::default() }, Some(format!("{error:#}"))),
        };
        let took = started.elapsed();
        match &error {
            None => println!("──── {name}: ok, {}", seconds(took)),
            Some(error) => println!("──── {name}: FAILED, {}: {error}", seconds(took)),
        }
        let passed = error.is_none();
        self.rows.push(Row { name: name.to_owned(), counts, took, error });
        passed
    }

    /// Prints the table and the closing line, and says whether all of it passed: no
    /// step failed, and something ran at all.
    pub(crate) fn close(self) -> bool {
        let width = self.rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0);
        println!("\n{:width$}  {:>7}  {:>7}  {:>8}", "step", "passed", "failed", "time");
        let mut total = Counts::default();
        for Row { name, counts, took, error } in &self.rows {
            let mark = error.as_ref().map_or(String::new(), |error| format!("  {error}"));
            println!(
                "{name:width$}  {:>7}  {:>7}  {:>8}{mark}",
                counts.passed,
                counts.failed,
                seconds(*took)
            );
            total.passed += counts.passed;
            total.failed += counts.failed;
        }
        println!("{:width$}  {:>7}  {:>7}  {:>8}", "", "", "", seconds(self.started.elapsed()));
        if total == Counts::default() {
            println!("\nno test has that in its name");
        }
        for (step, name) in
            self.rows.iter().flat_map(|row| row.counts.names.iter().map(|name| (&row.name, name)))
        {
            println!("FAILED: {name} ({step})");
        }
        println!("\n{} passed, {} failed", total.passed, total.failed);
        total.failed == 0 && total.passed > 0
    }
}

fn seconds(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds < 90.0 { format!("{seconds:.1} s") } else { format!("{:.1} min", seconds / 60.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_libtest_and_tap_results() {
        let mut counts = Counts::default();
        counts.read(
            "test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured; 3 filtered out; finished in 0.01s",
        );
        counts.read("test result: FAILED. 1 passed; 2 failed; 0 ignored");
        counts.read("# pass 4");
        counts.read("# fail 1");
        counts.read("test rooms::keeps_order ... ok");
        counts.read("test a::b ... FAILED");
        counts.read("not ok 2 - goes back");
        assert_eq!(counts, Counts { passed: 17, failed: 3, names: vec!["a::b".into(), "goes back".into()] });
    }
}
