use serde_json::json;

use crate::world::{World, versions};

#[tokio::test(flavor = "multi_thread")]
async fn deletion_leaves_nothing() {
    let world = World::new("deletion", 1).await;
    world.apply(json!({})).await;
    world.ready().await;
    world.api::<rtc_operator_api::RtcCluster>().delete("calls", &Default::default()).await.unwrap();
    world.until("nothing is left", async || versions(&world).await.is_empty()).await;
    let pods = world.api::<k8s_openapi::api::core::v1::Pod>();
    world
        .until("no pod is left", async || pods.list(&Default::default()).await.unwrap().items.is_empty())
        .await;
}
