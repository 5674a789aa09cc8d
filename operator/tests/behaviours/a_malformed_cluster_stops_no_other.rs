use kube::{
    Api,
    api::{DynamicObject, Patch, PatchParams},
    core::ApiResource,
};
use rtc_operator_api::RtcCluster;
use serde_json::json;

use crate::world::World;

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_cluster_stops_no_other() {
    let world = World::new("malformed", 1).await;
    let resource = ApiResource::erase::<RtcCluster>(&());
    let raw = Api::<DynamicObject>::namespaced_with(world.client.clone(), &world.namespace, &resource);
    let broken = json!({
        "apiVersion": "rtc-operator.dev/v1alpha1", "kind": "RtcCluster", "metadata": {"name": "broken"},
        "spec": {"signaling": {"drain": {"timeout": "soon"}}}
    });
    raw.patch("broken", &PatchParams::apply("user"), &Patch::Apply(&broken)).await.unwrap();
    world.apply(json!({})).await;
    world.ready().await;
    world
        .until("it is said of the broken one", async || {
            let status = raw.get("broken").await.unwrap().data["status"].to_string();
            status.contains("NotUnderstood") && status.contains("`soon` is not a length of time")
        })
        .await;
}

/// What an older definition took is served as it was stored, whatever the present one says.
#[tokio::test(flavor = "multi_thread")]
async fn one_that_was_stored_under_an_older_definition_stops_no_other() {
    crate::logs::keep();
    let world = World::new("older", 1).await;
    for (name, spec) in [
        ("nonsense", json!({"signaling": "on", "turn": {"listeners": 7}})),
        ("nothing", json!(null)),
        ("broken-rules", json!({"turn": {"relayPorts": {"min": 9, "max": 3}}})),
    ] {
        let object = json!({
            "apiVersion": "rtc-operator.dev/v1alpha1", "kind": "RtcCluster", "spec": spec,
            "metadata": {
                "name": name, "namespace": world.namespace, "uid": format!("{name}-{}", world.namespace),
                "creationTimestamp": "2026-01-01T00:00:00Z", "generation": 1
            }
        });
        let key = format!("/registry/rtc-operator.dev/rtcclusters/{}/{name}", world.namespace);
        crate::server::store(&key, &object).await;
    }
    world.apply(json!({})).await;
    world.ready().await;
    let operator = world.operator.as_ref().unwrap();
    let about = format!("{}/nonsense", world.namespace);
    world
        .until("the log names it", async || {
            !crate::logs::with(&["cannot read this RtcCluster", &about, "Invalid type string"]).is_empty()
        })
        .await;
    // It is said once in a while, not in a loop.
    let before = operator.reconciles().await;
    tokio::time::sleep(std::time::Duration::from_secs(4)).await;
    assert!(operator.reconciles().await - before < 20);
    assert!(world.secret().await.is_some());
}
