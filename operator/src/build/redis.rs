//! A single Redis without persistence, for trying out.

use serde_json::json;

use super::{Build, Desired, Kind, pod};

pub(super) const PORT: u16 = 6379;
/// The uid of `redis` in the official image.
const UID: i64 = 999;

/// How this RtcCluster's own pods reach it, be they on the network of their nodes.
#[must_use]
pub fn url(build: &Build<'_>) -> String {
    format!("redis://{}:{PORT}", build.object_name("redis"))
}

/// Its Deployment and Service; none where the manifest names a Redis of its own.
#[must_use]
pub fn build(build: &Build<'_>) -> Vec<Desired> {
    let redis = &build.cluster.spec.redis;
    if redis.external.is_some() {
        return Vec::new();
    }
    let managed = redis.managed.clone().unwrap_or_default();
    let probe = json!({"tcpSocket": {"port": "redis"}, "periodSeconds": 5, "timeoutSeconds": 2, "failureThreshold": 3});
    let template = json!({
        "metadata": {"labels": build.labels("redis")},
        "spec": {
            "serviceAccountName": build.object_name("redis"),
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            "securityContext": pod::security(UID),
            "containers": [{
                "name": "redis",
                "image": managed.image,
                "imagePullPolicy": "IfNotPresent",
                "args": ["redis-server", "--save", "", "--appendonly", "no", "--protected-mode", "no"],
                "ports": [{"name": "redis", "containerPort": PORT, "protocol": "TCP"}],
                "readinessProbe": probe,
                "livenessProbe": probe,
                "resources": managed.resources,
                "securityContext": pod::locked_down(),
                "volumeMounts": [{"name": "data", "mountPath": "/data"}],
            }],
            "volumes": [{"name": "data", "emptyDir": {"sizeLimit": "64Mi"}}],
        },
    });
    vec![
        build.object(
            Kind::Deployment,
            "redis",
            "redis",
            pod::compact(json!({"spec": {
                "replicas": 1,
                // Two at a time would be two truths.
                "strategy": {"type": "Recreate"},
                "selector": {"matchLabels": build.selector("redis")},
                "template": template,
            }})),
        ),
        build.object(
            Kind::Service,
            "redis",
            "redis",
            json!({"spec": {
                "selector": build.selector("redis"),
                "ports": [{"name": "redis", "port": PORT, "targetPort": "redis", "protocol": "TCP"}],
            }}),
        ),
    ]
}
