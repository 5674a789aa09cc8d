use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api, ResourceExt,
    api::{ListParams, Patch, PatchParams},
};
use rtc_operator_api::status::NodeState;
use serde_json::json;

use crate::world::World;

impl World {
    async fn turn_pods(&self) -> Vec<String> {
        let turn = ListParams::default().labels("app.kubernetes.io/component=turn");
        self.api::<Pod>().list(&turn).await.unwrap().iter().map(ResourceExt::name_any).collect()
    }

    async fn serving(&self) -> Vec<String> {
        let nodes = self.fleet().await.nodes;
        nodes.into_iter().filter(|node| node.serving).map(|node| node.node).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_template_drains_node_by_node() {
    let world = World::new("drain", 2).await;
    world.apply(json!({})).await;
    world.ready().await;
    let (before, nodes) = (world.turn_pods().await, world.kubelet.nodes.clone());
    world.kubelet.set_allocations(&nodes[0], 2);
    world.apply(json!({"turn": {"relayPorts": {"min": 50000, "max": 60000}}})).await;

    // The first is taken out of service before it is told, and waits for its calls; the other serves meanwhile.
    world.until("the first drains", async || world.kubelet.drained() == nodes[..1]).await;
    assert_eq!(world.serving().await, nodes[1..]);
    world.reconcile(2).await;
    assert_eq!(world.turn_pods().await, before);
    let status = world.cluster().await.status.unwrap();
    assert_eq!(
        (status.nodes[0].state, status.nodes[0].node.as_str()),
        (NodeState::Draining, nodes[0].as_str())
    );
    // With what it waits for, and until when.
    let (since, until) = (status.nodes[0].draining_since.clone(), status.nodes[0].drain_deadline.clone());
    assert_eq!(until.unwrap().0.as_second() - since.unwrap().0.as_second(), 3600);
    assert_eq!(status.nodes[0].allocations, Some(2));

    world.kubelet.set_allocations(&nodes[0], 0);
    world
        .until("all are new", async || {
            let now = world.turn_pods().await;
            now.len() == 2 && now.iter().all(|pod| !before.contains(pod))
        })
        .await;
    world.ready().await;
    assert_eq!(world.kubelet.drained(), nodes);
    // The last pod may be made, and not be ready yet.
    world.until("all serve", async || world.serving().await == nodes).await;
    let events = world.events().await;
    assert!(["NodeDraining", "NodeDrained"].iter().all(|reason| events.iter().any(|event| event == reason)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_ends_the_wait() {
    let world = World::new("deadline", 1).await;
    world.apply(json!({"turn": {"update": {"deadline": "2s"}}})).await;
    world.ready().await;
    let before = world.turn_pods().await;
    world.kubelet.set_allocations(&world.kubelet.nodes[0], 1);
    world.apply(json!({"turn": {"update": {"deadline": "2s"}, "quotas": {"allocationsPerUser": 5}}})).await;
    world.until("it is new", async || world.turn_pods().await != before).await;
    world.ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cordoned_node_gets_no_new_clients() {
    let world = World::new("cordon", 2).await;
    world.apply(json!({})).await;
    world.ready().await;
    let nodes = Api::<Node>::all(world.client.clone());
    let cordon = |is: bool| Patch::Merge(json!({"spec": {"unschedulable": is}}));
    let first = world.kubelet.nodes[0].clone();
    nodes.patch(&first, &PatchParams::default(), &cordon(true)).await.unwrap();
    world.until("it is out", async || world.serving().await == world.kubelet.nodes[1..]).await;
    nodes.patch(&first, &PatchParams::default(), &cordon(false)).await.unwrap();
    world.until("it is back", async || world.serving().await == world.kubelet.nodes).await;
}
