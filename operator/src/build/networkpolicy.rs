//! Who may connect to the signaling pods and to the managed Redis, and to whom those may. TURN pods are on their nodes' network, where
//! these policies have no say.

use rtc_operator_api::{RtcClusterSpec, spec::AuthMode};
use serde_json::{Value, json};

use super::{Build, Desired, Kind, deployment, redis};

/// Pods of namespaces with this label, set to `true`, may read the metrics of the signaling pods.
pub const MONITORING_LABEL: &str = "rtc-operator.dev/monitoring";

/// The policies, where the manifest does not leave them out. `namespace` is the operator's own.
#[must_use]
pub fn build(build: &Build<'_>, namespace: &str) -> Vec<Desired> {
    if !build.cluster.spec.network_policies.enabled {
        return Vec::new();
    }
    let tcp = |port: u16| json!([{"port": port, "protocol": "TCP"}]);
    let namespaces = |key: &str, value: &str| json!({"namespaceSelector": {"matchLabels": {key: value}}});
    let signaling = json!([
        {"ports": tcp(deployment::PORT)},
        {
            "ports": tcp(deployment::ADMIN),
            "from": [namespaces("kubernetes.io/metadata.name", namespace), namespaces(MONITORING_LABEL, "true")],
        },
    ]);
    if build.cluster.spec.redis.external.is_some() {
        // Where that Redis is, its Secret alone tells, so that what goes out cannot be bounded.
        return vec![policy(build, "signaling", json!({"policyTypes": ["Ingress"], "ingress": signaling}))];
    }
    let pods = |component: &str| json!([{"podSelector": {"matchLabels": build.selector(component)}}]);
    // 5353 is where OpenShift's DNS pods listen, which the policy sees behind the Service's 53.
    let dns: Vec<_> = [53, 5353]
        .into_iter()
        .flat_map(|port| ["UDP", "TCP"].map(|protocol| json!({"port": port, "protocol": protocol})))
        .collect();
    let mut out = vec![json!({"ports": dns}), json!({"ports": tcp(redis::PORT), "to": pods("redis")})];
    out.extend(issuer_port(&build.cluster.spec).map(|port| json!({"ports": tcp(port)})));
    let types = ["Ingress", "Egress"];
    vec![
        policy(build, "signaling", json!({"policyTypes": types, "ingress": signaling, "egress": out})),
        policy(
            build,
            "redis",
            json!({
                "policyTypes": types,
                "ingress": [{"ports": tcp(redis::PORT), "from": pods("signaling")}],
                "egress": [],
            }),
        ),
    ]
}

/// The port of the issuer of tokens, which publishes its keys at a URL.
fn issuer_port(spec: &RtcClusterSpec) -> Option<u16> {
    let auth = &spec.signaling.auth;
    let url = auth.jwt.as_ref().filter(|_| auth.mode == AuthMode::Jwt)?.jwks_url.as_ref()?;
    let url: hyper::Uri = url.parse().ok()?;
    url.port_u16().or(Some(if url.scheme_str() == Some("http") { 80 } else { 443 }))
}

fn policy(build: &Build<'_>, component: &str, mut spec: Value) -> Desired {
    spec["podSelector"] = json!({"matchLabels": build.selector(component)});
    build.object(Kind::NetworkPolicy, component, component, json!({"spec": spec}))
}
