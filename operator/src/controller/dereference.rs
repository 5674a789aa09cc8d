//! Reads everything that the later steps need. They read nothing themselves.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::{
    ByteString,
    api::core::v1::{Namespace, Node, Pod, Secret},
};
use kube::{
    Api, ResourceExt,
    api::{DynamicObject, ListParams},
};
use rtc_credentials::Fleet;
use rtc_operator_api::RtcCluster;

use super::{
    Context, Error,
    pods::{Asking, SignalingPod, TurnPod, signaling_pod, turn_pod},
    secrets::{self, Given},
    watched::{self, Seen},
};
use crate::{
    build::{CLUSTER_LABEL, COMPONENT_LABEL, Kind, configmap, secret::ROTATED_ANNOTATION},
    rotation::{self, Stored},
};

/// So many pods are asked at a time.
const POLLS_AT_A_TIME: usize = 64;
/// So many objects are listed at a time.
const PAGE: u32 = 100;
/// Of more nodes than this all are listed: that is fewer requests than to ask for each.
const MOST_ONE_BY_ONE: usize = 8;

/// Everything that the operator may have made for a cluster: the kind and the end of the name.
pub const OWNED: [(Kind, &str); 21] = [
    (Kind::Secret, "keys"),
    (Kind::ConfigMap, "turn"),
    (Kind::ConfigMap, "nodes"),
    (Kind::ServiceAccount, "signaling"),
    (Kind::ServiceAccount, "turn"),
    (Kind::ServiceAccount, "redis"),
    (Kind::Service, "signaling"),
    (Kind::Service, "redis"),
    (Kind::Service, "metrics"),
    (Kind::Deployment, "signaling"),
    (Kind::Deployment, "redis"),
    (Kind::DaemonSet, "turn"),
    (Kind::PodDisruptionBudget, "signaling"),
    (Kind::PodDisruptionBudget, "redis"),
    (Kind::HorizontalPodAutoscaler, "signaling"),
    (Kind::Ingress, "signaling"),
    (Kind::NetworkPolicy, "signaling"),
    (Kind::NetworkPolicy, "redis"),
    (Kind::HttpRoute, "signaling"),
    (Kind::ServiceMonitor, "metrics"),
    (Kind::PrometheusRule, "alerts"),
];

/// The world as it was read.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// When, in Unix seconds.
    pub now: u64,
    /// The Secret's content.
    pub ring: Stored,
    /// The last `turn.json`.
    pub fleet: Option<Fleet>,
    /// The objects that exist, by kind and name.
    pub objects: BTreeMap<(&'static str, String), DynamicObject>,
    /// Kinds that this API server does not know, since their CustomResourceDefinitions are not installed.
    pub unserved: BTreeSet<&'static str>,
    /// The TURN pods, by name.
    pub turn: Vec<TurnPod>,
    /// The signaling pods, by name.
    pub signaling: Vec<SignalingPod>,
    /// The nodes of the TURN pods, by name.
    pub nodes: BTreeMap<String, Arc<Node>>,
    /// The Secrets that the manifest names and that there are, by name.
    pub given: BTreeMap<String, Given>,
    /// The namespace's level of Pod Security, where it enforces one.
    pub pod_security: Option<String>,
}

impl Observed {
    /// An object of the cluster, where it exists.
    #[must_use]
    pub fn object(&self, kind: Kind, name: &str) -> Option<&DynamicObject> {
        self.objects.get(&(kind.name(), name.to_owned()))
    }
}

/// Reads what there is for a cluster, afresh.
///
/// # Errors
/// [`Error::Read`] when the API server does not answer. A pod that does not is no error.
pub async fn dereference(cluster: &RtcCluster, context: &Context) -> Result<Observed, Error> {
    let namespace = cluster.namespace().unwrap_or_default();
    let name = cluster.name_any();
    let found = objects(cluster, context, &namespace).await?;
    let turn = pods(context, &namespace, &name, "turn", turn_pod).await?;
    let signaling = pods(context, &namespace, &name, "signaling", signaling_pod).await?;
    let nodes = nodes(context, &turn).await?;
    let pod_security = pod_security(context, &namespace).await?;
    assemble(cluster, context, found, (turn, signaling), nodes, pod_security, false).await
}

