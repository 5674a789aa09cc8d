//! What shall be, from what is: pure. The same inputs give the same plan, but for the bytes of new keys.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use k8s_openapi::api::core::v1::{Node, Taint, Toleration};
use kube::ResourceExt;
use rtc_credentials::{Fleet, FleetListener, FleetNode, PortRange, Transport, Waiting};
use rtc_operator_api::{REVOKE_ANNOTATION, ROTATE_ANNOTATION, RtcCluster, spec, status::NodeState};

use super::{
    Error,
    dereference::Observed,
    pods::{SignalingPod, TurnPod},
    poll::SignalingReport,
    secrets::{self, Component, Lack},
    validate::Verdict,
};
use crate::{
    addresses::{self, Resolved, Stun},
    build::{
        Build, Desired, Kind, configmap, daemonset, deployment, fingerprint, horizontalpodautoscaler,
        httproute, ingress, networkpolicy, poddisruptionbudget, prometheusrule, redis, secret, service,
        serviceaccount, servicemonitor,
    },
    drain::{self, Move},
    rotation::{self, Readers, Requests},
};

/// How often a cluster is looked at when nothing happens, in seconds.
pub const RESYNC: u64 = 30;
/// How often at the least one without pods is, in seconds.
const QUIET: u64 = 600;
/// How often while pods are waited for, in seconds.
const WAITING: u64 = 1;
/// How often while a Secret is waited for, in seconds: other people's are not watched.
const SECRETS: u64 = 5;

/// What shall be done.
#[derive(Debug)]
pub struct Plan {
    /// Whether anything is written at all.
    pub acts: bool,
    /// The objects, in the order in which they are applied.
    pub objects: Vec<Desired>,
    /// Objects that shall no longer be.
    pub remove: Vec<(Kind, String)>,
    /// What happens to TURN pods, by name.
    pub moves: BTreeMap<String, Move>,
    /// Pods whose kubelet shall look at the files again.
    pub refresh: Vec<String>,
    /// What [`crate::build::FILES_ANNOTATION`] says then.
    pub files: String,
    /// The TURN nodes.
    pub nodes: Vec<PlannedNode>,
    /// Whether the signaling pods send clients to these nodes already.
    pub handed_out: bool,
    /// The key ring.
    pub ring: rotation::Next,
    /// Who has read it.
    pub readers: Readers,
    /// The label of TURN pods that are up to date.
    pub template: String,
    /// Why the signaling pods stay as they are, or are not there.
    pub signaling_waits: Option<Lack>,
    /// Why the TURN pods stay as they are, or are not there.
    pub turn_waits: Option<Lack>,
    /// When to look again, in seconds.
    pub requeue: u64,
}

/// A TURN node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedNode {
    /// Its name.
    pub node: String,
    /// Its pod.
    pub pod: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Whether clients are sent there.
    pub serving: bool,
    /// Why not.
    pub reason: Option<Reason>,
    /// Why STUN tells no address of it, where it was asked for one.
    pub stun: Option<String>,
}

impl PlannedNode {
    /// Whether clients are sent there, in one word.
    #[must_use]
    pub fn state(&self) -> NodeState {
        match &self.reason {
            None => NodeState::Serving,
            Some(Reason::Draining | Reason::Cordoned(_)) => NodeState::Draining,
            Some(_) => NodeState::Excluded,
        }
    }
}

/// Why clients are not sent to a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// No address is known for it.
    Address(String),
    /// Its TURN pod is being asked what STUN tells.
    Asked,
    /// Its pod is being replaced.
    Draining,
    /// It shall take no pods any more: cordoned, or tainted, and how.
    Cordoned(String),
    /// Its pod is not ready.
    NotReady(String),
    /// Its pod has not read the key that signs.
    Keys,
    /// Its pod tells peers another address than clients are sent to.
    Unread,
}

