//! The Kubernetes cluster that `cargo xtask test` made, and a namespace in it per test.

use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::wait;

/// The namespace of the operator itself.
pub const OPERATOR_NAMESPACE: &str = "rtc-system";

/// The operator's Helm release.
const RELEASE: &str = "rtc-operator";

/// A connection to the cluster, as an administrator.
#[derive(Clone)]
pub struct Cluster {
    /// The administrator's client.
    pub client: Client,
    kubeconfig: PathBuf,
    image: String,
}

impl Cluster {
    /// Connects to the cluster that the environment names.
    ///
    /// # Errors
    /// When the environment names none, or it does not answer.
    pub async fn connect() -> Result<Self> {
        let variable = |name: &str| {
            std::env::var(name).with_context(|| {
                format!("{name} is not set: run this test by `cargo xtask test`, which makes the cluster")
            })
        };
        let kubeconfig = PathBuf::from(variable("RTC_E2E_KUBECONFIG")?);
        let image = variable("RTC_E2E_IMAGE")?;
        let config = Kubeconfig::read_from(&kubeconfig)?;
        let config = kube::Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
        let client = Client::try_from(config)?;
        client.apiserver_version().await.context("the cluster's API server does not answer")?;
        Ok(Self { client, kubeconfig, image })
    }

    /// Installs the operator's chart, as a user would, and waits for its pods.
    ///
    /// # Errors
    /// When helm refuses or the pods are not ready in time.
    pub async fn install_operator(&self) -> Result<()> {
        let (repository, tag) = self.image.rsplit_once(':').context("RTC_E2E_IMAGE has no tag")?;
        let chart = repository_root().join("charts/rtc-operator");
        let mut helm = self.helm();
        helm.args(["upgrade", "--install", RELEASE]).arg(chart);
        helm.args(["--namespace", OPERATOR_NAMESPACE, "--create-namespace", "--wait", "--timeout", "2m"]);
        helm.arg("--set").arg(format!("image.repository={repository},image.tag={tag}"));
        succeed(helm.output().await.context("cannot start helm")?)?;
        Ok(())
    }

    /// Removes the operator, if it is there, and the custom resource definition.
    ///
    /// # Errors
    /// When helm or the API server refuses.
    pub async fn uninstall_operator(&self) -> Result<()> {
        let mut helm = self.helm();
        helm.args(["uninstall", RELEASE, "--ignore-not-found", "--wait", "--namespace", OPERATOR_NAMESPACE]);
        succeed(helm.output().await.context("cannot start helm")?)?;
        self.kubectl(["delete", "crd", "rtcclusters.rtc-operator.dev", "--ignore-not-found"]).await?;
        Ok(())
    }

    /// Runs a test's body while metrics-server measures the cluster's pods: the one that is there, or one that is
    /// brought, and taken away again, since an API that does not answer keeps namespaces from going.
    ///
    /// # Errors
    /// What the body returns; or when metrics-server does not answer in time.
    pub async fn with_metrics_server<T>(&self, body: impl AsyncFnOnce() -> Result<T>) -> Result<T> {
        const API: &str = "v1beta1.metrics.k8s.io";
        const FILES: [&str; 2] = ["metrics-server.yaml", "metrics-api.yaml"];
        if !self.kubectl(["get", "apiservice", API, "--ignore-not-found"]).await?.is_empty() {
            return body().await;
        }
        let files = FILES.map(|file| repository_root().join("e2e").join(file).to_string_lossy().into_owned());
        let ready = async {
            self.kubectl(["apply", "-f", &files[0]]).await?;
            let rollout = ["rollout", "status", "deployment/metrics-server", "--timeout=2m"];
            self.kubectl(["--namespace", "kube-system"].into_iter().chain(rollout)).await?;
            self.kubectl(["apply", "-f", &files[1]]).await?;
            let api = format!("apiservice/{API}");
            self.kubectl(["wait", &api, "--for=condition=Available", "--timeout=1m"]).await
        };
        let outcome = match ready.await {
            Ok(_) => body().await,
            Err(error) => Err(error.context("metrics-server does not answer")),
        };
        for file in files.iter().rev() {
            let removed = self.kubectl(["delete", "-f", file, "--ignore-not-found"]).await;
            if outcome.is_ok() {
                removed?;
            }
        }
        outcome
    }

    fn helm(&self) -> Command {
        let mut helm = Command::new("helm");
        helm.env("KUBECONFIG", &self.kubeconfig);
        helm
    }

    /// What kubectl prints.
    ///
    /// # Errors
    /// What kubectl says when it refuses.
    pub async fn kubectl<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Result<String> {
        let mut kubectl = Command::new("kubectl");
        kubectl.arg("--kubeconfig").arg(&self.kubeconfig).args(args);
        succeed(kubectl.output().await.context("cannot start kubectl")?)
    }

    /// Runs `kubectl apply -f -` on a manifest.
    ///
    /// # Errors
    /// What kubectl says when it refuses.
    pub async fn apply(&self, namespace: &str, manifest: &str) -> Result<String> {
        let mut kubectl = Command::new("kubectl");
        kubectl.arg("--kubeconfig").arg(&self.kubeconfig).args([
            "apply",
            "--namespace",
            namespace,
            "-f",
            "-",
        ]);
        kubectl.stdin(std::process::Stdio::piped());
        kubectl.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        let mut child = kubectl.spawn().context("cannot start kubectl")?;
        let mut stdin = child.stdin.take().context("kubectl has no standard input")?;
        stdin.write_all(manifest.as_bytes()).await?;
        drop(stdin);
        succeed(child.wait_with_output().await?)
    }

