//! What the admin port tells of a replica.

use crate::server::Server;
use rtc_service::admin::Program;
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};

/// A replica as the program of an admin port.
#[derive(Clone, Debug)]
pub struct Admin(pub Arc<Server>);

impl Program for Admin {
    fn ready(&self) -> Result<(), String> {
        self.0.ready()
    }

    fn status(&self) -> Value {
        self.0.status()
    }

    fn metrics(&self) -> String {
        self.0.metrics()
    }

    fn drain(&self, deadline: Option<Duration>) {
        let server = self.0.clone();
        tokio::spawn(async move { server.drain(deadline).await });
    }
}

/// `/status` of a replica.
pub(crate) fn status(server: &Server) -> Value {
    let hub = server.hub();
    let down = hub.store().down();
    let mut status = json!({
        "program": "rtc-signaling",
        "version": env!("CARGO_PKG_VERSION"),
        "replica": hub.replica().as_str(),
        "connections": server.connections(),
        "sessions": hub.sessions(),
        "rooms": hub.rooms(),
        "draining": server.is_draining(),
        "store": {"kind": hub.store().kind(), "up": down.is_none()},
    });
    if let Some(down) = down {
        status["store"]["reason"] = down.to_string().into();
    }
    if let (Some(status), Value::Object(ice)) = (status.as_object_mut(), server.ice().status()) {
        status.extend(ice);
    }
    status
}