/// Decides.
///
/// # Errors
/// [`Error::Keys`] when there are no random bytes.
pub fn plan(
    cluster: &RtcCluster,
    observed: &Observed,
    verdict: &Verdict,
    own_image: &str,
    own_namespace: &str,
) -> Result<Plan, Error> {
    let build = Build::new(cluster, own_image);
    let service = observed.object(Kind::Service, &build.object_name("signaling"));
    let build = build.in_families_of(service.map(|service| &service.data));
    let spec = &cluster.spec;
    let acts = verdict.acts() && !spec.paused;
    let readers = readers(cluster, observed);
    let requests = Requests {
        rotate: cluster.annotations().get(ROTATE_ANNOTATION).cloned(),
        revoke: cluster.annotations().get(REVOKE_ANNOTATION).cloned(),
    };
    // STUN needs no keys: those that there are stay as they are.
    let idle = !spec.turn.relays() && rotation::as_it_is(&observed.ring).ring.signing().is_some();
    let ring = if acts && !idle {
        rotation::next(&observed.ring, &requests, &readers, &spec.credentials, observed.now)?
    } else {
        rotation::as_it_is(&observed.ring)
    };

    let turn = daemonset::build(&build);
    let signaling_waits = secrets::missing(cluster, observed, Component::Signaling);
    let turn_waits = secrets::missing(cluster, observed, Component::Turn);
    // While a new template waits, pods are up to date by the one that is there.
    let template = match observed.object(Kind::DaemonSet, &turn.name) {
        Some(live) if turn_waits.is_some() => daemonset::template_of(&live.data),
        _ => daemonset::template_of(&turn.value),
    }
    .to_owned();
    let moves = match &observed.fleet {
        Some(fleet) if acts => {
            let known = signaling_knows(observed, fleet);
            drain::plan(&observed.turn, &template, &spec.turn.update, known, observed.now)
        }
        _ => BTreeMap::new(),
    };
    let signing = match ring.ring.signing() {
        _ if !spec.turn.relays() => Signing::Nobody,
        Some(key) => Signing::Key(key.id.to_string()),
        None => Signing::Lost,
    };
    let tolerations = daemonset::tolerations(&turn.value);
    let nodes = nodes(cluster, observed, &moves, &signing, &tolerations);
    let fleet = fleet(cluster, observed, &nodes, turn_waits.is_some());
    let handed_out = signaling_knows(observed, &fleet);
    let files = format!("{}-{}{}", ring.ring.revision, fleet.revision, secrets::version(observed));

    let live = observed.object(Kind::Secret, &build.object_name("keys"));
    let mut objects = vec![
        secret::build(&build, &ring.ring, &ring.token, ring.rotated.as_deref(), live),
        configmap::build(&build, &fleet),
        serviceaccount::build(&build, "signaling"),
        serviceaccount::build(&build, "turn"),
    ];
    let redis = redis::build(&build);
    if !redis.is_empty() {
        objects.push(serviceaccount::build(&build, "redis"));
    }
    objects.extend(redis);
    objects.push(service::build(&build));
    let turn_nodes = observed.turn.iter().filter_map(|pod| Some(pod.admin?.0)).collect();
    objects.extend(networkpolicy::build(&build, own_namespace, &turn_nodes));
    objects.push(deployment::build(&build));
    objects.extend(poddisruptionbudget::build(&build));
    objects.extend(horizontalpodautoscaler::build(&build));
    objects.extend(ingress::build(&build));
    objects.extend(httproute::build(&build));
    objects.extend(servicemonitor::build(&build));
    objects.extend(prometheusrule::build(&build));
    objects.extend(configmap::nodes(&build, &nodes));
    objects.push(turn);
    objects.retain(|object| !observed.unserved.contains(object.kind.name()));

    let wanted: BTreeSet<_> =
        objects.iter().map(|object| (object.kind.name(), object.name.clone())).collect();
    let remove = super::dereference::OWNED
        .iter()
        .map(|(kind, suffix)| (*kind, build.object_name(suffix)))
        .filter(|(kind, name)| {
            observed.object(*kind, name).is_some() && !wanted.contains(&(kind.name(), name.clone()))
        })
        .collect();
    objects.retain(|object| match object.kind {
        Kind::DaemonSet => turn_waits.is_none(),
        Kind::Deployment => signaling_waits.is_none() || object.name != build.object_name("signaling"),
        _ => true,
    });
    let turn_pods = observed.turn.iter().filter(|pod| !pod.terminating).map(|pod| (&pod.name, &pod.files));
    let signaling_pods =
        observed.signaling.iter().filter(|pod| !pod.terminating).map(|pod| (&pod.name, &pod.files));
    let refresh = turn_pods
        .chain(signaling_pods)
        .filter(|(_, known)| **known != files)
        .map(|(name, _)| name.clone())
        .collect();
    let waits = signaling_waits.is_some() || turn_waits.is_some();
    let rest = if waits { SECRETS } else { rest(observed, build.name) };
    let late = observed
        .signaling
        .iter()
        .filter_map(|pod| pod.report.as_ref())
        .any(|report| !hands_out(report, &fleet));
    let requeue = requeue(observed, &ring, &moves, &nodes, late, rest);
    Ok(Plan {
        acts,
        objects,
        remove,
        moves,
        refresh,
        files,
        nodes,
        handed_out,
        ring,
        readers,
        template,
        signaling_waits,
        turn_waits,
        requeue,
    })
}

