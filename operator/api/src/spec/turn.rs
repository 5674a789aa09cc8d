use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Affinity, ResourceRequirements, Toleration};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Cidr, PodTemplate, Tls, resources};
use crate::{ADDRESS_ANNOTATION, Duration};

/// The STUN and TURN servers: a DaemonSet on the host network of the selected nodes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Turn {
    /// `TURN` relays; `STUNOnly` only tells clients their address: there are no keys, no rotation and no relay
    /// ports then, and clients are given `stun:` URIs of the UDP listeners.
    pub mode: TurnMode,
    /// Which nodes run a TURN pod. All that take pods, unless this says otherwise.
    pub placement: Placement,
    /// The ports that clients connect to, on every TURN node. No two may share a port of UDP (`UDP`, `DTLS`) or
    /// of TCP (`TCP`, `TLS`).
    #[schemars(length(min = 1, max = 16))]
    pub listeners: Vec<Listener>,
    /// The UDP ports that relayed addresses are taken from. Firewalls must let them in, as the listeners.
    pub relay_ports: PortRange,
    /// The realm of TURN's credentials (RFC 8489, section 14.9). It cannot change while allocations live.
    #[schemars(length(min = 1, max = 127))]
    pub realm: String,
    /// Under which addresses clients reach the nodes.
    pub addresses: Addresses,
    /// Limits per TURN pod, and of one user in the whole fleet. 0 sets no limit.
    pub quotas: Quotas,
    /// Where clients may relay to.
    pub peers: Peers,
    /// How TURN pods are replaced when their template changes.
    pub update: Update,
    /// Requests and limits of the TURN container.
    pub resources: ResourceRequirements,
    /// Anything else that the TURN pods shall have, merged into the operator's template.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_template: Option<PodTemplate>,
}

impl Default for Turn {
    fn default() -> Self {
        Self {
            mode: TurnMode::default(),
            placement: Placement::default(),
            listeners: vec![
                Listener { name: "udp".into(), transport: Transport::Udp, port: 3478, tls: None },
                Listener { name: "tcp".into(), transport: Transport::Tcp, port: 3478, tls: None },
            ],
            relay_ports: PortRange::default(),
            realm: "rtc".to_owned(),
            addresses: Addresses::default(),
            quotas: Quotas::default(),
            peers: Peers::default(),
            update: Update::default(),
            resources: resources("100m", "64Mi"),
            pod_template: None,
        }
    }
}

impl Turn {
    /// What one user may hold in the whole fleet, where that is bounded.
    #[must_use]
    pub fn fleet_quota(&self) -> Option<u32> {
        Some(self.quotas.fleet_allocations_per_user).filter(|quota| *quota > 0 && self.relays())
    }

    /// Whether the servers relay.
    #[must_use]
    pub fn relays(&self) -> bool {
        self.mode == TurnMode::Turn
    }

    /// How many allocations a node can hold: one takes a relay port.
    #[must_use]
    pub fn allocations_per_node(&self) -> u32 {
        if !self.relays() {
            return 0;
        }
        let ports = u32::from(self.relay_ports.max.saturating_sub(self.relay_ports.min)) + 1;
        match self.quotas.allocations {
            0 => ports,
            quota => quota.min(ports),
        }
    }
}

/// What the servers offer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TurnMode {
    /// STUN and relays.
    #[default]
    #[serde(rename = "TURN")]
    Turn,
    /// STUN alone.
    #[serde(rename = "STUNOnly")]
    StunOnly,
}

/// Which nodes run a TURN pod.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Placement {
    /// Labels that a node must have.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Taints of nodes that the pods tolerate.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub tolerations: Vec<Toleration>,
    /// Rules beyond labels, as pods have them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
}

/// A port that clients connect to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Listener {
    /// A name of its own: lower-case letters, digits and dashes, at most 15.
    #[schemars(length(min = 1, max = 15), regex(pattern = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"))]
    pub name: String,
    /// `UDP`, `TCP`, `TLS` or `DTLS`.
    pub transport: Transport,
    /// The port on the node. 3478 is TURN's own, 5349 that of TURN over TLS and DTLS; 443 passes most firewalls.
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
    /// The certificate, for `TLS` and `DTLS`: the same one for all listeners of a TURN pod. Clients are given
    /// addresses rather than host names, so the certificate must name the nodes' addresses (as IP SANs) where
    /// clients check it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
}

impl Listener {
    /// Whether the port is one that Linux leaves to root, or to who has CAP_NET_BIND_SERVICE.
    #[must_use]
    pub const fn is_privileged(&self) -> bool {
        self.port < 1024
    }
}

/// How clients talk to a TURN server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum Transport {
    /// Plain UDP: the one that media prefers.
    Udp,
    /// Plain TCP, for networks that block UDP.
    Tcp,
    /// TLS over TCP.
    Tls,
    /// DTLS over UDP.
    Dtls,
}

impl Transport {
    /// The scheme of `rtc-turn --listen`.
    #[must_use]
    pub const fn scheme(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Dtls => "dtls",
        }
    }

    /// Whether it runs over UDP rather than TCP.
    #[must_use]
    pub const fn over_udp(self) -> bool {
        matches!(self, Self::Udp | Self::Dtls)
    }

    /// Whether it needs a certificate.
    #[must_use]
    pub const fn needs_tls(self) -> bool {
        matches!(self, Self::Tls | Self::Dtls)
    }
}

