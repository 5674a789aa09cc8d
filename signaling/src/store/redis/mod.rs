//! Rooms on Redis: the log is the truth, and pub/sub only makes it fast.
//!
//! | key | what |
//! | --- | --- |
//! | `rtc:{pN}:meta:ROOM` | hash: epoch, seq, max, and how far back the log is known |
//! | `rtc:{pN}:members:ROOM` | hash: member -> connection epoch, since, holder, secret's hash, profile |
//! | `rtc:{pN}:leases:ROOM` | zset: a replica (`r:`) or a detached session (`d:`) -> when it runs out |
//! | `rtc:{pN}:log:ROOM` | stream: id = seq, bounded in length, age and bytes |
//! | `rtc:{pN}:seen:ROOM`, `…:older:ROOM` | hashes: requests, to recognise a repeated one |
//! | `rtc:{pN}:due` | zset: room -> when its first lease runs out; so the list of all rooms |
//! | `rtc:{pN}:news` | stream, with webhooks: who came and went, until the backend is told |
//! | `rtc:{p0}:leader` | the replica that tells it |
//! | `rtc:{pN}:once:WORD` | a token that is good for one connection, and has been used |
//! | `rtc:{pN}:alive` | what a probe writes |
//! | `rtc:{pN}:to:REPLICA` (on Redis Cluster), `rtc:to:REPLICA` | channel: what a replica hosts and others write |
//!
//! N is one of 128 partitions, by the room's name, so that Redis Cluster spreads rooms and each script has
//! all its keys in one place. Each write is one script: it authorizes, recognises a repetition, counts
//! places, numbers, appends and publishes, and nothing comes between. Times are Redis's own.
//!
//! A room knows of which life of Redis's data it is. The first script that a server runs on a room of an
//! earlier life, one that ended with a failover or a restart, gives the room a new epoch.
//!
//! A user needs `~rtc:* &rtc:* +@all -@admin -@dangerous +info`, and on Redis Cluster `+cluster|slots`.

mod backoff;
mod finder;
mod fleet;
mod inbox;
mod news;
mod node;
mod scripts;
mod slots;
mod target;

pub use target::{Mode, TlsFiles, UrlError};

use super::{Down, Listener, Outcome, StoreError, news::OF_A_PART};
use crate::parcel::Parcel;
use fleet::Fleet;
use node::ANSWER;
use redis::{ErrorKind, RedisError, ServerErrorKind};
use rtc_signaling_proto::{
    Entry, MemberId, ReplicaId, RoomName,
    entry::{Draft, Reason},
    ops::*,
};
use scripts::{Reply, SCRIPTS, Script};
use slots::{PARTITIONS, key, partition};
use std::{
    collections::HashSet,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};
use target::Target;
use tokio::{sync::watch, task::AbortHandle, time::Instant};

/// How long a script waits that Redis Cluster asks to come again.
const AGAIN: Duration = Duration::from_millis(20);

/// Rooms that all processes share that use the same Redis.
#[derive(Clone)]
pub struct RedisRooms {
    target: Arc<watch::Sender<Target>>,
    tls: TlsFiles,
    limits: RoomLimits,
}

impl fmt::Debug for RedisRooms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RedisRooms({:?})", self.target.borrow())
    }
}

impl RedisRooms {
    /// Rooms on the one Redis at `url`. Nothing is connected yet.
    ///
    /// # Errors
    /// [`UrlError`].
    pub fn new(url: &str, limits: RoomLimits) -> Result<Self, UrlError> {
        Self::configured(url, Mode::Standalone, TlsFiles::default(), limits)
    }

    /// Rooms on a Redis that is run in this mode.
    ///
    /// # Errors
    /// [`UrlError`].
    pub fn configured(url: &str, mode: Mode, tls: TlsFiles, limits: RoomLimits) -> Result<Self, UrlError> {
        let target = Target::parse(url, mode, &tls)?;
        target.check()?;
        Ok(Self { target: Arc::new(watch::channel(target).0), tls, limits })
    }

