use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::{Resource, ResourceExt, api::ListParams};
use rtc_operator_api::ROTATE_ANNOTATION;
use serde_json::{Value, json};

use crate::{
    link::Link,
    ring_history::RingHistory,
    server,
    world::{Operator, World},
};

/// The spec that the story ends with.
fn last_spec() -> Value {
    json!({"signaling": {"replicas": 3}, "turn": {"relayPorts": {"min": 50000, "max": 60000}}})
}

/// Creates a cluster, rotates its key, then replaces its TURN pod.
async fn story(world: &World) {
    world.annotated(json!({})).await;
    world.ready().await;
    world.annotate(ROTATE_ANNOTATION, "1").await;
    world
        .until("the second key signs", async || {
            let ring = world.cluster().await.status.and_then(|status| status.key_ring).unwrap_or_default();
            ring.keys.len() == 2 && ring.keys.iter().any(|key| key.not_after.is_some())
        })
        .await;
    world.apply(last_spec()).await;
    world.ready().await;
}

impl World {
    /// Applies `calls` with a port that does not depend on the namespace, so that templates can be compared.
    async fn annotated(&self, spec: Value) {
        self.apply(spec).await;
        self.annotate(rtc_operator::build::ADMIN_PORT_ANNOTATION, "20000").await;
    }

    /// All that the operator made, without what differs between any two clusters.
    async fn essence(&self) -> Vec<Value> {
        use k8s_openapi::api::{
            apps::v1::{DaemonSet, Deployment},
            core::v1::{ConfigMap, Secret, Service, ServiceAccount},
            networking::v1::NetworkPolicy,
            policy::v1::PodDisruptionBudget,
        };
        let mut all = Vec::new();
        self.add::<Secret>(&mut all).await;
        self.add::<ConfigMap>(&mut all).await;
        self.add::<Service>(&mut all).await;
        self.add::<ServiceAccount>(&mut all).await;
        self.add::<Deployment>(&mut all).await;
        self.add::<DaemonSet>(&mut all).await;
        self.add::<PodDisruptionBudget>(&mut all).await;
        self.add::<NetworkPolicy>(&mut all).await;
        let turn = ListParams::default().labels("app.kubernetes.io/component=turn");
        for pod in self.api::<Pod>().list(&turn).await.unwrap() {
            all.push(json!({"turn pod on": pod.spec.and_then(|spec| spec.node_name)}));
        }
        let status = self.cluster().await.status.unwrap();
        let conditions: Vec<_> =
            status.conditions.iter().map(|c| json!([c.type_, c.status, c.reason])).collect();
        let keys: Vec<_> =
            status.key_ring.unwrap().keys.iter().map(|k| json!([unstamped(&k.id), k.state])).collect();
        all.push(json!({"conditions": conditions, "keys": keys, "nodes": status.nodes.len()}));
        let text = json!(all).to_string().replace(&self.namespace, "NAMESPACE");
        serde_json::from_str(&text).unwrap()
    }

    async fn add<K>(&self, all: &mut Vec<Value>)
    where
        K: Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>
            + Clone
            + std::fmt::Debug
            + serde::Serialize
            + serde::de::DeserializeOwned,
    {
        let ours = ListParams::default().labels(rtc_operator::build::MANAGED_BY);
        for object in self.api::<K>().list(&ours).await.unwrap().items {
            let managers: std::collections::BTreeSet<_> =
                object.managed_fields().iter().filter_map(|entry| entry.manager.clone()).collect();
            let mut value = json!(object);
            value.as_object_mut().unwrap().remove("status");
            let metadata = json!({
                "name": object.name_any(), "labels": object.labels(), "managers": managers,
                "annotations": object.annotations().keys().collect::<Vec<_>>(),
                "owners": object.owner_references().iter().map(|owner| &owner.name).collect::<Vec<_>>(),
            });
            value["metadata"] = metadata;
            if let Some(data) = value.pointer_mut("/data").filter(|_| K::kind(&()) == "Secret") {
                *data =
                    json!(data.as_object().unwrap().keys().map(|name| unstamped(name)).collect::<Vec<_>>());
            }
            // Hashes over what was removed above, and addresses that the API server gives out.
            without(&mut value, &["clusterIP", "clusterIPs", "rtc-operator.dev/template", "turn.json"]);
            value["kind"] = json!(K::kind(&()));
            all.push(value);
        }
    }
}

