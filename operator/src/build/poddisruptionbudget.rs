//! How many signaling pods a node drain may take at a time.

use serde_json::json;

use super::{Build, Desired, Kind};

/// One at a time, and broken ones always; none for a single pod, which would block every node drain.
#[must_use]
pub fn build(build: &Build<'_>) -> Option<Desired> {
    let signaling = &build.cluster.spec.signaling;
    let most = signaling.autoscaling.as_ref().map_or(signaling.replicas, |scaling| scaling.max_replicas);
    (most > 1).then(|| {
        build.object(
            Kind::PodDisruptionBudget,
            "signaling",
            "signaling",
            json!({"spec": {
                "maxUnavailable": 1,
                "unhealthyPodEvictionPolicy": "AlwaysAllow",
                "selector": {"matchLabels": build.selector("signaling")},
            }}),
        )
    })
}
