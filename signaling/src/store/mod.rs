//! Where rooms are kept: in this process, or on Redis.
//!
//! A [`Store`] is one replica's handle on the rooms that all replicas share. Each write of a room is one
//! atomic step that gives its log entry a number; entries of hosted rooms come back through [`Listener`],
//! perhaps twice, late or with holes: the numbers say so, and [`Store::read`] fills them.

pub mod memory;
pub mod news;
pub mod redis;

use crate::parcel::Parcel;
use rtc_signaling_proto::{Entry, MemberId, Refusal, ReplicaId, RoomName, entry::Reason, ops::*};
use std::{
    sync::{Arc, Weak},
    time::Duration,
};

/// Why a store did not do something.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The room will not.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The store cannot be reached; whether it did it is unknown.
    #[error("the store of rooms cannot be reached: {0}")]
    Unavailable(String),
}

/// What a store asks of the replica that uses it. Called with the store's locks held: must not call back.
pub trait Listener: Send + Sync + 'static {
    /// An entry of a hosted room.
    fn entry(&self, room: &RoomName, parcel: &Arc<Parcel>);
    /// An entry that this replica has written itself, of a hosted room.
    fn wrote(&self, room: &RoomName, entry: Entry) {
        self.entry(room, &Arc::new(Parcel::from(entry)));
    }
    /// Entries of a hosted room were written that did not come.
    fn missing(&self, room: &RoomName);
    /// Entries of any hosted room may have been missed.
    fn gap(&self);
    /// The store cannot be reached since this Unix second, or (`None`) is back.
    fn health(&self, down_since: Option<u64>);
    /// The store has answered after so long.
    fn answered(&self, _after: Duration) {}
}

/// A store that cannot be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Down {
    /// Since when: Unix seconds.
    pub since: u64,
    /// Why, as it was last.
    pub reason: String,
}

impl std::fmt::Display for Down {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let seconds = rtc_service::clock::unix_now().saturating_sub(self.since);
        write!(f, "Redis is gone since {seconds} s: {}", self.reason)
    }
}

/// The rooms that all replicas share.
#[derive(Clone, Debug)]
pub enum Shared {
    /// Of one process.
    Memory(memory::MemoryRooms),
    /// Of all processes that use the same Redis.
    Redis(redis::RedisRooms),
}

impl Shared {
    /// A replica's handle. Nothing comes of it before [`Store::begin`], so that a listener that owns its
    /// store can be made first. Must be called in a tokio runtime.
    #[must_use]
    pub fn open(&self, replica: ReplicaId, listener: Weak<dyn Listener>) -> Store {
        match self {
            Self::Memory(rooms) => Store::Memory(rooms.open(replica, listener)),
            Self::Redis(rooms) => Store::Redis(rooms.open(replica, listener)),
        }
    }

    /// How rooms are kept.
    #[must_use]
    pub fn limits(&self) -> RoomLimits {
        match self {
            Self::Memory(rooms) => rooms.limits(),
            Self::Redis(rooms) => rooms.limits(),
        }
    }
}

/// One replica's handle on [`Shared`] rooms.
#[derive(Debug)]
pub enum Store {
    /// See [`memory`].
    Memory(memory::MemoryStore),
    /// See [`redis`].
    Redis(redis::RedisStore),
}

/// The result of an operation.
pub type Outcome<T> = Result<T, StoreError>;

macro_rules! both {
    ($self:ident, $store:ident => $call:expr) => {
        match $self {
            Store::Memory($store) => $call,
            Store::Redis($store) => $call,
        }
    };
}

impl Store {
    /// Begins to tell the listener things. Until then it need not exist; after that, the store's tasks end
    /// with it.
    pub fn begin(&self) {
        if let Self::Redis(store) = self {
            store.begin();
        }
    }

    /// Writes [`news`] down, for those who read them. To be the same on every replica.
    #[must_use]
    pub fn with_news(mut self) -> Self {
        match &mut self {
            Self::Memory(store) => store.news = true,
            Self::Redis(store) => store.news = true,
        }
        self
    }

    /// Whether this replica leads those that share the store, from now on for so long. It does until it
    /// resigns or does not ask again in time.
    pub(crate) async fn lead(&self, lease: Duration) -> Outcome<bool> {
        both!(self, store => store.lead(lease).await)
    }

    /// Another replica may lead.
    pub(crate) async fn resign(&self) -> Outcome<()> {
        both!(self, store => store.resign().await)
    }

    /// Some of the news that are not read yet.
    pub(crate) async fn read_news(&self, cursor: &mut news::Cursor) -> Outcome<news::Found> {
        both!(self, store => store.read_news(cursor).await)
    }

