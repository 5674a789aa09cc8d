//! Plays the nodes of one test: binds pods, starts an admin port for each, lets them read their files, and ends
//! them when they are deleted.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Json, Router,
    http::{HeaderMap, StatusCode},
    routing::{get, post},
};
use k8s_openapi::{
    ByteString,
    api::core::v1::{ConfigMap, Node, Pod, Secret},
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, Patch, PatchParams},
};
use rtc_operator::build::FILES_ANNOTATION;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

/// A pod that runs.
#[derive(Default)]
struct Process {
    node: String,
    files: String,
    ring: u64,
    keys: Vec<String>,
    fleet: String,
    token: String,
    draining: bool,
}

#[derive(Default)]
struct Shared {
    processes: BTreeMap<String, Process>,
    /// Nodes whose pods do not read new files.
    late: BTreeSet<String>,
    /// Allocations by node.
    allocations: BTreeMap<String, i64>,
    /// What STUN servers tell the pods of a node; and what the store of quotas does.
    external: BTreeMap<String, Value>,
    store_up: Option<bool>,
    /// Nodes in the order in which their pods were told to drain.
    drained: Vec<String>,
}

/// The nodes of one test.
pub(crate) struct Kubelet {
    pub(crate) nodes: Vec<String>,
    shared: Arc<Mutex<Shared>>,
    task: JoinHandle<()>,
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Kubelet {
    pub(crate) async fn start(client: Client, namespace: &str, count: usize) -> Self {
        let nodes: Vec<_> = (1..=count).map(|index| format!("{namespace}-n{index}")).collect();
        for (index, name) in nodes.iter().enumerate() {
            make_node(&client, namespace, name, index + 1).await;
        }
        let shared = Arc::new(Mutex::new(Shared::default()));
        let task = tokio::spawn(play(client, namespace.to_owned(), nodes.clone(), shared.clone()));
        Self { nodes, shared, task }
    }

    /// Whether the pods of a node read new files.
    pub(crate) fn set_late(&self, node: &str, late: bool) {
        let mut shared = self.shared.lock().unwrap();
        if late {
            shared.late.insert(node.to_owned())
        } else {
            shared.late.remove(node)
        };
    }

    pub(crate) fn set_allocations(&self, node: &str, count: i64) {
        self.shared.lock().unwrap().allocations.insert(node.to_owned(), count);
    }

    /// What the pods of a node say that a STUN server told them.
    pub(crate) fn set_external(&self, node: &str, addresses: &[&str], error: Option<&str>) {
        let told = json!({"addresses": addresses, "error": error});
        self.shared.lock().unwrap().external.insert(node.to_owned(), told);
    }

    /// Whether pods reach the Redis of the fleet's quotas.
    pub(crate) fn set_store(&self, up: bool) {
        self.shared.lock().unwrap().store_up = Some(up);
    }

    /// Nodes in the order in which their pods were told to drain.
    pub(crate) fn drained(&self) -> Vec<String> {
        self.shared.lock().unwrap().drained.clone()
    }
}

async fn make_node(client: &Client, namespace: &str, name: &str, index: usize) {
    let nodes = Api::<Node>::all(client.clone());
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"test": namespace}}});
    nodes.create(&Default::default(), &serde_json::from_value(node).unwrap()).await.unwrap();
    // The API server taints new nodes; it is the node controller that would take it away.
    let untainted = json!({"spec": {"taints": null}});
    nodes.patch(name, &PatchParams::default(), &Patch::Merge(&untainted)).await.unwrap();
    let status =
        json!({"status": {"addresses": [{"type": "InternalIP", "address": format!("192.0.2.{index}")}]}});
    nodes.patch_status(name, &PatchParams::default(), &Patch::Merge(&status)).await.unwrap();
}

