//! What the operator reports back.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the operator last saw and did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct RtcClusterStatus {
    /// The generation of the spec that the rest of the status is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// How many signaling pods there are, for the scale subresource.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,
    /// Selects the signaling pods, for the scale subresource.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// The signaling pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signaling: Option<SignalingStatus>,
    /// The TURN pods together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub turn: Option<TurnStatus>,
    /// The nodes that run, or shall run, a TURN pod: at most 64, those first that do not serve. Where
    /// there are more, the ConfigMap `NAME-nodes` lists all of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<NodeStatus>,
    /// The keys that sign credentials.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_ring: Option<KeyRingStatus>,
    /// Where clients connect to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoints: Option<Endpoints>,
    /// What is so and what is not, each with a reason and a sentence that says what to do: Ready, Progressing,
    /// Degraded, SignalingAvailable, TurnAvailable, AddressesResolved, KeyRingInSync, Draining, Paused,
    /// PodSecurityAdmitted; and where the manifest asks for what they are about AutoscalingActive, RouteReady,
    /// SecretsResolved, CertificatesValid, FleetQuotaActive and MonitoringApplied.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// The signaling pods.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct SignalingStatus {
    /// Pods that are ready.
    pub ready: i32,
    /// Pods that are wanted.
    pub desired: i32,
    /// Clients that are connected.
    pub connections: i64,
    /// `ready/desired`, for `kubectl get`.
    pub summary: String,
}

/// The TURN pods together.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct TurnStatus {
    /// Nodes that shall run a TURN pod.
    pub desired: i32,
    /// TURN pods that are ready.
    pub ready: i32,
    /// TURN pods that take no new allocations and wait for theirs to end.
    pub draining: i32,
    /// TURN pods that run the current template.
    pub updated: i32,
    /// Allocations that live.
    pub allocations: i64,
    /// Allocations that the nodes that serve can hold, by their relay ports and `quotas.allocations`.
    pub capacity: i64,
    /// `ready/desired`, for `kubectl get`.
    pub summary: String,
}

/// A node that runs, or shall run, a TURN pod.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct NodeStatus {
    /// The node's name.
    pub node: String,
    /// Under which addresses clients reach it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
    /// Whether clients are sent there.
    pub state: NodeState,
    /// Why it does not serve.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Allocations that live on it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allocations: Option<i64>,
    /// The revision of the key ring that it verifies by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_ring_revision: Option<i64>,
    /// Since when its pod drains to be replaced; `allocations` tells how many it waits for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub draining_since: Option<Time>,
    /// When it is replaced at the latest, with the calls that it has then: `update.deadline` after it began to drain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drain_deadline: Option<Time>,
}

/// Whether clients are sent to a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum NodeState {
    /// It is not used, or not yet: `reason` says why.
    #[default]
    Excluded,
    /// It takes no new allocations and waits for its own to end.
    Draining,
    /// Clients are sent there.
    Serving,
}

/// The keys that sign credentials.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct KeyRingStatus {
    /// Counts every change of the ring.
    pub revision: i64,
    /// The id of the key that signs.
    pub signing: String,
    /// All keys.
    pub keys: Vec<KeyStatus>,
    /// How many of the serving TURN pods have this revision, such as `4/5`.
    pub acknowledged: String,
    /// When the signing key began to sign.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_rotation: Option<Time>,
    /// When the next key will be staged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_rotation: Option<Time>,
}

/// One key.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct KeyStatus {
    /// Its name; the secret itself is only in the Secret.
    pub id: String,
    /// `Staged` (verifies, will sign), `Signing` or `Retiring` (verifies until `notAfter`).
    pub state: String,
    /// When it stops verifying.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_after: Option<Time>,
}

/// Where clients connect to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct Endpoints {
    /// URLs of the signaling Service.
    pub signaling: Vec<String>,
    /// `turn:` and `turns:` URIs of the nodes that serve, or `stun:` with mode `STUNOnly`: at most 32.
    pub turn: Vec<String>,
}
