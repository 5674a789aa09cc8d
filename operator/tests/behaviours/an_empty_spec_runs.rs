use rtc_operator_api::status::NodeState;
use serde_json::json;

use crate::world::World;

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_spec_runs() {
    let world = World::new("empty", 2).await;
    world.apply(json!({})).await;
    world.ready().await;
    // It is ready with the first node that serves.
    world
        .until("both nodes", async || {
            let status = world.cluster().await.status.unwrap_or_default();
            let both = |summary: Option<String>| summary.as_deref() == Some("2/2");
            both(status.turn.map(|turn| turn.summary)) && both(status.key_ring.map(|ring| ring.acknowledged))
        })
        .await;
    let status = world.cluster().await.status.unwrap();

    assert_eq!(status.signaling.unwrap().summary, "2/2");
    assert_eq!(status.turn.unwrap().summary, "2/2");
    assert_eq!(status.key_ring.as_ref().unwrap().acknowledged, "2/2");
    let states: Vec<_> = status.nodes.iter().map(|node| node.state).collect();
    assert_eq!(states, [NodeState::Serving, NodeState::Serving]);
    let endpoints = status.endpoints.unwrap();
    assert_eq!(endpoints.signaling, [format!("http://calls-signaling.{}.svc", world.namespace)]);
    assert_eq!(
        endpoints.turn[..2],
        ["turn:192.0.2.1:3478?transport=udp", "turn:192.0.2.1:3478?transport=tcp"]
    );

    let secret = world.secret().await.unwrap().data.unwrap();
    assert!(secret.contains_key(&status.key_ring.unwrap().signing) && secret.contains_key(".admin-token"));
    let fleet = world.fleet().await;
    assert_eq!((fleet.nodes.len(), fleet.listeners.len(), fleet.realm.as_str()), (2, 2, "rtc"));
    assert!(world.condition("Degraded").await.unwrap().2.contains("Anonymous"));
    let scale = world.api::<rtc_operator_api::RtcCluster>().get_scale("calls").await.unwrap();
    assert_eq!(scale.status.unwrap().replicas, 2);
}
