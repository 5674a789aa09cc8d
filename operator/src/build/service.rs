//! The Service that clients reach the signaling pods by.

use rtc_operator_api::RtcClusterSpec;
use serde_json::json;

use super::{Build, Desired, Kind};

/// The name and number of the signaling Service's port: another one with TLS, so that clients who speak TLS never
/// meet a pod that does not yet.
#[must_use]
pub fn port(spec: &RtcClusterSpec) -> (&'static str, u16) {
    if spec.signaling.tls.is_some() { ("https", 443) } else { ("http", 80) }
}

/// A Service that sends a client to one pod: long polling and fallbacks need the same one.
#[must_use]
pub fn build(build: &Build<'_>) -> Desired {
    let (name, number) = port(&build.cluster.spec);
    build.object(
        Kind::Service,
        "signaling",
        "signaling",
        json!({"spec": {
            "selector": build.selector("signaling"),
            "ports": [{
                "name": name, "port": number, "targetPort": name, "protocol": "TCP", "appProtocol": name
            }],
            "sessionAffinity": "ClientIP",
            "ipFamilyPolicy": "PreferDualStack",
        }}),
    )
}
