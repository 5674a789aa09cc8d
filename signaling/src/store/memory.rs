//! Rooms in this process: for one replica, or for several that share it (`rtc up`).

use super::{Listener, Outcome};
use crate::parcel::Parcel;
use rtc_signaling_proto::{MemberId, Refusal, ReplicaId, Room, RoomName, entry::Reason, ops::*};
use std::{
    collections::HashMap,
    fmt,
    hash::{BuildHasher, RandomState},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

const SHARDS: usize = 64;

#[derive(Default)]
struct Slot {
    room: Option<Room>,
    hosts: Vec<(ReplicaId, Weak<dyn Listener>)>,
}

type Shard = HashMap<RoomName, Slot>;

struct Inner {
    limits: RoomLimits,
    shards: Vec<Mutex<Shard>>,
    hasher: RandomState,
    start: Instant,
    /// The last epoch that was given out.
    epoch: AtomicU64,
}

/// Rooms that the replicas of one process share. Cloning shares them.
#[derive(Clone)]
pub struct MemoryRooms(Arc<Inner>);

impl fmt::Debug for MemoryRooms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MemoryRooms")
    }
}

impl Default for MemoryRooms {
    fn default() -> Self {
        Self::new(RoomLimits::default())
    }
}

impl MemoryRooms {
    /// No rooms yet.
    #[must_use]
    pub fn new(limits: RoomLimits) -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        // a restarted process must not give an epoch that a client has seen of the last one
        let epoch = AtomicU64::new(rtc_service::clock::unix_now() * 1_000_000);
        Self(Arc::new(Inner { limits, shards, hasher: RandomState::new(), start: Instant::now(), epoch }))
    }

    /// How rooms are kept.
    #[must_use]
    pub fn limits(&self) -> RoomLimits {
        self.0.limits
    }

    pub(super) fn open(&self, replica: ReplicaId, listener: Weak<dyn Listener>) -> MemoryStore {
        MemoryStore { inner: self.0.clone(), replica, listener }
    }
}

/// One replica's handle on [`MemoryRooms`].
pub struct MemoryStore {
    inner: Arc<Inner>,
    replica: ReplicaId,
    listener: Weak<dyn Listener>,
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemoryStore({})", self.replica)
    }
}