async fn play(client: Client, namespace: String, nodes: Vec<String>, shared: Arc<Mutex<Shared>>) {
    let pods = Api::<Pod>::namespaced(client.clone(), &namespace);
    let salt = rtc_operator::build::fingerprint(&namespace);
    let mut next: u8 = 1;
    loop {
        for pod in pods.list(&Default::default()).await.map(|list| list.items).unwrap_or_default() {
            let name = pod.name_any();
            if pod.metadata.deletion_timestamp.is_some() {
                shared.lock().unwrap().processes.remove(&name);
                drop(pods.delete(&name, &DeleteParams::default().grace_period(0)).await);
                continue;
            }
            if !shared.lock().unwrap().processes.contains_key(&name) {
                let node = wanted_node(&pod).unwrap_or_else(|| nodes[0].clone());
                // A loopback address of its own, so that ports never meet.
                let [a, b, ..] = salt.to_le_bytes();
                let ip = IpAddr::V4(Ipv4Addr::new(127, a.max(1), b, next));
                next += 1;
                start(&client, &namespace, &pod, &node, ip, &shared).await;
            }
            refresh(&client, &namespace, &pod, &shared).await;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The node that the DaemonSet made a pod for.
fn wanted_node(pod: &Pod) -> Option<String> {
    let pod = json!(pod);
    let terms = pod.pointer("/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution")?;
    let value = terms.pointer("/nodeSelectorTerms/0/matchFields/0/values/0")?;
    value.as_str().map(str::to_owned)
}

async fn start(
    client: &Client,
    namespace: &str,
    pod: &Pod,
    node: &str,
    ip: IpAddr,
    shared: &Arc<Mutex<Shared>>,
) {
    let name = pod.name_any();
    let binding = json!({
        "apiVersion": "v1", "kind": "Binding", "metadata": {"name": name},
        "target": {"apiVersion": "v1", "kind": "Node", "name": node}
    });
    let request = axum::http::Request::post(format!("/api/v1/namespaces/{namespace}/pods/{name}/binding"))
        .header("content-type", "application/json")
        .body(serde_json::to_vec(&binding).unwrap());
    if client.request::<Value>(request.unwrap()).await.is_err() {
        return;
    }
    let process = Process { node: node.to_owned(), ..Process::default() };
    shared.lock().unwrap().processes.insert(name.clone(), process);
    let spec = json!(pod.spec);
    let ports = spec.pointer("/containers/0/ports").and_then(Value::as_array).cloned().unwrap_or_default();
    if let Some(port) = ports.iter().find(|port| port["name"] == "admin") {
        let port = u16::try_from(port["containerPort"].as_u64().unwrap()).unwrap();
        let listener = tokio::net::TcpListener::bind((ip, port)).await.unwrap();
        let router = router(name.clone(), shared.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
    }
    let container = spec.pointer("/containers/0/name").and_then(Value::as_str).unwrap();
    let started = "2026-01-01T00:00:00Z";
    let status = json!({"status": {
        "phase": "Running", "podIP": ip.to_string(), "podIPs": [{"ip": ip.to_string()}], "startTime": started,
        "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": started}],
        "containerStatuses": [{
            "name": container, "ready": true, "restartCount": 0, "image": "a", "imageID": "a",
            "state": {"running": {"startedAt": started}}
        }]
    }});
    let pods = Api::<Pod>::namespaced(client.clone(), namespace);
    drop(pods.patch_status(&name, &PatchParams::default(), &Patch::Merge(&status)).await);
}

/// Reads the mounted files when the pod starts and when its annotation changes, as a kubelet does.
async fn refresh(client: &Client, namespace: &str, pod: &Pod, shared: &Arc<Mutex<Shared>>) {
    let name = pod.name_any();
    let files = pod.annotations().get(FILES_ANNOTATION).cloned().unwrap_or_default();
    {
        let shared = shared.lock().unwrap();
        let Some(process) = shared.processes.get(&name) else { return };
        let read_once = process.ring > 0;
        if read_once && (process.files == files || shared.late.contains(&process.node)) {
            return;
        }
    }
    let secret =
        Api::<Secret>::namespaced(client.clone(), namespace).get_opt("calls-keys").await.ok().flatten();
    let map =
        Api::<ConfigMap>::namespaced(client.clone(), namespace).get_opt("calls-turn").await.ok().flatten();
    let Some(data) = secret.and_then(|secret| secret.data) else { return };
    let text = |name: &str| data.get(name).map(|ByteString(text)| String::from_utf8(text.clone()).unwrap());
    let ring: Value = serde_json::from_str(&text(".ring.json").unwrap_or_default()).unwrap_or_default();
    let fleet = map.and_then(|map| map.data?.get("turn.json").cloned()).unwrap_or_default();
    let fleet: Value = serde_json::from_str(&fleet).unwrap_or_default();
    let mut shared = shared.lock().unwrap();
    let Some(process) = shared.processes.get_mut(&name) else { return };
    process.files = files;
    process.ring = ring["revision"].as_u64().unwrap_or(0);
    process.keys = data.keys().filter(|name| !name.starts_with('.')).cloned().collect();
    process.token = text(".admin-token").unwrap_or_default();
    process.fleet = fleet["revision"].as_str().unwrap_or_default().to_owned();
}

fn router(pod: String, shared: Arc<Mutex<Shared>>) -> Router {
    let answer = move |headers: HeaderMap, drain: bool| {
        let mut shared = shared.lock().unwrap();
        let shared = &mut *shared;
        let Some(process) = shared.processes.get_mut(&pod) else { return Err(StatusCode::GONE) };
        let expected = format!("Bearer {}", process.token);
        if headers.get("authorization").and_then(|value| value.to_str().ok()) != Some(expected.as_str()) {
            return Err(StatusCode::UNAUTHORIZED);
        }
        if drain && !process.draining {
            process.draining = true;
            shared.drained.push(process.node.clone());
        }
        let signing = process.keys.last().cloned();
        Ok(Json(json!({
            "ring": {"revision": process.ring, "keys": process.keys, "signing": signing},
            "allocations": shared.allocations.get(&process.node).copied().unwrap_or(0),
            "draining": process.draining,
            "external": shared.external.get(&process.node),
            "quotaStore": shared.store_up.map(|up| json!({"up": up})),
            "fleetRevision": process.fleet,
            "connections": 3,
        })))
    };
    let status = answer.clone();
    Router::new()
        .route("/status", get(async move |headers: HeaderMap| status(headers, false)))
        .route("/drain", post(async move |headers: HeaderMap| answer(headers, true)))
}
