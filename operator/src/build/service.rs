//! The Service that clients reach the signaling pods by.

use serde_json::json;

use super::{Build, Desired, Kind};

/// The port of the signaling Service.
pub const PORT: u16 = 80;

/// A Service that sends a client to one pod: long polling and fallbacks need the same one.
#[must_use]
pub fn build(build: &Build<'_>) -> Desired {
    build.object(
        Kind::Service,
        "signaling",
        "signaling",
        json!({"spec": {
            "selector": build.selector("signaling"),
            "ports": [{"name": "http", "port": PORT, "targetPort": "http", "protocol": "TCP"}],
            "sessionAffinity": "ClientIP",
        }}),
    )
}
