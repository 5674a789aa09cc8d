//! Rooms in this process: for one replica, or for several that share it (`rtc up`).

use super::{
    Listener, Outcome,
    news::{Cursor, Found, News, Place},
};
use crate::parcel::Parcel;
use ahash::RandomState;
use rtc_signaling_proto::{
    Entry, Kind, MemberId, Refusal, ReplicaId, Room, RoomName,
    entry::{Profile, Reason},
    ops::*,
};
use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

const SHARDS: usize = 64;
/// News that may wait; with more, the oldest is lost.
const NEWS: usize = 8192;

/// Boxed, since a map has more places than it uses.
type Rooms = HashMap<RoomName, Box<Room>, RandomState>;
type Hosts = HashMap<RoomName, Vec<(ReplicaId, Weak<dyn Listener>)>, RandomState>;

/// Replicas are called with `rooms` locked, and come with their own locks held to say what they host: that
/// must wait for nobody who calls them. So nothing is called while `hosts` is locked.
#[derive(Default)]
struct Shard {
    rooms: Mutex<Rooms>,
    hosts: Mutex<Hosts>,
}

struct Inner {
    limits: RoomLimits,
    shards: Vec<Shard>,
    hasher: RandomState,
    start: Instant,
    /// The last epoch that was given out.
    epoch: AtomicU64,
    /// Words that are met once, and until when (as [`MemoryStore::now`]) they are remembered.
    words: Mutex<HashMap<String, u64>>,
    news: Mutex<Noted>,
}

/// News, and who reads them.
#[derive(Default)]
struct Noted {
    last: u64,
    waiting: VecDeque<News>,
    /// Until when (as [`MemoryStore::now`]).
    leader: Option<(ReplicaId, u64)>,
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
        let shards = (0..SHARDS).map(|_| Shard::default()).collect();
        // a restarted process must not give an epoch that a client has seen of the last one
        let epoch = AtomicU64::new(rtc_service::clock::unix_now() * 1_000_000);
        Self(Arc::new(Inner {
            limits,
            shards,
            hasher: RandomState::new(),
            start: Instant::now(),
            epoch,
            words: Mutex::default(),
            news: Mutex::default(),
        }))
    }

    /// How rooms are kept.
    #[must_use]
    pub fn limits(&self) -> RoomLimits {
        self.0.limits
    }

    pub(super) fn open(&self, replica: ReplicaId, listener: Weak<dyn Listener>) -> MemoryStore {
        MemoryStore { inner: self.0.clone(), replica, listener, news: false }
    }
}

/// One replica's handle on [`MemoryRooms`].
pub struct MemoryStore {
    inner: Arc<Inner>,
    replica: ReplicaId,
    listener: Weak<dyn Listener>,
    pub(super) news: bool,
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

    fn shard(&self, room: &RoomName) -> &Shard {
        let shard = usize::try_from(self.inner.hasher.hash_one(room) % SHARDS as u64).unwrap_or(0);
        &self.inner.shards[shard]
    }

    /// Does something to a room and delivers what comes of it, in order: nothing else happens to the room
    /// meanwhile.
    fn with<T>(&self, name: &RoomName, act: impl FnOnce(&mut Room) -> Result<T, Refusal>) -> Outcome<T> {
        let shard = self.shard(name);
        let mut rooms = shard.rooms();
        let Some(room) = rooms.get_mut(name) else { return Err(Refusal::UnknownSession.into()) };
        let result = act(room);
        self.deliver(shard, name, room);
        if room.is_empty() {
            rooms.remove(name);
        }
        Ok(result?)
    }

    fn with_new<T>(&self, name: &RoomName, max: u32, act: impl FnOnce(&mut Room) -> T) -> T {
        let shard = self.shard(name);
        let mut rooms = shard.rooms();
        let new = || Box::new(Room::new(self.inner.limits, self.fresh_epoch(), max, self.now()));
        let room = rooms.entry(name.clone()).or_insert_with(new);
        let result = act(room);
        self.deliver(shard, name, room);
        if room.is_empty() {
            rooms.remove(name);
        }
        result
    }

    fn deliver(&self, shard: &Shard, name: &RoomName, room: &mut Room) {
        let entries: Vec<_> = std::iter::from_fn(|| room.poll_entry()).collect();
        if entries.is_empty() {
            return;
        }
        if self.news && !name.is_scoped() {
            self.note(name, room.members() as u64, &entries);
        }
        let hosts: Vec<_> = match shard.hosts().get(name) {
            Some(hosts) => hosts.iter().filter_map(|(_, listener)| listener.upgrade()).collect(),
            None => Vec::new(),
        };
        for entry in entries {
            let parcel = Arc::new(Parcel::from(entry));
            hosts.iter().for_each(|listener| listener.entry(name, &parcel));
        }
    }

