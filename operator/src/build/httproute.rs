//! The way in from outside, by the Gateway API.

use serde_json::json;

use super::{Build, Desired, Kind, pod, service};

/// The HTTPRoute to the signaling Service, where the manifest asks for one.
#[must_use]
pub fn build(build: &Build<'_>) -> Option<Desired> {
    let wanted = build.cluster.spec.signaling.route.as_ref()?.gateway.as_ref()?;
    Some(build.object(
        Kind::HttpRoute,
        "signaling",
        "signaling",
        pod::compact(json!({"spec": {
            "parentRefs": wanted.parent_refs,
            "hostnames": (!wanted.hostnames.is_empty()).then_some(&wanted.hostnames),
            "rules": [{
                "matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
                "backendRefs": [{"name": build.object_name("signaling"), "port": service::port(&build.cluster.spec).1}],
            }],
        }})),
    ))
}
