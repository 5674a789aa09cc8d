//! The test programs, run so that what they report can be counted.

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::process::{cargo, command, observe, output, root};
use crate::report::Counts;

/// One way to run `cargo test`.
///
/// The whole workspace is always selected, so that every run, and the build
/// before it, shares one set of features and nothing is compiled twice.
#[derive(Default)]
pub(crate) struct Suite<'a> {
    /// Features to turn on, as `package/feature,…`; a test program that requires others is left out.
    pub(crate) features: &'a str,
    /// Test programs to run; all when empty.
    pub(crate) programs: Vec<String>,
    /// What a test's name has to contain.
    pub(crate) filter: Option<&'a str>,
    /// Environment of the test programs.
    pub(crate) env: Vec<(&'static str, String)>,
}

impl Suite<'_> {
    /// Runs the tests.
    ///
    /// # Errors
    /// When a test fails to compile, or cargo fails without a failed test to show for it.
    pub(crate) fn run(&self) -> Result<Counts> {
        let mut counts = Counts::default();
        let mut cargo = self.cargo();
        cargo.args(["--no-fail-fast", "--"]).args(self.filter);
        let succeeded = observe(&mut cargo, |line| counts.read(line))?;
        if !succeeded && counts.failed == 0 {
            bail!("`cargo test` failed");
        }
        Ok(counts)
    }

    /// Whether a test of this suite passes the filter.
    pub(crate) fn matches(&self) -> Result<bool> {
        let Some(filter) = self.filter else { return Ok(true) };
        let list = output(self.cargo().args(["--quiet", "--", "--list", "--format=terse", filter]))?;
        Ok(list.lines().any(|line| line.ends_with(": test")))
    }

    fn cargo(&self) -> std::process::Command {
        let mut cargo = cargo(["test", "--release", "--workspace"]);
        if !self.features.is_empty() {
            cargo.args(["--features", self.features]);
        }
        for program in &self.programs {
            cargo.args(["--test", program]);
        }
        cargo.envs(self.env.iter().map(|(name, value)| (name, value)));
        cargo
    }
}

/// The test programs of rtc-e2e that require `feature`.
pub(crate) fn programs_requiring(feature: &str) -> Result<Vec<String>> {
    let metadata = output(&mut cargo(["metadata", "--no-deps", "--format-version=1"]))?;
    let metadata: Value = serde_json::from_str(&metadata).context("cannot read `cargo metadata`")?;
    let packages = metadata["packages"].as_array().map(Vec::as_slice).unwrap_or_default();
    let targets = packages
        .iter()
        .filter(|package| package["name"] == "rtc-e2e")
        .flat_map(|package| package["targets"].as_array().map(Vec::as_slice).unwrap_or_default());
    let requires = |target: &&Value| {
        target["required-features"].as_array().is_some_and(|needed| needed.iter().any(|name| name == feature))
    };
    let names = targets.filter(requires).filter_map(|target| target["name"].as_str()).map(str::to_owned);
    let names: Vec<String> = names.collect();
    if names.is_empty() {
        bail!("no test program in e2e/Cargo.toml requires the feature {feature}");
    }
    Ok(names)
}

/// Runs the tests of the browser client under Node.
pub(crate) fn node() -> Result<Counts> {
    let folder = root().join("signaling/web/test");
    let mut files = std::fs::read_dir(&folder)
        .with_context(|| format!("cannot list {}", folder.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|file| {
            file.to_string_lossy().ends_with(".test.js") || file.to_string_lossy().ends_with(".test.mjs")
        })
        .collect::<Vec<_>>();
    files.sort();
    if files.is_empty() {
        bail!("no *.test.js or *.test.mjs in {}", folder.display());
    }
    let mut counts = Counts::default();
    let mut node = command("node", ["--test", "--test-reporter=tap"]);
    let succeeded = observe(node.args(files), |line| counts.read(line))?;
    if !succeeded && counts.failed == 0 {
        bail!("`node --test` failed");
    }
    Ok(counts)
}
