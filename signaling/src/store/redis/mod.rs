//! Rooms on Redis: the log is the truth, and pub/sub only makes it fast.
//!
//! | key | what |
//! | --- | --- |
//! | `rtc:{pN}:meta:ROOM` | hash: epoch, seq, max, and how far back the log is known |
//! | `rtc:{pN}:members:ROOM` | hash: member -> connection epoch, since, holder, secret's hash, profile |
//! | `rtc:{pN}:leases:ROOM` | zset: a replica (`r:`) or a detached session (`d:`) -> when it runs out |
//! | `rtc:{pN}:log:ROOM` | stream: id = seq, bounded in length and age |
//! | `rtc:{pN}:seen:ROOM`, `…:older:ROOM` | hashes: requests, to recognise a repeated one |
//! | `rtc:{pN}:due` | zset: room -> when its first lease runs out; so the list of all rooms |
//! | `rtc:once:WORD` | a token that is good for one connection, and has been used |
//! | `rtc:{pN}:room:ROOM` | channel: what is appended to the log |
//!
//! N is one of 128 partitions, by the room's name, so that Redis Cluster spreads rooms and each script has
//! all its keys in one place. Each write is one script: it authorizes, recognises a repetition, counts
//! places, numbers, appends and publishes, and nothing comes between. Times are Redis's own.

mod scripts;
mod subscriber;

use super::{Listener, Outcome, StoreError};
use redis::{
    Client, RedisError, Script,
    aio::{ConnectionManager, ConnectionManagerConfig},
};
use rtc_signaling_proto::{
    MemberId, ReplicaId, RoomName,
    entry::{Draft, Reason},
    ops::*,
};
use scripts::{Reply, SCRIPTS};
use std::{
    fmt,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use subscriber::Subscriber;
use tokio::{
    sync::{Notify, watch},
    task::AbortHandle,
};

const PARTITIONS: u64 = 128;
/// Redis answers within a millisecond or is in trouble.
const ANSWER: Duration = Duration::from_secs(2);
/// How often Redis is asked whether it is there.
const HEALTH: Duration = Duration::from_secs(1);

/// Why Redis cannot be used as configured.
#[derive(Debug, thiserror::Error)]
pub enum UrlError {
    /// The URL is none of Redis.
    #[error("{0:?} is no Redis URL; write redis://[[USER]:PASSWORD@]HOST[:PORT][/DATABASE]")]
    Url(String),
    /// TLS is not built in.
    #[error("rediss:// (TLS) is not supported; use redis:// within a network that you trust")]
    Tls,
}

/// Rooms that all processes share that use the same Redis.
#[derive(Clone)]
pub struct RedisRooms {
    client: Arc<Client>,
    limits: RoomLimits,
}

impl fmt::Debug for RedisRooms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // the client knows the password
        f.write_str("RedisRooms")
    }
}

impl RedisRooms {
    /// Rooms on the Redis at `url`. Nothing is connected yet.
    ///
    /// # Errors
    /// [`UrlError`].
    pub fn new(url: &str, limits: RoomLimits) -> Result<Self, UrlError> {
        if url.starts_with("rediss:") {
            return Err(UrlError::Tls);
        }
        // what is shown must not have the password
        let shown = url.rsplit('@').next().unwrap_or_default();
        let client = Client::open(url).map_err(|_| UrlError::Url(shown.to_owned()))?;
        Ok(Self { client: Arc::new(client), limits })
    }

    /// How rooms are kept.
    #[must_use]
    pub fn limits(&self) -> RoomLimits {
        self.limits
    }

    pub(super) fn open(&self, replica: ReplicaId, listener: Weak<dyn Listener>) -> RedisStore {
        let config = ConnectionManagerConfig::new()
            .set_number_of_retries(1)
            .set_min_delay(Duration::from_millis(50))
            .set_max_delay(Duration::from_millis(500))
            .set_response_timeout(Some(ANSWER))
            .set_connection_timeout(Some(ANSWER));
        // without I/O: only a malformed configuration fails, and `new` has seen it
        let connection = ConnectionManager::new_lazy_with_config(Client::clone(&self.client), config).ok();
        let health = Arc::new(Health::default());
        let (begun, begin) = watch::channel(false);
        let mut tasks = Vec::new();
        if let Some(connection) = connection.clone() {
            let watch = health.clone().watch(connection, listener.clone());
            tasks.push(tokio::spawn(after(begin.clone(), watch)).abort_handle());
        }
        let (subscriber, task) = Subscriber::start(self.client.clone(), listener, begin);
        tasks.push(task);
        let settings = [
            self.limits.log_entries.to_string(),
            self.limits.log_age.as_millis().to_string(),
            self.limits.seen.to_string(),
            self.limits.replica_lease.as_millis().to_string(),
            self.limits.detached_lease.as_millis().to_string(),
        ];
        RedisStore { replica, connection, health, subscriber, settings, begun, tasks }
    }
}

