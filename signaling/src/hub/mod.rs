//! One replica's sessions, and their rooms.
//!
//! A dialect enters, signals and leaves here; entries come to its [`Outbox`]. No lock is held while the
//! store is asked.

mod hosted;
mod upkeep;

use crate::{
    metrics::Metrics,
    outbox::{Out, Outbox},
    parcel::Parcel,
    store::{Listener, Outcome, Shared, Store, StoreError},
};
use hosted::{Hosted, Local, Next};
use rtc_signaling_proto::{
    MemberId, Refusal, ReplicaId, RequestId, ResumeToken, RoomName,
    entry::{Draft, Profile, Reason, request_word},
    ops::*,
};
use serde_json::value::RawValue;
use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{sync::Notify, time::Instant};
use upkeep::Chore;

const SHARDS: usize = 64;
/// How long a join, a resume or a leave waits for a store that cannot be reached.
const PATIENCE: Duration = Duration::from_secs(5);

/// Who wants to enter which room.
#[derive(Clone, Debug)]
pub struct Entering<'a> {
    /// Which.
    pub room: RoomName,
    /// To show.
    pub name: Option<&'a str>,
    /// For the others.
    pub meta: Option<&'a RawValue>,
    /// The most members, if it is the first; 0 for no limit.
    pub max: u32,
    /// The most members with whom it enters; 0 for any number.
    pub bound: u32,
}

/// A connection's place in a room.
#[derive(Clone, Debug)]
pub struct Attachment {
    /// Which room.
    pub room: RoomName,
    /// Which member.
    pub member: MemberId,
    /// Its connection epoch.
    pub conn: u64,
    key: u64,
}

/// A session is in.
#[derive(Debug)]
pub struct Entered {
    /// Its place.
    pub at: Attachment,
    /// To resume; a secret.
    pub token: ResumeToken,
    /// When it came.
    pub since: u64,
    /// The room then.
    pub view: View,
}

/// A session goes on.
#[derive(Debug)]
pub struct Continued {
    /// Its place.
    pub at: Attachment,
    /// When it came.
    pub since: u64,
    /// The room now.
    pub view: View,
    /// What it has missed, in order; `None` if that is no longer known.
    pub missed: Option<Vec<Arc<Parcel>>>,
}

