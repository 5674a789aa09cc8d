//! What is so and what is not, each with a reason and a sentence that says what to do. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use rtc_credentials::Waiting;
use rtc_operator_api::{RtcCluster, spec::Listener, status::NodeState};

use super::{
    Error,
    dereference::Observed,
    plan::{Plan, PlannedNode, Reason},
    requested,
    secrets::{self, Lack},
    validate::Verdict,
};

/// A condition before it is compared with the last one.
pub struct Fact {
    pub(super) kind: &'static str,
    pub(super) is: bool,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

/// Numbers that the conditions are about.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Signaling pods that are ready.
    pub signaling_ready: i32,
    /// Signaling pods that are wanted.
    pub signaling_desired: i32,
    /// Whether the signaling pods are all of the current template.
    pub signaling_current: bool,
    /// Whether the managed Redis is there and not ready.
    pub redis_missing: bool,
    /// Nodes that shall run a TURN pod.
    pub turn_desired: i32,
    /// TURN pods of the current template.
    pub turn_updated: i32,
}

/// All conditions.
#[must_use]
pub fn facts(
    cluster: &RtcCluster,
    observed: &Observed,
    plan: &Plan,
    verdict: &Verdict,
    counts: Counts,
    error: Option<&Error>,
) -> Vec<Fact> {
    let signaling = signaling(plan, counts);
    let turn = turn(cluster, plan, counts);
    let relays = cluster.spec.turn.relays();
    let keys = keys(plan, relays);
    let ready = ready(verdict, &signaling, &turn, relays);
    let progressing = progressing(plan, counts, &keys);
    let mut facts = vec![
        ready,
        progressing,
        degraded(plan, verdict, error),
        signaling,
        turn,
        addresses(plan),
        keys,
        draining(plan),
        paused(cluster),
        pod_security(cluster, observed),
    ];
    facts.extend(requested::facts(cluster, observed));
    facts.extend(secrets::facts(cluster, observed, &plan.nodes));
    facts
}

/// Gives each fact the time of its last transition.
#[must_use]
pub fn conditions(
    facts: Vec<Fact>,
    old: &[Condition],
    generation: Option<i64>,
    now: &Time,
) -> Vec<Condition> {
    facts
        .into_iter()
        .map(|fact| {
            let status = if fact.is { "True" } else { "False" };
            let last = old.iter().find(|old| old.type_ == fact.kind && old.status == status);
            Condition {
                last_transition_time: last
                    .map_or_else(|| now.clone(), |old| old.last_transition_time.clone()),
                message: fact.message,
                observed_generation: generation,
                reason: fact.reason.to_owned(),
                status: status.to_owned(),
                type_: fact.kind.to_owned(),
            }
        })
        .collect()
}

pub(super) fn fact(kind: &'static str, is: bool, reason: &'static str, message: impl Into<String>) -> Fact {
    Fact { kind, is, reason, message: message.into() }
}

fn ready(verdict: &Verdict, signaling: &Fact, turn: &Fact, relays: bool) -> Fact {
    const KIND: &str = "Ready";
    if !verdict.violations.is_empty() {
        return fact(KIND, false, "InvalidSpec", "see condition Degraded");
    }
    match [signaling, turn].into_iter().find(|part| !part.is) {
        Some(part) => fact(KIND, false, part.reason, part.message.clone()),
        None if relays => fact(KIND, true, "Available", "clients can join rooms and relay"),
        None => fact(KIND, true, "Available", "clients can join rooms and learn their addresses"),
    }
}

/// Why pods stay as they are.
fn waits(plan: &Plan) -> Option<Lack> {
    let parts: Vec<_> = plan.signaling_waits.iter().chain(&plan.turn_waits).collect();
    let messages: Vec<_> = parts.iter().map(|lack| lack.message.as_str()).collect();
    Some(Lack { reason: parts.first()?.reason, message: messages.join("; ") })
}

fn progressing(plan: &Plan, counts: Counts, keys: &Fact) -> Fact {
    const KIND: &str = "Progressing";
    if let Some(missing) = waits(plan) {
        return fact(KIND, false, missing.reason, missing.message);
    }
    if !counts.signaling_current {
        return fact(KIND, true, "SignalingUpdating", "signaling pods are being created or replaced");
    }
    if counts.signaling_ready < counts.signaling_desired {
        return fact(KIND, true, "SignalingStarting", "signaling pods are not all ready yet");
    }
    if counts.turn_updated < counts.turn_desired {
        let message =
            format!("{}/{} TURN pods run the current template", counts.turn_updated, counts.turn_desired);
        return fact(KIND, true, "TurnUpdating", message);
    }
    if !keys.is {
        return fact(KIND, true, "KeysRotating", keys.message.clone());
    }
    fact(KIND, false, "Settled", "everything is as the manifest says")
}

