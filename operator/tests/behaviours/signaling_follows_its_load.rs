use k8s_openapi::api::{apps::v1::Deployment, autoscaling::v2::HorizontalPodAutoscaler};
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::world::World;

impl World {
    /// Sets the number of signaling pods, as an autoscaler does.
    pub(crate) async fn scale(&self, replicas: i32) {
        let deployments = self.api::<Deployment>();
        self.until("the Deployment", async || {
            deployments.get_opt("calls-signaling").await.unwrap().is_some()
        })
        .await;
        let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
        let autoscaler = PatchParams { field_manager: Some("autoscaler".into()), ..PatchParams::default() };
        deployments.patch_scale("calls-signaling", &autoscaler, &patch).await.unwrap();
    }

    async fn replicas(&self) -> Option<i32> {
        self.deployment().await.spec.unwrap().replicas
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_are_the_autoscalers_while_there_is_one() {
    let world = World::new("autoscaled", 1).await;
    world.apply(json!({"signaling": {"replicas": 3}})).await;
    world.ready().await;
    let autoscalers = world.api::<HorizontalPodAutoscaler>();
    assert!(autoscalers.get_opt("calls-signaling").await.unwrap().is_none());

    // What runs goes on running.
    let bounds = json!({"minReplicas": 2, "maxReplicas": 8, "targetCPUUtilization": 60});
    world.apply(json!({"signaling": {"autoscaling": bounds}})).await;
    world
        .until("an autoscaler", async || autoscalers.get_opt("calls-signaling").await.unwrap().is_some())
        .await;
    world.reconcile(2).await;
    assert_eq!(world.replicas().await, Some(3));
    let spec = json!(autoscalers.get("calls-signaling").await.unwrap().spec);
    assert_eq!((spec["minReplicas"].as_i64(), spec["maxReplicas"].as_i64()), (Some(2), Some(8)));
    assert_eq!(spec["scaleTargetRef"]["name"], "calls-signaling");
    assert_eq!(spec["metrics"][0]["resource"]["target"]["averageUtilization"], 60);

    // Nobody argues with it, also after other edits of the template.
    world.scale(5).await;
    world.apply(json!({"image": {"tag": "other"}, "signaling": {"autoscaling": bounds}})).await;
    world.ready().await;
    world.reconcile(2).await;
    assert_eq!(world.replicas().await, Some(5));
    assert_eq!(world.cluster().await.status.unwrap().signaling.unwrap().summary, "5/5");

    // It is gone with the field, and the number is the manifest's again.
    world.apply(json!({"signaling": {"replicas": 4}})).await;
    world.until("none", async || autoscalers.get_opt("calls-signaling").await.unwrap().is_none()).await;
    world.until("4 replicas", async || world.replicas().await == Some(4)).await;
    assert!(world.condition("AutoscalingActive").await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_at_rest_wakes_when_the_load_shall_decide() {
    let world = World::new("awake", 1).await;
    world.apply(json!({"signaling": {"replicas": 0}})).await;
    world
        .until("none", async || world.api::<Deployment>().get_opt("calls-signaling").await.unwrap().is_some())
        .await;
    assert_eq!(world.replicas().await, Some(0));
    let bounds = json!({"minReplicas": 2, "targetConnectionsPerPod": 500});
    world.apply(json!({"signaling": {"autoscaling": bounds}})).await;
    world.until("2 replicas", async || world.replicas().await == Some(2)).await;
    world.ready().await;
    let (is, reason, message) = world.condition("AutoscalingActive").await.unwrap();
    assert_eq!((is.as_str(), reason.as_str()), ("False", "Pending"));
    assert!(message.contains("rtc_signaling_connections") && message.contains("adapter"), "{message}");

    // What the autoscaler says of its metric is handed on.
    let said = json!({"status": {"currentMetrics": null, "desiredReplicas": 2, "conditions": [{
        "type": "ScalingActive", "status": "False", "reason": "FailedGetPodsMetric", "message": "no such metric",
        "lastTransitionTime": "2026-01-01T00:00:00Z"
    }]}});
    let autoscalers = world.api::<HorizontalPodAutoscaler>();
    autoscalers.patch_status("calls-signaling", &PatchParams::default(), &Patch::Merge(said)).await.unwrap();
    world.reconcile(1).await;
    world
        .until("NoMetric", async || {
            world.condition("AutoscalingActive").await.is_some_and(|(is, reason, message)| {
                is == "False" && reason == "NoMetric" && message.contains("no such metric")
            })
        })
        .await;
}