impl MemoryStore {
    fn now(&self) -> u64 {
        u64::try_from(self.inner.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn fresh_epoch(&self) -> u64 {
        self.inner.epoch.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn lock(&self, room: &RoomName) -> MutexGuard<'_, Shard> {
        let shard = usize::try_from(self.inner.hasher.hash_one(room) % SHARDS as u64).unwrap_or(0);
        self.inner.shards[shard].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something to a room and delivers what comes of it, in order: nothing else happens to the room
    /// meanwhile.
    fn with<T>(&self, name: &RoomName, act: impl FnOnce(&mut Room) -> Result<T, Refusal>) -> Outcome<T> {
        let mut shard = self.lock(name);
        let slot = shard.get_mut(name);
        let Some((room, hosts)) = slot.and_then(|slot| Some((slot.room.as_mut()?, &mut slot.hosts))) else {
            return Err(Refusal::UnknownSession.into());
        };
        let result = act(room);
        deliver(name, room, hosts);
        tidy(&mut shard, name);
        Ok(result?)
    }

    fn with_new<T>(&self, name: &RoomName, max: u32, act: impl FnOnce(&mut Room) -> T) -> T {
        let mut shard = self.lock(name);
        let slot = shard.entry(name.clone()).or_default();
        let room = slot
            .room
            .get_or_insert_with(|| Room::new(self.inner.limits, self.fresh_epoch(), max, self.now()));
        let result = act(room);
        deliver(name, room, &mut slot.hosts);
        tidy(&mut shard, name);
        result
    }

    pub(super) fn host(&self, name: &RoomName) {
        let mut shard = self.lock(name);
        let hosts = &mut shard.entry(name.clone()).or_default().hosts;
        if !hosts.iter().any(|(replica, _)| *replica == self.replica) {
            hosts.push((self.replica.clone(), self.listener.clone()));
        }
    }

    pub(super) fn unhost(&self, name: &RoomName) {
        let mut shard = self.lock(name);
        if let Some(slot) = shard.get_mut(name) {
            slot.hosts.retain(|(replica, _)| *replica != self.replica);
        }
        tidy(&mut shard, name);
    }

    pub(super) async fn join(&self, name: &RoomName, join: &Join) -> Outcome<Joined> {
        Ok(self.with_new(name, join.max, |room| room.join(join.clone(), self.now())))
    }

    pub(super) async fn signal(&self, name: &RoomName, signal: &Signal) -> Outcome<Sent> {
        self.with(name, |room| room.signal(signal.clone()))
    }

    pub(super) async fn post(&self, name: &RoomName, post: &Post) -> Outcome<Sent> {
        self.with(name, |room| room.post(post.clone())).map_err(|_| Refusal::NoSuchMember.into())
    }

    pub(super) async fn leave(
        &self,
        name: &RoomName,
        member: &MemberId,
        conn: u64,
        why: Reason,
    ) -> Outcome<u64> {
        self.with(name, |room| room.leave(member, conn, why))
    }

    pub(super) async fn detach(&self, name: &RoomName, member: &MemberId, conn: u64) -> Outcome<()> {
        self.with(name, |room| room.detach(member, conn, &self.replica, self.now()))
    }

    pub(super) async fn resume(&self, name: &RoomName, resume: &Resume) -> Outcome<Resumed> {
        self.with(name, |room| room.resume(resume.clone(), self.now()))
    }

    pub(super) async fn read(&self, name: &RoomName, epoch: u64, seq: u64) -> Outcome<Read> {
        Ok(self.with(name, |room| Ok(room.read(epoch, seq))).unwrap_or(Read::Lost))
    }

    pub(super) async fn view(&self, name: &RoomName) -> Outcome<Option<View>> {
        Ok(self.with(name, |room| Ok(room.view())).ok())
    }

    pub(super) async fn pulse(&self, names: &[RoomName]) -> Outcome<Vec<Pulse>> {
        let pulse = |name| self.with(name, |room| Ok(room.pulse(&self.replica, self.now())));
        Ok(names.iter().map(|name| pulse(name).unwrap_or(Pulse::Gone)).collect())
    }

    pub(super) async fn assert(&self, name: &RoomName, assert: &Assert) -> Outcome<View> {
        let fresh = self.fresh_epoch();
        Ok(self.with_new(name, assert.max, |room| room.assert(assert.clone(), fresh, self.now())))
    }

    pub(super) async fn reap(&self) -> Outcome<()> {
        let now = self.now();
        for shard in &self.inner.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            shard.retain(|name, slot| {
                let Some(room) = &mut slot.room else { return !slot.hosts.is_empty() };
                if room.next_timeout().is_some_and(|at| at <= now) {
                    room.reap(now);
                    deliver(name, room, &mut slot.hosts);
                }
                if room.is_empty() {
                    slot.room = None;
                }
                slot.room.is_some() || !slot.hosts.is_empty()
            });
        }
        Ok(())
    }
}

fn deliver(name: &RoomName, room: &mut Room, hosts: &mut Vec<(ReplicaId, Weak<dyn Listener>)>) {
    while let Some(entry) = room.poll_entry() {
        let parcel = Arc::new(Parcel::from(entry));
        hosts.retain(|(_, listener)| match listener.upgrade() {
            Some(listener) => {
                listener.entry(name, &parcel);
                true
            }
            // its replica is gone
            None => false,
        });
    }
}

fn tidy(shard: &mut Shard, name: &RoomName) {
    if let Some(slot) = shard.get_mut(name) {
        if slot.room.as_ref().is_some_and(Room::is_empty) {
            slot.room = None;
        }
        if slot.room.is_none() && slot.hosts.is_empty() {
            shard.remove(name);
        }
    }
}
