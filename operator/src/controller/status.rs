//! Reports. Written only when it says something else than before.

use std::net::IpAddr;

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use kube::{
    Api, ResourceExt,
    api::{ObjectMeta, Patch, PatchParams},
    core::error_boundary::InvalidObject,
};
use rtc_credentials::{Key, KeyState};
use rtc_operator_api::{
    RtcCluster, RtcClusterStatus,
    spec::{Listener, Transport},
    status::{Endpoints, KeyRingStatus, KeyStatus, NodeState, NodeStatus, SignalingStatus, TurnStatus},
};
use serde_json::{Value, json};

use super::{
    Context, Error, FIELD_MANAGER,
    apply::Written,
    conditions::{self, Counts},
    dereference::Observed,
    plan::Plan,
    validate::Verdict,
};
use crate::build::{CLUSTER_LABEL, COMPONENT_LABEL, Kind, configmap::MOST_NODES, service};

/// Numbers that change with every call are written at most this often, in seconds.
const COUNTS_EVERY: u64 = 10;
const MOST_ENDPOINTS: usize = 32;

/// The status as it shall be.
#[must_use]
pub fn build(
    cluster: &RtcCluster,
    observed: &Observed,
    plan: &Plan,
    verdict: &Verdict,
    error: Option<&Error>,
) -> RtcClusterStatus {
    let old = cluster.status.clone().unwrap_or_default();
    let name = cluster.name_any();
    let counts = counts(cluster, observed, plan);
    let facts = conditions::facts(cluster, observed, plan, verdict, counts, error);
    let now = time(observed.now);
    RtcClusterStatus {
        observed_generation: cluster.metadata.generation,
        replicas: Some(number(observed, Kind::Deployment, &format!("{name}-signaling"), "replicas")),
        selector: Some(format!("{CLUSTER_LABEL}={name},{COMPONENT_LABEL}=signaling")),
        signaling: Some(SignalingStatus {
            ready: counts.signaling_ready,
            desired: counts.signaling_desired,
            connections: observed
                .signaling
                .iter()
                .filter_map(|pod| Some(pod.report.as_ref()?.connections))
                .sum(),
            summary: format!("{}/{}", counts.signaling_ready, counts.signaling_desired),
        }),
        turn: Some(turn(cluster, observed, plan, counts)),
        nodes: nodes(cluster, observed, plan),
        key_ring: key_ring(cluster, observed, plan),
        endpoints: Some(endpoints(cluster, plan)),
        conditions: conditions::conditions(facts, &old.conditions, cluster.metadata.generation, &now),
    }
}

fn time(unix: u64) -> Time {
    Time(Timestamp::from_second(i64::try_from(unix).unwrap_or(i64::MAX)).unwrap_or(Timestamp::MAX))
}

fn number(observed: &Observed, kind: Kind, name: &str, field: &str) -> i32 {
    let object = observed.object(kind, name);
    let value = object.and_then(|object| object.data["status"][field].as_i64());
    value.and_then(|value| i32::try_from(value).ok()).unwrap_or(0)
}

