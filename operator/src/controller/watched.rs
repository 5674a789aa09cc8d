//! What watches have told, kept small: enough to see that nothing is to be done, without asking anybody.
//!
//! It is never acted on. A watch that lags, or was rolled back, may hide for a while that there is something to do, and
//! whoever has something to do reads it all afresh ([`super::dereference::dereference`]).

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures::{Stream, StreamExt, channel::mpsc};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    ResourceExt,
    api::{DynamicObject, TypeMeta},
    runtime::watcher::{self, Event},
};

use super::{
    pods::{SignalingPod, TurnPod, signaling_pod, turn_pod},
    poll::{SignalingReport, TurnReport},
};
use crate::build::{CLUSTER_LABEL, COMPONENT_LABEL, Kind};

/// The kinds that every API server has, and that are watched.
pub const KINDS: [Kind; 10] = [
    Kind::ServiceAccount,
    Kind::Secret,
    Kind::ConfigMap,
    Kind::Service,
    Kind::Deployment,
    Kind::DaemonSet,
    Kind::PodDisruptionBudget,
    Kind::HorizontalPodAutoscaler,
    Kind::Ingress,
    Kind::NetworkPolicy,
];

/// Namespace and name of an RtcCluster.
pub type Cluster = (String, String);

/// A pod of a cluster.
#[derive(Clone, Debug, PartialEq)]
pub enum Seen {
    /// One that relays.
    Turn(TurnPod),
    /// One that clients open a WebSocket to.
    Signaling(SignalingPod),
}

/// What is known of a thing and of whose it is.
type Shelf<K, V> = Mutex<HashMap<Cluster, BTreeMap<K, V>>>;