/// What watches told of a cluster, with what its pods say themselves: nothing to act on. `None` while not all has been
/// listed once.
///
/// # Errors
/// [`Error::Read`] when what is not watched cannot be read.
pub async fn glance(cluster: &RtcCluster, context: &Context) -> Result<Option<Observed>, Error> {
    let whose = (cluster.namespace().unwrap_or_default(), cluster.name_any());
    let (namespace, name) = (&whose.0, &whose.1);
    if !context.watched.is_ready(namespace) {
        return Ok(None);
    }
    let mut objects = context.watched.objects(&whose);
    let mut unserved = BTreeSet::new();
    // Kinds that an API server need not have are not watched.
    let others = OWNED.iter().filter(|(kind, _)| !watched::KINDS.contains(kind));
    for (kind, suffix) in others.filter(|(kind, suffix)| wanted_now(cluster, *kind, suffix)) {
        match find(context, namespace, *kind, format!("{name}-{suffix}")).await? {
            Found::Object(key, object) => drop(objects.insert(key, *object)),
            Found::Unserved(kind) => drop(unserved.insert(kind)),
            Found::Nothing => {}
        }
    }
    let (mut turn, mut signaling) = (Vec::new(), Vec::new());
    for seen in context.watched.pods(&whose) {
        match seen {
            Seen::Turn(pod) => turn.push(pod),
            Seen::Signaling(pod) => signaling.push(pod),
        }
    }
    let names: BTreeSet<_> = turn.iter().filter_map(|pod| pod.node.clone()).collect();
    let nodes =
        names.into_iter().filter_map(|name| Some((name.clone(), context.watched.node(&name)?))).collect();
    let pod_security = match context.pod_security.recent(namespace) {
        Some(level) => level,
        None => pod_security(context, namespace).await?,
    };
    let pods = (turn, signaling);
    assemble(cluster, context, (objects, unserved), pods, nodes, pod_security, true).await.map(Some)
}

