use kube::ResourceExt;
use serde_json::json;

use crate::world::{World, versions};

#[tokio::test(flavor = "multi_thread")]
async fn steady_state_writes_nothing() {
    let world = World::new("steady", 2).await;
    // Notations that the API server changes are written once all the same.
    world
        .apply(json!({
            "turn": {"resources": {"requests": {"cpu": "1000m"}}},
            "signaling": {
                "autoscaling": {"targetConnectionsPerPod": 1000},
                "route": {"ingress": {"host": "calls.example.com", "tlsSecretName": "calls-tls"}}
            }
        }))
        .await;
    // As the autoscaler would, from the one pod that a Deployment has until then.
    world.scale(2).await;
    world.ready().await;
    world.reconcile(2).await;
    let (before, status) = (versions(&world).await, world.cluster().await.status);
    assert!(before.len() >= 11, "{before:?}");
    world.reconcile(5).await;
    assert_eq!(versions(&world).await, before);
    assert_eq!(world.cluster().await.status, status);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_operator_finds_nothing_to_write() {
    let mut world = World::new("restart", 1).await;
    world.apply(json!({})).await;
    world.ready().await;
    world.reconcile(2).await;
    world.operator.take().unwrap().stop().await;
    let before = (versions(&world).await, world.cluster().await.resource_version());
    world.operator = Some(crate::world::Operator::start(&world.client, &world.namespace, "second"));
    let operator = world.operator.as_ref().unwrap();
    world.until("a reconcile", async || operator.reconciles().await >= 1).await;
    assert_eq!((versions(&world).await, world.cluster().await.resource_version()), before);
}

/// As in ten minutes at a look every 30 seconds, where each look is called for by hand.
#[tokio::test(flavor = "multi_thread")]
async fn twenty_looks_write_nothing_and_ask_for_little() {
    let mut world = World::without_operator("looks", 2).await;
    let link = crate::link::Link::new(crate::server::config().await).await;
    world.operator = Some(crate::world::Operator::start(&link.client(), &world.namespace, "operator"));
    world.apply(json!({})).await;
    world.ready().await;
    world.reconcile(2).await;
    let operator = world.operator.as_ref().unwrap();
    let before = operator.reconciles().await;
    link.take();
    world.reconcile(20).await;
    let looks = usize::try_from(operator.reconciles().await - before).unwrap();
    let seen = link.take();
    let wrote: Vec<_> = seen.iter().filter(|seen| seen.writes()).collect();
    assert!(wrote.is_empty(), "{wrote:#?}");
    // Nothing, but for the namespace's level now and then, and all of it every ten minutes.
    let asked: Vec<_> = seen.iter().filter(|seen| !seen.path.contains("/leases")).collect();
    assert!(looks >= 20 && asked.len() <= 40, "{} requests for {looks} looks: {asked:#?}", asked.len());
}
