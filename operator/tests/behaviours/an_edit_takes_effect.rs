use serde_json::{Value, json};

use crate::world::World;

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_takes_effect() {
    let world = World::new("edit", 1).await;
    world.apply(json!({})).await;
    world.ready().await;
    world
        .apply(json!({
            "image": {"tag": "other"},
            "signaling": {"replicas": 1, "resources": {"limits": {"memory": "100Mi"}}, "maxRoomMembers": 7},
            "turn": {"listeners": [{"name": "only", "transport": "UDP", "port": 3500}], "update": {"strategy": "Immediate"}}
        }))
        .await;
    world.ready().await;

    let deployment = json!(world.deployment().await);
    assert_eq!(deployment["spec"]["replicas"], 1);
    let container = &deployment["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["resources"]["limits"]["memory"], "100Mi");
    assert_eq!(container["image"], "rtc:other");
    assert!(container["args"].as_array().unwrap().contains(&json!("--max-room-members=7")));
    let turn = json!(world.daemonset().await);
    let ports = turn.pointer("/spec/template/spec/containers/0/ports").and_then(Value::as_array).unwrap();
    assert!(ports.iter().any(|port| port["hostPort"] == 3500) && ports.len() == 2);
    assert_eq!(world.fleet().await.listeners.len(), 1);
    // One pod needs no budget, which would keep a node from ever being drained.
    let budgets = world.api::<k8s_openapi::api::policy::v1::PodDisruptionBudget>();
    world.until("no budget", async || budgets.get_opt("calls-signaling").await.unwrap().is_none()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_cluster_is_left_as_it_is() {
    let world = World::new("paused", 1).await;
    world.apply(json!({})).await;
    world.ready().await;
    world.apply(json!({"paused": true, "signaling": {"replicas": 5}})).await;
    world
        .until("Paused", async || world.condition("Paused").await.is_some_and(|(is, ..)| is == "True"))
        .await;
    // Nor do keys rotate, and the status goes on to tell what is.
    world.annotate(rtc_operator_api::ROTATE_ANNOTATION, "1").await;
    world.reconcile(2).await;
    assert_eq!(world.deployment().await.spec.unwrap().replicas, Some(2));
    let ring = world.cluster().await.status.unwrap().key_ring.unwrap();
    assert_eq!((ring.keys.len(), ring.acknowledged.as_str()), (1, "1/1"));
    world.apply(json!({"paused": false, "signaling": {"replicas": 5}})).await;
    world.until("5 replicas", async || world.deployment().await.spec.unwrap().replicas == Some(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_pod_has_is_refused_and_said() {
    let world = World::new("typo", 1).await;
    world.apply(json!({"signaling": {"podTemplate": {"spec": {"priorityClasName": "high"}}}})).await;
    world
        .until("Degraded", async || {
            world.condition("Degraded").await.is_some_and(|(is, reason, message)| {
                is == "True" && reason == "ApplyFailed" && message.contains("priorityClasName")
            })
        })
        .await;
    // All else was done.
    world
        .until("TURN", async || world.condition("TurnAvailable").await.is_some_and(|(is, ..)| is == "True"))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn protection_that_is_not_there_stops_everything() {
    let world = World::new("refused", 1).await;
    world.apply(json!({"turn": {"mode": "STUNOnly"}})).await;
    world
        .until("FieldNotSupported", async || {
            world.condition("Degraded").await.is_some_and(|(_, reason, _)| reason == "FieldNotSupported")
        })
        .await;
    assert!(world.secret().await.is_none());
}