/// A range of ports, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct PortRange {
    /// The lowest port.
    #[schemars(range(min = 1024, max = 65535))]
    pub min: u16,
    /// The highest port.
    #[schemars(range(min = 1024, max = 65535))]
    pub max: u16,
}

impl Default for PortRange {
    fn default() -> Self {
        Self { min: 49152, max: 65535 }
    }
}

/// Under which addresses clients reach the nodes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Addresses {
    /// Where to look, the first that has an address wins. A node without any is excluded, and the condition
    /// `AddressesResolved` names it. `STUN` is passed over while `stunServer` is not set. Leave `NodeInternalIP`
    /// out where clients cannot reach it, so that a node is rather excluded than given to them by it.
    #[schemars(length(min = 1, max = 4))]
    pub order: Vec<AddressSource>,
    /// The annotation of the node that lists its addresses, separated by commas.
    #[schemars(length(min = 1, max = 317))]
    pub annotation_key: String,
    /// A STUN server, `host:port`, that tells each TURN pod under which address its node is seen: for nodes behind
    /// a NAT that maps addresses one to one, port by port. It is asked again and again, and a changed address is
    /// followed. A node whose pod it does not answer has the next source's address; while it was not asked yet,
    /// clients are told what they were before.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 262))]
    pub stun_server: Option<String>,
    /// Which families of addresses are given to clients, where a node has them; the pods listen on each. Leave
    /// `IPv6` out where a node's kernel runs without it (`ipv6.disable=1`).
    #[schemars(length(min = 1, max = 2))]
    pub families: Vec<AddressFamily>,
}

impl Addresses {
    /// The STUN server, if one is to be asked.
    #[must_use]
    pub fn asked(&self) -> Option<&str> {
        self.stun_server.as_deref().filter(|_| self.order.contains(&AddressSource::Stun))
    }
}

impl Default for Addresses {
    fn default() -> Self {
        Self {
            order: vec![
                AddressSource::Annotation,
                AddressSource::NodeExternalIp,
                AddressSource::Stun,
                AddressSource::NodeInternalIp,
            ],
            annotation_key: ADDRESS_ANNOTATION.to_owned(),
            stun_server: None,
            families: vec![AddressFamily::IPv4, AddressFamily::IPv6],
        }
    }
}

/// Where a node's addresses come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AddressSource {
    /// The node's annotation `annotationKey`.
    Annotation,
    /// The node's addresses of type `ExternalIP`.
    #[serde(rename = "NodeExternalIP")]
    NodeExternalIp,
    /// What `stunServer` answers to the TURN pod.
    #[serde(rename = "STUN")]
    Stun,
    /// The node's addresses of type `InternalIP`.
    #[serde(rename = "NodeInternalIP")]
    NodeInternalIp,
}

/// A family of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AddressFamily {
    /// IPv4.
    IPv4,
    /// IPv6.
    IPv6,
}

/// Limits per TURN pod, and of one user in the whole fleet. 0 sets no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Quotas {
    /// Allocations that one user may have on a pod.
    pub allocations_per_user: u32,
    /// Allocations that one user may have on all TURN pods together. They tell each other by the Redis of `redis`,
    /// which their nodes must reach: one by `Standalone` address, or the managed one. It is decided by what was
    /// learnt about a second ago. Condition `FleetQuotaActive` tells whether every pod reaches that Redis.
    pub fleet_allocations_per_user: u32,
    /// What a TURN pod does that does not reach that Redis: `Open` goes on by the pod's own counts, `Closed` refuses
    /// new allocations. Live ones go on either way.
    pub when_store_is_away: WhenStoreIsAway,
    /// Allocations of all users together.
    pub allocations: u32,
    /// Bytes per second that one allocation may relay, in each direction: 312500 for 2.5 Mbit/s. What is above
    /// is dropped, as a slow link would.
    pub bandwidth_per_allocation: u64,
}

/// What to do about new allocations while it is not known what users hold elsewhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum WhenStoreIsAway {
    /// Go on by the pod's own counts.
    #[default]
    Open,
    /// Refuse them.
    Closed,
}

/// Where clients may relay to. Private, loopback, link-local and metadata addresses and those of the cluster are
/// denied unless allowed; the relayed addresses of this fleet are allowed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Peers {
    /// Ranges to allow although they are denied by default, such as `10.20.0.0/16`.
    #[schemars(length(max = 256))]
    pub allow: Vec<Cidr>,
    /// Ranges to deny in addition.
    #[schemars(length(max = 256))]
    pub deny: Vec<Cidr>,
}

/// How TURN pods are replaced when their template changes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Update {
    /// `Drain` lets calls end first; `Immediate` replaces pods at once and cuts them.
    pub strategy: UpdateStrategy,
    /// How many nodes may be out of service at a time.
    #[schemars(range(min = 1, max = 1000))]
    pub max_unavailable: i32,
    /// A pod that still has allocations after this time is replaced all the same.
    pub deadline: Duration,
}

impl Default for Update {
    fn default() -> Self {
        Self { strategy: UpdateStrategy::default(), max_unavailable: 1, deadline: Duration::from_secs(3600) }
    }
}

/// Whether calls may end before their TURN pod is replaced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum UpdateStrategy {
    /// Take the node out of service, wait until its allocations end or the deadline passes, then replace.
    #[default]
    Drain,
    /// Replace at once.
    Immediate,
}