/// Does something once the store has begun.
async fn after(mut begin: watch::Receiver<bool>, act: impl Future<Output = ()>) {
    if begin.wait_for(|begun| *begun).await.is_ok() {
        act.await;
    }
}

/// Whether Redis answers.
#[derive(Debug, Default)]
struct Health {
    /// Unix seconds; 0 while it answers.
    down_since: AtomicU64,
    doubt: Notify,
}

impl Health {
    async fn watch(self: Arc<Self>, connection: ConnectionManager, listener: Weak<dyn Listener>) {
        loop {
            let mut connection = connection.clone();
            let ping = async move { redis::cmd("PING").query_async::<()>(&mut connection).await };
            let error = match tokio::time::timeout(ANSWER, ping).await {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error.to_string()),
                Err(_) => Some("no answer in time".to_owned()),
            };
            let was = self.down_since.load(Ordering::Relaxed);
            let Some(listener) = listener.upgrade() else { return };
            match error {
                None if was != 0 => {
                    tracing::info!("Redis is back");
                    self.down_since.store(0, Ordering::Relaxed);
                    listener.health(None);
                }
                Some(error) if was == 0 => {
                    tracing::warn!(error, "Redis cannot be reached; rooms go on within this replica");
                    let now = rtc_service::clock::unix_now();
                    self.down_since.store(now, Ordering::Relaxed);
                    listener.health(Some(now));
                }
                _ => {}
            }
            drop(listener);
            let pause = if self.is_down() { HEALTH / 4 } else { HEALTH };
            let _ = tokio::time::timeout(crate::random::jitter(pause), self.doubt.notified()).await;
        }
    }

    fn is_down(&self) -> bool {
        self.down_since.load(Ordering::Relaxed) != 0
    }
}

/// One replica's handle on [`RedisRooms`].
pub struct RedisStore {
    replica: ReplicaId,
    connection: Option<ConnectionManager>,
    health: Arc<Health>,
    subscriber: Subscriber,
    settings: [String; 5],
    begun: watch::Sender<bool>,
    tasks: Vec<AbortHandle>,
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RedisStore({})", self.replica)
    }
}

impl Drop for RedisStore {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// FNV-1a: the same in every process and version.
fn partition(room: &RoomName) -> u64 {
    let hash = room.as_str().bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    hash % PARTITIONS
}

fn channel(room: &RoomName) -> String {
    format!("rtc:{{p{}}}:room:{room}", partition(room))
}

fn due(partition: u64) -> String {
    format!("rtc:{{p{partition}}}:due")
}

impl RedisStore {
    fn unavailable(&self, error: &RedisError) -> StoreError {
        self.health.doubt.notify_one();
        StoreError::Unavailable(error.to_string())
    }

    fn connection(&self) -> Outcome<ConnectionManager> {
        let down = StoreError::Unavailable("Redis does not answer".into());
        if self.health.is_down() {
            return Err(down);
        }
        self.connection.clone().ok_or(down)
    }

    async fn run(&self, script: &Script, room: &RoomName, arguments: &[&str]) -> Outcome<Reply> {
        let mut connection = self.connection()?;
        let p = partition(room);
        let mut call = script.prepare_invoke();
        for part in ["meta", "members", "leases", "log", "seen", "older"] {
            call.key(format!("rtc:{{p{p}}}:{part}:{room}"));
        }
        call.key(due(p));
        call.arg(room.as_str()).arg(channel(room)).arg(&self.settings[..]).arg(arguments);
        let words = call.invoke_async::<Vec<String>>(&mut connection).await;
        let reply = Reply::new(words.map_err(|e| self.unavailable(&e))?);
        reply.refused().map_or(Ok(reply), |refusal| Err(refusal.into()))
    }

    pub(super) fn begin(&self) {
        self.begun.send_replace(true);
    }

    pub(super) fn host(&self, room: &RoomName) -> impl Future<Output = Outcome<()>> + Send + use<> {
        self.subscriber.host(room.clone(), channel(room))
    }

    pub(super) fn unhost(&self, room: &RoomName) {
        self.subscriber.unhost(channel(room));
    }

