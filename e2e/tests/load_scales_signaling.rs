//! Signaling grows with its load, by CPU, and the operator leaves the number of replicas to the autoscaler.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use kube::api::{Api, DynamicObject};
use rtc_e2e::cluster::{Cluster, condition};
use rtc_e2e::member::{Door, Member};
use rtc_e2e::wait;
use serde_json::json;

const NAMESPACE: &str = "e2e-load";
const NAME: &str = "calls";
/// Of the pool, which is empty: this is about signaling.
const POOL: &str = "e2e.rtc-operator.dev/none";
/// metrics-server measures every 15 s, and the autoscaler asks every 15 s.
const SOON: Duration = Duration::from_secs(180);
/// Who talk in one room, four times a second each.
const MEMBERS: usize = 24;

#[tokio::test]
async fn a_busy_room_brings_more_signaling_pods() -> Result<()> {
    let cluster = Cluster::connect().await?;
    cluster.install_operator().await?;
    let test = Test { cluster: &cluster };
    let measured = async || {
        test.stays_small_while_nothing_happens().await.context("at rest")?;
        test.grows().await.context("under load")
    };
    cluster.with_metrics_server(async || cluster.in_namespace(NAMESPACE, measured).await).await
}

struct Test<'a> {
    cluster: &'a Cluster,
}

impl Test<'_> {
    async fn stays_small_while_nothing_happens(&self) -> Result<()> {
        let manifest = json!({
            "apiVersion": "rtc-operator.dev/v1alpha1",
            "kind": "RtcCluster",
            "metadata": {"name": NAME},
            "spec": {
                "signaling": {
                    "autoscaling": {"minReplicas": 2, "maxReplicas": 4, "targetCPUUtilization": 60},
                    "resources": {"requests": {"cpu": "10m"}},
                },
                "turn": {"placement": {"nodeSelector": {POOL: "yes"}}},
            },
        });
        let started = Instant::now();
        self.cluster.apply(NAMESPACE, &manifest.to_string()).await?;
        wait::until("the autoscaler to have measured the pods", SOON, async || {
            condition(&self.rtc().await?, "AutoscalingActive")
        })
        .await?;
        println!("the autoscaler had measured after {:.1} s", started.elapsed().as_secs_f64());
        ensure!(self.replicas().await? == 2, "{} replicas at rest", self.replicas().await?);
        Ok(())
    }

    async fn grows(&self) -> Result<()> {
        let pods = Api::namespaced(self.cluster.client.clone(), NAMESPACE);
        let labels = format!("app.kubernetes.io/instance={NAME},app.kubernetes.io/component=signaling");
        let door = Door { pods, labels, tls: None };
        let mut members = Vec::new();
        for number in 0..MEMBERS {
            members.push(Member::join(&door, number, "crowd").await?);
        }
        let started = Instant::now();
        wait::until("more signaling pods", SOON, async || {
            let (replicas, ready) = (self.replicas().await?, door.ready().await?.len());
            ensure!(replicas > 2 && ready > 2, "{replicas} replicas, {ready} of them ready");
            Ok(())
        })
        .await?;
        println!("more pods were ready {:.1} s after the load began", started.elapsed().as_secs_f64());
        // An edit makes the operator write the Deployment, and its replicas are not its own.
        let before = self.replicas().await?;
        let edit =
            json!({"spec": {"signaling": {"podTemplate": {"metadata": {"labels": {"edited": "yes"}}}}}});
        let args = ["patch", "rtc", NAME, "--namespace", NAMESPACE, "--type=merge", "--patch"];
        self.cluster.kubectl(args.into_iter().chain([edit.to_string().as_str()])).await?;
        wait::until("the edit to reach the Deployment", SOON, async || {
            let deployment = self.deployment().await?;
            let labels = deployment.spec.and_then(|spec| spec.template.metadata?.labels);
            ensure!(labels.is_some_and(|labels| labels.contains_key("edited")), "it has not");
            Ok(())
        })
        .await?;
        ensure!(self.replicas().await? >= before, "the edit took replicas back");
        for member in &members {
            let told = &member.told;
            ensure!(told.left.load(Relaxed) == 0, "somebody was told to have left: {told:?}");
            ensure!(told.heard.load(Relaxed) > 0, "somebody heard nobody: {told:?}");
        }
        Ok(())
    }

    async fn replicas(&self) -> Result<i32> {
        let spec = self.deployment().await?.spec.context("a Deployment without a spec")?;
        spec.replicas.context("a Deployment without replicas")
    }

    async fn deployment(&self) -> Result<Deployment> {
        let deployments: Api<Deployment> = Api::namespaced(self.cluster.client.clone(), NAMESPACE);
        Ok(deployments.get(&format!("{NAME}-signaling")).await?)
    }

    async fn rtc(&self) -> Result<DynamicObject> {
        Ok(self.cluster.rtc_clusters(NAMESPACE).get(NAME).await?)
    }
}
