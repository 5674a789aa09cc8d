use std::time::Duration;

use axum::http::Method;
use rtc_operator_api::ROTATE_ANNOTATION;
use serde_json::json;

use crate::{
    link::{Link, Seen},
    ring_history::RingHistory,
    server,
    world::{Operator, World},
};

fn deletes(link: &Link) -> usize {
    link.seen().iter().filter(|seen| seen.method == Method::DELETE).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_watch_neither_rotates_nor_deletes() {
    let world = World::without_operator("frozen", 2).await;
    let history = RingHistory::record(&world);
    let link = Link::new(server::config().await).await;
    let operator = Operator::start(&link.client(), &world.namespace, "operator");
    world.apply(json!({})).await;
    let signing = world.ready().await.status.unwrap().key_ring.unwrap().signing;
    let late = world.kubelet.nodes[1].clone();
    world.kubelet.set_late(&late, true);
    world.annotate(ROTATE_ANNOTATION, "1").await;
    let ring = async || world.cluster().await.status.unwrap().key_ring.unwrap();
    world.until("1/2", async || ring().await.acknowledged == "1/2").await;

    link.freeze(true);
    link.take();
    let before = operator.reconciles().await;
    world.until("it looks again by itself", async || operator.reconciles().await >= before + 5).await;
    assert_eq!((ring().await.signing, deletes(&link)), (signing.clone(), 0));
    // A template that it hears of late is no reason for haste either.
    world.apply(json!({"turn": {"relayPorts": {"min": 50000, "max": 60000}}})).await;
    world.kubelet.set_allocations(&world.kubelet.nodes[0], 1);
    world.kubelet.set_allocations(&late, 1);
    let before = operator.reconciles().await;
    world.until("it looks again by itself", async || operator.reconciles().await >= before + 5).await;
    assert_eq!(deletes(&link), 0);

    link.freeze(false);
    world.kubelet.set_late(&late, false);
    for node in &world.kubelet.nodes {
        world.kubelet.set_allocations(node, 0);
    }
    world.until("the next key signs", async || ring().await.signing != signing).await;
    world.ready().await;
    history.check();
}

/// As from an API server that was restored from a copy, or lags behind the others.
#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_was_rolled_back_undoes_nothing() {
    let mut world = World::new("rolled", 1).await;
    world.apply(json!({})).await;
    world.ready().await;
    world.operator.take().unwrap().stop().await;
    let history = RingHistory::record(&world);
    // This one sees the first spec when it begins to watch, and that is what it will see again.
    let link = Link::new(server::config().await).await;
    let operator = Operator::start(&link.client(), &world.namespace, "operator");
    world.until("it looked", async || operator.reconciles().await >= 1).await;
    world
        .apply(json!({"signaling": {"replicas": 3}, "turn": {"relayPorts": {"min": 50000, "max": 60000}}}))
        .await;
    world.ready().await;
    world.annotate(ROTATE_ANNOTATION, "1").await;
    let ring = async || world.cluster().await.status.unwrap().key_ring.unwrap();
    world.until("rotated", async || ring().await.keys.iter().any(|key| key.not_after.is_some())).await;
    world.ready().await;

    let before = operator.reconciles().await;
    link.take();
    link.roll_back(true);
    let listed = |seen: &Seen| seen.begins_watch() && seen.path.ends_with("/rtcclusters");
    world.until("it asks for the past", async || link.seen().iter().any(listed)).await;
    world.until("it saw the past", async || operator.reconciles().await > before).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let wrote: Vec<_> = link.take().into_iter().filter(|seen| seen.writes()).collect();
    assert!(wrote.is_empty(), "{wrote:#?}");

    link.roll_back(false);
    world
        .apply(json!({"signaling": {"replicas": 4}, "turn": {"relayPorts": {"min": 50000, "max": 60000}}}))
        .await;
    world.until("4 replicas", async || world.deployment().await.spec.unwrap().replicas == Some(4)).await;
    world.ready().await;
    history.check();
}
