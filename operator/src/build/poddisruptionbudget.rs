//! How many signaling pods a node drain may take at a time.

use serde_json::json;

use super::{Build, Desired, Kind};

/// One at a time, and broken ones always; none for a single pod, which would block every node drain.
#[must_use]
pub fn build(build: &Build<'_>) -> Option<Desired> {
    (build.cluster.spec.signaling.replicas > 1).then(|| {
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