fn small(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

fn counts(cluster: &RtcCluster, observed: &Observed, plan: &Plan) -> Counts {
    let name = format!("{}-signaling", cluster.name_any());
    let deployment = observed.object(Kind::Deployment, &name);
    let desired = match &cluster.spec.signaling.autoscaling {
        None => cluster.spec.signaling.replicas,
        Some(scaling) => deployment
            .and_then(|object| i32::try_from(object.data["spec"]["replicas"].as_i64()?).ok())
            .unwrap_or(scaling.min_replicas),
    };
    let seen = deployment.is_some_and(|object| {
        object.data["status"]["observedGeneration"].as_i64() == object.metadata.generation
    });
    let updated = number(observed, Kind::Deployment, &name, "updatedReplicas");
    let all = number(observed, Kind::Deployment, &name, "replicas");
    let current = observed.turn.iter().filter(|pod| !pod.terminating && pod.template == plan.template);
    Counts {
        signaling_ready: number(observed, Kind::Deployment, &name, "readyReplicas"),
        signaling_desired: desired,
        signaling_current: seen && updated == desired && all == desired,
        redis_missing: observed
            .object(Kind::Deployment, &format!("{}-redis", cluster.name_any()))
            .is_some_and(|redis| redis.data["status"]["readyReplicas"].as_i64().unwrap_or(0) == 0),
        turn_desired: number(
            observed,
            Kind::DaemonSet,
            &format!("{}-turn", cluster.name_any()),
            "desiredNumberScheduled",
        ),
        turn_updated: small(current.count()),
    }
}

fn turn(cluster: &RtcCluster, observed: &Observed, plan: &Plan, counts: Counts) -> TurnStatus {
    let ready = small(observed.turn.iter().filter(|pod| pod.ready && !pod.terminating).count());
    let draining = plan.nodes.iter().filter(|node| node.state() == NodeState::Draining);
    let serving = plan.nodes.iter().filter(|node| node.serving).count();
    TurnStatus {
        desired: counts.turn_desired,
        ready,
        draining: small(draining.count()),
        updated: counts.turn_updated,
        allocations: observed.turn.iter().map(|pod| pod.allocations()).sum(),
        capacity: i64::from(small(serving)) * i64::from(cluster.spec.turn.allocations_per_node()),
        summary: format!("{ready}/{}", counts.turn_desired),
    }
}

fn nodes(cluster: &RtcCluster, observed: &Observed, plan: &Plan) -> Vec<NodeStatus> {
    let deadline = cluster.spec.turn.update.deadline.as_secs();
    let mut nodes: Vec<_> = plan
        .nodes
        .iter()
        .map(|node| {
            let pod = observed.turn.iter().find(|pod| pod.name == node.pod);
            let report = pod.and_then(|pod| pod.report.as_ref());
            let since = pod.and_then(|pod| pod.draining_since);
            NodeStatus {
                node: node.node.clone(),
                addresses: node.addresses.iter().map(ToString::to_string).collect(),
                state: node.state(),
                reason: node.reason.is_some().then(|| conditions::why(node)),
                allocations: report.map(|report| report.allocations),
                key_ring_revision: report.and_then(|report| i64::try_from(report.ring.revision).ok()),
                draining_since: since.map(time),
                drain_deadline: since.map(|since| time(since.saturating_add(deadline))),
            }
        })
        .collect();
    nodes.sort_by(|a, b| (a.state, &a.node).cmp(&(b.state, &b.node)));
    nodes.truncate(MOST_NODES);
    nodes
}

fn key_ring(cluster: &RtcCluster, observed: &Observed, plan: &Plan) -> Option<KeyRingStatus> {
    let ring = &plan.ring.ring;
    if ring.keys.is_empty() || !cluster.spec.turn.relays() {
        return None;
    }
    let signing = ring.signing();
    let staged = ring.keys.iter().any(|key| key.state == KeyState::Staged);
    let interval = cluster.spec.credentials.rotation.interval.as_secs();
    let due = signing.filter(|_| !staged && plan.acts).map(|key| time(key.since.saturating_add(interval)));
    let serving = plan.nodes.iter().filter(|node| node.serving);
    let pods: Vec<_> =
        serving.filter_map(|node| observed.turn.iter().find(|pod| pod.name == node.pod)).collect();
    let read = pods
        .iter()
        .filter(|pod| pod.report.as_ref().is_some_and(|r| r.ring.revision >= ring.revision))
        .count();
    Some(KeyRingStatus {
        revision: i64::try_from(ring.revision).unwrap_or(i64::MAX),
        signing: signing.map(|key| key.id.to_string()).unwrap_or_default(),
        keys: ring.keys.iter().map(key).collect(),
        acknowledged: format!("{read}/{}", pods.len()),
        last_rotation: signing.map(|key| time(key.since)),
        next_rotation: due,
    })
}

fn key(key: &Key) -> KeyStatus {
    let state = match key.state {
        KeyState::Staged => "Staged",
        KeyState::Signing => "Signing",
        KeyState::Retiring => "Retiring",
    };
    KeyStatus { id: key.id.to_string(), state: state.to_owned(), not_after: key.not_after.map(time) }
}

fn endpoints(cluster: &RtcCluster, plan: &Plan) -> Endpoints {
    let namespace = cluster.namespace().unwrap_or_default();
    let serving = plan.nodes.iter().filter(|node| node.serving);
    let turn = serving.flat_map(|node| {
        let listeners =
            |address| cluster.spec.turn.listeners.iter().filter_map(move |l| uri(cluster, address, l));
        node.addresses.iter().flat_map(listeners)
    });
    let mut signaling = routed(cluster);
    let (scheme, _) = service::port(&cluster.spec);
    signaling.push(format!("{scheme}://{}-signaling.{namespace}.svc", cluster.name_any()));
    Endpoints { signaling, turn: turn.take(MOST_ENDPOINTS).collect() }
}

/// How clients write a listener of a node; `None` where that is nothing that they could use.
fn uri(cluster: &RtcCluster, address: &IpAddr, listener: &Listener) -> Option<String> {
    let (transport, port) = (listener.transport, listener.port);
    let host = if address.is_ipv6() { format!("[{address}]") } else { address.to_string() };
    if !cluster.spec.turn.relays() {
        return (transport == Transport::Udp).then(|| format!("stun:{host}:{port}"));
    }
    let scheme = if transport.needs_tls() { "turns" } else { "turn" };
    let over = if transport.over_udp() { "udp" } else { "tcp" };
    Some(format!("{scheme}:{host}:{port}?transport={over}"))
}

/// Where clients from outside are led in. Of a Gateway only the host is known, not whether it ends TLS.
fn routed(cluster: &RtcCluster) -> Vec<String> {
    let Some(route) = &cluster.spec.signaling.route else { return Vec::new() };
    let ingress = route.ingress.iter().map(|ingress| {
        let scheme = if ingress.tls_secret_name.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", ingress.host)
    });
    ingress.chain(route.gateway.iter().flat_map(|gateway| gateway.hostnames.iter().cloned())).collect()
}

/// How a status differs from the one that is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Difference {
    /// Not at all.
    None,
    /// In numbers that change with every call.
    Counts,
    /// In something that happened.
    News,
}