fn degraded(plan: &Plan, verdict: &Verdict, error: Option<&Error>) -> Fact {
    const KIND: &str = "Degraded";
    if !verdict.violations.is_empty() {
        let list: Vec<_> = verdict.violations.iter().map(ToString::to_string).collect();
        return fact(
            KIND,
            true,
            "InvalidSpec",
            format!("nothing is changed until this is: {}", list.join("; ")),
        );
    }
    if let Some(error) = error {
        return fact(KIND, true, error.reason(), error.to_string());
    }
    if let Some(missing) = waits(plan) {
        let message = format!("{}; until then the pods that need it stay as they are", missing.message);
        return fact(KIND, true, missing.reason, message);
    }
    if !verdict.for_trying_out.is_empty() {
        return fact(KIND, false, "ForTryingOut", verdict.for_trying_out.join("; "));
    }
    fact(KIND, false, "AsExpected", "nothing is wrong")
}

fn signaling(plan: &Plan, counts: Counts) -> Fact {
    const KIND: &str = "SignalingAvailable";
    let Counts { signaling_ready: ready, signaling_desired: desired, .. } = counts;
    let message = format!("{ready}/{desired} signaling pods are ready");
    if let (0, 1.., Some(missing)) = (ready, desired, &plan.signaling_waits) {
        return fact(KIND, false, missing.reason, missing.message.clone());
    }
    match (ready, desired) {
        (_, 0) => {
            fact(KIND, false, "ScaledToZero", "no signaling pod is wanted; raise the number of replicas")
        }
        (0, _) if counts.redis_missing => fact(
            KIND,
            false,
            "RedisNotReady",
            format!("{message}; the managed Redis is not, see its pod's events"),
        ),
        (0, _) => fact(KIND, false, "NoPodReady", format!("{message}; see their logs and events")),
        (ready, desired) if ready < desired => fact(KIND, true, "SomePodsReady", message),
        _ => fact(KIND, true, "PodsReady", message),
    }
}

fn turn(cluster: &RtcCluster, plan: &Plan, counts: Counts) -> Fact {
    const KIND: &str = "TurnAvailable";
    let serving = plan.nodes.iter().filter(|node| node.serving).count();
    // Once clients are sent to some nodes, a change of the nodes takes nothing away from them.
    let before = cluster.status.iter().flat_map(|status| &status.conditions);
    let was = before.into_iter().any(|condition| condition.type_ == KIND && condition.status == "True");
    if serving > 0 && !plan.handed_out && !was {
        let message = "signaling pods have not read yet which nodes serve";
        return fact(KIND, false, "NotHandedOut", message);
    }
    if serving > 0 {
        return fact(KIND, true, "NodesServe", format!("{serving}/{} nodes serve", plan.nodes.len()));
    }
    if let Some(missing) = plan.turn_waits.clone().filter(|_| plan.nodes.is_empty()) {
        return fact(KIND, false, missing.reason, missing.message);
    }
    if counts.turn_desired == 0 {
        let message = "no node matches spec.turn.placement, or each has a taint that it does not tolerate";
        return fact(KIND, false, "NoNodes", message);
    }
    match plan.nodes.first() {
        Some(node) => {
            fact(KIND, false, "NoneServes", format!("no node serves; {}: {}", node.node, why(node)))
        }
        None => fact(KIND, false, "NoPods", "there are no TURN pods yet; see the events of the DaemonSet"),
    }
}

/// Why clients are not sent to a node, for people.
#[must_use]
pub fn why(node: &PlannedNode) -> String {
    match &node.reason {
        None => String::new(),
        Some(Reason::Address(reason) | Reason::NotReady(reason) | Reason::Cordoned(reason)) => reason.clone(),
        Some(Reason::Draining) => "its pod is being replaced".to_owned(),
        Some(Reason::Asked) => "its pod has not said yet what the STUN server tells".to_owned(),
        Some(Reason::Keys) => "its pod has not read the key ring yet".to_owned(),
        Some(Reason::Unread) => "its pod has not read its address yet".to_owned(),
    }
}

