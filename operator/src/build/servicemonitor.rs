//! Where Prometheus finds the admin ports of signaling and TURN pods.

use serde_json::{Value, json};

use super::{Build, CLUSTER_LABEL, COMPONENT_LABEL, Desired, Kind};

/// The port's name, in the Service and in the ServiceMonitor.
const PORT: &str = "metrics";
/// The number that the Service shows; the pods have each their own.
const NUMBER: u16 = 9640;

/// The ServiceMonitor and the headless Service that it selects, where the manifest asks for them.
#[must_use]
pub fn build(build: &Build<'_>) -> Vec<Desired> {
    if !build.cluster.spec.monitoring.service_monitor {
        return Vec::new();
    }
    let service = build.object(
        Kind::Service,
        "metrics",
        "metrics",
        json!({"spec": {
            "clusterIP": "None",
            // A pod that is not ready is the one to look at.
            "publishNotReadyAddresses": true,
            // Signaling and TURN pods alike; Redis has no such port.
            "selector": {CLUSTER_LABEL: build.name},
            "ports": [{"name": PORT, "port": NUMBER, "targetPort": "admin", "protocol": "TCP"}],
        }}),
    );
    let label = |from: &str, to: &str| json!({"sourceLabels": [format!("__meta_kubernetes_pod_{from}")], "targetLabel": to});
    let monitor = build.object(
        Kind::ServiceMonitor,
        "metrics",
        "metrics",
        json!({
            "metadata": {"labels": labels(build)},
            "spec": {
                "selector": {"matchLabels": {CLUSTER_LABEL: build.name, COMPONENT_LABEL: "metrics"}},
                "endpoints": [{
                    "port": PORT,
                    "interval": "30s",
                    "relabelings": [
                        label("node_name", "node"),
                        label("label_app_kubernetes_io_component", "component"),
                    ],
                }],
            },
        }),
    );
    vec![service, monitor]
}

/// The labels by which a Prometheus selects its objects, but for those of the operator.
pub(super) fn labels(build: &Build<'_>) -> Value {
    let own = build.labels("metrics");
    let wanted = build.cluster.spec.monitoring.labels.iter();
    wanted
        .filter(|(name, _)| own.get(name).is_none())
        .map(|(name, value)| (name.clone(), json!(value)))
        .collect()
}
