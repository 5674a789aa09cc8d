//! What was found, as a table or as JSON.

use serde::Serialize;
use std::{fmt, time::Duration};

/// All steps, in the order in which they were taken.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    steps: Vec<Step>,
}

/// One step.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Step {
    /// Of what: a URL or URI.
    target: String,
    /// Such as `allocate`.
    step: &'static str,
    ok: bool,
    /// Milliseconds, where it worked and took time.
    #[serde(skip_serializing_if = "Option::is_none")]
    ms: Option<f64>,
    /// What was found, or what is broken.
    detail: String,
}

impl Report {
    pub(crate) fn works(
        &mut self,
        target: impl fmt::Display,
        step: &'static str,
        took: Option<Duration>,
        detail: impl fmt::Display,
    ) {
        let ms = took.map(|took| (took.as_secs_f64() * 1e5).round() / 100.0);
        self.steps.push(Step { target: target.to_string(), step, ok: true, ms, detail: detail.to_string() });
    }

    pub(crate) fn broken(
        &mut self,
        target: impl fmt::Display,
        step: &'static str,
        detail: impl fmt::Display,
    ) {
        let (target, detail) = (target.to_string(), detail.to_string());
        self.steps.push(Step { target, step, ok: false, ms: None, detail });
    }

    pub(crate) fn all_work(&self) -> bool {
        !self.steps.is_empty() && self.steps.iter().all(|step| step.ok)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut target = "";
        for step in &self.steps {
            if step.target != target {
                target = &step.target;
                writeln!(f, "{target}")?;
            }
            let mark = if step.ok { "ok    " } else { "BROKEN" };
            let ms = step.ms.map(|ms| format!("{ms:.2} ms")).unwrap_or_default();
            writeln!(f, "  {mark}  {:<10} {ms:>12}  {}", step.step, step.detail)?;
        }
        let broken = self.steps.iter().filter(|step| !step.ok).count();
        match broken {
            0 => writeln!(f, "\nAll {} steps work.", self.steps.len()),
            _ => writeln!(f, "\n{broken} of {} steps are broken.", self.steps.len()),
        }
    }
}