    /// Keeps the news among entries of a room that has so many members after them.
    fn note(&self, room: &RoomName, after: u64, entries: &[Entry]) {
        let count = |kind| entries.iter().filter(|entry| entry.kind == kind).count() as u64;
        let mut members = (after + count(Kind::Left)).saturating_sub(count(Kind::Joined));
        for entry in entries {
            let body = match entry.kind {
                Kind::Joined => Profile::from_stored(entry.body.clone()).brief().as_str().to_owned(),
                Kind::Left => String::new(),
                Kind::Signal | Kind::Attached => continue,
            };
            members = if entry.kind == Kind::Joined { members + 1 } else { members.saturating_sub(1) };
            let mut noted = self.inner.news();
            noted.last += 1;
            let place = Place { part: 0, id: (noted.last, 0) };
            let entry = Entry { body, ..entry.clone() };
            noted.waiting.push_back(News {
                place,
                at: rtc_service::clock::unix_millis(),
                room: room.clone(),
                members,
                entry,
            });
            if noted.waiting.len() > NEWS {
                noted.waiting.pop_front();
            }
        }
    }

    pub(super) async fn lead(&self, lease: Duration) -> Outcome<bool> {
        let now = self.now();
        let mut noted = self.inner.news();
        if noted.leader.as_ref().is_some_and(|(leader, until)| *leader != self.replica && *until > now) {
            return Ok(false);
        }
        let until = now.saturating_add(u64::try_from(lease.as_millis()).unwrap_or(u64::MAX));
        noted.leader = Some((self.replica.clone(), until));
        Ok(true)
    }

    pub(super) async fn resign(&self) -> Outcome<()> {
        let mut noted = self.inner.news();
        noted.leader = noted.leader.take().filter(|(leader, _)| *leader != self.replica);
        Ok(())
    }

    pub(super) async fn read_news(&self, cursor: &mut Cursor) -> Outcome<Found> {
        let noted = self.inner.news();
        let read = cursor.of(0);
        let mut found = Found { waiting: noted.waiting.len() as u64, ..Found::default() };
        let from = noted.waiting.partition_point(|news| news.place.id <= read.id);
        for news in noted.waiting.range(from..).take(super::news::AT_ONCE) {
            found.lost += read.take(news.place.id, news.place.id.0);
            found.news.push(news.clone());
        }
        Ok(found)
    }

    pub(super) async fn drop_news(&self, places: &[Place]) -> Outcome<()> {
        let mut noted = self.inner.news();
        for place in places {
            if let Ok(at) = noted.waiting.binary_search_by_key(&place.id, |news| news.place.id) {
                noted.waiting.remove(at);
            }
        }
        Ok(())
    }

    pub(super) fn host(&self, name: &RoomName) {
        let mut hosts = self.shard(name).hosts();
        let hosts = hosts.entry(name.clone()).or_default();
        if !hosts.iter().any(|(replica, _)| *replica == self.replica) {
            hosts.push((self.replica.clone(), self.listener.clone()));
        }
    }

    pub(super) fn unhost(&self, name: &RoomName) {
        let mut hosts = self.shard(name).hosts();
        if let Some(of_room) = hosts.get_mut(name) {
            of_room.retain(|(replica, listener)| *replica != self.replica && listener.strong_count() > 0);
            if of_room.is_empty() {
                hosts.remove(name);
            }
        }
    }

    pub(super) async fn join(&self, name: &RoomName, join: &Join) -> Outcome<Joined> {
        Ok(self.with_new(name, join.max, |room| room.join(join.clone(), self.now())))
    }

    pub(super) async fn prove(&self, name: &RoomName, member: &MemberId, secret: &str) -> Outcome<()> {
        self.with(name, |room| room.prove(member, secret))
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

    pub(super) async fn close(&self, name: &RoomName) -> Outcome<()> {
        self.with(name, |room| {
            room.close();
            Ok(())
        })
    }

    pub(super) async fn rooms(&self, part: u32) -> Outcome<(Vec<(RoomName, usize)>, Option<u32>)> {
        let Some(shard) = self.inner.shards.get(part as usize) else { return Ok((Vec::new(), None)) };
        let rooms =
            shard.rooms().iter().map(|(name, room)| (name.clone(), room.view().members.len())).collect();
        Ok((rooms, ((part as usize) + 1 < SHARDS).then_some(part + 1)))
    }

    pub(super) async fn once(&self, word: &str, remembered: Duration) -> Outcome<bool> {
        let until = self.now().saturating_add(u64::try_from(remembered.as_millis()).unwrap_or(u64::MAX));
        Ok(self.inner.words().insert(word.to_owned(), until).is_none())
    }

    pub(super) async fn reap(&self) -> Outcome<()> {
        let now = self.now();
        self.inner.words().retain(|_, until| *until > now);
        for shard in &self.inner.shards {
            shard.rooms().retain(|name, room| {
                if room.next_timeout().is_some_and(|at| at <= now) {
                    room.reap(now);
                    self.deliver(shard, name, room);
                }
                !room.is_empty()
            });
            // of replicas that are gone
            shard.hosts().retain(|_, hosts| {
                hosts.retain(|(_, listener)| listener.strong_count() > 0);
                !hosts.is_empty()
            });
        }
        Ok(())
    }
}

impl Inner {
    fn news(&self) -> MutexGuard<'_, Noted> {
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn words(&self) -> MutexGuard<'_, HashMap<String, u64>> {
        self.words.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shard {
    fn rooms(&self) -> MutexGuard<'_, Rooms> {
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hosts(&self) -> MutexGuard<'_, Hosts> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
