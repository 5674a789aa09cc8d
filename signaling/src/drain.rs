//! Ending without anybody noticing: clients are told to resume elsewhere, each at a time of its own.

use crate::{hub::Hub, outbox::Out};
use rtc_signaling_proto::close;
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;

/// Clients reconnect within this time, so that the other replicas do not get all of them at once.
const SPREAD: Duration = Duration::from_secs(10);
/// How long the store is given at the end to be told of sessions that are left.
const LAST_WORDS: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(50);

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Sessions that were here at its beginning.
    pub before: usize,
    /// Sessions that were still here at the deadline; they were closed with 1012 and can be resumed.
    pub closed: usize,
}

/// Drains a replica. Ends when no session is left, or at `deadline`, which may move while it waits.
pub(crate) async fn drain(hub: &Arc<Hub>, deadline: impl Fn() -> Instant) -> Drained {
    let before = hub.sessions();
    let spread = deadline().saturating_duration_since(Instant::now()).mul_f64(0.5).min(SPREAD);
    hub.go_away(spread);
    while hub.sessions() > 0 && Instant::now() < deadline() {
        tokio::time::sleep(LOOK).await;
    }
    let closed = hub.sessions();
    hub.tell_all(|| Out::Close(close::RESTART, "this server restarts; resume on another one"));
    if tokio::time::timeout(LAST_WORDS, hub.detach_all()).await.is_err() {
        tracing::warn!("the store was not told of every session that is left; their lease will run out");
    }
    tracing::info!(before, closed, "drained");
    Drained { before, closed }
}