/// What watches have told.
#[derive(Default)]
pub struct Watched {
    /// As JSON: what it is made of when it is read takes ten times as much.
    objects: Shelf<(&'static str, String), Box<str>>,
    pods: Shelf<String, Seen>,
    nodes: Mutex<HashMap<String, Arc<Node>>>,
    /// The namespaces whose first lists are all there; an empty name stands for all.
    ready: Mutex<HashSet<String>>,
    /// What pods answered last.
    pub(super) turn_reports: Reports<TurnReport>,
    pub(super) signaling_reports: Reports<SignalingReport>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Watched {
    /// Notes that everything in a namespace, or in all, has been listed once.
    pub fn set_ready(&self, namespace: Option<&str>) {
        lock(&self.ready).insert(namespace.unwrap_or_default().to_owned());
    }

    /// Whether what is in a namespace is known.
    #[must_use]
    pub fn is_ready(&self, namespace: &str) -> bool {
        let ready = lock(&self.ready);
        ready.contains("") || ready.contains(namespace)
    }

    /// The objects of a cluster.
    #[must_use]
    pub fn objects(&self, cluster: &Cluster) -> BTreeMap<(&'static str, String), DynamicObject> {
        let texts = lock(&self.objects).get(cluster).cloned().unwrap_or_default();
        let parsed =
            texts.into_iter().filter_map(|(key, text)| Some((key, serde_json::from_str(&text).ok()?)));
        parsed.collect()
    }

    /// The pods of a cluster, by name.
    #[must_use]
    pub fn pods(&self, cluster: &Cluster) -> Vec<Seen> {
        lock(&self.pods).get(cluster).into_iter().flat_map(BTreeMap::values).cloned().collect()
    }

    /// The node of that name.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<Arc<Node>> {
        lock(&self.nodes).get(name).cloned()
    }

    /// Keeps the objects of a kind, and tells whose have changed.
    pub fn keep_objects(
        &self,
        kind: Kind,
        events: impl Stream<Item = watcher::Result<Event<DynamicObject>>>,
        changed: mpsc::Sender<Cluster>,
        listed: impl FnOnce(),
    ) -> impl Future<Output = ()> {
        follow(&self.objects, events, changed, listed, move |mut object: DynamicObject| {
            let (cluster, name) = (cluster_of(&object)?, object.name_any());
            object.metadata.managed_fields = None;
            // What a list holds does not say what it is.
            object.types =
                Some(TypeMeta { api_version: kind.api_version().to_owned(), kind: kind.name().to_owned() });
            // It changes with what matters to nobody here; who writes reads it anew.
            object.metadata.resource_version = None;
            let text = serde_json::to_string(&object).ok()?;
            Some((cluster, (kind.name(), name), text.into_boxed_str()))
        })
    }

    /// Keeps the pods, and tells whose have changed.
    pub fn keep_pods(
        &self,
        events: impl Stream<Item = watcher::Result<Event<Pod>>>,
        changed: mpsc::Sender<Cluster>,
        listed: impl FnOnce(),
    ) -> impl Future<Output = ()> {
        follow(&self.pods, events, changed, listed, |pod: Pod| {
            let seen = match pod.labels().get(COMPONENT_LABEL)?.as_str() {
                "turn" => Seen::Turn(turn_pod(&pod)),
                "signaling" => Seen::Signaling(signaling_pod(&pod)),
                _ => return None,
            };
            Some((cluster_of(&pod)?, pod.name_any(), seen))
        })
    }

    /// Keeps the nodes, and tells when one has changed in what matters here: not by its heartbeats.
    pub async fn keep_nodes(
        &self,
        events: impl Stream<Item = watcher::Result<Event<Node>>>,
        mut changed: Vec<mpsc::Sender<()>>,
        listed: impl FnOnce(),
    ) {
        let mut listed = Some(listed);
        let mut present = HashSet::new();
        let mut events = std::pin::pin!(events);
        while let Some(event) = events.next().await {
            let news = match event {
                Ok(Event::Init) => {
                    present.clear();
                    false
                }
                Ok(Event::InitApply(node)) => {
                    present.insert(node.name_any());
                    self.take_node(node) && listed.is_none()
                }
                Ok(Event::InitDone) => {
                    let mut nodes = lock(&self.nodes);
                    let before = nodes.len();
                    nodes.retain(|name, _| present.contains(name));
                    present = HashSet::new();
                    if let Some(listed) = listed.take() {
                        listed();
                    }
                    nodes.len() != before
                }
                Ok(Event::Apply(node)) => self.take_node(node),
                Ok(Event::Delete(node)) => lock(&self.nodes).remove(&node.name_any()).is_some(),
                Err(error) => {
                    tracing::debug!(%error, "the watch of nodes ended");
                    false
                }
            };
            if news {
                // One that waits there already tells the same.
                changed.iter_mut().for_each(|changed| drop(changed.try_send(())));
            }
        }
    }

    fn take_node(&self, node: Node) -> bool {
        let (name, node) = (node.name_any(), Arc::new(trim_node(node)));
        let mut nodes = lock(&self.nodes);
        if nodes.get(&name) == Some(&node) {
            return false;
        }
        nodes.insert(name, node);
        true
    }

    /// Forgets a cluster that is gone.
    pub fn forget(&self, cluster: &Cluster) {
        lock(&self.objects).remove(cluster);
        lock(&self.pods).remove(cluster);
    }
}

/// Of a node what decides whether clients are sent there, and by which address.
#[must_use]
pub fn trim_node(node: Node) -> Node {
    /// Longer ones list no addresses.
    const LONGEST_ANNOTATION: usize = 256;
    let mut small = Node::default();
    let annotations = node.metadata.annotations.map(|mut annotations| {
        annotations.retain(|_, text| text.len() <= LONGEST_ANNOTATION);
        annotations
    });
    (small.metadata.name, small.metadata.annotations) = (node.metadata.name, annotations);
    small.metadata.deletion_timestamp = node.metadata.deletion_timestamp;
    small.spec = node.spec.map(|spec| k8s_openapi::api::core::v1::NodeSpec {
        unschedulable: spec.unschedulable,
        taints: spec.taints,
        ..Default::default()
    });
    small.status = node.status.map(|status| k8s_openapi::api::core::v1::NodeStatus {
        addresses: status.addresses,
        ..Default::default()
    });
    small
}

fn cluster_of(object: &impl ResourceExt) -> Option<Cluster> {
    Some((object.namespace()?, object.labels().get(CLUSTER_LABEL)?.clone()))
}

/// Puts on a shelf what a watch tells, for as long as it tells something, and tells whose things have changed. What the
/// first list has is told by the list of RtcClusters itself.
async fn follow<K, V, T>(
    shelf: &Shelf<K, V>,
    events: impl Stream<Item = watcher::Result<Event<T>>>,
    mut changed: mpsc::Sender<Cluster>,
    listed: impl FnOnce(),
    keep: impl Fn(T) -> Option<(Cluster, K, V)>,
) where
    K: Ord + Hash + Eq + Clone,
    V: PartialEq,
{
    let put = |cluster: &Cluster, key: K, value: V| {
        let mut shelf = lock(shelf);
        let things = shelf.entry(cluster.clone()).or_default();
        let news = things.get(&key) != Some(&value);
        if news {
            things.insert(key, value);
        }
        news
    };
    let take = |cluster: &Cluster, key: &K| {
        let mut shelf = lock(shelf);
        let Some(things) = shelf.get_mut(cluster) else { return };
        things.remove(key);
        if things.is_empty() {
            shelf.remove(cluster);
        }
    };
    let (mut listed, mut first) = (Some(listed), true);
    // What this watch has put there, and what of it a list that comes anew has named.
    let (mut known, mut present) = (HashSet::<(Cluster, K)>::new(), HashSet::new());
    let mut events = std::pin::pin!(events);
    while let Some(event) = events.next().await {
        let mut news = Vec::new();
        match event {
            Ok(Event::Init) => present.clear(),
            Ok(Event::InitApply(thing)) => {
                let Some((cluster, key, value)) = keep(thing) else { continue };
                present.insert((cluster.clone(), key.clone()));
                if put(&cluster, key, value) && !first {
                    news.push(cluster);
                }
            }
            Ok(Event::InitDone) => {
                let present = std::mem::take(&mut present);
                for (cluster, key) in known.difference(&present) {
                    take(cluster, key);
                    news.push(cluster.clone());
                }
                (known, first) = (present, false);
                if let Some(listed) = listed.take() {
                    listed();
                }
            }
            Ok(Event::Apply(thing)) => {
                let Some((cluster, key, value)) = keep(thing) else { continue };
                known.insert((cluster.clone(), key.clone()));
                if put(&cluster, key, value) {
                    news.push(cluster);
                }
            }
            Ok(Event::Delete(thing)) => {
                let Some((cluster, key, _)) = keep(thing) else { continue };
                take(&cluster, &key);
                known.remove(&(cluster.clone(), key));
                news.push(cluster);
            }
            Err(error) => tracing::debug!(%error, "a watch ended"),
        }
        for cluster in news {
            // Nobody listens any more when the operator ends.
            if futures::SinkExt::send(&mut changed, cluster).await.is_err() {
                return;
            }
        }
    }
}

/// What pods answered last, by namespace and name.
pub(super) struct Reports<R>(Mutex<HashMap<(String, String), (Instant, R)>>);

/// How long an answer is as good as another one, where nothing is waited for.
const GOOD_FOR: Duration = Duration::from_secs(10);

impl<R> Default for Reports<R> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<R> fmt::Debug for Reports<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reports")
    }
}