    /// The URL has changed, perhaps only the password. What is connected stays until it works.
    ///
    /// # Errors
    /// [`UrlError`]; all stays as it is.
    pub fn retarget(&self, url: &str) -> Result<(), UrlError> {
        let mode = self.target.borrow().mode;
        let target = Target::parse(url, mode, &self.tls)?;
        self.target.send_if_modified(|last| {
            let changed = *last != target;
            *last = target;
            changed
        });
        Ok(())
    }

    /// How rooms are kept.
    #[must_use]
    pub fn limits(&self) -> RoomLimits {
        self.limits
    }

    pub(super) fn open(&self, replica: ReplicaId, listener: Weak<dyn Listener>) -> RedisStore {
        let limits = self.limits;
        let channel = match self.target.borrow().mode {
            Mode::Cluster => None,
            _ => Some("rtc:to:".to_owned()),
        };
        let fleet = Fleet::new();
        let (begun, mut begin) = watch::channel(false);
        let keeping = fleet.clone().keep(self.target.subscribe(), replica.clone(), listener.clone());
        let keeper = tokio::spawn(async move {
            if begin.wait_for(|begun| *begun).await.is_ok() {
                keeping.await;
            }
        });
        let settings = vec![
            limits.log_entries.to_string(),
            limits.log_age.as_millis().to_string(),
            limits.log_bytes.to_string(),
            limits.seen.to_string(),
            limits.replica_lease.as_millis().to_string(),
            limits.detached_lease.as_millis().to_string(),
        ];
        let (hosted, keeper) = (Mutex::default(), keeper.abort_handle());
        RedisStore { replica, listener, fleet, channel, settings, hosted, begun, keeper, news: false }
    }
}

/// One replica's handle on [`RedisRooms`].
pub struct RedisStore {
    replica: ReplicaId,
    listener: Weak<dyn Listener>,
    fleet: Arc<Fleet>,
    /// What the channels of replicas begin with; `None` on Redis Cluster, where each partition has its own.
    channel: Option<String>,
    settings: Vec<String>,
    hosted: Mutex<HashSet<RoomName>>,
    begun: watch::Sender<bool>,
    keeper: AbortHandle,
    pub(super) news: bool,
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RedisStore({})", self.replica)
    }
}

impl Drop for RedisStore {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

/// A script is under way: if its answer does not come to us, what it wrote has to be read from the log.
struct UnderWay<'a>(&'a RedisStore);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if let Some(listener) = self.0.listener.upgrade() {
            listener.gap();
        }
    }
}

/// Why an error of a script is none, and it may be tried again: it did nothing.
enum Again {
    Load,
    Look,
    Wait,
}

fn again(error: &RedisError) -> Option<Again> {
    match error.kind() {
        ErrorKind::Server(ServerErrorKind::NoScript) => Some(Again::Load),
        ErrorKind::Server(ServerErrorKind::Moved) => Some(Again::Look),
        // A slot is on its way to another server, key by key, and a script needs all of them in one place:
        // neither server runs it until all have arrived.
        ErrorKind::Server(ServerErrorKind::Ask | ServerErrorKind::TryAgain) => Some(Again::Wait),
        _ => None,
    }
}

impl RedisStore {
    fn unavailable(&self, error: &RedisError) -> StoreError {
        self.fleet.doubt();
        StoreError::Unavailable(error.to_string())
    }

    /// Waits a while for the first connection.
    async fn begun(&self) {
        if !*self.fleet.listening.borrow() {
            let _ = tokio::time::timeout(ANSWER, self.listening()).await;
        }
    }

