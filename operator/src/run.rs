//! Wiring: what is watched, and what happens until the end.

use std::{hash::Hash, sync::Arc, time::Duration};

use futures::{StreamExt, future, stream};
use k8s_openapi::api::{
    apps::v1::{DaemonSet, Deployment},
    core::v1::{ConfigMap, Node, Pod, Secret, Service},
};
use kube::{
    Api, Client, ResourceExt,
    core::{DeserializeGuard, NamespaceResourceScope},
    runtime::{
        Controller, WatchStreamExt,
        controller::Config as ControllerConfig,
        events::{Recorder, Reporter},
        reflector::ObjectRef,
        utils::Backoff,
        watcher,
    },
};
use prometheus_client::registry::Registry;
use rtc_operator_api::RtcCluster;
use rtc_service::{admin::Program, metrics::text};

use crate::{
    args::Run,
    build::{CLUSTER_LABEL, MANAGED_BY},
    controller::{self, Context, FIELD_MANAGER},
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

/// One controller for all namespaces, or one for each that is named.
async fn controllers(client: &Client, namespaces: &[String], context: Arc<Context>) {
    if namespaces.is_empty() {
        return controller(client, None, context).await;
    }
    let each = namespaces.iter().map(|namespace| controller(client, Some(namespace), context.clone()));
    future::join_all(each).await;
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

async fn controller(client: &Client, namespace: Option<&String>, context: Arc<Context>) {
    let all: Api<DeserializeGuard<RtcCluster>> = scoped(client, namespace);
    // Only what the operator made is watched, so that other people's Secrets never come here.
    let ours = || watched().labels(MANAGED_BY);
    Controller::new(all, watched())
        .with_config(ControllerConfig::default().debounce(Duration::from_millis(100)).concurrency(16))
        .owns(scoped::<Secret>(client, namespace), ours())
        .owns(scoped::<ConfigMap>(client, namespace), ours())
        .owns(scoped::<Service>(client, namespace), ours())
        .owns(scoped::<Deployment>(client, namespace), ours())
        .owns(scoped::<DaemonSet>(client, namespace), ours())
        .watches(scoped::<Pod>(client, namespace), ours(), |pod| cluster_of(&pod))
        .reconcile_all_on(changed_nodes(client))
        .trigger_backoff(Pace::default())
        .run(controller::reconcile, controller::on_error, context)
        .for_each(|_| future::ready(()))
        .await;
}

/// How long all watches wait when one of them fails. They share it, and when an API server goes they fail together:
/// one that grows with each of them would leave the operator blind for minutes after the API server is back.
#[derive(Default)]
struct Pace {
    failures: u32,
}

impl Iterator for Pace {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let base = 200u64 << self.failures.min(2);
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

fn cluster_of(pod: &Pod) -> Option<ObjectRef<DeserializeGuard<RtcCluster>>> {
    let name = pod.labels().get(CLUSTER_LABEL)?;
    Some(ObjectRef::new(name).within(&pod.namespace()?))
}

/// Says when a node changed in what matters here: not its heartbeats.
fn changed_nodes(client: &Client) -> impl stream::Stream<Item = ()> + Send + 'static {
    let nodes = watcher(Api::<Node>::all(client.clone()), watched()).default_backoff();
    nodes
        .touched_objects()
        .predicate_filter(of_interest, Default::default())
        .filter_map(|node| future::ready(node.is_ok().then_some(())))
}

fn of_interest(node: &Node) -> Option<u64> {
    use std::hash::Hasher;
    let mut hasher = std::hash::DefaultHasher::new();
    node.annotations().hash(&mut hasher);
    node.labels().hash(&mut hasher);
    node.spec.as_ref().and_then(|spec| spec.unschedulable).hash(&mut hasher);
    for taint in node.spec.iter().flat_map(|spec| spec.taints.iter().flatten()) {
        (&taint.key, &taint.value, &taint.effect).hash(&mut hasher);
    }
    node.metadata.deletion_timestamp.is_some().hash(&mut hasher);
    for address in node.status.iter().flat_map(|status| status.addresses.iter().flatten()) {
        (&address.type_, &address.address).hash(&mut hasher);
    }
    Some(hasher.finish())
}