/// A key's name without the time at which it was made.
fn unstamped(key: &str) -> String {
    if key.starts_with('.') {
        key.to_owned()
    } else {
        key.splitn(3, '-').take(2).collect::<Vec<_>>().join("-")
    }
}

fn assert_same(left: &[Value], right: &[Value], when: &str) {
    for (left, right) in left.iter().zip(right) {
        assert!(left == right, "{when}\n{left:#}\n{right:#}");
    }
    assert_eq!(left.len(), right.len(), "{when}");
}

fn without(value: &mut Value, names: &[&str]) {
    match value {
        Value::Object(fields) => {
            fields.retain(|name, _| !names.contains(&name.as_str()));
            fields.values_mut().for_each(|field| without(field, names));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| without(item, names)),
        _ => {}
    }
}

async fn undisturbed() -> Vec<Value> {
    let world = World::new("undisturbed", 1).await;
    let history = RingHistory::record(&world);
    story(&world).await;
    world.reconcile(1).await;
    history.check();
    world.essence().await
}

/// Whatever it wrote last, nobody was told that it was written, and the next process knows nothing of this one.
#[tokio::test(flavor = "multi_thread")]
async fn an_operator_that_dies_after_every_write_ends_in_the_same_objects() {
    let world = World::without_operator("dies-always", 1).await;
    let history = RingHistory::record(&world);
    let lives = async {
        loop {
            let link = Link::new(server::config().await).await;
            link.die_after_change();
            let operator = Operator::start(&link.client(), &world.namespace, "mortal");
            drop(link.dead().wait_for(|dead| *dead).await);
            operator.kill().await;
        }
    };
    tokio::select! {
        () = story(&world) => {}
        () = lives => {}
    }
    let last = Operator::start(&world.client, &world.namespace, "mortal");
    world.until("it looked", async || last.reconciles().await >= 2).await;
    world.ready().await;
    assert!(history.check() >= 4);
    assert_same(&world.essence().await, &undisturbed().await, "after every write");
}

/// The same, with what a process remembers from one write to the next: after the first, the fourth and so on.
#[tokio::test(flavor = "multi_thread")]
async fn an_operator_that_dies_after_any_write_ends_in_the_same_objects() {
    let expected = {
        let world = World::new("lives", 1).await;
        world.annotated(last_spec()).await;
        world.ready().await;
        world.essence().await
    };
    // Several at a time, until one was not killed since it had nothing left to write.
    let outcomes: Vec<bool> = futures::stream::iter((1..).step_by(3))
        .map(|writes| dies_once(writes, &expected))
        .buffered(5)
        .take_while(|killed| std::future::ready(*killed))
        .collect()
        .await;
    assert!(outcomes.len() >= 6, "{} writes", outcomes.len() * 3);
}

async fn dies_once(writes: usize, expected: &[Value]) -> bool {
    let world = World::without_operator(&format!("dies-{writes}"), 1).await;
    let history = RingHistory::record(&world);
    let link = Link::new(server::config().await).await;
    link.die_after(writes);
    let mortal = Operator::start(&link.client(), &world.namespace, "operator");
    world.annotated(last_spec()).await;
    let mut dead = link.dead();
    let killed = tokio::select! {
        _ = dead.wait_for(|dead| *dead) => true,
        _ = world.ready() => false,
    };
    mortal.kill().await;
    let next = Operator::start(&world.client, &world.namespace, "operator");
    world.until("it looked", async || next.reconciles().await >= 1).await;
    world.ready().await;
    history.check();
    assert_same(&world.essence().await, expected, &format!("after {writes} writes"));
    next.stop().await;
    killed
}