    async fn run(&self, script: &Script, room: &RoomName, arguments: &[&str]) -> Outcome<Reply> {
        let begun = Instant::now();
        self.begun().await;
        let p = partition(room.as_str());
        loop {
            let map = self.fleet.map();
            let node = map.node(p).map_err(StoreError::Unavailable)?;
            let mut call = redis::cmd("EVALSHA");
            call.arg(&script.hash).arg(8);
            for part in ["meta", "members", "leases", "log", "seen", "older"] {
                call.arg(format!("rtc:{{p{p}}}:{part}:{room}"));
            }
            call.arg(key(p, "due")).arg(key(p, "news"));
            call.arg(room.as_str()).arg(self.replica.as_str()).arg(&node.life).arg(&map.lives);
            match &self.channel {
                Some(channel) => call.arg("PUBLISH").arg(channel),
                None => call.arg("SPUBLISH").arg(key(p, "to:")),
            };
            // a dialect's own rooms are nobody else's
            let news = if self.news && !room.is_scoped() { OF_A_PART } else { 0 };
            call.arg(&self.settings[..]).arg(news).arg(arguments);
            let mut commands = node.commands.clone();
            let under_way = UnderWay(self);
            let answer = call.query_async::<Vec<String>>(&mut commands).await;
            let error = match answer {
                Ok(words) => {
                    let reply = self.take(room, words);
                    std::mem::forget(under_way);
                    if let Some(listener) = self.listener.upgrade() {
                        listener.answered(begun.elapsed());
                    }
                    return reply;
                }
                Err(error) => error,
            };
            let Some(again) = again(&error).filter(|_| begun.elapsed() < ANSWER) else {
                return Err(self.unavailable(&error));
            };
            std::mem::forget(under_way);
            match again {
                Again::Load => scripts::load(&mut commands).await.map_err(|e| self.unavailable(&e))?,
                Again::Look => self.fleet.doubt(),
                Again::Wait => {}
            }
            tokio::time::sleep(crate::random::jitter(AGAIN)).await;
        }
    }

    /// Tells the replica what its call has written.
    fn take(&self, room: &RoomName, words: Vec<String>) -> Outcome<Reply> {
        let mut reply = Reply::new(words);
        for entry in reply.written()? {
            self.tell(room, entry);
        }
        reply.refused().map_or(Ok(reply), |refusal| Err(refusal.into()))
    }

    fn tell(&self, room: &RoomName, entry: Entry) {
        if self.hosted().contains(room)
            && let Some(listener) = self.listener.upgrade()
        {
            listener.entry(room, &Arc::new(Parcel::from(entry)));
        }
    }

    /// Runs a script that appends a draft.
    async fn send(
        &self,
        script: &Script,
        room: &RoomName,
        arguments: &[&str],
        draft: Draft,
    ) -> Outcome<Sent> {
        match self.run(script, room, arguments).await?.sent()? {
            Ok((epoch, seq)) => {
                self.tell(room, draft.number(epoch, seq));
                Ok(Sent::Now(seq))
            }
            Err(before) => Ok(before),
        }
    }