    pub(super) async fn join(&self, room: &RoomName, join: &Join) -> Outcome<Joined> {
        let Join { member, secret, holder, profile, max, bound } = join;
        let rest = Draft::joined(member, profile).rest;
        let (max, bound) = (max.to_string(), bound.to_string());
        let arguments = [member.as_str(), secret, holder.as_str(), &max, &bound, profile.as_str(), &rest];
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
        let rest = Draft::signal(from, to.as_ref(), String::new(), data).rest;
        let to = to.as_ref().map_or("-", MemberId::as_str);
        let arguments = [from.as_str(), &conn.to_string(), to, id, &rest];
        self.run(&SCRIPTS.signal, room, &arguments).await?.sent()
    }

    pub(super) async fn post(&self, room: &RoomName, post: &Post) -> Outcome<Sent> {
        let Post { from, to, id, data } = post;
        let rest = Draft::signal(from, to.as_ref(), String::new(), data).rest;
        let to = to.as_ref().map_or("-", MemberId::as_str);
        self.run(&SCRIPTS.post, room, &[from.as_str(), to, id, &rest]).await?.sent()
    }

    pub(super) async fn leave(
        &self,
        room: &RoomName,
        member: &MemberId,
        conn: u64,
        why: Reason,
    ) -> Outcome<u64> {
        let arguments = [member.as_str(), &conn.to_string(), why.as_str()];
        let mut reply = self.run(&SCRIPTS.leave, room, &arguments).await?;
        reply.word()?;
        reply.number()
    }

    pub(super) async fn detach(&self, room: &RoomName, member: &MemberId, conn: u64) -> Outcome<()> {
        let arguments = [member.as_str(), &conn.to_string(), self.replica.as_str()];
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
            let mut reply = self.run(&SCRIPTS.pulse, room, &[self.replica.as_str()]).await?;
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
            let stored = profile.as_str().to_owned();
            arguments.extend([
                member.to_string(),
                conn.to_string(),
                since.to_string(),
                secret.clone(),
                stored,
                rest,
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
        let p = u64::from(part);
        if p >= PARTITIONS {
            return Ok((Vec::new(), None));
        }
        let mut connection = self.connection()?;
        let names = redis::cmd("ZRANGE").arg(due(p)).arg(0).arg(-1).query_async(&mut connection).await;
        let names: Vec<String> = names.map_err(|e| self.unavailable(&e))?;
        let mut count = redis::pipe();
        for name in &names {
            count.cmd("HLEN").arg(format!("rtc:{{p{p}}}:members:{name}"));
        }
        let counts: Vec<usize> = match names.is_empty() {
            true => Vec::new(),
            false => count.query_async(&mut connection).await.map_err(|e| self.unavailable(&e))?,
        };
        let rooms = names.iter().map(|name| RoomName::from_stored(name)).zip(counts);
        Ok((rooms.filter(|(_, members)| *members > 0).collect(), (p + 1 < PARTITIONS).then_some(part + 1)))
    }

    pub(super) async fn once(&self, word: &str, remembered: Duration) -> Outcome<bool> {
        let mut connection = self.connection()?;
        let mut set = redis::cmd("SET");
        let milliseconds = u64::try_from(remembered.as_millis()).unwrap_or(u64::MAX).max(1);
        set.arg(format!("rtc:once:{word}")).arg("").arg("NX").arg("PX").arg(milliseconds);
        let was_set = set.query_async::<Option<String>>(&mut connection).await;
        Ok(was_set.map_err(|e| self.unavailable(&e))?.is_some())
    }

    pub(super) async fn reap(&self) -> Outcome<()> {
        let mut connection = self.connection()?;
        let time = redis::cmd("TIME").query_async::<(u64, u64)>(&mut connection).await;
        let (seconds, micros) = time.map_err(|e| self.unavailable(&e))?;
        let now = seconds * 1000 + micros / 1000;
        let mut pipe = redis::pipe();
        for p in 0..PARTITIONS {
            pipe.cmd("ZRANGEBYSCORE").arg(due(p)).arg("-inf").arg(now).arg("LIMIT").arg(0).arg(64);
        }
        let rooms: Vec<Vec<String>> =
            pipe.query_async(&mut connection).await.map_err(|e| self.unavailable(&e))?;
        for room in rooms.into_iter().flatten() {
            self.run(&SCRIPTS.reap, &RoomName::from_stored(&room), &[]).await?;
        }
        Ok(())
    }

    pub(super) fn down_since(&self) -> Option<u64> {
        let since = self.health.down_since.load(Ordering::Relaxed);
        (since != 0).then_some(since)
    }
}