    /// The nodes that a pod without tolerations can be scheduled on.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn schedulable_nodes(&self) -> Result<Vec<Node>> {
        let nodes = Api::<Node>::all(self.client.clone()).list(&ListParams::default()).await?;
        let tainted = |node: &Node| {
            let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
            taints.is_some_and(|taints| taints.iter().any(|taint| taint.effect != "PreferNoSchedule"))
        };
        Ok(nodes.items.into_iter().filter(|node| !tainted(node)).collect())
    }

    /// The RtcClusters of a namespace, as JSON: what a user's own tools see.
    #[must_use]
    pub fn rtc_clusters(&self, namespace: &str) -> Api<DynamicObject> {
        let kind = GroupVersionKind::gvk("rtc-operator.dev", "v1alpha1", "RtcCluster");
        Api::namespaced_with(self.client.clone(), namespace, &ApiResource::from_gvk(&kind))
    }

    /// Runs a test's body in a namespace of its own, which is gone afterwards.
    ///
    /// When the body fails, what the namespace held is printed first: objects,
    /// events, logs. `RTC_E2E_KEEP` keeps the namespace.
    ///
    /// # Errors
    /// What the body returns; or when the namespace cannot be made or removed.
    pub async fn in_namespace<T>(&self, name: &str, body: impl AsyncFnOnce() -> Result<T>) -> Result<T> {
        self.make_namespace(name).await?;
        let outcome = body().await;
        if let Err(error) = &outcome {
            // before and after what is long, so that it is found
            eprintln!("──── {name} failed: {error:#}");
            self.dump(name).await;
            self.dump(OPERATOR_NAMESPACE).await;
            eprintln!("──── {name} failed: {error:#}");
        }
        if std::env::var_os("RTC_E2E_KEEP").is_none() || outcome.is_ok() {
            let removed = self.remove_namespace(name).await;
            // what the body says matters more than what the cleaning up says
            return outcome.and_then(|value| removed.map(|()| value));
        }
        outcome
    }

    /// Makes a namespace that admits pods on their node's own network.
    async fn make_namespace(&self, name: &str) -> Result<()> {
        self.remove_namespace(name).await?;
        let namespace: Namespace = serde_json::from_value(json!({
            "metadata": {"name": name, "labels": {"pod-security.kubernetes.io/enforce": "privileged"}},
        }))?;
        Api::<Namespace>::all(self.client.clone()).create(&PostParams::default(), &namespace).await?;
        Ok(())
    }

    async fn remove_namespace(&self, name: &str) -> Result<()> {
        let namespaces = Api::<Namespace>::all(self.client.clone());
        if namespaces.get_opt(name).await?.is_none() {
            return Ok(());
        }
        // while its operator lives, so that finalizers are honoured
        let _ =
            self.rtc_clusters(name).delete_collection(&DeleteParams::default(), &ListParams::default()).await;
        namespaces.delete(name, &DeleteParams::default()).await?;
        wait::until(&format!("the namespace {name} to be gone"), Duration::from_secs(120), async || {
            match namespaces.get_opt(name).await? {
                None => Ok(()),
                Some(left) => bail!("{}", serde_json::to_string(&left.status).unwrap_or_default()),
            }
        })
        .await
    }

    /// Prints what a namespace holds, for the reader of a failed test.
    async fn dump(&self, namespace: &str) {
        let show = async |title: &str, args: &[&str]| {
            let mut all = vec!["--namespace", namespace];
            all.extend_from_slice(args);
            let text = self.kubectl(all).await.unwrap_or_else(|error| format!("{error:#}"));
            eprintln!("──── {namespace}: {title}\n{text}");
        };
        show("objects", &["get", "rtcclusters,deployments,daemonsets,services,pods", "--output=wide"]).await;
        show("status", &["get", "rtcclusters", "--output=jsonpath={range .items[*]}{.status}{\"\\n\"}{end}"])
            .await;
        show("events", &["get", "events", "--sort-by=.lastTimestamp"]).await;
        let pods = Api::<Pod>::namespaced(self.client.clone(), namespace);
        let Ok(list) = pods.list(&ListParams::default()).await else { return };
        for pod in list {
            let name = pod.name_any();
            show(&format!("log of {name}"), &["logs", &name, "--all-containers", "--tail=60"]).await;
            let restarted = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
            if restarted.map(|container| container.restart_count).sum::<i32>() > 0 {
                let args = ["logs", &name, "--all-containers", "--previous", "--tail=60"];
                show(&format!("log of {name} before it restarted"), &args).await;
            }
        }
    }
}

/// The repository's root.
#[must_use]
pub fn repository_root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// The standard output of a program that ended well, its errors otherwise.
fn succeed(output: Output) -> Result<String> {
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether a condition of an object's status is `True`; its reason and message otherwise.
///
/// # Errors
/// When it is not.
pub fn condition(object: &DynamicObject, kind: &str) -> Result<()> {
    let conditions = object.data.pointer("/status/conditions").and_then(Value::as_array);
    let found = conditions.into_iter().flatten().find(|condition| condition["type"] == kind);
    let Some(found) = found else { bail!("no condition {kind} yet") };
    if found["status"] != "True" {
        bail!("{kind} is {}: {}: {}", found["status"], found["reason"], found["message"]);
    }
    Ok(())
}
