//! One replica's sessions, and their rooms.
//!
//! A dialect enters, signals and leaves here; entries come to its [`Outbox`](crate::outbox::Outbox). No lock
//! is held while the store is asked.

mod depart;
mod enter;
mod hosted;
mod listen;
mod place;
mod send;
mod upkeep;
mod writer;

pub(crate) use enter::lower;
pub use place::*;

use crate::{
    metrics::Metrics,
    store::{Shared, Store},
};
use ahash::RandomState;
use hosted::Hosted;
use rtc_signaling_proto::{ReplicaId, RoomName, ops::RoomLimits};
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::sync::Notify;
use upkeep::Chore;

const SHARDS: usize = 64;
/// Letters of a replica's random part that clients are told.
const WORD: usize = 8;
/// How long a join, a resume or a leave waits for a store that cannot be reached.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a replica takes of rooms. 0 is any number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// The most members of a room that begins here.
    pub members: u32,
    /// The most rooms with sessions here; who resumes is let in beyond it.
    pub rooms: u32,
}

/// Rooms with sessions here. Boxed, since a map has more places than it uses.
type Rooms = HashMap<RoomName, Box<Hosted>, RandomState>;

/// One replica's sessions.
#[derive(Debug)]
pub struct Hub {
    me: Weak<Hub>,
    replica: ReplicaId,
    store: Store,
    room_limits: RoomLimits,
    bounds: Bounds,
    rooms: Vec<Mutex<Rooms>>,
    hasher: RandomState,
    numbers: AtomicU64,
    sessions: AtomicUsize,
    hosted: AtomicUsize,
    chores: Mutex<Vec<Chore>>,
    poke: Notify,
    /// While it drains: within how many milliseconds clients should go; 0 otherwise.
    leaving: AtomicU64,
    metrics: Arc<Metrics>,
}

impl Hub {
    /// A replica on shared rooms. With `news` the store keeps who comes and goes for [`webhooks`](crate::webhooks).
    /// Must be called in a tokio runtime.
    #[must_use]
    pub fn start(
        replica: ReplicaId,
        shared: &Shared,
        bounds: Bounds,
        news: bool,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        let open = |me: &Weak<Self>| shared.open(replica.clone(), me.clone());
        let hub = Arc::new_cyclic(|me: &Weak<Self>| Self {
            me: me.clone(),
            store: if news { open(me).with_news() } else { open(me) },
            replica: replica.clone(),
            room_limits: shared.limits(),
            bounds,
            rooms: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            numbers: AtomicU64::new(0),
            sessions: AtomicUsize::new(0),
            hosted: AtomicUsize::new(0),
            chores: Mutex::default(),
            poke: Notify::new(),
            leaving: AtomicU64::new(0),
            metrics,
        });
        hub.store.begin();
        upkeep::start(&hub);
        hub
    }

    /// This replica.
    #[must_use]
    pub fn replica(&self) -> &ReplicaId {
        &self.replica
    }

    /// A short word for this replica and this life of it, which says nothing of where it runs.
    #[must_use]
    pub fn word(&self) -> &str {
        let name = self.replica.as_str();
        name.get(name.len().saturating_sub(WORD)..).unwrap_or(name)
    }

    /// Where its rooms are kept.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Sessions whose connections are here.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.sessions.load(Ordering::Relaxed)
    }

    /// Rooms with sessions here.
    #[must_use]
    pub fn rooms(&self) -> usize {
        self.hosted.load(Ordering::Relaxed)
    }

    /// Bytes that wait for clients whose connections are in rooms here.
    #[must_use]
    pub fn queue_bytes(&self) -> usize {
        let of = |rooms: &Mutex<Rooms>| {
            let rooms = rooms.lock().unwrap_or_else(PoisonError::into_inner);
            rooms.values().flat_map(|hosted| &hosted.locals).map(|local| local.outbox.bytes()).sum::<usize>()
        };
        self.rooms.iter().map(of).sum()
    }

    /// How many members a room has, if it has sessions here.
    #[must_use]
    pub fn members(&self, room: &RoomName) -> Option<usize> {
        let rooms = self.lock(room);
        rooms.get(room).filter(|hosted| hosted.base.is_some()).map(|hosted| hosted.roster.len())
    }

    /// What is counted.
    #[must_use]
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    fn lock(&self, room: &RoomName) -> MutexGuard<'_, Rooms> {
        let shard = usize::try_from(self.hasher.hash_one(room) % SHARDS as u64).unwrap_or(0);
        self.rooms[shard].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ended(&self, sessions: usize) {
        self.sessions.fetch_sub(sessions, Ordering::Relaxed);
    }
}
