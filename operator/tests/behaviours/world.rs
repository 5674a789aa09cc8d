//! A namespace with an operator, nodes and one RtcCluster, for one test.

use std::{fmt::Debug, future::Future, net::SocketAddr, time::Duration};

use k8s_openapi::api::{
    apps::v1::{DaemonSet, Deployment},
    core::v1::{ConfigMap, Namespace, Secret},
    events::v1::Event,
};
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams},
    core::NamespaceResourceScope,
};
use rtc_operator::{args, run};
use rtc_operator_api::RtcCluster;
use serde_json::{Value, json};
use tokio::{sync::oneshot, task::JoinHandle};

use crate::{kubelet::Kubelet, server};

/// What is waited for must come within this time.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct World {
    pub(crate) client: Client,
    pub(crate) namespace: String,
    pub(crate) kubelet: Kubelet,
    pub(crate) operator: Option<Operator>,
}

/// An operator in this process.
pub(crate) struct Operator {
    pub(crate) admin: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Operator {
    pub(crate) fn start(client: &Client, namespace: &str, identity: &str) -> Self {
        Self::with_lease(client, namespace, identity, "rtc-operator")
    }

    pub(crate) fn with_lease(client: &Client, namespace: &str, identity: &str, lease: &str) -> Self {
        // Chosen before, since the operator does not tell which it got.
        let admin = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let arguments = args::Run {
            namespaces: vec![namespace.to_owned()],
            admin,
            image: "rtc:test".to_owned(),
            lease_namespace: namespace.to_owned(),
            lease_name: lease.to_owned(),
            identity: Some(identity.to_owned()),
            log_format: rtc_service::log::LogFormat::Text,
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let stopped = futures::FutureExt::shared(async { drop(stopped.await) });
        let client = client.clone();
        let task = tokio::spawn(async move {
            // On a machine that is so busy that the lease is lost, it starts anew, as a kubelet would have it.
            while let Err(error) = run::run(arguments.clone(), client.clone(), stopped.clone()).await {
                assert!(matches!(error, run::RunError::LeaseLost), "{error}");
            }
        });
        Self { admin, stop: Some(stop), task }
    }

    /// As on SIGTERM.
    pub(crate) async fn stop(mut self) {
        self.stop.take().unwrap().send(()).unwrap();
        self.task.await.unwrap();
    }

    /// As on SIGKILL: nothing is ended, and the lease is kept.
    pub(crate) async fn kill(self) {
        self.task.abort();
        drop(self.task.await);
    }

    pub(crate) async fn get(&self, path: &str) -> Option<String> {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut socket = tokio::net::TcpStream::connect(self.admin).await.ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.ok()?;
        Some(answer)
    }

    pub(crate) async fn reconciles(&self) -> u64 {
        let text = self.get("/metrics").await.unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("rtc_operator_reconciles_total "));
        line.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
    }
}

impl World {
    /// With so many nodes.
    pub(crate) async fn new(name: &str, nodes: usize) -> Self {
        let mut world = Self::without_operator(name, nodes).await;
        world.operator = Some(Operator::start(&world.client, &world.namespace, "first"));
        world
    }

    /// For tests that run an operator in a way of their own.
    pub(crate) async fn without_operator(name: &str, nodes: usize) -> Self {
        let client = server::client().await;
        let namespace = format!("{name}-{}", std::process::id());
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
        let object: Namespace = serde_json::from_value(object).unwrap();
        Api::<Namespace>::all(client.clone()).create(&Default::default(), &object).await.unwrap();
        let kubelet = Kubelet::start(client.clone(), &namespace, nodes).await;
        Self { client, namespace, kubelet, operator: None }
    }

    pub(crate) fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Applies the RtcCluster `calls`, on the nodes of this test alone.
    pub(crate) async fn apply(&self, mut spec: Value) -> RtcCluster {
        spec["turn"]["placement"] = json!({"nodeSelector": {"test": self.namespace}});
        let object = json!({
            "apiVersion": "rtc-operator.dev/v1alpha1", "kind": "RtcCluster", "metadata": {"name": "calls"}, "spec": spec
        });
        let params = PatchParams::apply("user").force();
        self.api().patch("calls", &params, &Patch::Apply(&object)).await.unwrap()
    }

