use k8s_openapi::api::core::v1::ResourceRequirements;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{PodTemplate, SecretKeyRef, Tls, resources};
use crate::Duration;

/// The servers that clients open a WebSocket to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Signaling {
    /// How many signaling pods run. A room may span all of them. `kubectl scale rtc/NAME --replicas=N` sets
    /// this too. Leave it out when `autoscaling` is set: `kubectl scale` is then refused, and `status.replicas`
    /// tells how many there are.
    #[schemars(range(min = 0, max = 1000))]
    pub replicas: i32,
    /// Let the load decide how many signaling pods run, by a HorizontalPodAutoscaler of the Deployment, whose
    /// number of replicas the operator then leaves alone. Excludes `replicas`. Condition `AutoscalingActive`
    /// tells whether the load can be measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub autoscaling: Option<Autoscaling>,
    /// How many members a room may have; 0 sets no limit. A member that joins a full room gets `full`.
    #[schemars(range(min = 0, max = 100_000))]
    pub max_room_members: u32,
    /// Who may join a room.
    pub auth: Auth,
    /// The `Origin`s of web pages that may connect, such as `https://calls.example.com`; `*` allows all.
    #[schemars(length(max = 64))]
    pub allowed_origins: Vec<String>,
    /// Tell a backend who comes to rooms and who goes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub webhook: Option<Webhook>,
    /// Serve TLS from the signaling pods themselves, behind port 443 of the Service. Leave it out where a Gateway
    /// or an Ingress ends TLS: with both, that one must speak TLS to its backend (a Gateway needs a
    /// BackendTLSPolicy, an Ingress an annotation of its controller).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// How clients outside the cluster reach the signaling Service. `status.endpoints.signaling` names the host,
    /// and condition `RouteReady` tells whether it is led in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<Route>,
    /// What happens to the connections of a pod that shall stop.
    pub drain: Drain,
    /// Requests and limits of the signaling container.
    pub resources: ResourceRequirements,
    /// Anything else that the signaling pods shall have, merged into the operator's template.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_template: Option<PodTemplate>,
}

/// `replicas` when the manifest is silent: one may fail or drain while the other serves.
pub(crate) const DEFAULT_REPLICAS: i32 = 2;

impl Default for Signaling {
    fn default() -> Self {
        Self {
            replicas: DEFAULT_REPLICAS,
            autoscaling: None,
            max_room_members: 0,
            auth: Auth::default(),
            allowed_origins: vec!["*".to_owned()],
            webhook: None,
            tls: None,
            route: None,
            drain: Drain::default(),
            resources: resources("50m", "64Mi"),
            pod_template: None,
        }
    }
}

/// Bounds between which the number of signaling pods follows the load.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Autoscaling {
    /// The fewest pods.
    #[schemars(range(min = 1, max = 1000))]
    pub min_replicas: i32,
    /// The most pods.
    #[schemars(range(min = 1, max = 1000))]
    pub max_replicas: i32,
    /// Run so many pods that each has about this many connections. Excludes `targetCPUUtilization`. Needs an
    /// adapter, such as prometheus-adapter, that serves the Pods metric `rtc_signaling_connections` as the sum
    /// over its dialects.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub target_connections_per_pod: Option<u32>,
    /// Run so many pods that each uses about this percentage of the CPU that it requests. Excludes
    /// `targetConnectionsPerPod`. Needs metrics-server.
    #[serde(rename = "targetCPUUtilization", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub target_cpu_utilization: Option<i32>,
}

impl Default for Autoscaling {
    fn default() -> Self {
        Self {
            min_replicas: DEFAULT_REPLICAS,
            max_replicas: 10,
            target_connections_per_pod: None,
            target_cpu_utilization: None,
        }
    }
}

/// Who may join a room.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Auth {
    /// `Anonymous` lets everyone in, for trying out; `JWT` asks for a signed token.
    pub mode: AuthMode,
    /// Which tokens are accepted. Needed with mode `JWT`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwt: Option<Jwt>,
}

/// How members prove who they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AuthMode {
    /// They do not. For trying out: everyone who reaches the endpoint can join every room and use TURN.
    #[default]
    Anonymous,
    /// By a JSON Web Token in the `Authorization` header, the `access_token` query parameter, or as the dialect says.
    #[serde(rename = "JWT")]
    Jwt,
}

/// Which JSON Web Tokens are accepted. Set one of `secretRef` and `jwksURL`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Jwt {
    /// The keys that tokens are signed with, as one key of a Secret: a JSON Web Key Set, a public key
    /// as PEM, or a shared secret of 32 bytes or more (HS256). Changes take effect without a restart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretKeyRef>,
    /// Where the issuer publishes its public keys, for example `https://issuer.example.com/jwks.json`.
    #[serde(rename = "jwksURL", skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048))]
    pub jwks_url: Option<String>,
    /// What the token's `iss` must be. Any when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// What the token's `aud` must contain. When left out, tokens that have an `aud` are refused: they are for
    /// somebody else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audience: Option<String>,
}

/// How clients outside the cluster reach the signaling Service. Set one of `gateway` and `ingress`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Route {
    /// Create an HTTPRoute. Needs the CustomResourceDefinitions of the Gateway API (`gateway.networking.k8s.io/v1`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<Gateway>,
    /// Create an Ingress. Annotations that others put on it, such as time limits for its controller or an issuer
    /// for cert-manager, stay.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingress: Option<Ingress>,
}

/// An HTTPRoute to the signaling Service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Gateway {
    /// The Gateways that the route attaches to.
    #[schemars(length(min = 1, max = 16))]
    pub parent_refs: Vec<GatewayParentRef>,
    /// The host names that the route answers to. All of the Gateway's when left out.
    #[serde(default)]
    #[schemars(length(max = 16))]
    pub hostnames: Vec<String>,
}

/// Names a Gateway.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct GatewayParentRef {
    /// The Gateway's name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The Gateway's namespace. The RtcCluster's own when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// One listener of the Gateway. All that fit when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub section_name: Option<String>,
}

/// An Ingress to the signaling Service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Ingress {
    /// The IngressClass. The cluster's default when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class_name: Option<String>,
    /// The host name.
    #[schemars(length(min = 1, max = 253))]
    pub host: String,
    /// A Secret of type `kubernetes.io/tls` for that host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_secret_name: Option<String>,
}

/// Who is told who comes to rooms and who goes, by POST of JSON as Standard Webhooks
/// (<https://www.standardwebhooks.com>), at least once and in order for each room.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Webhook {
    /// Where to: `https://`, or `http://` to a Service of this cluster, `http://NAME.NAMESPACE.svc/PATH`. It is seen in
    /// the arguments of the pods: what the receiver knows us by is `secretRef`, not something in here.
    #[schemars(length(min = 1, max = 1024))]
    pub url: String,
    /// The key of a Secret that holds what signs: `whsec_` and base64 of at least 24 bytes, or as many of text. A
    /// changed one is used without a restart; with several lines each request has a signature by each, which is how
    /// to replace one.
    pub secret_ref: SecretKeyRef,
}

/// What happens to the connections of a signaling pod that shall stop.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Drain {
    /// Within this time every client is told, after a random delay of its own, to resume on another pod.
    pub timeout: Duration,
}

impl Default for Drain {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(60) }
    }
}
