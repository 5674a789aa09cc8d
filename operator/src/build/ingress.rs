//! The way in from outside, by an Ingress.

use serde_json::json;

use super::{Build, Desired, Kind, pod, service};

/// The Ingress of the signaling Service, where the manifest asks for one.
#[must_use]
pub fn build(build: &Build<'_>) -> Option<Desired> {
    let wanted = build.cluster.spec.signaling.route.as_ref()?.ingress.as_ref()?;
    let backend = json!({"service": {"name": build.object_name("signaling"), "port": {"name": service::port(&build.cluster.spec).0}}});
    let tls =
        wanted.tls_secret_name.as_ref().map(|name| json!([{"hosts": [wanted.host], "secretName": name}]));
    Some(build.object(
        Kind::Ingress,
        "signaling",
        "signaling",
        pod::compact(json!({"spec": {
            "ingressClassName": wanted.class_name,
            "rules": [{
                "host": wanted.host,
                "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]},
            }],
            "tls": tls,
        }})),
    ))
}
