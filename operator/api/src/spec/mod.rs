//! What a manifest may say. One file per part of the spec.

mod credentials;
mod image;
mod pod;
mod redis;
mod signaling;
mod turn;

use std::{borrow::Cow, collections::BTreeMap};

pub use credentials::{Credentials, Rotation};
pub use image::{Image, PullPolicy};
pub use pod::{PodTemplate, PodTemplateMetadata};
pub use redis::{ExternalRedis, ManagedRedis, Redis, RedisMode, RedisTls};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
pub(crate) use signaling::DEFAULT_REPLICAS;
pub use signaling::{
    Auth, AuthMode, Autoscaling, Drain, Gateway, GatewayParentRef, Ingress, Jwt, Route, Signaling, Webhook,
};
pub use turn::{
    AddressFamily, AddressSource, Addresses, Listener, Peers, Placement, PortRange, Quotas, Transport, Turn,
    TurnMode, Update, UpdateStrategy, WhenStoreIsAway,
};

use crate::RtcClusterStatus;

/// A fleet of signaling servers and TURN servers for WebRTC: rooms, ICE servers with credentials that are valid
/// for a limited time, and relays on the nodes' own network. An empty spec works.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema, kube::CustomResource)]
#[kube(
    group = "rtc-operator.dev",
    version = "v1alpha1",
    kind = "RtcCluster",
    plural = "rtcclusters",
    shortname = "rtc",
    category = "all",
    namespaced,
    status = "RtcClusterStatus",
    derive = "PartialEq",
    doc = "A fleet of signaling servers and TURN servers for WebRTC, kept running, reachable and safely keyed.",
    scale(
        spec_replicas_path = ".spec.signaling.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    )
)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct RtcClusterSpec {
    /// Stop acting on this resource: everything that runs goes on running as it is, keys do not rotate, and
    /// nothing is repaired. Status is still reported.
    pub paused: bool,
    /// The container image of the signaling and TURN pods. Leave it out to run the image of the operator itself.
    pub image: Image,
    /// The servers that clients open a WebSocket to: rooms, messages, and ICE servers.
    pub signaling: Signaling,
    /// Where the rooms are kept. A small Redis is run for trying out unless `external` names one.
    pub redis: Redis,
    /// The STUN and TURN servers, one per selected node, on the node's own network.
    pub turn: Turn,
    /// The time-limited credentials that clients get for TURN, and the keys that sign them.
    pub credentials: Credentials,
    /// Objects for the Prometheus operator. They need its CustomResourceDefinitions in the cluster.
    pub monitoring: Monitoring,
    /// Who may connect to the pods.
    pub network_policies: NetworkPolicies,
}

/// Objects for the Prometheus operator. Condition `MonitoringApplied` tells whether its definitions are there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Monitoring {
    /// Create a ServiceMonitor for the admin ports of the signaling and TURN pods, and a headless Service for it.
    /// With `networkPolicies`, label the namespace of Prometheus with `rtc-operator.dev/monitoring: "true"`.
    pub service_monitor: bool,
    /// Create a PrometheusRule with alerts that say what to do. Some of them need the operator's own metrics
    /// (`metrics.serviceMonitor.enabled` of its chart).
    pub rules: bool,
    /// Labels of both, by which a Prometheus selects what it reads, such as `release: prometheus`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// Who may connect to the pods, and to whom these may, where the cluster's network enforces NetworkPolicies.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct NetworkPolicies {
    /// Create NetworkPolicies: everyone may connect to the signaling port, only the operator's namespace and
    /// namespaces with the label `rtc-operator.dev/monitoring: "true"` to the signaling pods' admin port, and only
    /// this RtcCluster's signaling pods to the managed Redis, and with `fleetAllocationsPerUser` the nodes of its TURN
    /// pods. Signaling pods may connect to DNS, the managed Redis, and the ports of `jwksURL` and `webhook.url`, or the
    /// namespaces of the Services that these name; to everywhere with an external Redis, whose address is in a Secret. TURN pods are
    /// on the network of their nodes, where the nodes' firewall decides. Set it to false where you keep policies
    /// of your own, or where `podTemplate` adds containers that listen or connect.
    pub enabled: bool,
}

impl Default for NetworkPolicies {
    fn default() -> Self {
        Self { enabled: true }
    }
}

/// Names a Secret in the namespace of the RtcCluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct SecretRef {
    /// The name of the Secret, in the namespace of the RtcCluster.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// Names one key of a Secret in the namespace of the RtcCluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct SecretKeyRef {
    /// The name of the Secret, in the namespace of the RtcCluster.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The key in the Secret's data.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

/// A certificate and its private key.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Tls {
    /// A Secret of type `kubernetes.io/tls`, with `tls.crt` and `tls.key`, as cert-manager writes it. A renewed
    /// certificate is served without a restart. Pods wait while the Secret is not there: condition
    /// `SecretsResolved` says so, and `CertificatesValid` tells when it expires.
    pub secret_ref: SecretRef,
}

/// Requests and limits as every pod of the cluster gets them unless the manifest says otherwise.
fn resources(cpu: &str, memory: &str) -> k8s_openapi::api::core::v1::ResourceRequirements {
    let quantity = |text: &str| k8s_openapi::apimachinery::pkg::api::resource::Quantity(text.to_owned());
    k8s_openapi::api::core::v1::ResourceRequirements {
        requests: Some([("cpu".into(), quantity(cpu)), ("memory".into(), quantity(memory))].into()),
        ..Default::default()
    }
}

/// An address range such as `10.0.0.0/8` or `fd00::/8`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidr(String);

impl Cidr {
    /// The range as written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Cidr {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not an address range; write for example 10.0.0.0/8 or fd00::/8");
        let (address, length) = text.split_once('/').ok_or_else(wrong)?;
        let address: std::net::IpAddr = address.parse().map_err(|_| wrong())?;
        let length: u8 = length.parse().map_err(|_| wrong())?;
        if length > if address.is_ipv4() { 32 } else { 128 } {
            return Err(wrong());
        }
        Ok(Self(text))
    }
}

impl From<Cidr> for String {
    fn from(cidr: Cidr) -> Self {
        cidr.0
    }
}

impl JsonSchema for Cidr {
    fn schema_name() -> Cow<'static, str> {
        "Cidr".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "maxLength": 43,
            "x-kubernetes-validations": [{
                "rule": "isCIDR(self)",
                "message": "not an address range; write for example 10.0.0.0/8 or fd00::/8"
            }]
        })
    }
}