fn addresses(plan: &Plan) -> Fact {
    const KIND: &str = "AddressesResolved";
    let missing: Vec<_> = plan
        .nodes
        .iter()
        .filter_map(|node| match &node.reason {
            Some(Reason::Address(reason)) => Some(format!("{}: {reason}", node.node)),
            _ => None,
        })
        .collect();
    let silent: Vec<_> = plan.nodes.iter().filter_map(|node| Some((node, node.stun.as_ref()?))).collect();
    match missing.len() {
        0 if silent.is_empty() => fact(KIND, true, "Resolved", "every TURN node has an address"),
        0 => {
            let said: Vec<_> = silent
                .iter()
                .take(5)
                .map(|(node, why)| {
                    let used: Vec<_> = node.addresses.iter().map(ToString::to_string).collect();
                    format!("{}: {why}; clients are told {}", node.node, used.join(", "))
                })
                .collect();
            let more =
                if silent.len() > 5 { format!("; and {} more", silent.len() - 5) } else { String::new() };
            fact(KIND, true, "StunSilent", format!("{}{more}", said.join("; ")))
        }
        count => {
            let more = if count > 5 { format!("; and {} more", count - 5) } else { String::new() };
            let message = format!("{}{more}", missing[..count.min(5)].join("; "));
            fact(KIND, false, "NodeWithoutAddress", message)
        }
    }
}

fn keys(plan: &Plan, relays: bool) -> Fact {
    const KIND: &str = "KeyRingInSync";
    if !relays {
        return fact(KIND, true, "NotNeeded", "turn.mode is STUNOnly, which needs no keys");
    }
    let revision = plan.ring.ring.revision;
    let all = plan.readers.verifiers.iter().chain(&plan.readers.signers);
    let late: Vec<_> = all.filter(|(_, read)| *read < revision).map(|(pod, _)| pod.as_str()).collect();
    if late.is_empty() {
        let message = match plan.ring.waiting {
            Waiting::Room => "the next key waits until the oldest has retired; raise rotation.interval",
            _ => "every pod has the current keys",
        };
        return fact(KIND, true, "InSync", message);
    }
    let named = late[..late.len().min(5)].join(", ");
    let more = if late.len() > 5 { format!(" and {} more", late.len() - 5) } else { String::new() };
    fact(KIND, false, "PodsLate", format!("waiting for {named}{more} to read revision {revision}"))
}

fn draining(plan: &Plan) -> Fact {
    const KIND: &str = "Draining";
    let out: Vec<_> = plan
        .nodes
        .iter()
        .filter(|node| node.state() == NodeState::Draining)
        .map(|node| format!("{}: {}", node.node, why(node)))
        .collect();
    match out.first() {
        None => fact(KIND, false, "NoneDrains", "no node drains"),
        Some(_) => fact(KIND, true, "NodesDrain", out[..out.len().min(5)].join("; ")),
    }
}

fn paused(cluster: &RtcCluster) -> Fact {
    const KIND: &str = "Paused";
    if cluster.spec.paused {
        fact(
            KIND,
            true,
            "Paused",
            "nothing is changed and keys do not rotate; set spec.paused: false to go on",
        )
    } else {
        fact(KIND, false, "Acting", "the operator acts on this resource")
    }
}

fn pod_security(cluster: &RtcCluster, observed: &Observed) -> Fact {
    const KIND: &str = "PodSecurityAdmitted";
    let namespace = cluster.metadata.namespace.as_deref().unwrap_or_default();
    match observed.pod_security.as_deref() {
        Some(level) if level != "privileged" => fact(
            KIND,
            false,
            "HostNetworkForbidden",
            format!(
                "namespace {namespace} enforces {level}, which refuses pods on the host network; run `kubectl label \
                 --overwrite namespace {namespace} pod-security.kubernetes.io/enforce=privileged`"
            ),
        ),
        _ => match cluster.spec.turn.listeners.iter().find(|listener| listener.is_privileged()) {
            // Neither a capability nor a sysctl can be given to another user on the host network.
            Some(Listener { name, port, .. }) => fact(
                KIND,
                true,
                "AdmittedAsRoot",
                format!(
                    "TURN pods run as root with NET_BIND_SERVICE as their only capability, since listener {name} has port \
                     {port}; with ports from 1024 on they run as an ordinary user"
                ),
            ),
            None => fact(KIND, true, "Admitted", "the namespace admits pods on the host network"),
        },
    }
}