/// Which ring the pods that must know it report. A draining signaling pod signs until it is gone; a TURN pod
/// counts while clients are sent to it.
fn readers(cluster: &RtcCluster, observed: &Observed) -> Readers {
    let serving: BTreeSet<_> = observed
        .fleet
        .iter()
        .flat_map(|fleet| fleet.nodes.iter().filter(|node| node.serving).map(|node| node.node.as_str()))
        .collect();
    let verifies = |pod: &&TurnPod| {
        cluster.spec.turn.relays()
            && !pod.terminating
            && pod.ready
            && pod.node.as_deref().is_some_and(|n| serving.contains(n))
    };
    Readers {
        verifiers: observed
            .turn
            .iter()
            .filter(verifies)
            .map(|pod| (pod.name.clone(), pod.report.as_ref().map_or(0, |report| report.ring.revision)))
            .collect(),
        signers: observed
            .signaling
            .iter()
            .filter(|pod| pod.running)
            .map(|pod| (pod.name.clone(), pod.report.as_ref().map_or(0, |report| report.ring.revision)))
            .collect(),
        highest: highest(cluster, observed),
    }
}

/// The highest revision of the ring that was ever told to anybody.
fn highest(cluster: &RtcCluster, observed: &Observed) -> u64 {
    let told =
        observed.turn.iter().map(|pod| &pod.files).chain(observed.signaling.iter().map(|pod| &pod.files));
    let told = told.filter_map(|files| files.split_once('-')?.0.parse().ok());
    let reported = cluster.status.as_ref().and_then(|status| status.key_ring.as_ref());
    told.chain(reported.and_then(|ring| u64::try_from(ring.revision).ok())).max().unwrap_or(0)
}

fn signaling_knows(observed: &Observed, fleet: &Fleet) -> bool {
    let knows = |pod: &SignalingPod| pod.report.as_ref().is_some_and(|report| hands_out(report, fleet));
    observed.signaling.iter().filter(|pod| pod.running && !pod.terminating).all(knows)
}

fn hands_out(report: &SignalingReport, fleet: &Fleet) -> bool {
    report.fleet_revision.as_deref() == Some(fleet.revision.as_str())
}

/// Who signs what TURN pods verify.
enum Signing {
    /// Nobody: they answer STUN, which needs no credentials.
    Nobody,
    /// A key that there should be, and is not.
    Lost,
    /// The key of this id.
    Key(String),
}

