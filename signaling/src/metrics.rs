//! What is counted, as Prometheus reads it.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};
use std::sync::Mutex;

/// A kind of message in a dialect.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Message {
    /// `native`, `socketio`, `peerjs`, `y-webrtc`, `matchbox`, `api`.
    pub dialect: &'static str,
    /// `join`, `signal`, …
    pub kind: &'static str,
}

/// How a resume ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ResumeOutcome {
    /// `resumed`, `resync`, `unknown_session`, `unavailable`.
    pub outcome: &'static str,
}

/// Why a client was turned away.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Refused {
    /// `connections_per_address`, `joins_per_address`, `rooms`, `never_joined`, `unauthorized`.
    pub reason: &'static str,
}

/// In which dialect.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Dialect {
    /// `native`, `socketio`, `peerjs`, `y-webrtc`, `matchbox`.
    pub dialect: &'static str,
}

/// What came of a webhook.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct WebhookOutcome {
    /// `sent`, `failed` (and tried again), `dropped`.
    pub outcome: &'static str,
}

/// The counters of one replica.
#[derive(Debug)]
pub struct Metrics {
    /// Open connections.
    pub connections: Family<Dialect, Gauge>,
    /// Messages of clients.
    pub messages: Family<Message, Counter>,
    /// Of those, the native ones that are passed on: most of all.
    pub signals: Counter,
    /// Resumes.
    pub resumes: Family<ResumeOutcome, Counter>,
    /// Clients that were turned away.
    pub refused: Family<Refused, Counter>,
    /// Connections that were closed because their clients read too slowly.
    pub slow_readers: Counter,
    /// Seconds from a signal to its place in the log.
    pub store_write: Histogram,
    /// Seconds that Redis took for a script, waits for a slot that moves among them.
    pub store_answer: Histogram,
    /// Entries by which a room on this replica was behind its log when its lease was renewed.
    pub log_lag: Histogram,
    /// Times that missed entries were read from the log.
    pub gaps: Counter,
    /// Rooms that were taken afresh, because their log was lost.
    pub resyncs: Counter,
    /// Events that were sent to the backend, or were not.
    pub webhooks: Family<WebhookOutcome, Counter>,
    webhook_queue: Gauge,
    queue_bytes: Gauge,
    sessions: Gauge,
    rooms: Gauge,
    store_up: Gauge,
    registry: Mutex<Registry>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All at zero.
    #[must_use]
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("rtc_signaling");
        let connections = Family::<Dialect, Gauge>::default();
        let messages = Family::<Message, Counter>::default();
        let signals = messages.get_or_create_owned(&Message { dialect: "native", kind: "signal" });
        let resumes = Family::<ResumeOutcome, Counter>::default();
        let refused = Family::<Refused, Counter>::default();
        let (slow_readers, gaps, resyncs) = (Counter::default(), Counter::default(), Counter::default());
        let webhooks = Family::<WebhookOutcome, Counter>::default();
        let webhook_queue = Gauge::default();
        let queue_bytes = Gauge::default();
        let (sessions, rooms, store_up) = (Gauge::default(), Gauge::default(), Gauge::default());
        let store_write = Histogram::new([0.0001, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.25, 1.0, 5.0]);
        let store_answer =
            Histogram::new([0.0001, 0.00025, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.25, 1.0, 2.0]);
        let log_lag = Histogram::new([0.0, 1.0, 2.0, 4.0, 16.0, 64.0, 256.0]);
        registry.register("connections", "Open connections of clients", connections.clone());
        registry.register("messages", "Messages of clients", messages.clone());
        registry.register("resumes", "Sessions that clients tried to resume", resumes.clone());
        registry.register("refused", "Clients that were turned away", refused.clone());
        registry.register(
            "slow_readers",
            "Connections closed because their clients read too slowly",
            slow_readers.clone(),
        );
        let about = "Time from a signal to its place in the room's log";
        registry.register_with_unit("store_write", about, Unit::Seconds, store_write.clone());
        let about = "Time that Redis took for a script";
        registry.register_with_unit("store_answer", about, Unit::Seconds, store_answer.clone());
        let about = "Entries by which rooms here were behind their logs when leases were renewed";
        registry.register("log_lag", about, log_lag.clone());
        registry.register("gaps", "Times that missed entries were read from the log", gaps.clone());
        registry.register("resyncs", "Rooms taken afresh, because their log was lost", resyncs.clone());
        registry.register(
            "webhooks",
            "Events sent to the backend, tried in vain, given up",
            webhooks.clone(),
        );
        let about = "Who came or went and the backend is not told yet; on the replica that tells it";
        registry.register("webhook_queue", about, webhook_queue.clone());
        let about = "Bytes that wait for clients in rooms here";
        registry.register("queue_bytes", about, queue_bytes.clone());
        registry.register("sessions", "Sessions whose connections are here", sessions.clone());
        registry.register("rooms", "Rooms with sessions here", rooms.clone());
        registry.register("store_up", "Whether the store of rooms can be reached", store_up.clone());
        Self {
            connections,
            messages,
            signals,
            resumes,
            refused,
            slow_readers,
            store_write,
            store_answer,
            log_lag,
            gaps,
            resyncs,
            webhooks,
            webhook_queue,
            queue_bytes,
            sessions,
            rooms,
            store_up,
            registry: Mutex::new(registry),
        }
    }

    /// Counts a message.
    pub fn message(&self, dialect: &'static str, kind: &'static str) {
        self.messages.get_or_create(&Message { dialect, kind }).inc();
    }

    /// Counts a resume.
    pub fn resume(&self, outcome: &'static str) {
        self.resumes.get_or_create(&ResumeOutcome { outcome }).inc();
    }

    /// Counts a client that is turned away.
    pub fn refused(&self, reason: &'static str) {
        self.refused.get_or_create(&Refused { reason }).inc();
    }

    /// Counts what came of webhooks.
    pub(crate) fn webhook(&self, outcome: &'static str, count: u64) {
        self.webhooks.get_or_create(&WebhookOutcome { outcome }).inc_by(count);
    }

    /// How many wait.
    pub(crate) fn webhook_queue(&self, length: u64) {
        self.webhook_queue.set(i64::try_from(length).unwrap_or(i64::MAX));
    }

    /// Counts a connection, until the guard is dropped.
    #[must_use]
    pub fn connection(&self, dialect: &'static str) -> OpenConnection {
        let gauge = self.connections.get_or_create_owned(&Dialect { dialect });
        gauge.inc();
        OpenConnection(gauge)
    }

    /// As text for Prometheus, with what is known of the replica now.
    #[must_use]
    pub fn text(&self, sessions: usize, rooms: usize, queue_bytes: usize, store_up: bool) -> String {
        let number = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        self.sessions.set(number(sessions));
        self.rooms.set(number(rooms));
        self.queue_bytes.set(number(queue_bytes));
        self.store_up.set(store_up.into());
        let registry = self.registry.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        rtc_service::metrics::text(&registry)
    }
}

/// A connection that is counted.
#[derive(Debug)]
pub struct OpenConnection(Gauge);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}
