//! The handle of a running server, and what its admin port tells.

use crate::server::{Failed, Shared};
use rtc_credentials::{KeyRing, Transport};
use rtc_service::{admin, clock::unix_now, metrics};
use std::{
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::time::sleep;

/// How many users `/status` lists.
const TOP_USERS: usize = 20;

/// A running server. It runs on when the handle is dropped.
#[derive(Clone, Debug)]
pub struct Handle(Arc<Shared>);

impl Handle {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self(shared)
    }

    /// Where clients connect: the ports that were picked where 0 was asked for.
    #[must_use]
    pub fn local_addrs(&self) -> &[(Transport, SocketAddr)] {
        &self.0.local
    }

    /// Where the admin port is, if there is one.
    #[must_use]
    pub fn admin_addr(&self) -> Option<SocketAddr> {
        self.0.admin
    }

    /// Waits until a probe has relayed through the server.
    pub async fn ready(&self) {
        while admin::Program::ready(self).is_err() && self.0.stopped.borrow().is_none() {
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Takes new keys, where they do not come from a directory. Live allocations keep theirs.
    pub fn set_keys(&self, ring: KeyRing) {
        self.0.set_keys(ring);
    }

    /// What `/status` answers.
    #[must_use]
    pub fn status(&self) -> serde_json::Value {
        let total = self.0.telemetry.total();
        let state = self.0.state();
        let keys: Vec<_> = state.ring.verifying(unix_now()).map(|key| key.id.to_string()).collect();
        let relay: Vec<_> = state.relay.iter().map(|relay| relay.advertised).collect();
        let users: serde_json::Map<_, _> = self
            .0
            .quotas
            .top(TOP_USERS)
            .into_iter()
            .map(|(user, held)| (user.to_string(), held.into()))
            .collect();
        let errors: Vec<_> =
            self.0.telemetry.reload_errors().iter().map(|(what, error)| format!("{what}: {error}")).collect();
        let reload_error = (!errors.is_empty()).then(|| errors.join("; "));
        let external = self.0.config.external_stun.as_ref().map(|stun| {
            let known = &state.external;
            serde_json::json!({"server": stun.server, "addresses": known.addresses, "error": known.error})
        });
        let quota_store = self.0.telemetry.quota_store_up.as_ref();
        let quota_store = quota_store.map(|up| serde_json::json!({"up": up.load(Ordering::Relaxed)}));
        serde_json::json!({
            "program": "rtc-turn",
            "version": env!("CARGO_PKG_VERSION"),
            "ring": {"revision": total.work.ring_revision, "keys": keys},
            "fleetRevision": state.fleet.as_ref().map(|fleet| &fleet.revision),
            "allocations": total.counters.live,
            "connections": total.work.connections,
            "peerConnections": total.work.peer_connections,
            "draining": self.0.is_draining(),
            "relayAddresses": relay,
            "external": external,
            "users": users,
            "reloadError": reload_error,
            "quotaStore": quota_store,
            "needRestart": state.need_restart,
        })
    }

    /// Refuses new allocations, and stops the server when the last one has ended or after `deadline`.
    /// A second call may shorten the deadline.
    pub fn drain(&self, deadline: Duration) {
        self.0.drain(deadline);
    }

    /// Waits until the server has stopped.
    ///
    /// # Errors
    /// [`Failed`] when it stopped because a worker failed.
    pub async fn stopped(&self) -> Result<(), Failed> {
        let mut stopped = self.0.stopped.subscribe();
        match stopped.wait_for(Option::is_some).await {
            Ok(result) => result.clone().unwrap_or(Ok(())),
            Err(_) => Ok(()),
        }
    }
}

impl admin::Program for Handle {
    fn ready(&self) -> Result<(), String> {
        // a probe that began before the drain may end after it
        if self.0.is_draining() {
            return Err("draining".into());
        }
        self.0.state().ready.clone()
    }

    fn status(&self) -> serde_json::Value {
        Self::status(self)
    }

    fn metrics(&self) -> String {
        metrics::text(&self.0.registry)
    }

    fn drain(&self, deadline: Option<Duration>) {
        self.0.drain(deadline.unwrap_or(self.0.config.drain_timeout));
    }
}