fn nodes(
    cluster: &RtcCluster,
    observed: &Observed,
    moves: &BTreeMap<String, Move>,
    signing: &Signing,
    tolerations: &[Toleration],
) -> Vec<PlannedNode> {
    let mut by_node: BTreeMap<&str, &TurnPod> = BTreeMap::new();
    for pod in &observed.turn {
        let Some(node) = pod.node.as_deref() else { continue };
        // While a pod is replaced there are two; the one that stays speaks for the node.
        let current = by_node.entry(node).or_insert(pod);
        if current.terminating && !pod.terminating {
            *current = pod;
        }
    }
    let spec = &cluster.spec.turn.addresses;
    let mut nodes: Vec<_> = by_node
        .into_iter()
        .map(|(name, pod)| {
            let node = observed.nodes.get(name);
            let resolved = match node {
                Some(node) => addresses::resolve(node, spec, stun(spec, observed, pod, name)),
                None => Resolved::Missing("the node is gone".to_owned()),
            };
            let cordoned = node.and_then(|node| cordoned(node, tolerations));
            let served = served(observed, name);
            let excluded = || excluded(pod, moves.get(&pod.name), cordoned, served, signing);
            let (addresses, stun, reason) = match resolved {
                Resolved::Found(addresses, stun) => (addresses, stun, excluded()),
                // A pod that does not run has other troubles.
                Resolved::Waiting if !pod.running => (Vec::new(), None, excluded().or(Some(Reason::Asked))),
                Resolved::Waiting => (Vec::new(), None, Some(Reason::Asked)),
                Resolved::Missing(reason) => (Vec::new(), None, Some(Reason::Address(reason))),
            };
            let reason =
                reason.or_else(|| (!served && !advertises(pod, &addresses)).then_some(Reason::Unread));
            PlannedNode {
                node: name.to_owned(),
                pod: pod.name.clone(),
                addresses,
                serving: reason.is_none(),
                reason,
                stun,
            }
        })
        .collect();
    // After a key was revoked or lost no pod has the new one yet: a relay a moment later beats none.
    if nodes.iter().all(|node| !node.serving) {
        for node in
            nodes.iter_mut().filter(|node| node.reason == Some(Reason::Keys) && served(observed, &node.node))
        {
            (node.serving, node.reason) = (true, None);
        }
    }
    nodes
}

/// What a TURN pod says that STUN told it.
fn stun<'a>(spec: &spec::Addresses, observed: &'a Observed, pod: &'a TurnPod, node: &str) -> Stun<'a> {
    if spec.asked().is_none() {
        return Stun::NotAsked;
    }
    let fleet = observed.fleet.iter().flat_map(|fleet| &fleet.nodes);
    let before = fleet.into_iter().find(|entry| entry.node == node).map_or(&[][..], |entry| &entry.addresses);
    match &pod.report {
        None => Stun::Waiting(before),
        Some(report) => match &report.external {
            // A pod of the template before asks nobody.
            None => Stun::NotAsked,
            Some(external) if external.addresses.is_empty() && external.error.is_none() => {
                Stun::Waiting(before)
            }
            Some(external) => Stun::Told(&external.addresses, external.error.as_deref()),
        },
    }
}

/// Why a node shall take no pods any more. Its TURN pod stays, and so do its calls: those who empty a node wait for
/// what relays there, and a pod that is deleted would come back, since a DaemonSet tolerates a cordon.
fn cordoned(node: &Node, tolerations: &[Toleration]) -> Option<String> {
    let spec = node.spec.as_ref()?;
    if spec.unschedulable == Some(true) {
        return Some("the node is cordoned".to_owned());
    }
    let bars = |taint: &&Taint| {
        matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute")
            // Of the node's health, which the pod's own readiness tells of.
            && !taint.key.starts_with("node.kubernetes.io/")
            && !tolerations.iter().any(|toleration| tolerates(toleration, taint))
    };
    let taint = spec.taints.iter().flatten().find(bars)?;
    Some(format!(
        "the node has the taint {}:{}, which spec.turn.placement does not tolerate",
        taint.key, taint.effect
    ))
}

/// As Kubernetes compares them.
fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let any_key = toleration.key.as_deref().unwrap_or_default().is_empty();
    let exists = toleration.operator.as_deref() == Some("Exists");
    toleration.effect.as_deref().is_none_or(|effect| effect.is_empty() || effect == taint.effect)
        && (any_key || toleration.key.as_deref() == Some(taint.key.as_str()))
        && (exists
            || (!any_key
                && toleration.value.as_deref().unwrap_or_default()
                    == taint.value.as_deref().unwrap_or_default()))
}

fn served(observed: &Observed, name: &str) -> bool {
    let fleet = observed.fleet.as_ref();
    fleet.is_some_and(|fleet| fleet.nodes.iter().any(|node| node.node == name && node.serving))
}