/// Asks the pods, and puts together what is known. At a `glance` a pod is not asked again so soon that nothing waits for.
async fn assemble(
    cluster: &RtcCluster,
    context: &Context,
    (objects, unserved): (Objects, BTreeSet<&'static str>),
    (turn, signaling): (Vec<TurnPod>, Vec<SignalingPod>),
    nodes: BTreeMap<String, Arc<Node>>,
    pod_security: Option<String>,
    glance: bool,
) -> Result<Observed, Error> {
    let namespace = cluster.namespace().unwrap_or_default();
    let name = cluster.name_any();
    let secret = objects.get(&(Kind::Secret.name(), format!("{name}-keys")));
    let ring = secret.map(stored).unwrap_or_default();
    let token = ring.files.as_ref().and_then(|files| files.get(rtc_credentials::ADMIN_TOKEN_FILE));
    let token = token.map(|token| String::from_utf8_lossy(token).trim().to_owned()).unwrap_or_default();
    let fleet = objects
        .get(&(Kind::ConfigMap.name(), format!("{name}-turn")))
        .and_then(|object| object.data["data"][configmap::FILE].as_str())
        .and_then(|text| Fleet::from_json(text.as_bytes()).ok());
    let asking = Asking {
        namespace: &namespace,
        token: &token,
        watched: &context.watched,
        glance,
        ring: rotation::as_it_is(&ring).ring.revision,
        fleet: fleet.as_ref().map(|fleet| fleet.revision.as_str()),
    };
    let turn = stream::iter(turn).map(|pod| asking.turn(pod)).buffered(POLLS_AT_A_TIME).collect().await;
    let signaling =
        stream::iter(signaling).map(|pod| asking.signaling(pod)).buffered(POLLS_AT_A_TIME).collect().await;
    Ok(Observed {
        now: rtc_service::clock::unix_now(),
        ring,
        fleet,
        turn,
        signaling,
        nodes,
        given: given(cluster, context, &namespace).await?,
        pod_security,
        objects,
        unserved,
    })
}

/// A typed handle on objects of a kind.
#[must_use]
pub fn api(context: &Context, namespace: &str, kind: Kind) -> Api<DynamicObject> {
    Api::namespaced_with(context.client.clone(), namespace, &kind.resource())
}

type Objects = BTreeMap<(&'static str, String), DynamicObject>;

async fn objects(
    cluster: &RtcCluster,
    context: &Context,
    namespace: &str,
) -> Result<(Objects, BTreeSet<&'static str>), Error> {
    let (name, uid) = (cluster.name_any(), cluster.uid().unwrap_or_default());
    let mut wanted = Vec::new();
    for (kind, suffix) in &OWNED {
        // What is not asked for and was seen gone need not be looked for again: only this operator makes it.
        if wanted_now(cluster, *kind, suffix) || !context.gone.contains(&uid, *kind, suffix) {
            wanted.push((*kind, format!("{name}-{suffix}")));
        }
    }
    let found: Vec<_> = stream::iter(wanted)
        .map(|(kind, name)| find(context, namespace, kind, name))
        .buffered(OWNED.len())
        .try_collect()
        .await?;
    let (mut objects, mut unserved) = (Objects::new(), BTreeSet::new());
    for found in found {
        match found {
            Found::Object(key, object) => drop(objects.insert(key, *object)),
            Found::Unserved(kind) => drop(unserved.insert(kind)),
            Found::Nothing => {}
        }
    }
    for (kind, suffix) in &OWNED {
        let there = objects.contains_key(&(kind.name(), format!("{name}-{suffix}")));
        context.gone.note(&uid, *kind, suffix, !there && !wanted_now(cluster, *kind, suffix));
    }
    Ok((objects, unserved))
}

enum Found {
    Object((&'static str, String), Box<DynamicObject>),
    Nothing,
    /// The API server does not know the kind.
    Unserved(&'static str),
}

async fn find(context: &Context, namespace: &str, kind: Kind, name: String) -> Result<Found, Error> {
    match api(context, namespace, kind).get(&name).await {
        Ok(object) => Ok(Found::Object((kind.name(), name), Box::new(object))),
        Err(kube::Error::Api(status)) if status.code == 404 => {
            // Only who knows the kind can say which object is missing.
            let unserved = status.details.as_ref().is_none_or(|details| details.name.is_empty());
            Ok(if unserved { Found::Unserved(kind.name()) } else { Found::Nothing })
        }
        Err(source) => Err(read(format!("{} {name}", kind.name()), source)),
    }
}

/// Whether an object is there as far as can be told from the cluster itself.
fn wanted_now(cluster: &RtcCluster, kind: Kind, suffix: &str) -> bool {
    match (kind, suffix) {
        (Kind::Service, "metrics") => cluster.spec.monitoring.service_monitor,
        (Kind::ConfigMap, "nodes") => {
            cluster.status.as_ref().is_some_and(|status| status.nodes.len() >= configmap::MOST_NODES)
        }
        _ => kind.wanted(&cluster.spec),
    }
}

/// Objects that a cluster has no more, by its uid.
#[derive(Default)]
pub struct Gone(Mutex<HashSet<(String, &'static str, &'static str)>>);

impl Gone {
    fn contains(&self, uid: &str, kind: Kind, suffix: &'static str) -> bool {
        self.lock().contains(&(uid.to_owned(), kind.name(), suffix))
    }

    fn note(&self, uid: &str, kind: Kind, suffix: &'static str, gone: bool) {
        let object = (uid.to_owned(), kind.name(), suffix);
        if gone {
            self.lock().insert(object);
        } else {
            self.lock().remove(&object);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<(String, &'static str, &'static str)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets a cluster that is gone.
    pub(super) fn forget(&self, uid: &str) {
        self.lock().retain(|(of, ..)| of != uid);
    }
}

/// The levels of Pod Security of namespaces, which are not watched.
#[derive(Default)]
pub struct PodSecurity(Mutex<HashMap<String, (Instant, Option<String>)>>);

impl PodSecurity {
    /// How long a level is good for a glance.
    const GOOD_FOR: Duration = Duration::from_secs(60);

    fn recent(&self, namespace: &str) -> Option<Option<String>> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(namespace).filter(|(at, _)| at.elapsed() < Self::GOOD_FOR).map(|(_, level)| level.clone())
    }

    fn note(&self, namespace: &str, level: Option<String>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(namespace.to_owned(), (Instant::now(), level));
    }
}

fn read(what: String, source: kube::Error) -> Error {
    Error::Read { what, source: Box::new(source) }
}

fn stored(secret: &DynamicObject) -> Stored {
    let data: BTreeMap<String, ByteString> =
        serde_json::from_value(secret.data["data"].clone()).unwrap_or_default();
    let files: BTreeMap<_, _> = data.into_iter().map(|(name, content)| (name, content.0)).collect();
    Stored {
        // One that was made and not filled yet is none.
        files: Some(files).filter(|files| !files.is_empty()),
        rotated: secret.annotations().get(ROTATED_ANNOTATION).cloned(),
    }
}

/// The pods of a component, of which no more is kept than matters: a large fleet's are many megabytes.
async fn pods<P>(
    context: &Context,
    namespace: &str,
    cluster: &str,
    component: &str,
    keep: impl Fn(&Pod) -> P,
) -> Result<Vec<P>, Error> {
    let selector = format!("{CLUSTER_LABEL}={cluster},{COMPONENT_LABEL}={component}");
    let api = Api::<Pod>::namespaced(context.client.clone(), namespace);
    let mut pods = BTreeMap::new();
    pages(&api, ListParams::default().labels(&selector), |pod| drop(pods.insert(pod.name_any(), keep(&pod))))
        .await
        .map_err(|source| read(format!("the {component} pods"), source))?;
    Ok(pods.into_values().collect())
}

/// Lists page by page, so that a large fleet is never in memory as a whole.
async fn pages<K>(api: &Api<K>, mut params: ListParams, mut take: impl FnMut(K)) -> Result<(), kube::Error>
where
    K: kube::Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    params.limit = Some(PAGE);
    loop {
        let page = api.list(&params).await?;
        page.items.into_iter().for_each(&mut take);
        params.continue_token = page.metadata.continue_.filter(|token| !token.is_empty());
        if params.continue_token.is_none() {
            return Ok(());
        }
    }
}

async fn nodes(context: &Context, pods: &[TurnPod]) -> Result<BTreeMap<String, Arc<Node>>, Error> {
    let names: BTreeSet<_> = pods.iter().filter_map(|pod| pod.node.clone()).collect();
    let api = &Api::<Node>::all(context.client.clone());
    if names.len() > MOST_ONE_BY_ONE {
        let mut found = BTreeMap::new();
        pages(api, ListParams::default(), |node: Node| {
            let name = node.name_any();
            if names.contains(&name) {
                found.insert(name, Arc::new(watched::trim_node(node)));
            }
        })
        .await
        .map_err(|source| read("the nodes".to_owned(), source))?;
        return Ok(found);
    }
    let found: Vec<_> = stream::iter(names)
        .map(|name| async move {
            let node = api.get_opt(&name).await.map_err(|source| read(format!("node {name}"), source))?;
            Ok::<_, Error>(node.map(|node| (name, Arc::new(watched::trim_node(node)))))
        })
        .buffered(MOST_ONE_BY_ONE)
        .try_collect()
        .await?;
    Ok(found.into_iter().flatten().collect())
}

/// By name alone, so that no other Secret is ever read.
async fn given(
    cluster: &RtcCluster,
    context: &Context,
    namespace: &str,
) -> Result<BTreeMap<String, Given>, Error> {
    let names: BTreeSet<_> = secrets::expected(&cluster.spec).into_iter().map(|named| named.secret).collect();
    let api = Api::<Secret>::namespaced(context.client.clone(), namespace);
    let mut found = BTreeMap::new();
    for name in names {
        let secret = api.get_opt(&name).await.map_err(|source| read(format!("Secret {name}"), source))?;
        found.extend(secret.map(|secret| (name, secrets::given(&secret))));
    }
    Ok(found)
}

async fn pod_security(context: &Context, namespace: &str) -> Result<Option<String>, Error> {
    let found = Api::<Namespace>::all(context.client.clone()).get_opt(namespace).await;
    let found = found.map_err(|source| read(format!("namespace {namespace}"), source))?;
    let level = found.and_then(|ns| ns.labels().get("pod-security.kubernetes.io/enforce").cloned());
    context.pod_security.note(namespace, level.clone());
    Ok(level)
}
