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