    fn hosted(&self) -> MutexGuard<'_, HashSet<RoomName>> {
        self.hosted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether nobody of a room is here any more, as a word.
    fn last(&self, room: &RoomName) -> &'static str {
        if self.hosted().contains(room) { "0" } else { "1" }
    }

    pub(super) fn begin(&self) {
        self.begun.send_replace(true);
    }

    /// A join or a resume makes the scripts publish to this replica; there must be somebody who listens.
    pub(super) fn host(&self, room: &RoomName) -> impl Future<Output = Outcome<()>> + Send + use<> {
        self.hosted().insert(room.clone());
        self.listening()
    }

    fn listening(&self) -> impl Future<Output = Outcome<()>> + Send + use<> {
        let mut listening = self.fleet.listening.subscribe();
        async move {
            let waited = listening.wait_for(|listening| *listening).await;
            waited.map(drop).map_err(|_| StoreError::Unavailable("the store has ended".into()))
        }
    }

    pub(super) fn unhost(&self, room: &RoomName) {
        self.hosted().remove(room);
    }

    pub(super) async fn join(&self, room: &RoomName, join: &Join) -> Outcome<Joined> {
        let Join { member, secret, holder, profile, max, bound } = join;
        let rest = Draft::joined(member, profile).rest;
        let (max, bound) = (max.to_string(), bound.to_string());
        let (profile, brief) = (profile.as_str(), profile.brief());
        let arguments =
            [member.as_str(), secret, holder.as_str(), &max, &bound, profile, &rest, brief.as_str()];
        let mut reply = self.run(&SCRIPTS.join, room, &arguments).await?;
        match reply.word()?.as_str() {
            "full" => Ok(Joined::Full { max: reply.number()? }),
            _ => Ok(Joined::Entered(reply.view()?)),
        }
    }

    pub(super) async fn prove(&self, room: &RoomName, member: &MemberId, secret: &str) -> Outcome<()> {
        self.run(&SCRIPTS.prove, room, &[member.as_str(), secret]).await.map(drop)
    }

    pub(super) async fn signal(&self, room: &RoomName, signal: &Signal) -> Outcome<Sent> {
        let Signal { from, conn, to, id, data } = signal;
        let draft = Draft::signal(from, to.as_ref(), id.clone(), data);
        let (to, rest) = (to.as_ref().map_or("-", MemberId::as_str), draft.rest.clone());
        let arguments = [from.as_str(), &conn.to_string(), to, id, &rest];
        self.send(&SCRIPTS.signal, room, &arguments, draft).await
    }

    pub(super) async fn post(&self, room: &RoomName, post: &Post) -> Outcome<Sent> {
        let Post { from, to, id, data } = post;
        let draft = Draft::signal(from, to.as_ref(), id.clone(), data);
        let rest = draft.rest.clone();
        let to = to.as_ref().map_or("-", MemberId::as_str);
        self.send(&SCRIPTS.post, room, &[from.as_str(), to, id, &rest], draft).await
    }

    pub(super) async fn leave(
        &self,
        room: &RoomName,
        member: &MemberId,
        conn: u64,
        why: Reason,
    ) -> Outcome<u64> {
        let arguments = [member.as_str(), &conn.to_string(), why.as_str(), self.last(room)];
        let mut reply = self.run(&SCRIPTS.leave, room, &arguments).await?;
        reply.word()?;
        reply.number()
    }

    pub(super) async fn detach(&self, room: &RoomName, member: &MemberId, conn: u64) -> Outcome<()> {
        let arguments = [member.as_str(), &conn.to_string(), self.last(room)];
        self.run(&SCRIPTS.detach, room, &arguments).await.map(drop)
    }

    pub(super) async fn resume(&self, room: &RoomName, resume: &Resume) -> Outcome<Resumed> {
        let Resume { member, secret, holder, epoch, seq } = resume;
        let arguments = [member.as_str(), secret, holder.as_str(), &epoch.to_string(), &seq.to_string()];
        let mut reply = self.run(&SCRIPTS.resume, room, &arguments).await?;
        reply.word()?;
        let (conn, since) = (reply.number()?, reply.number()?);
        let view = reply.view()?;
        let missed = match reply.entries()? {
            Read::Entries(entries) => Some(entries),
            Read::Lost => None,
        };
        Ok(Resumed { conn, since, view, missed })
    }

    pub(super) async fn read(&self, room: &RoomName, epoch: u64, seq: u64) -> Outcome<Read> {
        let mut reply = self.run(&SCRIPTS.read, room, &[&epoch.to_string(), &seq.to_string()]).await?;
        reply.word()?;
        reply.entries()
    }

    pub(super) async fn view(&self, room: &RoomName) -> Outcome<Option<View>> {
        let mut reply = self.run(&SCRIPTS.view, room, &[]).await?;
        match reply.word()?.as_str() {
            "gone" => Ok(None),
            _ => reply.view().map(Some),
        }
    }

    pub(super) async fn pulse(&self, rooms: &[RoomName]) -> Outcome<Vec<Pulse>> {
        // sent together: the connection pipelines what is under way at once
        let one = async |room| {
            let mut reply = self.run(&SCRIPTS.pulse, room, &[]).await?;
            Ok(match reply.word()?.as_str() {
                "gone" => Pulse::Gone,
                "lapsed" => Pulse::Lapsed { epoch: reply.number()? },
                _ => Pulse::Kept { epoch: reply.number()?, seq: reply.number()? },
            })
        };
        futures::future::try_join_all(rooms.iter().map(one)).await
    }

    pub(super) async fn assert(&self, room: &RoomName, assert: &Assert) -> Outcome<View> {
        let Assert { holder, epoch, seq, max, members } = assert;
        let mut arguments = vec![holder.to_string(), epoch.to_string(), seq.to_string(), max.to_string()];
        for Held { member, secret, conn, since, profile } in members {
            let rest = Draft::joined(member, profile).rest;
            let (stored, brief) = (profile.as_str().to_owned(), profile.brief().as_str().to_owned());
            arguments.extend([
                member.to_string(),
                conn.to_string(),
                since.to_string(),
                secret.clone(),
                stored,
                rest,
                brief,
            ]);
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let mut reply = self.run(&SCRIPTS.assert, room, &arguments).await?;
        reply.word()?;
        reply.view()
    }

    pub(super) async fn close(&self, room: &RoomName) -> Outcome<()> {
        self.run(&SCRIPTS.close, room, &[]).await.map(drop)
    }

    pub(super) async fn rooms(&self, part: u32) -> Outcome<(Vec<(RoomName, usize)>, Option<u32>)> {
        let p = part as usize;
        if p >= PARTITIONS {
            return Ok((Vec::new(), None));
        }
        self.begun().await;
        let map = self.fleet.map();
        let mut commands = map.node(p).map_err(StoreError::Unavailable)?.commands.clone();
        let names = redis::cmd("ZRANGE").arg(key(p, "due")).arg(0).arg(-1).query_async(&mut commands).await;
        let names: Vec<String> = names.map_err(|e| self.unavailable(&e))?;
        let mut count = redis::pipe();
        for name in &names {
            count.cmd("HLEN").arg(key(p, &format!("members:{name}")));
        }
        let counts: Vec<usize> = match names.is_empty() {
            true => Vec::new(),
            false => count.query_async(&mut commands).await.map_err(|e| self.unavailable(&e))?,
        };
        let rooms = names.iter().map(|name| RoomName::from_stored(name)).zip(counts);
        Ok((rooms.filter(|(_, members)| *members > 0).collect(), (p + 1 < PARTITIONS).then_some(part + 1)))
    }

    pub(super) async fn once(&self, word: &str, remembered: Duration) -> Outcome<bool> {
        self.begun().await;
        let p = partition(word);
        let map = self.fleet.map();
        let mut commands = map.node(p).map_err(StoreError::Unavailable)?.commands.clone();
        let mut set = redis::cmd("SET");
        let milliseconds = u64::try_from(remembered.as_millis()).unwrap_or(u64::MAX).max(1);
        set.arg(key(p, &format!("once:{word}"))).arg("").arg("NX").arg("PX").arg(milliseconds);
        let was_set = set.query_async::<Option<String>>(&mut commands).await;
        Ok(was_set.map_err(|e| self.unavailable(&e))?.is_some())
    }

    pub(super) async fn reap(&self) -> Outcome<()> {
        // leases that nobody could renew say nothing
        if self.fleet.is_just_back() {
            return Ok(());
        }
        let map = self.fleet.map();
        let mut outcome = Ok(());
        for node in map.nodes() {
            let node = match node {
                Ok(node) => node,
                Err(reason) => {
                    outcome = Err(StoreError::Unavailable(reason.clone()));
                    continue;
                }
            };
            let mut commands = node.commands.clone();
            let time = redis::cmd("TIME").query_async::<(u64, u64)>(&mut commands).await;
            let (seconds, micros) = time.map_err(|e| self.unavailable(&e))?;
            let now = seconds * 1000 + micros / 1000;
            let mut pipe = redis::pipe();
            for p in &node.place.partitions {
                pipe.cmd("ZRANGEBYSCORE")
                    .arg(key(*p, "due"))
                    .arg("-inf")
                    .arg(now)
                    .arg("LIMIT")
                    .arg(0)
                    .arg(64);
            }
            let rooms: Vec<Vec<String>> =
                pipe.query_async(&mut commands).await.map_err(|e| self.unavailable(&e))?;
            for room in rooms.into_iter().flatten() {
                self.run(&SCRIPTS.reap, &RoomName::from_stored(&room), &[]).await?;
            }
        }
        outcome
    }

    pub(super) fn down(&self) -> Option<Down> {
        self.fleet.down()
    }
}
