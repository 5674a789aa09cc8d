//! Wiring: what is watched, and what happens until the end.

use std::{sync::Arc, time::Duration};

use futures::{
    FutureExt, StreamExt, TryStreamExt,
    channel::{mpsc, oneshot},
    future,
};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::DynamicObject,
    core::{DeserializeGuard, NamespaceResourceScope},
    runtime::{
        Controller, WatchStreamExt,
        controller::Config as ControllerConfig,
        events::{Recorder, Reporter},
        reflector::{self, ObjectRef},
        utils::Backoff,
        watcher,
    },
};
use prometheus_client::registry::Registry;
use rtc_operator_api::RtcCluster;
use rtc_service::{admin::Program, metrics::text};
use tokio::task::JoinSet;

use crate::{
    args::Run,
    build::MANAGED_BY,
    controller::{
        self, Context, FIELD_MANAGER,
        watched::{Cluster, KINDS, Watched},
    },
    lease::{Election, Settings},
    metrics::Metrics,
};

/// Why the operator ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// There is no cluster to be reached.
    #[error("cannot reach a Kubernetes cluster: {0}; set KUBECONFIG, or run in a pod with a ServiceAccount")]
    Client(#[from] Box<kube::Error>),
    /// The admin port is taken.
    #[error(transparent)]
    Bind(#[from] rtc_service::net::BindError),
    /// The CustomResourceDefinition is not there.
    #[error("cannot list RtcClusters: {0}; install the CustomResourceDefinition: kubectl apply -f crds/")]
    NoDefinition(Box<kube::Error>),
    /// Signals cannot be listened for.
    #[error("cannot listen for signals: {0}")]
    Signals(#[from] std::io::Error),
    /// The lease was lost. What acted on it must not go on, so the process ends and starts anew.
    #[error("the lease was lost")]
    LeaseLost,
}

struct Operator {
    registry: Registry,
    metrics: Metrics,
    identity: String,
}

impl Program for Operator {
    /// Those that stand by are ready too: they are what a rollout waits for.
    fn ready(&self) -> Result<(), String> {
        Ok(())
    }

    fn status(&self) -> serde_json::Value {
        serde_json::json!({
            "program": "rtc-operator",
            "version": env!("CARGO_PKG_VERSION"),
            "identity": self.identity,
            "leader": self.metrics.is_leader(),
        })
    }

    fn metrics(&self) -> String {
        text(&self.registry)
    }

    fn drain(&self, _: Option<Duration>) {}
}

/// Runs until `stop` resolves.
///
/// # Errors
/// [`RunError`]
pub async fn run(
    arguments: Run,
    client: Client,
    stop: impl Future<Output = ()> + Send,
) -> Result<(), RunError> {
    let identity =
        arguments.identity.clone().unwrap_or_else(|| format!("rtc-operator-{}", std::process::id()));
    let mut registry = Registry::default();
    let metrics = Metrics::new(&mut registry);
    let listener = rtc_service::net::listen_tcp(arguments.admin, "--admin").await?;
    let program = Arc::new(Operator { registry, metrics: metrics.clone(), identity: identity.clone() });
    let admin = tokio::spawn(rtc_service::admin::serve(listener, program, rtc_service::admin::open()));

    // Asked once and early, since a watch would only retry for ever.
    let clusters: Api<RtcCluster> = scoped(&client, arguments.namespaces.first());
    if let Err(kube::Error::Api(status)) =
        clusters.list_metadata(&kube::api::ListParams::default().limit(1)).await
        && status.code == 404
    {
        return Err(RunError::NoDefinition(Box::new(kube::Error::Api(status))));
    }
    let mut election = Election::new(
        client.clone(),
        Settings::new(&arguments.lease_namespace, &arguments.lease_name, &identity),
    );
    tokio::pin!(stop);
    let outcome = tokio::select! {
        () = &mut stop => Ok(()),
        () = election.acquire() => {
            tracing::info!(identity, "leading");
            metrics.leads(true);
            let context = Arc::new(Context {
                client: client.clone(),
                recorder: Recorder::new(
                    client.clone(),
                    Reporter { controller: FIELD_MANAGER.to_owned(), instance: Some(identity.clone()) },
                ),
                image: arguments.image,
                namespace: arguments.lease_namespace,
                written: Default::default(),
                gone: Default::default(),
                watched: Default::default(),
                pod_security: Default::default(),
                afresh: Default::default(),
                failures: Default::default(),
                metrics: metrics.clone(),
            });
            tokio::select! {
                () = &mut stop => Ok(()),
                () = election.hold() => Err(RunError::LeaseLost),
                () = controllers(&client, &arguments.namespaces, context) => Ok(()),
            }
        }
    };
    metrics.leads(false);
    admin.abort();
    // Its port is free again when this returns.
    drop(admin.await);
    if outcome.is_ok()
        && let Err(error) = election.release().await
    {
        tracing::warn!(%error, "cannot release the lease; it expires by itself");
    }
    outcome
}

/// How long the first lists may take before clusters are read one by one.
const FIRST_LISTS: Duration = Duration::from_millis(300);
/// So many clusters whose things have changed wait at a time.
const CHANGES: usize = 1024;

/// One controller for all namespaces, or one for each that is named.
async fn controllers(client: &Client, namespaces: &[String], context: Arc<Context>) {
    let scopes: Vec<_> = match namespaces {
        [] => vec![None],
        named => named.iter().map(Some).collect(),
    };
    // They end with this, as they are dropped with it.
    let mut watches = JoinSet::new();
    let (nodes, all_nodes) = follow_nodes(client, &context.watched, scopes.len(), &mut watches);
    let each = scopes.into_iter().zip(nodes).map(|(namespace, nodes)| {
        let (changed, listed) = follow(client, namespace, &context.watched, all_nodes.clone(), &mut watches);
        controller(client, namespace, context.clone(), changed, nodes, listed)
    });
    future::join_all(each.collect::<Vec<_>>()).await;
}

fn scoped<K>(client: &Client, namespace: Option<&String>) -> Api<K>
where
    K: kube::Resource<Scope = NamespaceResourceScope>,
    K::DynamicType: Default,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

/// In small pages: what is listed is looked at and forgotten, and never in memory as a whole.
fn watched() -> watcher::Config {
    watcher::Config::default().page_size(100)
}

/// Only what the operator made is watched, so that other people's Secrets never come here.
fn ours() -> watcher::Config {
    watched().labels(MANAGED_BY)
}

/// Keeps what is in a namespace, or in all. Tells whose things have changed, and when all has been listed once.
fn follow<N>(
    client: &Client,
    namespace: Option<&String>,
    watched: &Arc<Watched>,
    nodes: N,
    watches: &mut JoinSet<()>,
) -> (mpsc::Receiver<Cluster>, impl Future<Output = ()> + Send + use<N>)
where
    N: Future<Output = ()> + Send + 'static,
{
    let (changed, changes) = mpsc::channel(CHANGES);
    let mut lists = Vec::new();
    for kind in KINDS {
        let (listed, list) = oneshot::channel();
        let (watched, changed) = (watched.clone(), changed.clone());
        let resource = kind.resource();
        let objects: Api<DynamicObject> = match namespace {
            Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
            None => Api::all_with(client.clone(), &resource),
        };
        watches.spawn(async move {
            let events = watcher(objects, ours()).backoff(Pace::default());
            watched.keep_objects(kind, events, changed, move || listed.send(()).unwrap_or_default()).await;
        });
        lists.push(list);
    }
    let (listed, list) = oneshot::channel();
    let (kept, pods) = (watched.clone(), scoped::<Pod>(client, namespace));
    watches.spawn(async move {
        let events = watcher(pods, ours()).backoff(Pace::default());
        kept.keep_pods(events, changed, move || listed.send(()).unwrap_or_default()).await;
    });
    lists.push(list);
    let (watched, namespace) = (watched.clone(), namespace.cloned());
    let all = async move {
        future::join(nodes, future::join_all(lists)).await;
        watched.set_ready(namespace.as_deref());
    };
    (changes, all)
}

/// Keeps the nodes. Tells each of so many when one has changed in what matters, and when all have been listed once.
fn follow_nodes(
    client: &Client,
    watched: &Arc<Watched>,
    count: usize,
    watches: &mut JoinSet<()>,
) -> (Vec<mpsc::Receiver<()>>, impl Future<Output = ()> + Clone + Send + use<>) {
    let (listed, list) = oneshot::channel();
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..count).map(|_| mpsc::channel(1)).unzip();
    let (watched, nodes) = (watched.clone(), Api::<Node>::all(client.clone()));
    watches.spawn(async move {
        let events = watcher(nodes, self::watched()).backoff(Pace::default());
        watched.keep_nodes(events, senders, move || listed.send(()).unwrap_or_default()).await;
    });
    (receivers, list.map(drop).shared())
}

async fn controller(
    client: &Client,
    namespace: Option<&String>,
    context: Arc<Context>,
    changed: mpsc::Receiver<Cluster>,
    nodes: mpsc::Receiver<()>,
    listed: impl Future<Output = ()> + Send,
) {
    let all: Api<DeserializeGuard<RtcCluster>> = scoped(client, namespace);
    let mut listed = Box::pin(listed);
    let late = tokio::time::timeout(FIRST_LISTS, &mut listed).await.is_err();
    if late {
        tracing::info!(
            namespace,
            "not everything is listed within {FIRST_LISTS:?}; reading one by one until it is"
        );
    }
    let (reader, writer) = reflector::store();
    // Who owns which field is most of a resource, and of no use here.
    let slim = |cluster: &mut DeserializeGuard<RtcCluster>| cluster.managed_fields_mut().clear();
    let forgetful = context.clone();
    let forget = move |event: &watcher::Event<DeserializeGuard<RtcCluster>>| {
        if let watcher::Event::Delete(cluster) = event {
            forgetful.forget(cluster.meta());
        }
    };
    let clusters = watcher(all, watched()).modify(slim).inspect_ok(forget).reflect(writer).touched_objects();
    let controller = Controller::for_stream(clusters, reader)
        .with_config(ControllerConfig::default().debounce(Duration::from_millis(100)).concurrency(16))
        .reconcile_on(changed.map(|(namespace, name)| ObjectRef::new(&name).within(&namespace)))
        .reconcile_all_on(nodes)
        .trigger_backoff(Pace::default())
        .run(controller::reconcile, controller::on_error, context)
        .for_each(|_| future::ready(()));
    let wait = async move {
        if late {
            listed.await;
        }
    };
    future::join(controller, wait).await;
}

/// How long a watch waits when it fails: never so long that the operator would be blind for long after an API server is back.
#[derive(Clone, Default)]
struct Pace {
    failures: u32,
}

impl Iterator for Pace {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let base = 200u64 << self.failures.min(3);
        self.failures = self.failures.saturating_add(1);
        // From half to all of it, so that operators that lost their watches together do not come back together.
        let random = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), self.failures);
        Some(Duration::from_millis(base / 2 + random % (base / 2)))
    }
}

impl Backoff for Pace {
    fn reset(&mut self) {
        self.failures = 0;
    }
}