    /// News that need not be kept any more.
    pub(crate) async fn drop_news(&self, places: &[news::Place]) -> Outcome<()> {
        both!(self, store => store.drop_news(places).await)
    }

    /// `memory` or `redis`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Memory(_) => "memory",
            Self::Redis(_) => "redis",
        }
    }

    /// Asks for the entries of a room; all that are written after the future is done will come. The
    /// request takes its place among others of [`Self::host`] and [`Self::unhost`] at the call.
    pub fn host(&self, room: &RoomName) -> impl Future<Output = Outcome<()>> + Send + use<> {
        let pending = match self {
            Self::Memory(store) => {
                store.host(room);
                None
            }
            Self::Redis(store) => Some(store.host(room)),
        };
        async move {
            match pending {
                None => Ok(()),
                Some(pending) => pending.await,
            }
        }
    }

    /// Asks for no more entries of a room.
    pub fn unhost(&self, room: &RoomName) {
        both!(self, store => store.unhost(room));
    }

    /// See [`rtc_signaling_proto::Room::join`].
    ///
    /// # Errors
    /// [`StoreError`], as for all that follow.
    pub async fn join(&self, room: &RoomName, join: &Join) -> Outcome<Joined> {
        both!(self, store => store.join(room, join).await)
    }

    /// See [`rtc_signaling_proto::Room::prove`].
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn prove(&self, room: &RoomName, member: &MemberId, secret: &str) -> Outcome<()> {
        both!(self, store => store.prove(room, member, secret).await)
    }

    /// See [`rtc_signaling_proto::Room::signal`].
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn signal(&self, room: &RoomName, signal: &Signal) -> Outcome<Sent> {
        both!(self, store => store.signal(room, signal).await)
    }

    /// See [`rtc_signaling_proto::Room::post`].
    ///
    /// # Errors
    /// [`StoreError`]; a room that is not is one without members.
    pub async fn post(&self, room: &RoomName, post: &Post) -> Outcome<Sent> {
        both!(self, store => store.post(room, post).await)
    }

    /// See [`rtc_signaling_proto::Room::leave`].
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn leave(&self, room: &RoomName, member: &MemberId, conn: u64, why: Reason) -> Outcome<u64> {
        both!(self, store => store.leave(room, member, conn, why).await)
    }

    /// See [`rtc_signaling_proto::Room::detach`].
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn detach(&self, room: &RoomName, member: &MemberId, conn: u64) -> Outcome<()> {
        both!(self, store => store.detach(room, member, conn).await)
    }

    /// See [`rtc_signaling_proto::Room::resume`].
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn resume(&self, room: &RoomName, resume: &Resume) -> Outcome<Resumed> {
        both!(self, store => store.resume(room, resume).await)
    }

    /// See [`rtc_signaling_proto::Room::read`].
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn read(&self, room: &RoomName, epoch: u64, seq: u64) -> Outcome<Read> {
        both!(self, store => store.read(room, epoch, seq).await)
    }

    /// See [`rtc_signaling_proto::Room::view`]; `None` when there is no such room.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn view(&self, room: &RoomName) -> Outcome<Option<View>> {
        both!(self, store => store.view(room).await)
    }

    /// See [`rtc_signaling_proto::Room::pulse`]; an answer for each room, in order.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn pulse(&self, rooms: &[RoomName]) -> Outcome<Vec<Pulse>> {
        both!(self, store => store.pulse(rooms).await)
    }

    /// See [`rtc_signaling_proto::Room::assert`].
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn assert(&self, room: &RoomName, assert: &Assert) -> Outcome<View> {
        both!(self, store => store.assert(room, assert).await)
    }

    /// See [`rtc_signaling_proto::Room::reap`]; of all rooms, whoever hosts them.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn reap(&self) -> Outcome<()> {
        both!(self, store => store.reap().await)
    }

    /// See [`rtc_signaling_proto::Room::close`].
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn close(&self, room: &RoomName) -> Outcome<()> {
        both!(self, store => store.close(room).await)
    }

    /// The rooms of one part of the store, from 0 on, each with how many members it has; and the next part,
    /// if there is one. A room stays in its part.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn rooms(&self, part: u32) -> Outcome<(Vec<(RoomName, usize)>, Option<u32>)> {
        both!(self, store => store.rooms(part).await)
    }

    /// Whether a word is met for the first time, on any replica. It is forgotten after a while.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn once(&self, word: &str, remembered: Duration) -> Outcome<bool> {
        both!(self, store => store.once(word, remembered).await)
    }

    /// Since when and why the store cannot be reached.
    #[must_use]
    pub fn down(&self) -> Option<Down> {
        match self {
            Self::Memory(_) => None,
            Self::Redis(store) => store.down(),
        }
    }
}
