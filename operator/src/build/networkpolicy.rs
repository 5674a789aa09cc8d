//! Who may connect to the signaling pods and to the managed Redis, and to whom those may. TURN pods are on their nodes' network, where
//! these policies have no say.

use std::{collections::BTreeSet, net::IpAddr};

use rtc_operator_api::{RtcClusterSpec, spec::AuthMode};
use serde_json::{Value, json};

use super::{Build, Desired, Kind, deployment, redis};

/// Pods of namespaces with this label, set to `true`, may read the metrics of the signaling pods.
pub const MONITORING_LABEL: &str = "rtc-operator.dev/monitoring";
/// The label that every namespace has with its own name.
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

/// The policies, where the manifest does not leave them out. `namespace` is the operator's own, `nodes` the addresses of
/// the nodes with TURN pods.
#[must_use]
pub fn build(build: &Build<'_>, namespace: &str, nodes: &BTreeSet<IpAddr>) -> Vec<Desired> {
    if !build.cluster.spec.network_policies.enabled {
        return Vec::new();
    }
    let tcp = |port: u16| json!([{"port": port, "protocol": "TCP"}]);
    let signaling = json!([
        {"ports": tcp(deployment::PORT)},
        {
            "ports": tcp(deployment::ADMIN),
            "from": [namespaces(NAMESPACE_NAME, namespace), namespaces(MONITORING_LABEL, "true")],
        },
    ]);
    if build.cluster.spec.redis.external.is_some() {
        // Where that Redis is, its Secret alone tells, so that what goes out cannot be bounded.
        return vec![policy(build, "signaling", json!({"policyTypes": ["Ingress"], "ingress": signaling}))];
    }
    let pods = |component: &str| json!({"podSelector": {"matchLabels": build.selector(component)}});
    // 5353 is where OpenShift's DNS pods listen, which the policy sees behind the Service's 53.
    let dns: Vec<_> = [53, 5353]
        .into_iter()
        .flat_map(|port| ["UDP", "TCP"].map(|protocol| json!({"port": port, "protocol": protocol})))
        .collect();
    let mut out = vec![json!({"ports": dns}), json!({"ports": tcp(redis::PORT), "to": [pods("redis")]})];
    out.extend(asked(&build.cluster.spec).filter_map(destination));
    let mut from = vec![pods("signaling")];
    if build.cluster.spec.turn.fleet_quota().is_some() {
        // TURN pods have the addresses of their nodes, and no label counts there.
        from.extend(nodes.iter().map(|node| {
            let length = if node.is_ipv4() { 32 } else { 128 };
            json!({"ipBlock": {"cidr": format!("{node}/{length}")}})
        }));
    }
    let types = ["Ingress", "Egress"];
    vec![
        policy(build, "signaling", json!({"policyTypes": types, "ingress": signaling, "egress": out})),
        policy(
            build,
            "redis",
            json!({"policyTypes": types, "ingress": [{"ports": tcp(redis::PORT), "from": from}], "egress": []}),
        ),
    ]
}

fn namespaces(key: &str, value: &str) -> Value {
    json!({"namespaceSelector": {"matchLabels": {key: value}}})
}

/// The URLs that signaling pods ask: of the issuer of tokens, who publishes keys there, and of who is told who comes and
/// goes.
fn asked(spec: &RtcClusterSpec) -> impl Iterator<Item = &str> {
    let auth = &spec.signaling.auth;
    let jwt = auth.jwt.as_ref().filter(|_| auth.mode == AuthMode::Jwt);
    let issuer = jwt.and_then(|jwt| jwt.jwks_url.as_deref());
    issuer.into_iter().chain(spec.signaling.webhook.as_ref().map(|webhook| webhook.url.as_str()))
}

/// Where a URL leads: to pods of the namespace of a Service, which may listen on another port than the Service does; or to
/// that port of anybody, since policies know no names.
fn destination(url: &str) -> Option<Value> {
    let url: hyper::Uri = url.parse().ok()?;
    let parts: Vec<_> = url.host()?.split('.').collect();
    if let [_, namespace, "svc", ..] = parts[..] {
        return Some(json!({"to": [namespaces(NAMESPACE_NAME, namespace)]}));
    }
    let port = url.port_u16().unwrap_or(if url.scheme_str() == Some("http") { 80 } else { 443 });
    Some(json!({"ports": [{"port": port, "protocol": "TCP"}]}))
}

fn policy(build: &Build<'_>, component: &str, mut spec: Value) -> Desired {
    spec["podSelector"] = json!({"matchLabels": build.selector(component)});
    build.object(Kind::NetworkPolicy, component, component, json!({"spec": spec}))
}