/// Why nobody entered.
#[derive(Debug, thiserror::Error)]
pub enum EnterError {
    /// There is no place.
    #[error("the room is full: {max} are the most it takes")]
    Full {
        /// How many.
        max: u32,
    },
    /// See [`StoreError`].
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a signal was not passed on to everybody whom it concerns.
#[derive(Debug, thiserror::Error)]
pub enum SignalError {
    /// The room will not.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Only those on this replica got it.
    #[error("only members on the same server got it; send it again with the same `id` after `recovered`")]
    Degraded,
}

/// One replica's sessions.
#[derive(Debug)]
pub struct Hub {
    me: Weak<Hub>,
    replica: ReplicaId,
    store: Store,
    room_limits: RoomLimits,
    max_members: u32,
    rooms: Vec<Mutex<HashMap<RoomName, Hosted>>>,
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
    /// A replica on shared rooms. `max_members` bounds every room that begins here; 0 for no bound. Must be
    /// called in a tokio runtime.
    #[must_use]
    pub fn start(replica: ReplicaId, shared: &Shared, max_members: u32, metrics: Arc<Metrics>) -> Arc<Self> {
        let hub = Arc::new_cyclic(|me: &Weak<Self>| Self {
            me: me.clone(),
            store: shared.open(replica.clone(), me.clone()),
            replica,
            room_limits: shared.limits(),
            max_members,
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

    /// What is counted.
    #[must_use]
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// A new session enters a room; from then on the entries of its log come to `outbox`.
    ///
    /// `answer` is called before the first of them. The future must be driven to its end: a client that goes
    /// away meanwhile is then detached.
    ///
    /// # Errors
    /// [`EnterError`].
    pub async fn enter(
        &self,
        entering: Entering<'_>,
        outbox: Arc<Outbox>,
        answer: impl FnOnce(&Entered),
    ) -> Result<Entered, EnterError> {
        let Entering { room, name, meta, max, bound } = entering;
        let member = crate::random::member();
        let secret = crate::random::secret();
        let profile = Profile::new(&member, name, meta);
        let join = Join {
            member: member.clone(),
            secret: crate::random::hash(&secret),
            holder: self.replica.clone(),
            profile: profile.clone(),
            max: lower(max, self.max_members),
            bound,
        };
        let key = self.add(&room, &join.member, &join.secret, profile, outbox, join.max);
        let joined = match self.host(&room).await {
            Ok(()) => self.patiently(|| self.store.join(&room, &join)).await,
            Err(error) => Err(error),
        };
        match joined {
            Ok(Joined::Entered(view)) => {
                let since = view.members.iter().find(|m| m.id == member).map_or(view.seq, |m| m.since);
                let token = ResumeToken { member: member.clone(), secret, room: room.clone() };
                let at = Attachment { room, member, conn: 1, key };
                let entered = Entered { at, token, since, view };
                answer(&entered);
                self.activate(&entered.at.room, key, 1, since, entered.view.seq, &entered.view);
                Ok(entered)
            }
            Ok(Joined::Full { max }) => {
                self.remove(&room, key);
                Err(EnterError::Full { max })
            }
            Err(error) => {
                self.remove(&room, key);
                // it may have worked all the same
                self.later(Chore::leave(&room, &member, 1));
                Err(error.into())
            }
        }
    }

    /// A session goes on at `outbox`, after entry `seq` of `epoch`. To be driven to its end, as
    /// [`Self::enter`].
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn resume(
        &self,
        token: &ResumeToken,
        epoch: u64,
        seq: u64,
        outbox: Arc<Outbox>,
    ) -> Outcome<Continued> {
        let (room, member) = (token.room.clone(), token.member.clone());
        let resume = Resume {
            member: member.clone(),
            secret: crate::random::hash(&token.secret),
            holder: self.replica.clone(),
            epoch,
            seq,
        };
        // the profile is known only once the store has answered
        let unknown = Profile::new(&member, None, None);
        let key = self.add(&room, &member, &resume.secret, unknown, outbox, self.max_members);
        let resumed = match self.host(&room).await {
            Ok(()) => self.patiently(|| self.store.resume(&room, &resume)).await,
            Err(error) => Err(error),
        };
        match resumed {
            Ok(Resumed { conn, since, view, missed }) => {
                if let Some(own) = view.members.iter().find(|m| m.id == member) {
                    self.set_profile(&room, key, own.profile.clone());
                }
                self.activate(&room, key, conn, since, view.seq, &view);
                let told = |entry: rtc_signaling_proto::Entry| {
                    let parcel = Parcel::from(entry);
                    parcel.is_for(&member).then(|| Arc::new(parcel))
                };
                let missed = missed.map(|entries| entries.into_iter().filter_map(told).collect());
                Ok(Continued { at: Attachment { room, member, conn, key }, since, view, missed })
            }
            Err(error) => {
                self.remove(&room, key);
                if matches!(error, StoreError::Unavailable(_)) {
                    self.later(Chore::detach(&room, &member, 0));
                }
                Err(error)
            }
        }
    }

    /// Passes `data` (JSON) on. The seq is `None` when the store cannot be reached and everybody whom it
    /// concerns is on this replica.
    ///
    /// # Errors
    /// [`SignalError`].
    pub async fn signal(
        &self,
        at: &Attachment,
        to: Option<MemberId>,
        id: Option<&RequestId>,
        data: String,
    ) -> Result<Option<u64>, SignalError> {
        let id = request_word(id, || self.number());
        let signal = Signal { from: at.member.clone(), conn: at.conn, to, id, data };
        let before = std::time::Instant::now();
        match self.store.signal(&at.room, &signal).await {
            Ok(sent) => {
                self.metrics.store_write.observe(before.elapsed().as_secs_f64());
                Ok(Some(sent.seq()))
            }
            Err(StoreError::Refused(refusal)) => Err(refusal.into()),
            Err(StoreError::Unavailable(reason)) => {
                tracing::debug!(room = %at.room, reason, "delivering on this replica only");
                self.signal_here(&at.room, signal)
            }
        }
    }

    fn signal_here(&self, room: &RoomName, signal: Signal) -> Result<Option<u64>, SignalError> {
        let draft = Draft::signal(&signal.from, signal.to.as_ref(), signal.id, &signal.data);
        let parcel = Arc::new(Parcel {
            kind: draft.kind,
            epoch: 0,
            seq: 0,
            conn: 0,
            frame: draft.unnumbered_frame().into(),
            from: draft.from,
            to: draft.to,
            id: draft.id,
        });
        let mut rooms = self.lock(room);
        match rooms.get_mut(room).map(|hosted| hosted.deliver_unnumbered(&parcel)) {
            Some(Some(true)) => Ok(None),
            Some(Some(false)) => Err(SignalError::Degraded),
            Some(None) => Err(Refusal::NoSuchMember.into()),
            None => Err(Refusal::UnknownSession.into()),
        }
    }

    /// A member leaves. Whatever the store says, it will have left.
    pub async fn leave(&self, at: &Attachment, why: Reason) {
        if !self.remove(&at.room, at.key) {
            return;
        }
        if let Err(StoreError::Unavailable(_)) = self.store.leave(&at.room, &at.member, at.conn, why).await {
            self.later(Chore::leave(&at.room, &at.member, at.conn));
        }
    }

    /// A connection is gone; its session can be resumed for a while.
    pub async fn detach(&self, at: &Attachment) {
        if !self.remove(&at.room, at.key) {
            return;
        }
        if let Err(StoreError::Unavailable(_)) = self.store.detach(&at.room, &at.member, at.conn).await {
            self.later(Chore::detach(&at.room, &at.member, at.conn));
        }
    }

    fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    fn lock(&self, room: &RoomName) -> MutexGuard<'_, HashMap<RoomName, Hosted>> {
        let shard = usize::try_from(self.hasher.hash_one(room) % SHARDS as u64).unwrap_or(0);
        self.rooms[shard].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(
        &self,
        room: &RoomName,
        member: &MemberId,
        secret: &str,
        profile: Profile,
        outbox: Arc<Outbox>,
        max: u32,
    ) -> u64 {
        let key = self.number();
        let mut rooms = self.lock(room);
        let hosted = rooms.entry(room.clone()).or_insert_with(|| {
            self.hosted.fetch_add(1, Ordering::Relaxed);
            Hosted::new(max)
        });
        hosted.locals.push(Local::entering(key, member.clone(), secret.to_owned(), profile, outbox));
        self.sessions.fetch_add(1, Ordering::Relaxed);
        key
    }

    /// Returns once the entries of a room are known to arrive.
    async fn host(&self, room: &RoomName) -> Outcome<()> {
        let hosting = {
            let rooms = self.lock(room);
            if rooms.get(room).is_some_and(|hosted| hosted.confirmed) {
                return Ok(());
            }
            // asked for with the lock held, so that it keeps its order with `unhost`
            self.store.host(room)
        };
        let waited = tokio::time::timeout(PATIENCE, hosting).await;
        waited.unwrap_or_else(|_| Err(StoreError::Unavailable("no answer in time".into())))?;
        if let Some(hosted) = self.lock(room).get_mut(room) {
            hosted.confirmed = true;
        }
        Ok(())
    }

    fn set_profile(&self, room: &RoomName, key: u64, profile: Profile) {
        if let Some(hosted) = self.lock(room).get_mut(room)
            && let Some(local) = hosted.locals.iter_mut().find(|l| l.key == key)
        {
            local.profile = profile;
        }
    }

    fn activate(&self, room: &RoomName, key: u64, conn: u64, since: u64, cursor: u64, view: &View) {
        let mut rooms = self.lock(room);
        if let Some(hosted) = rooms.get_mut(room) {
            let before = hosted.locals.len();
            let next = hosted.activate(key, conn, since, cursor, view);
            self.ended(before - hosted.locals.len());
            if let Some(local) = hosted.locals.iter().find(|l| l.key == key)
                && let leaving @ 1.. = self.leaving.load(Ordering::Relaxed)
            {
                local.outbox.push(Out::Goaway(crate::random::up_to(leaving)));
            }
            self.follow(room, hosted, next);
        }
    }

    /// Removes a session from this replica; false when it was gone before.
    fn remove(&self, room: &RoomName, key: u64) -> bool {
        let mut rooms = self.lock(room);
        let Some(hosted) = rooms.get_mut(room) else { return false };
        let before = hosted.locals.len();
        hosted.locals.retain(|l| l.key != key);
        let removed = before - hosted.locals.len();
        self.ended(removed);
        if hosted.locals.is_empty() {
            self.close(&mut rooms, room);
        }
        removed > 0
    }

    fn close(&self, rooms: &mut HashMap<RoomName, Hosted>, room: &RoomName) {
        if rooms.remove(room).is_some() {
            self.hosted.fetch_sub(1, Ordering::Relaxed);
            self.store.unhost(room);
        }
    }

    fn ended(&self, sessions: usize) {
        self.sessions.fetch_sub(sessions, Ordering::Relaxed);
    }

    /// Tells every client something.
    pub(crate) fn tell_all(&self, out: impl Fn() -> Out) {
        for rooms in &self.rooms {
            let rooms = rooms.lock().unwrap_or_else(PoisonError::into_inner);
            for local in rooms.values().flat_map(|hosted| &hosted.locals) {
                local.outbox.push(out());
            }
        }
    }

    /// Tells every client, also those that come later, to reconnect within `spread`.
    pub(crate) fn go_away(&self, spread: Duration) {
        let spread = u64::try_from(spread.as_millis()).unwrap_or(u64::MAX).max(1);
        self.leaving.store(spread, Ordering::Relaxed);
        self.tell_all(|| Out::Goaway(crate::random::up_to(spread)));
    }

    /// Gives every session back to the store, to be resumed elsewhere.
    pub(crate) async fn detach_all(&self) {
        let mut all = Vec::new();
        for rooms in &self.rooms {
            let rooms = rooms.lock().unwrap_or_else(PoisonError::into_inner);
            for (room, hosted) in rooms.iter() {
                let live = hosted.locals.iter().filter(|l| l.is_live());
                all.extend(live.map(|l| Attachment {
                    room: room.clone(),
                    member: l.member.clone(),
                    conn: l.conn,
                    key: l.key,
                }));
            }
        }
        futures::future::join_all(all.iter().map(|at| self.detach(at))).await;
    }

    /// Does something again while the store cannot be reached, for a while.
    async fn patiently<T, F: Future<Output = Outcome<T>>>(&self, act: impl Fn() -> F) -> Outcome<T> {
        let end = Instant::now() + PATIENCE;
        let mut pause = Duration::from_millis(50);
        loop {
            match act().await {
                Err(StoreError::Unavailable(reason)) => {
                    if Instant::now() + pause >= end {
                        return Err(StoreError::Unavailable(reason));
                    }
                    tokio::time::sleep(crate::random::jitter(pause)).await;
                    pause = (pause * 2).min(Duration::from_millis(800));
                }
                done => return done,
            }
        }
    }
}

impl Listener for Hub {
    fn entry(&self, room: &RoomName, parcel: &Arc<Parcel>) {
        let mut rooms = self.lock(room);
        if let Some(hosted) = rooms.get_mut(room) {
            self.accept(room, hosted, parcel);
        }
    }

    fn gap(&self) {
        self.poke.notify_one();
    }

    fn health(&self, down_since: Option<u64>) {
        match down_since {
            Some(since) => self.tell_all(|| Out::Degraded(since)),
            None => {
                self.tell_all(|| Out::Recovered);
                self.poke.notify_one();
            }
        }
    }
}

impl Hub {
    fn accept(&self, room: &RoomName, hosted: &mut Hosted, parcel: &Arc<Parcel>) {
        let before = hosted.locals.len();
        let next = hosted.accept(parcel);
        self.ended(before - hosted.locals.len());
        self.follow(room, hosted, next);
    }

    fn follow(&self, room: &RoomName, hosted: &mut Hosted, next: Next) {
        let Some(me) = self.me.upgrade() else { return };
        let room = room.clone();
        match next {
            Next::Nothing => {}
            Next::Read { epoch, seq } if !hosted.reading => {
                hosted.reading = true;
                tokio::spawn(async move { me.read(&room, epoch, seq).await });
            }
            Next::Sync if !hosted.syncing => {
                hosted.syncing = true;
                tokio::spawn(async move { me.sync(&room).await });
            }
            Next::Read { .. } | Next::Sync => {}
        }
    }
}

/// The lower of two limits, of which 0 is none.
fn lower(a: u32, b: u32) -> u32 {
    match (a, b) {
        (0, limit) | (limit, 0) => limit,
        (a, b) => a.min(b),
    }
}