impl<R: Clone> Reports<R> {
    /// An answer that is still good.
    pub(super) fn recent(&self, namespace: &str, pod: &str) -> Option<R> {
        let key = (namespace.to_owned(), pod.to_owned());
        lock(&self.0).get(&key).filter(|(at, _)| at.elapsed() < GOOD_FOR).map(|(_, report)| report.clone())
    }

    pub(super) fn note(&self, namespace: &str, pod: &str, report: &R) {
        let mut reports = lock(&self.0);
        // Pods that are gone are not asked any more.
        if reports.len() == reports.capacity() {
            reports.retain(|_, (at, _)| at.elapsed() < 30 * GOOD_FOR);
        }
        reports.insert((namespace.to_owned(), pod.to_owned()), (Instant::now(), report.clone()));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use futures::stream;
    use serde_json::json;

    use super::*;

    fn map(cluster: &str, name: &str, text: &str) -> DynamicObject {
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "rtc", "labels": {CLUSTER_LABEL: cluster}, "resourceVersion": "1"},
            "data": {"a": text}
        }))
        .unwrap()
    }

    /// What is told of a story.
    async fn told(watched: &Watched, story: Vec<Event<DynamicObject>>) -> Vec<String> {
        let (changed, told) = mpsc::channel(64);
        let story = stream::iter(story.into_iter().map(Ok));
        watched.keep_objects(Kind::ConfigMap, story, changed, || watched.set_ready(None)).await;
        told.map(|(_, name)| name).collect().await
    }

    fn text(watched: &Watched, cluster: &str, name: &str) -> Option<String> {
        let objects = watched.objects(&("rtc".to_owned(), cluster.to_owned()));
        Some(objects.get(&("ConfigMap", name.to_owned()))?.data["data"]["a"].as_str()?.to_owned())
    }

    #[tokio::test]
    async fn what_changes_is_told_and_the_first_list_is_not() {
        let watched = Watched::default();
        let list = [Event::Init, Event::InitApply(map("a", "a-turn", "1")), Event::InitDone];
        assert!(told(&watched, list.to_vec()).await.is_empty());
        assert!(watched.is_ready("rtc"));
        let mut story = list.to_vec();
        story.extend([
            // The same with another version, as a status has it that nobody looks at.
            Event::Apply(map("a", "a-turn", "1")),
            Event::Apply(map("b", "b-turn", "1")),
            Event::Apply(map("a", "a-turn", "2")),
        ]);
        assert_eq!(told(&watched, story).await, ["b", "a"]);
        assert_eq!(text(&watched, "a", "a-turn").as_deref(), Some("2"));
    }

    #[tokio::test]
    async fn what_a_list_that_comes_anew_does_not_name_is_gone() {
        let watched = Watched::default();
        let story = vec![
            Event::Init,
            Event::InitApply(map("a", "a-turn", "1")),
            Event::InitApply(map("b", "b-turn", "1")),
            Event::InitDone,
            Event::Init,
            Event::InitApply(map("b", "b-turn", "1")),
            Event::InitDone,
        ];
        assert_eq!(told(&watched, story).await, ["a"]);
        assert_eq!(
            (text(&watched, "a", "a-turn"), text(&watched, "b", "b-turn").as_deref()),
            (None, Some("1"))
        );
        let gone = vec![Event::Delete(map("b", "b-turn", "1"))];
        assert_eq!(told(&watched, gone).await, ["b"]);
        assert_eq!(text(&watched, "b", "b-turn"), None);
    }

    #[tokio::test]
    async fn a_nodes_heartbeat_is_no_news() {
        let node = |ready: &str, address: &str| -> Node {
            serde_json::from_value(json!({
                "metadata": {"name": "w1"},
                "status": {"addresses": [{"type": "InternalIP", "address": address}],
                           "conditions": [{"type": "Ready", "status": "True", "message": ready}]}
            }))
            .unwrap()
        };
        let watched = Watched::default();
        let (changed, told) = mpsc::channel(8);
        let story = [
            Event::Init,
            Event::InitApply(node("a", "192.0.2.1")),
            Event::InitDone,
            Event::Apply(node("b", "192.0.2.1")),
            Event::Apply(node("b", "192.0.2.2")),
        ];
        watched.keep_nodes(stream::iter(story.into_iter().map(Ok)), vec![changed], || ()).await;
        assert_eq!(told.count().await, 1);
        assert!(watched.node("w1").is_some() && watched.node("w2").is_none());
    }
}
