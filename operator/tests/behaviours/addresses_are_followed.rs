use k8s_openapi::api::core::v1::Node;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::json;

use crate::world::World;

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_changes_is_handed_out() {
    let world = World::new("address", 1).await;
    world.apply(json!({})).await;
    world.ready().await;
    let nodes = Api::<Node>::all(world.client.clone());
    let annotate =
        |text: &str| Patch::Merge(json!({"metadata": {"annotations": {"rtc-operator.dev/address": text}}}));
    nodes.patch(&world.kubelet.nodes[0], &PatchParams::default(), &annotate("198.51.100.9")).await.unwrap();
    world
        .until("it changed", async || world.fleet().await.nodes[0].addresses[0].to_string() == "198.51.100.9")
        .await;
    world
        .until("AddressChanged", async || world.events().await.iter().any(|event| event == "AddressChanged"))
        .await;
    let both = annotate("198.51.100.9, 2001:db8::9");
    nodes.patch(&world.kubelet.nodes[0], &PatchParams::default(), &both).await.unwrap();
    world
        .until("both families", async || {
            let endpoints = world.cluster().await.status.unwrap().endpoints.unwrap().turn;
            world.fleet().await.nodes[0].addresses.len() == 2
                && endpoints.contains(&"turn:[2001:db8::9]:3478?transport=udp".to_owned())
        })
        .await;
    nodes.patch(&world.kubelet.nodes[0], &PatchParams::default(), &annotate("nonsense")).await.unwrap();
    world
        .until("NodeWithoutAddress", async || {
            world.condition("AddressesResolved").await.is_some_and(|(is, reason, message)| {
                is == "False" && reason == "NodeWithoutAddress" && message.contains("nonsense")
            })
        })
        .await;
    assert_eq!(world.fleet().await.nodes.len(), 0);
}

impl World {
    /// Under which addresses clients are told that the one node is.
    async fn advertised(&self) -> Vec<String> {
        let nodes = self.fleet().await.nodes;
        nodes.first().iter().flat_map(|node| &node.addresses).map(ToString::to_string).collect()
    }

    async fn until_resolved(&self, status: &str, reason: &str, part: &str) {
        self.until((reason, part), async || {
            self.condition("AddressesResolved")
                .await
                .is_some_and(|(is, why, message)| is == status && why == reason && message.contains(part))
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_behind_nat_is_told_as_stun_sees_it() {
    let world = World::new("nat", 1).await;
    let node = world.kubelet.nodes[0].clone();
    let stun = |order: &[&str]| {
        let addresses = json!({"stunServer": "stun.example.com:3478", "order": order});
        json!({"turn": {"addresses": addresses}})
    };
    world.kubelet.set_external(&node, &[], None);
    world.apply(stun(&["Annotation", "STUN", "NodeInternalIP"])).await;
    let turn = async || json!(world.daemonset().await).to_string();
    world
        .until("it is asked", async || {
            let status = world.cluster().await.status.unwrap_or_default();
            let reason = status.nodes.first().and_then(|node| node.reason.clone());
            reason.is_some_and(|reason| reason.contains("has not said yet what the STUN server tells"))
        })
        .await;
    assert!(turn().await.contains("--external-stun=stun.example.com:3478"));
    // Nobody is sent to its private address for that moment.
    assert!(world.fleet().await.nodes.is_empty());
    world.kubelet.set_external(&node, &["203.0.113.1"], None);
    world.ready().await;
    assert_eq!(world.advertised().await, ["203.0.113.1"]);

    world.kubelet.set_external(&node, &["203.0.113.2"], None);
    world.until("the new address", async || world.advertised().await == ["203.0.113.2"]).await;
    world
        .until("AddressChanged", async || world.events().await.iter().any(|event| event == "AddressChanged"))
        .await;
    // What it said last is good while it is silent, and that it is silent is said.
    world.kubelet.set_external(&node, &["203.0.113.2"], Some("no answer from 192.0.2.9:3478"));
    world.until_resolved("True", "StunSilent", "no answer from 192.0.2.9:3478").await;
    assert_eq!(world.advertised().await, ["203.0.113.2"]);
    // A pod that it never answered has the next source's; where there is none, its node is excluded and named.
    world.kubelet.set_external(&node, &[], Some("no answer from 192.0.2.9:3478"));
    world.until_resolved("True", "StunSilent", "clients are told 192.0.2.1").await;
    world.apply(stun(&["Annotation", "STUN"])).await;
    world.until_resolved("False", "NodeWithoutAddress", &format!("{node}: no IPv4 or IPv6 address")).await;
    world.until_resolved("False", "NodeWithoutAddress", "no answer from 192.0.2.9:3478").await;
    assert!(world.fleet().await.nodes.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_that_cannot_count_says_where() {
    let world = World::new("quota", 1).await;
    world.kubelet.set_store(false);
    let quotas = |quotas: serde_json::Value| json!({"turn": {"quotas": quotas}});
    world.apply(quotas(json!({"fleetAllocationsPerUser": 4}))).await;
    let node = world.kubelet.nodes[0].clone();
    let says = async |status: &str, reason: &str, part: &str| {
        world
            .condition("FleetQuotaActive")
            .await
            .is_some_and(|(is, why, message)| is == status && why == reason && message.contains(part))
    };
    world.until("StoreAway", async || says("False", "StoreAway", &node).await).await;
    world.kubelet.set_store(true);
    world.until("StoreAnswers", async || says("True", "StoreAnswers", "").await).await;
    world.apply(quotas(json!({}))).await;
    world.until("no quota", async || world.condition("FleetQuotaActive").await.is_none()).await;
    world.ready().await;
}
