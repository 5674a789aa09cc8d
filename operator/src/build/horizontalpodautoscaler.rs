//! How many signaling pods run, where the load decides.

use serde_json::json;

use super::{Build, Desired, Kind};

/// The metric of signaling pods that counts open connections.
pub const CONNECTIONS_METRIC: &str = "rtc_signaling_connections";

/// The autoscaler of the signaling Deployment, where the manifest asks for one.
#[must_use]
pub fn build(build: &Build<'_>) -> Option<Desired> {
    let wanted = build.cluster.spec.signaling.autoscaling.as_ref()?;
    let metric = match wanted.target_connections_per_pod {
        Some(connections) => json!({
            "type": "Pods",
            "pods": {
                "metric": {"name": CONNECTIONS_METRIC},
                "target": {"type": "AverageValue", "averageValue": connections.to_string()},
            },
        }),
        None => json!({
            "type": "Resource",
            "resource": {
                "name": "cpu",
                "target": {"type": "Utilization", "averageUtilization": wanted.target_cpu_utilization},
            },
        }),
    };
    Some(build.object(
        Kind::HorizontalPodAutoscaler,
        "signaling",
        "signaling",
        json!({"spec": {
            "scaleTargetRef": {
                "apiVersion": Kind::Deployment.api_version(),
                "kind": Kind::Deployment.name(),
                "name": build.object_name("signaling"),
            },
            "minReplicas": wanted.min_replicas,
            "maxReplicas": wanted.max_replicas,
            "metrics": [metric],
            // Every pod that goes sends its clients to the others, so that few go at a time.
            "behavior": {"scaleDown": {
                "stabilizationWindowSeconds": 300,
                "selectPolicy": "Max",
                "policies": [
                    {"type": "Pods", "value": 1, "periodSeconds": 60},
                    {"type": "Percent", "value": 10, "periodSeconds": 60},
                ],
            }},
        }}),
    ))
}