fn excluded(
    pod: &TurnPod,
    next: Option<&Move>,
    cordoned: Option<String>,
    served: bool,
    signing: &Signing,
) -> Option<Reason> {
    let leaves = matches!(next, Some(Move::Mark | Move::Drain(_) | Move::Delete { .. }));
    let stays_out = pod.draining_since.is_some() && next != Some(&Move::Unmark);
    let told = pod.report.as_ref().is_some_and(|report| report.draining);
    if pod.terminating || leaves || stays_out || told {
        return Some(Reason::Draining);
    }
    if let Some(how) = cordoned {
        return Some(Reason::Cordoned(how));
    }
    if !pod.ready {
        let why = pod.trouble.clone().unwrap_or_else(|| "its TURN pod is not ready yet".to_owned());
        return Some(Reason::NotReady(why));
    }
    let verifies = match &pod.report {
        Some(report) => match signing {
            Signing::Nobody => true,
            Signing::Lost => false,
            Signing::Key(signing) => report.ring.keys.contains(signing),
        },
        // One unanswered question is no reason to send clients elsewhere.
        None => served,
    };
    (!verifies).then_some(Reason::Keys)
}

/// Whether the pod tells peers the addresses that clients are sent to; a family that it does not relay is another matter.
fn advertises(pod: &TurnPod, addresses: &[IpAddr]) -> bool {
    let advertised = pod.report.iter().flat_map(|report| &report.relay_addresses);
    advertised.into_iter().all(|advertised| {
        let mut same =
            addresses.iter().filter(|address| address.is_ipv4() == advertised.is_ipv4()).peekable();
        same.peek().is_none() || same.any(|address| address == advertised)
    })
}

fn fleet(cluster: &RtcCluster, observed: &Observed, nodes: &[PlannedNode], waits: bool) -> Fleet {
    let turn = &cluster.spec.turn;
    let before = observed.fleet.as_ref().filter(|_| waits).map(|fleet| fleet.listeners.clone());
    let listeners = turn.listeners.iter().map(|listener| FleetListener {
        transport: match listener.transport {
            spec::Transport::Udp => Transport::Udp,
            spec::Transport::Tcp => Transport::Tcp,
            spec::Transport::Tls => Transport::Tls,
            spec::Transport::Dtls => Transport::Dtls,
        },
        port: listener.port,
    });
    let mut fleet = Fleet {
        revision: String::new(),
        realm: turn.realm.clone(),
        // Clients are not sent to listeners that wait for a certificate.
        listeners: before.unwrap_or_else(|| listeners.collect()),
        relay_ports: PortRange { min: turn.relay_ports.min, max: turn.relay_ports.max },
        stun_only: !turn.relays(),
        // Those that do not serve stay legitimate peers of those that do.
        nodes: nodes
            .iter()
            .filter(|node| !node.addresses.is_empty())
            .map(|node| FleetNode {
                node: node.node.clone(),
                addresses: node.addresses.clone(),
                serving: node.serving,
            })
            .collect(),
    };
    fleet.revision = format!("{:016x}", fingerprint(&fleet.to_json()));
    fleet
}

fn requeue(
    observed: &Observed,
    ring: &rotation::Next,
    moves: &BTreeMap<String, Move>,
    nodes: &[PlannedNode],
    late: bool,
    rest: u64,
) -> u64 {
    let under_way = matches!(ring.waiting, Waiting::Verifiers | Waiting::Signers)
        || !ring.events.is_empty()
        || !moves.is_empty()
        || late
        || nodes.iter().any(|node| {
            matches!(node.reason, Some(Reason::Draining | Reason::Keys | Reason::Asked | Reason::Unread))
        });
    if under_way {
        return WAITING;
    }
    let due = ring.next.map_or(rest, |next| next.saturating_sub(observed.now));
    due.clamp(WAITING, rest)
}

/// Pods are asked how they are; where there are none, and nothing that may be installed is missing, watches tell what
/// happens, and a look from time to time finds what they do not. Not all clusters at once.
fn rest(observed: &Observed, name: &str) -> u64 {
    if observed.turn.is_empty() && observed.signaling.is_empty() && observed.unserved.is_empty() {
        return QUIET / 2 + fingerprint(name) % (QUIET / 2);
    }
    RESYNC
}

#[cfg(test)]
mod tests;
