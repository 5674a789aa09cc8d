use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::ResourceExt;
use serde_json::json;

use crate::world::World;

#[tokio::test(flavor = "multi_thread")]
async fn policies_are_there_unless_they_are_left_out() {
    let world = World::new("policies", 1).await;
    world.apply(json!({})).await;
    world.ready().await;
    let policies = world.api::<NetworkPolicy>();
    let names = async || -> Vec<String> {
        policies.list(&Default::default()).await.unwrap().iter().map(ResourceExt::name_any).collect()
    };
    assert_eq!(names().await, ["calls-redis", "calls-signaling"]);
    // The operator of this test has its Lease in the namespace of the test.
    let signaling = json!(policies.get("calls-signaling").await.unwrap().spec);
    let from = &signaling["ingress"][1]["from"][0]["namespaceSelector"]["matchLabels"];
    assert_eq!(*from, json!({"kubernetes.io/metadata.name": world.namespace}));
    assert_eq!(signaling["policyTypes"], json!(["Ingress", "Egress"]));

    let external = json!({"external": {"urlSecretRef": {"name": "redis", "key": "url"}}});
    world.apply(json!({"redis": external})).await;
    world.until("one", async || names().await == ["calls-signaling"]).await;
    world.apply(json!({"networkPolicies": {"enabled": false}})).await;
    world.until("none", async || names().await.is_empty()).await;
}
