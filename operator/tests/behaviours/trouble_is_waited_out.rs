use std::time::Duration;

use axum::http::{Method, StatusCode};
use k8s_openapi::api::apps::v1::Deployment;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use rtc_operator_api::RtcCluster;
use serde_json::json;

use crate::{
    link::{Fate, Link, Seen},
    server,
    world::{Operator, World},
};

async fn begin(name: &str) -> (World, Link, Operator) {
    let world = World::without_operator(name, 1).await;
    let link = Link::new(server::config().await).await;
    let operator = Operator::start(&link.client(), &world.namespace, "operator");
    world.apply(json!({})).await;
    world.ready().await;
    link.take();
    (world, link, operator)
}

/// Has the operator act on an edit under a rule for so long, lifts it, and waits until the edit took effect. Returns
/// what was asked for under the rule.
async fn endure(
    world: &World,
    link: &Link,
    time: Duration,
    rule: impl Fn(&Seen) -> Fate + Send + Sync + 'static,
) -> Vec<Seen> {
    link.rule(rule);
    link.take();
    world.apply(json!({"signaling": {"replicas": 3}})).await;
    tokio::time::sleep(time).await;
    let seen = link.take();
    link.rule(|_| Fate::Pass);
    world.until("3 replicas", async || world.deployment().await.spec.unwrap().replicas == Some(3)).await;
    world.ready().await;
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_is_waited_out_without_a_storm() {
    let (world, link, _operator) = begin("outage").await;
    // Shorter than the lease is held without a renewal.
    let seen = endure(&world, &link, Duration::from_secs(6), |_| Fate::Break).await;
    // A reconcile that cannot read ends at its first steps; watches back off each for itself.
    assert!((5..200).contains(&seen.len()), "{} requests in 6s", seen.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_after_is_kept() {
    let (world, link, _operator) = begin("busy").await;
    let busy = |seen: &Seen| match seen.writes() {
        true => Fate::Refuse(StatusCode::TOO_MANY_REQUESTS, Some(2)),
        false => Fate::Pass,
    };
    let seen = endure(&world, &link, Duration::from_secs(7), busy).await;
    let writes: Vec<_> = seen.iter().filter(|seen| seen.writes()).collect();
    assert!((2..=5).contains(&writes.len()), "{writes:#?}");
    for pair in writes.windows(2) {
        assert!(pair[1].at - pair[0].at >= Duration::from_millis(1900), "{writes:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn conflicts_are_tried_again_ever_more_slowly() {
    let (world, link, _operator) = begin("conflicts").await;
    let conflict = |seen: &Seen| match seen.method == Method::PATCH && seen.path.ends_with("/calls-signaling")
    {
        true => Fate::Refuse(StatusCode::CONFLICT, None),
        false => Fate::Pass,
    };
    let seen = endure(&world, &link, Duration::from_secs(8), conflict).await;
    let at: Vec<_> = seen
        .iter()
        .filter(|seen| seen.method == Method::PATCH && seen.path.ends_with("/deployments/calls-signaling"))
        .map(|seen| seen.at)
        .collect();
    assert!((3..=8).contains(&at.len()), "{}", at.len());
    let (first, last) = (at[1] - at[0], at[at.len() - 1] - at[at.len() - 2]);
    assert!(last > first, "{first:?} then {last:?}");
}

/// As by an admission webhook that takes its time.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_slow_to_be_written_holds_up_nobody_else() {
    let (world, link, _operator) = begin("webhook").await;
    link.rule(|seen| match seen.writes() && seen.path.contains("/calls-") {
        true => Fate::Late(Duration::from_secs(5)),
        false => Fate::Pass,
    });
    world.apply(json!({"signaling": {"replicas": 3}})).await;
    let writes_calls = |seen: &Seen| seen.writes() && seen.path.ends_with("/deployments/calls-signaling");
    world.until("it writes", async || link.seen().iter().any(writes_calls)).await;
    let other = json!({
        "apiVersion": "rtc-operator.dev/v1alpha1", "kind": "RtcCluster", "metadata": {"name": "other"},
        "spec": {"turn": {"placement": {"nodeSelector": {"test": "nowhere"}}}}
    });
    let clusters: Api<RtcCluster> = world.api();
    clusters.patch("other", &PatchParams::apply("user"), &Patch::Apply(&other)).await.unwrap();
    let deployments = world.api::<Deployment>();
    world.until("the other", async || deployments.get_opt("other-signaling").await.unwrap().is_some()).await;
    assert_eq!(world.deployment().await.spec.unwrap().replicas, Some(2), "the slow one is still on its way");
    world.until("3 replicas", async || world.deployment().await.spec.unwrap().replicas == Some(3)).await;
    assert_eq!(link.seen().iter().filter(|seen| writes_calls(seen)).count(), 1);
}
