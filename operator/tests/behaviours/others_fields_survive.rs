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

/// As a mesh does, or a policy: by server-side apply under its own name.
#[tokio::test(flavor = "multi_thread")]
async fn what_others_put_beside_our_own_stays_through_our_changes() {
    let world = World::new("beside", 1).await;
    world.apply(json!({})).await;
    world.ready().await;
    let sidecar = json!({"name": "sidecar", "image": "mesh:1"});
    let object = |api_version: &str, kind: &str, name: &str, more: serde_json::Value| {
        let mut value = json!({
            "apiVersion": api_version, "kind": kind,
            "metadata": {"name": name, "labels": {"example.com/team": "calls"}, "annotations": {"example.com/a": "b"}}
        });
        value.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        Patch::Apply(value)
    };
    let template = json!({"spec": {"template": {
        "metadata": {"labels": {"example.com/mesh": "in"}}, "spec": {"containers": [sidecar]}
    }}});
    let mesh = PatchParams::apply("mesh");
    let deployments = world.api::<Deployment>();
    let theirs = object("apps/v1", "Deployment", "calls-signaling", template);
    deployments.patch("calls-signaling", &mesh, &theirs).await.unwrap();
    let theirs = object("v1", "ConfigMap", "calls-turn", json!({"data": {"theirs.txt": "kept"}}));
    world.api::<ConfigMap>().patch("calls-turn", &mesh, &theirs).await.unwrap();
    let theirs = object("v1", "Secret", "calls-keys", json!({}));
    world.api::<k8s_openapi::api::core::v1::Secret>().patch("calls-keys", &mesh, &theirs).await.unwrap();

    // Each of them is written again by the operator.
    world.apply(json!({"signaling": {"maxRoomMembers": 5}, "turn": {"realm": "example.com"}})).await;
    world.annotate(rtc_operator_api::ROTATE_ANNOTATION, "1").await;
    world
        .until("rotated", async || {
            world.secret().await.unwrap().data.unwrap().len() >= 4
                && world.fleet().await.realm == "example.com"
        })
        .await;
    world
        .until("the arguments changed", async || {
            json!(world.deployment().await).to_string().contains("--max-room-members=5")
        })
        .await;
    let deployment = json!(world.deployment().await);
    let pod = &deployment["spec"]["template"];
    assert_eq!(pod["metadata"]["labels"]["example.com/mesh"], "in");
    let containers = pod["spec"]["containers"].as_array().unwrap();
    assert!(containers.iter().any(|container| container["name"] == "sidecar") && containers.len() == 2);
    let map: ConfigMap = world.api().get("calls-turn").await.unwrap();
    assert_eq!(map.data.as_ref().unwrap()["theirs.txt"], "kept");
    for labels in [map.labels(), world.secret().await.unwrap().labels()] {
        assert_eq!(labels["example.com/team"], "calls");
    }
    // And it is at rest with it.
    world
        .until("the first key retires", async || {
            let ring = world.cluster().await.status.unwrap().key_ring.unwrap();
            ring.keys.iter().any(|key| key.not_after.is_some())
        })
        .await;
    world.ready().await;
    world.reconcile(2).await;
    let before = crate::world::versions(&world).await;
    world.reconcile(2).await;
    assert_eq!(crate::world::versions(&world).await, before);
}
