//! Who may connect to the signaling pods and to the managed Redis. TURN pods are on their nodes' network, where
//! these policies have no say.

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
    let mut policies = vec![policy(build, "signaling", signaling)];
    if build.cluster.spec.redis.external.is_none() {
        let from = json!([{"podSelector": {"matchLabels": build.selector("signaling")}}]);
        policies.push(policy(build, "redis", json!([{"ports": tcp(redis::PORT), "from": from}])));
    }
    policies
}

fn policy(build: &Build<'_>, component: &str, ingress: Value) -> Desired {
    build.object(
        Kind::NetworkPolicy,
        component,
        component,
        json!({"spec": {
            "podSelector": {"matchLabels": build.selector(component)},
            "policyTypes": ["Ingress"],
            "ingress": ingress,
        }}),
    )
}
