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
async fn stun_alone_needs_no_keys() {
    let world = World::new("stun", 1).await;
    world.apply(json!({"turn": {"mode": "STUNOnly"}, "credentials": {"ttl": "1s", "rotation": {"interval": "2s", "overlap": "1s"}}})).await;
    let status = world.ready().await.status.unwrap();
    assert_eq!(status.endpoints.unwrap().turn, ["stun:192.0.2.1:3478"]);
    assert!(status.key_ring.is_none());
    assert!(world.condition("KeyRingInSync").await.is_some_and(|(_, reason, _)| reason == "NotNeeded"));
    assert!(world.fleet().await.stun_only);
    let turn = json!(world.daemonset().await);
    let volumes = turn.pointer("/spec/template/spec/volumes").unwrap();
    let token = json!([{"key": ".admin-token", "path": ".admin-token"}]);
    assert_eq!((volumes.as_array().unwrap().len(), &volumes[0]["secret"]["items"]), (1, &token));
    // No key is replaced, however long its interval has been over.
    let before = world.secret().await.unwrap().metadata.resource_version;
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    world.reconcile(2).await;
    assert_eq!(world.secret().await.unwrap().metadata.resource_version, before);

    // Back to relays, by keys that are made and read.
    world.apply(json!({"turn": {"mode": "TURN"}})).await;
    world
        .until("relays", async || {
            let endpoints = world.cluster().await.status.unwrap().endpoints.unwrap().turn;
            endpoints.first().is_some_and(|uri| uri.starts_with("turn:")) && !world.fleet().await.stun_only
        })
        .await;
    world.ready().await;
}
