use k8s_openapi::api::{apps::v1::Deployment, core::v1::ConfigMap};
use kube::{
    ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::json;

use crate::world::World;

#[tokio::test(flavor = "multi_thread")]
async fn others_fields_survive_and_our_own_are_put_back() {
    let world = World::new("foreign", 1).await;
    world.apply(json!({})).await;
    world.ready().await;
    let deployments = world.api::<Deployment>();
    let edit = json!({
        "metadata": {"annotations": {"example.com/owner": "team"}},
        "spec": {"replicas": 9, "minReadySeconds": 3}
    });
    deployments.patch("calls-signaling", &PatchParams::default(), &Patch::Merge(&edit)).await.unwrap();
    world.until("2 replicas", async || world.deployment().await.spec.unwrap().replicas == Some(2)).await;
    let deployment = world.deployment().await;
    assert_eq!(deployment.annotations()["example.com/owner"], "team");
    assert_eq!(deployment.spec.unwrap().min_ready_seconds, Some(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_of_somebody_else_is_never_taken() {
    let world = World::new("taken", 1).await;
    let theirs = json!({"metadata": {"name": "calls-turn"}, "data": {"a": "b"}});
    let maps = world.api::<ConfigMap>();
    maps.create(&Default::default(), &serde_json::from_value(theirs).unwrap()).await.unwrap();
    world.apply(json!({})).await;
    world
        .until("NameTaken", async || {
            world.condition("Degraded").await.is_some_and(|(_, reason, message)| {
                reason == "NameTaken" && message.contains("ConfigMap calls-turn")
            })
        })
        .await;
    assert_eq!(maps.get("calls-turn").await.unwrap().data.unwrap().len(), 1);
}
