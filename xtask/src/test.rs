//! Every check and every test, in one order, with one verdict.

use anyhow::{Context, Result, bail};

use crate::kind::Cluster;
use crate::process::{cargo, command, root, run as succeed};
use crate::report::{Counts, Report};
use crate::suites::{self, Suite};
use crate::{crds, kind, tools};

/// What to run.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Leaves out what needs Kubernetes' tools: charts, the tests with an API server of their
    /// own, and the tests on kind
    #[arg(long)]
    no_kind: bool,
    /// Runs only the tests with this in their names, and no other check
    filter: Option<String>,
}

/// Runs the checks and the tests, and says whether all of them passed. One that cannot run
/// has failed: nothing that was asked for is skipped.
pub(crate) fn run(args: &Args) -> bool {
    let mut report = Report::new();
    let filter = args.filter.as_deref();

    report.step("programs the tests use", || {
        tools::packages()?;
        tools::go()?;
        if !args.no_kind {
            kind::tools()?;
        }
        Ok(Counts::default())
    });
    if filter.is_none() {
        checks(&mut report, args.no_kind);
    }
    if report.step("build", || build().map(|()| Counts::default())) {
        if filter.is_none() {
            report.step("CRDs up to date", || crds::check().map(|()| Counts::ONE));
        }
        tests(&mut report, filter, args.no_kind);
    }
    report.close()
}

/// What is checked without running the product.
fn checks(report: &mut Report, no_kind: bool) {
    let deny = tools::CargoDeny::begin();
    report.step("format", || {
        succeed(&mut cargo(["fmt", "--all", "--check"])).context("run `cargo fmt --all`")?;
        Ok(Counts::ONE)
    });
    report.step("clippy", || {
        let mut clippy =
            cargo(["clippy", "--release", "--workspace", "--all-targets", "--features", FEATURES]);
        succeed(clippy.args(["--", "-D", "warnings"]))?;
        Ok(Counts::ONE)
    });
    report.step("licenses, bans, sources", || {
        deny.ready()?;
        // advisories change under an unchanged tree: they are another job's matter
        let deny = ["deny", "--log-level", "error", "check", "--hide-inclusion-graph"];
        succeed(cargo(deny).args(["bans", "licenses", "sources"]))?;
        Ok(Counts::ONE)
    });
    if !no_kind {
        report.step("charts", || charts().map(|()| Counts::ONE));
    }
}

/// Builds the programs and the tests in one go, so that no later step compiles.
fn build() -> Result<()> {
    succeed(&mut cargo(["build", "--release", "--workspace", "--all-targets", "--features", FEATURES]))
}

/// The features that tests require which need more than cargo: see the manifests of those crates.
const FEATURES: &str = "rtc-operator/apiserver,rtc-e2e/browser,rtc-e2e/kind";

fn tests(report: &mut Report, filter: Option<&str>, no_kind: bool) {
    if filter.is_none() {
        report.step("browser client, under Node", suites::node);
    }
    report.step("unit and integration tests", || {
        let mut suite = Suite { filter, ..Suite::default() };
        if !no_kind {
            suite.features = "rtc-operator/apiserver";
            suite.env.push(("KUBEBUILDER_ASSETS", tools::control_plane()?.to_string_lossy().into_owned()));
        }
        suite.run()
    });
    report.step("end to end, in browsers", || {
        let programs = suites::programs_requiring("browser")?;
        Suite { features: "rtc-e2e/browser", programs, filter, ..Suite::default() }.run()
    });
    if !no_kind {
        on_kind(report, filter);
    }
}

fn on_kind(report: &mut Report, filter: Option<&str>) {
    let mut suite = None;
    if !report.step("kind: which tests", || {
        let programs = suites::programs_requiring("kind")?;
        let found = Suite { features: "rtc-e2e/browser,rtc-e2e/kind", programs, filter, ..Suite::default() };
        suite = found.matches()?.then_some(found);
        Ok(Counts::default())
    }) {
        return;
    }
    let Some(mut suite) = suite else { return };
    let mut cluster = None;
    let ready = report.step("kind: image and cluster", || {
        let begun = Cluster::begin()?;
        suite.env = begun.env();
        cluster = Some(begun);
        Ok(Counts::default())
    });
    if ready {
        report.step("end to end, on kind", || suite.run());
    }
    if let Some(cluster) = cluster {
        report.step("kind: clean up", || cluster.end().map(|()| Counts::default()));
    }
}

/// Lints both charts and renders them with their defaults and with every option on.
fn charts() -> Result<()> {
    tools::need("helm", "see https://helm.sh/docs/intro/install/")?;
    for chart in ["rtc-operator-crds", "rtc-operator"] {
        let folder = root().join("charts").join(chart);
        let mut values = vec![None];
        let cases = folder.join("ci");
        if cases.is_dir() {
            for case in std::fs::read_dir(&cases)? {
                values.push(Some(case?.path()));
            }
        }
        for file in values {
            let with = |verb: &[&str]| {
                let mut helm = command("helm", verb);
                helm.arg(&folder);
                if let Some(file) = &file {
                    helm.arg("--values").arg(file);
                }
                helm
            };
            succeed(&mut with(&["lint", "--strict", "--quiet"]))?;
            let rendered = crate::process::output(&mut with(&[
                "template",
                "release",
                "--namespace",
                "somewhere",
                "--kube-version",
                "1.34.0",
            ]))?;
            if !rendered.contains("kind: CustomResourceDefinition") && chart == "rtc-operator-crds" {
                bail!("the chart {chart} renders no CustomResourceDefinition");
            }
        }
    }
    Ok(())
}