/// Compares.
#[must_use]
pub fn difference(old: &RtcClusterStatus, new: &RtcClusterStatus) -> Difference {
    if old == new {
        Difference::None
    } else if without_counts(new.clone()) == without_counts(old.clone()) {
        Difference::Counts
    } else {
        Difference::News
    }
}

/// Writes numbers over those that were there when the resource had this version, and nothing over a newer one. Says
/// whether it was that one.
///
/// # Errors
/// [`Error::Status`]
pub async fn write_counts(
    cluster: &RtcCluster,
    new: &RtcClusterStatus,
    context: &Context,
) -> Result<bool, Error> {
    let key = super::key(&cluster.metadata);
    if !context.written.counts_are_due(&key) {
        return Ok(true);
    }
    match patch(context, &cluster.metadata, json!(new), cluster.metadata.resource_version.as_deref()).await {
        Err(Error::Status(source)) if matches!(&*source, kube::Error::Api(status) if status.code == 409) => {
            Ok(false)
        }
        written => written.map(|()| true),
    }
}

/// Writes a status that differs.
///
/// # Errors
/// [`Error::Status`]
pub async fn write(cluster: &RtcCluster, new: RtcClusterStatus, context: &Context) -> Result<(), Error> {
    let old = cluster.status.clone().unwrap_or_default();
    if new == old {
        return Ok(());
    }
    let due = context.written.counts_are_due(&super::key(&cluster.metadata));
    if !due && difference(&old, &new) == Difference::Counts {
        return Ok(());
    }
    patch(context, &cluster.metadata, json!(new), None).await
}

impl Written {
    /// Whether numbers may be written again; if so, not again for a while.
    fn counts_are_due(&self, key: &str) -> bool {
        let now = rtc_service::clock::unix_now();
        let mut statuses = self.statuses.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let due = statuses.get(key).is_none_or(|last| now.saturating_sub(*last) >= COUNTS_EVERY);
        if due {
            statuses.insert(key.to_owned(), now);
        }
        due
    }
}

fn without_counts(mut status: RtcClusterStatus) -> RtcClusterStatus {
    if let Some(signaling) = &mut status.signaling {
        signaling.connections = 0;
    }
    if let Some(turn) = &mut status.turn {
        turn.allocations = 0;
    }
    for node in &mut status.nodes {
        node.allocations = node.allocations.map(|_| 0);
    }
    status
}

/// With a version, only what had it is written over.
async fn patch(
    context: &Context,
    metadata: &ObjectMeta,
    status: Value,
    version: Option<&str>,
) -> Result<(), Error> {
    let (namespace, name) = (metadata.namespace.as_deref(), metadata.name.as_deref().unwrap_or_default());
    let clusters = Api::<RtcCluster>::namespaced(context.client.clone(), namespace.unwrap_or_default());
    let mut patch = json!({
        "apiVersion": "rtc-operator.dev/v1alpha1",
        "kind": "RtcCluster",
        "metadata": {"name": name},
        "status": status,
    });
    if let Some(version) = version {
        patch["metadata"]["resourceVersion"] = json!(version);
    }
    let params = PatchParams::apply(FIELD_MANAGER).force();
    match clusters.patch_status(name, &params, &Patch::Apply(&patch)).await {
        // It was deleted meanwhile. Applying a status creates nothing.
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        // One that cannot be read was written, and said nothing that is needed.
        Err(kube::Error::SerdeError(_)) | Ok(_) => Ok(()),
        Err(source) => Err(Error::Status(Box::new(source))),
    }
}

/// Says of a resource that it cannot be read; all others go on.
///
/// # Errors
/// [`Error::Status`]
pub async fn not_understood(context: &Context, invalid: &InvalidObject) -> Result<(), Error> {
    let now = time(rtc_service::clock::unix_now());
    let message = format!(
        "{}; nothing is changed until this is: the CustomResourceDefinition may be newer or older than the operator",
        invalid.error
    );
    let condition = |kind: &str, status: &str| {
        json!({"type": kind, "status": status, "reason": "NotUnderstood", "message": message,
               "lastTransitionTime": now, "observedGeneration": invalid.metadata.generation})
    };
    let status = json!({"conditions": [condition("Ready", "False"), condition("Degraded", "True")]});
    patch(context, &invalid.metadata, status, None).await
}
