use std::time::Duration;

use axum::http::Method;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Patch, PatchParams};
use rtc_operator_api::ROTATE_ANNOTATION;
use serde_json::json;

use crate::{
    link::{Fate, Link, Seen},
    ring_history::RingHistory,
    server,
    world::{Operator, World},
};

fn writes_ring(seen: &Seen) -> bool {
    seen.method != Method::GET && seen.path.contains("/secrets")
}

/// As two that each believe to lead: with a lease each. Both are slow to write, so that they meet.
#[tokio::test(flavor = "multi_thread")]
async fn two_that_lead_at_once_lose_no_key() {
    let world = World::without_operator("two", 2).await;
    let history = RingHistory::record(&world);
    let (left, right) = (Link::new(server::config().await).await, Link::new(server::config().await).await);
    let slow =
        |seen: &Seen| if writes_ring(seen) { Fate::Late(Duration::from_millis(300)) } else { Fate::Pass };
    left.rule(slow);
    right.rule(slow);
    let rotation = json!({"interval": "3s", "overlap": "1s"});
    world.apply(json!({"credentials": {"ttl": "1s", "rotation": rotation}})).await;
    let first = Operator::with_lease(&left.client(), &world.namespace, "left", "left");
    let second = Operator::with_lease(&right.client(), &world.namespace, "right", "right");
    world.ready().await;
    world.until("keys have come and gone", async || history.check() >= 6).await;
    assert!(left.seen().iter().any(writes_ring) && right.seen().iter().any(writes_ring));
    first.stop().await;
    second.stop().await;
    history.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_loses_the_lease_in_the_middle_of_a_write_stops_writing() {
    let mut world = World::without_operator("deposed", 1).await;
    let history = RingHistory::record(&world);
    let link = Link::new(server::config().await).await;
    let deposed = Operator::start(&link.client(), &world.namespace, "deposed");
    world.apply(json!({})).await;
    world.ready().await;

    // The ring is being written when somebody else takes the lease; what was sent arrives long after.
    link.rule(|seen| if writes_ring(seen) { Fate::Late(Duration::from_secs(6)) } else { Fate::Pass });
    link.take();
    world.annotate(ROTATE_ANNOTATION, "1").await;
    world.until("it writes the ring", async || link.seen().iter().any(writes_ring)).await;
    let theirs = json!({"spec": {"holderIdentity": "next"}});
    let leases = world.api::<Lease>();
    leases.patch("rtc-operator", &PatchParams::default(), &Patch::Merge(theirs)).await.unwrap();
    let follows = async || {
        let status = deposed.get("/status").await;
        status.is_some_and(|status| status.contains("\"leader\":false"))
    };
    world.until("it follows", follows).await;
    link.take();
    world.operator = Some(Operator::start(&world.client, &world.namespace, "next"));
    world
        .until("the next one has rotated", async || {
            let ring = world.cluster().await.status.and_then(|status| status.key_ring).unwrap_or_default();
            ring.keys.len() == 2 && ring.keys.iter().any(|key| key.not_after.is_some())
        })
        .await;
    world.apply(json!({"signaling": {"replicas": 3}})).await;
    world.ready().await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert!(link.seen().iter().all(|seen| !seen.writes()), "{:?}", link.seen());
    assert_eq!(history.check(), 4);
    deposed.kill().await;
}