    pub(crate) async fn annotate(&self, key: &str, value: &str) {
        let patch = json!({"metadata": {"annotations": {key: value}}});
        let clusters = self.api::<RtcCluster>();
        clusters.patch("calls", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    }

    pub(crate) async fn cluster(&self) -> RtcCluster {
        self.api().get("calls").await.unwrap()
    }

    pub(crate) async fn deployment(&self) -> Deployment {
        self.api().get("calls-signaling").await.unwrap()
    }

    pub(crate) async fn daemonset(&self) -> DaemonSet {
        self.api().get("calls-turn").await.unwrap()
    }

    pub(crate) async fn secret(&self) -> Option<Secret> {
        self.api().get_opt("calls-keys").await.unwrap()
    }

    pub(crate) async fn fleet(&self) -> rtc_credentials::Fleet {
        let map: ConfigMap = self.api().get("calls-turn").await.unwrap();
        rtc_credentials::Fleet::from_json(map.data.unwrap()["turn.json"].as_bytes()).unwrap()
    }

    /// The status and reason of a condition that is about the present spec.
    pub(crate) async fn condition(&self, kind: &str) -> Option<(String, String, String)> {
        let cluster = self.cluster().await;
        let condition = cluster.status?.conditions.into_iter().find(|condition| condition.type_ == kind)?;
        (condition.observed_generation == cluster.metadata.generation).then_some((
            condition.status,
            condition.reason,
            condition.message,
        ))
    }

    pub(crate) async fn ready(&self) -> RtcCluster {
        self.until("Ready", async || {
            let ready = self.condition("Ready").await.is_some_and(|(status, ..)| status == "True");
            let settled = self.condition("Progressing").await.is_some_and(|(status, ..)| status == "False");
            ready && settled
        })
        .await;
        self.cluster().await
    }

    /// Reasons of the events about `calls`.
    pub(crate) async fn events(&self) -> Vec<String> {
        let events = self.api::<Event>().list(&Default::default()).await.unwrap();
        let about = |event: &Event| event.regarding.as_ref().and_then(|r| r.name.as_deref()) == Some("calls");
        events.items.into_iter().filter(about).filter_map(|event| event.reason).collect()
    }

    /// Waits until something is so.
    pub(crate) async fn until(&self, what: impl Debug, mut holds: impl AsyncFnMut() -> bool) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !holds().await {
            if tokio::time::Instant::now() > deadline {
                let status = self.api::<RtcCluster>().get_opt("calls").await.unwrap().and_then(|c| c.status);
                panic!("not within {PATIENCE:?}: {what:?}\n{:#}", json!(status));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Makes the operator look so many times.
    pub(crate) async fn reconcile(&self, times: u64) {
        let operator = self.operator.as_ref().unwrap();
        for turn in 0..times {
            let before = operator.reconciles().await;
            self.annotate("example.com/look", &format!("{before}-{turn}")).await;
            self.until("a reconcile", async || operator.reconciles().await > before).await;
        }
    }
}

/// All versions of what the operator owns in a namespace, to see what was written.
pub(crate) async fn versions(world: &World) -> Vec<(String, Option<String>)> {
    async fn of<K>(world: &World) -> Vec<(String, Option<String>)>
    where
        K: kube::Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + Debug
            + serde::de::DeserializeOwned,
    {
        let ours = kube::api::ListParams::default().labels(rtc_operator::build::MANAGED_BY);
        let list = world.api::<K>().list(&ours).await.unwrap().items;
        list.iter()
            .map(|object| (format!("{} {}", K::kind(&()), object.name_any()), object.resource_version()))
            .collect()
    }
    use k8s_openapi::api::{
        autoscaling::v2::HorizontalPodAutoscaler,
        networking::v1::{Ingress, NetworkPolicy},
    };
    use k8s_openapi::api::{
        core::v1::{Service, ServiceAccount},
        policy::v1::PodDisruptionBudget,
    };
    let mut all = of::<Secret>(world).await;
    all.extend(of::<ConfigMap>(world).await);
    all.extend(of::<Service>(world).await);
    all.extend(of::<ServiceAccount>(world).await);
    all.extend(of::<Deployment>(world).await);
    all.extend(of::<DaemonSet>(world).await);
    all.extend(of::<PodDisruptionBudget>(world).await);
    all.extend(of::<HorizontalPodAutoscaler>(world).await);
    all.extend(of::<Ingress>(world).await);
    all.extend(of::<NetworkPolicy>(world).await);
    all
}

/// Installs a definition that takes everything, for objects of somebody else's kind.
pub(crate) async fn define(client: &Client, group: &str, version: &str, kind: &str, plural: &str) {
    use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
    let name = format!("{plural}.{group}");
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {
            "name": name,
            // Without it the API server keeps groups of *.k8s.io to itself.
            "annotations": {"api-approved.kubernetes.io": "unapproved, for a test"},
        },
        "spec": {
            "group": group, "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural, "singular": kind.to_lowercase(), "listKind": format!("{kind}List")},
            "versions": [{
                "name": version, "served": true, "storage": true, "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}},
            }],
        },
    });
    let definitions = Api::<CustomResourceDefinition>::all(client.clone());
    definitions.create(&Default::default(), &serde_json::from_value(definition).unwrap()).await.unwrap();
    let established = kube::runtime::conditions::is_crd_established();
    kube::runtime::wait::await_condition(definitions, &name, established).await.unwrap();
}

/// Keeps the compiler from asking for a name where a future is expected.
pub(crate) async fn all<T>(futures: impl IntoIterator<Item = impl Future<Output = T>>) -> Vec<T> {
    futures::future::join_all(futures).await
}
