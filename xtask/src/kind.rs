//! The kind cluster of one test run.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::process::{command, output, root, run, target};
use crate::tools;

/// The image that the tests run, as it is named in the cluster.
const IMAGE: &str = "ghcr.io/rtc-operator/rtc-operator:e2e";

/// The image of the managed Redis.
const REDIS: &str = "redis:7";

/// Fails when a program is missing that the cluster needs.
pub(crate) fn tools() -> Result<()> {
    tools::need("docker", "install Docker, or leave these tests out with --no-kind")?;
    if output(&mut command("docker", ["info", "--format", "{{.ServerVersion}}"])).is_err() {
        bail!("Docker does not answer: start it, or leave these tests out with --no-kind");
    }
    tools::need("kind", "`go install sigs.k8s.io/kind@latest`, or leave these tests out with --no-kind")?;
    tools::need("kubectl", "see https://kubernetes.io/docs/tasks/tools/")?;
    tools::need("helm", "see https://helm.sh/docs/intro/install/")
}

/// A running cluster with the images of the tests in it.
///
/// `RTC_E2E_CLUSTER` names it (`rtc-e2e`); a cluster of that name is used as it
/// is and stays. Otherwise one is created from `RTC_E2E_KIND_CONFIG`
/// (`e2e/kind.yaml`) with the node image `RTC_E2E_KIND_IMAGE` (kind's own), and
/// deleted at the end unless `RTC_E2E_KEEP` is set.
pub(crate) struct Cluster {
    name: String,
    kubeconfig: PathBuf,
    ours: bool,
}

impl Cluster {
    /// Finds or creates the cluster and loads the images into it.
    pub(crate) fn begin() -> Result<Self> {
        let name = std::env::var("RTC_E2E_CLUSTER").unwrap_or_else(|_| "rtc-e2e".to_owned());
        let folder = target().join("e2e");
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let kubeconfig = folder.join(format!("{name}.kubeconfig"));

        let clusters = output(&mut command("kind", ["get", "clusters"]))?;
        let ours = !clusters.lines().any(|line| line.trim() == name);
        let cluster = Self { name, kubeconfig, ours };
        if ours {
            cluster.create()?;
        } else {
            println!("using the cluster {} that is there already", cluster.name);
        }
        run(command("kind", ["export", "kubeconfig", "--name", &cluster.name, "--kubeconfig"])
            .arg(&cluster.kubeconfig))?;

        crate::image::pack(IMAGE)?;
        if output(&mut command("docker", ["image", "inspect", "--format", "{{.Id}}", REDIS])).is_err() {
            run(&mut command("docker", ["pull", "--quiet", REDIS]))?;
        }
        run(&mut command("kind", ["load", "docker-image", "--name", &cluster.name, IMAGE, REDIS]))?;
        Ok(cluster)
    }

    fn create(&self) -> Result<()> {
        let config = std::env::var_os("RTC_E2E_KIND_CONFIG")
            .map_or_else(|| root().join("e2e/kind.yaml"), PathBuf::from);
        let mut create =
            command("kind", ["create", "cluster", "--wait", "3m", "--name", &self.name, "--config"]);
        create.arg(config).arg("--kubeconfig").arg(&self.kubeconfig);
        if let Ok(image) = std::env::var("RTC_E2E_KIND_IMAGE") {
            create.args(["--image", &image]);
        }
        run(&mut create)
    }

    /// What the tests read from their environment.
    pub(crate) fn env(&self) -> Vec<(&'static str, String)> {
        vec![
            ("RTC_E2E_KUBECONFIG", self.kubeconfig.to_string_lossy().into_owned()),
            ("RTC_E2E_IMAGE", IMAGE.to_owned()),
        ]
    }

    /// Deletes the cluster when this run created it.
    pub(crate) fn end(self) -> Result<()> {
        if !self.ours || std::env::var_os("RTC_E2E_KEEP").is_some() {
            println!("the cluster {} stays: `kind delete cluster --name {}`", self.name, self.name);
            return Ok(());
        }
        run(&mut command("kind", ["delete", "cluster", "--name", &self.name]))
    }
}
