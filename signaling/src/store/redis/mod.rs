//! Rooms on Redis: the log is the truth, and pub/sub only makes it fast.
//!
//! | key | what |
//! | --- | --- |
//! | `rtc:{pN}:meta:ROOM` | hash: `r`, the record (epoch, life, what is forgotten next, the replicas that host the room and their leases); member -> connection epoch, replica, when the lease of one without a connection runs out, since, secret's hash, profile |
//! | `rtc:{pN}:log:ROOM` | stream: the last entries, by epoch and seq; bounded in length, age and bytes |
//! | `rtc:{pN}:seen:ROOM`, `…:older:ROOM` | hashes: requests, to recognise a repeated one, but for those that are in the log and were never asked for |
//! | `rtc:{pN}:due` | zset: room -> when its first lease runs out; so the list of all rooms |
//! | `rtc:{pN}:news` | stream, with webhooks: who came and went, until the backend is told |
//! | `rtc:{p0}:leader` | the replica that tells it |
//! | `rtc:{pN}:once:WORD` | a token that is good for one connection, and has been used |
//! | `rtc:{pN}:alive` | what a probe writes |
//! | `rtc:{pN}:to:REPLICA` (on Redis Cluster), `rtc:to:REPLICA` | channel: what a replica hosts and others write |
//!
//! N is one of 128 partitions, by the room's name, so that Redis Cluster spreads rooms and each write has
//! all its keys in one place. A write authorizes, recognises a repetition, counts places, numbers, appends and
//! publishes, and nothing comes between. It is a function of a library, which a server compiles once, and writes
//! that are asked for at once are one call of it ([`queue`]). A signal of a replica that knows all of this already, since
//! nothing but signals came in the meantime, needs no function: it is a command that appends to the log that the replica
//! knows, or not at all ([`known`]). Times are Redis's own.
//!
//! A room knows of which life of Redis's data it is. The first write of a room on a server of another life, when its own
//! has ended with a failover or a restart, gives the room a new epoch.
//!
//! A user needs `~rtc:* &rtc:* +@all -@admin -@dangerous +info`, and on Redis Cluster `+cluster|slots`.

mod append;
mod backoff;
mod call;
mod finder;
mod fleet;
mod hosting;
mod inbox;
mod known;
mod library;
mod news;
mod node;
mod queue;
mod requests;
mod slots;
mod target;

pub use target::{Mode, TlsFiles, UrlError};

use super::{Down, Listener, Outcome, StoreError, news::OF_A_PART};
use append::Append;
use call::{Caller, Words, Write};
use fleet::Fleet;
use hosting::{Hosting, UnderWay, place};
use known::{Answer, Effect, Permit, Told, Wish};
use library::{Library, Reply};
use node::ANSWER;
use redis::{ErrorKind, RedisError, ServerErrorKind};
use requests::Asked;
use rtc_signaling_proto::{
    Entry, MemberId, ReplicaId, RoomName,
    entry::{Draft, Profile, Reason, may_come_again},
    ops::*,
};
use slots::{PARTITIONS, key, partition};
use std::{
    fmt,
    sync::{Arc, Weak},
    time::Duration,
};
use target::Target;
use tokio::{sync::watch, task::AbortHandle, time::Instant};

/// How long a write waits that Redis Cluster asks to come again.
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
        let cluster = self.target.borrow().mode == Mode::Cluster;
        let library = Arc::new(Library::new(limits, cluster));
        let (fleet, hosting) = (Fleet::new(), Hosting::new(listener));
        let (begun, mut begin) = watch::channel(None);
        let (targets, waiting) = (self.target.subscribe(), fleet.clone());
        let (name, functions, hears) = (replica.clone(), library.clone(), hosting.clone());
        let keeper = tokio::spawn(async move {
            let Ok(news) = begin.wait_for(Option::is_some).await.map(|news| news.unwrap_or_default()) else {
                return;
            };
            let caller = Caller { replica: name, library: functions, news };
            waiting.keep(targets, caller, hears).await;
        });
        RedisStore { replica, hosting, fleet, library, begun, keeper: keeper.abort_handle(), news: false }
    }
}

/// One replica's handle on [`RedisRooms`].
pub struct RedisStore {
    replica: ReplicaId,
    /// Rooms with sessions here.
    hosting: Arc<Hosting>,
    fleet: Arc<Fleet>,
    library: Arc<Library>,
    /// How many news of a partition are kept, once it has begun.
    begun: watch::Sender<Option<usize>>,
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

/// What a write is, if the replica can go on by itself after it.
enum What<'a> {
    Other,
    /// A member comes.
    Join(&'a MemberId),
    /// Something is passed on; from a member, by this connection.
    Pass(Option<u64>, Draft),
}

/// Why an error of a write is none, and it may be tried again: it did nothing.
enum Again {
    Load,
    Look,
    Wait,
}

fn again(error: &RedisError) -> Option<Again> {
    match error.kind() {
        ErrorKind::Server(ServerErrorKind::ResponseError) if is_unknown_function(error) => Some(Again::Load),
        ErrorKind::Server(ServerErrorKind::Moved) => Some(Again::Look),
        // A slot is on its way to another server, key by key, and a write needs all of them in one place:
        // neither server does it until all have arrived.
        ErrorKind::Server(ServerErrorKind::Ask | ServerErrorKind::TryAgain) => Some(Again::Wait),
        _ => None,
    }
}

/// A server that began anew, or was given to us without its functions.
fn is_unknown_function(error: &RedisError) -> bool {
    error.detail().is_some_and(|detail| detail.contains("Function not found"))
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

    /// Writes, and tells the replica what it has written.
    async fn run(&self, room: &RoomName, words: Words) -> Outcome<Reply> {
        self.write(room, words, What::Other).await
    }

    /// The same, after which the replica may know how to go on by itself.
    async fn write(&self, room: &RoomName, mut words: Words, mut what: What<'_>) -> Outcome<Reply> {
        let begun = Instant::now();
        self.begun().await;
        let partition = partition(room.as_str());
        loop {
            let map = self.fleet.map();
            let node = map.node(partition).map_err(StoreError::Unavailable)?;
            let under_way = self.hosting.begin(room, node.number);
            if let What::Pass(None | Some(0), draft) = &what {
                // once it is under way, so that no list of requests is believed that may lack this one
                self.hosting.doubt(room, &draft.from);
            }
            let write = Write { room: room.clone(), partition, words, lives: map.lives.clone() };
            let error;
            (error, words) = match node.writes.write(write).await {
                Some(Ok(value)) => {
                    let (written, reply) = Reply::new(value)?;
                    self.tell(under_way, written, &reply, std::mem::replace(&mut what, What::Other));
                    self.answered(begun);
                    return reply.refused().map_or(Ok(reply), |refusal| Err(refusal.into()));
                }
                Some(Err((error, write))) => (error, write.words),
                None => return Err(ended()),
            };
            let Some(again) = again(&error).filter(|_| begun.elapsed() < ANSWER) else {
                return Err(self.unavailable(&error));
            };
            under_way.end([], Answer::Nothing);
            match again {
                Again::Load => {
                    let mut commands = node.commands.clone();
                    self.library.load(&mut commands).await.map_err(|e| self.unavailable(&e))?;
                }
                Again::Look => self.fleet.doubt(),
                Again::Wait => {}
            }
            tokio::time::sleep(crate::random::jitter(AGAIN)).await;
        }
    }

    /// Tells the replica what it has written, and remembers how the log is.
    fn tell(&self, under_way: UnderWay<'_>, mut written: Vec<Entry>, reply: &Reply, what: What<'_>) {
        let mut permit = None;
        let others =
            |hosts: &mut dyn Iterator<Item = ReplicaId>| hosts.filter(|host| *host != self.replica).collect();
        match what {
            What::Other => {}
            What::Join(member) => {
                permit = reply.joined().map(|(place, left, members, mut hosts)| Permit {
                    sender: (member.clone(), 1),
                    members,
                    until: place.1 + left,
                    others: others(&mut hosts),
                    requests: if left > 0 { Asked::None } else { Asked::Untold },
                });
            }
            What::Pass(conn, draft) => {
                if let Some((place, left, mut hosts)) = reply.sent() {
                    permit = conn.map(|conn| Permit {
                        sender: (draft.from.clone(), conn),
                        members: draft.to.iter().cloned().collect(),
                        until: place.1 + left,
                        others: others(&mut hosts),
                        requests: reply.requests().map_or(Asked::Untold, |words| {
                            Asked::These(words.map(requests::request).collect())
                        }),
                    });
                    written.push(draft.number(place.0, place.1));
                }
            }
        }
        let own = written.iter().map(|entry| (place(entry), Effect::of(entry, true))).collect();
        under_way.end(written, Answer::Told(Told { end: reply.end(), own, permit }));
    }

    fn answered(&self, begun: Instant) {
        if let Some(listener) = self.hosting.listener() {
            listener.answered(begun.elapsed());
        }
    }

    /// Whether nobody of a room is here any more, as a word.
    fn last(&self, room: &RoomName) -> &'static str {
        if self.hosting.hosts(room) { "0" } else { "1" }
    }

    pub(super) fn begin(&self) {
        self.begun.send_replace(Some(if self.news { OF_A_PART } else { 0 }));
    }

    /// A join or a resume makes writes publish to this replica; there must be somebody who listens.
    pub(super) fn host(&self, room: &RoomName) -> impl Future<Output = Outcome<()>> + Send + use<> {
        self.hosting.host(room);
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
        self.hosting.unhost(room);
    }

    pub(super) async fn join(&self, room: &RoomName, join: &Join) -> Outcome<Joined> {
        let Join { member, secret, holder, profile, max, bound } = join;
        let words = Words::new("join").with(member.as_str()).with(secret).with(holder.as_str()).show(max);
        let words = words.show(bound).with(profile.as_str()).with(self.brief(room, profile).as_str());
        let mut reply = self.write(room, words, What::Join(member)).await?;
        match reply.word()?.as_str() {
            "full" => Ok(Joined::Full { max: reply.number()? }),
            _ => {
                let view = reply.view()?;
                Ok(Joined::Entered(view))
            }
        }
    }

    /// For news, if there are any.
    fn brief(&self, room: &RoomName, profile: &Profile) -> Profile {
        if self.news && !room.is_scoped() { profile.brief() } else { Profile::from_stored(String::new()) }
    }

    pub(super) async fn prove(&self, room: &RoomName, member: &MemberId, secret: &str) -> Outcome<()> {
        self.run(room, Words::new("prove").with(member.as_str()).with(secret)).await.map(drop)
    }

    pub(super) async fn signal(&self, room: &RoomName, signal: &Signal) -> Outcome<Sent> {
        // who shows a token may write from anywhere, and is looked up
        if signal.conn > 0
            && let Some(seq) = self.propose(room, signal).await?
        {
            return Ok(Sent::Now(seq));
        }
        // rare, and larger than what is not
        Box::pin(self.signal_by_function(room, signal)).await
    }

    async fn signal_by_function(&self, room: &RoomName, signal: &Signal) -> Outcome<Sent> {
        let Signal { from, conn, to, id, data } = signal;
        let request = if may_come_again(id) { format!("{from} {id}") } else { String::new() };
        let draft = Draft::signal(from, to.as_ref(), id.clone(), data.clone());
        let to = to.as_ref().map_or("-", MemberId::as_str);
        let words = Words::default().show(format_args!("{conn} {from} {to}")).with(&signal.line());
        let whole = !request.is_empty() && *conn > 0 && self.hosting.lacks_requests(room, from);
        let words = words.with(&request).show(self.hosting.spend(room)).with(if whole { "1" } else { "" });
        sent(self.write(room, words, What::Pass(Some(*conn), draft)).await?)
    }

    pub(super) async fn post(&self, room: &RoomName, post: &Post) -> Outcome<Sent> {
        let Post { from, to, id, data } = post;
        let draft = Draft::signal(from, to.as_ref(), id.clone(), data.clone());
        let words = Words::new("post").with(to.as_ref().map_or("-", MemberId::as_str)).with(&draft.line());
        let words = if may_come_again(id) { words.show(format_args!("{from} {id}")) } else { words.with("") };
        sent(self.write(room, words, What::Pass(None, draft)).await?)
    }

    /// Writes a signal without a function; `None` when it takes one.
    async fn propose(&self, room: &RoomName, signal: &Signal) -> Outcome<Option<u64>> {
        let begun = Instant::now();
        let map = self.fleet.map();
        let partition = partition(room.as_str());
        let Ok(node) = map.node(partition) else { return Ok(None) };
        let wish = Wish {
            from: &signal.from,
            conn: signal.conn,
            to: signal.to.as_ref(),
            weight: signal.weight(),
            request: may_come_again(&signal.id).then_some(&signal.id),
        };
        // of two that each spend so much, a log is hardly longer than it may be
        let most = self.library.limits.log_bytes / 32;
        let Some((proposal, under_way)) = self.hosting.propose(room, node.number, wish, most) else {
            return Ok(None);
        };
        let place = proposal.place;
        let append = Append { room: room.clone(), partition, proposal, line: signal.line() };
        match node.logs.write(append).await {
            Some(Ok(true)) => {
                under_way.end([signal.number(place.0, place.1)], Answer::Appended(place));
                self.answered(begun);
                Ok(Some(place.1))
            }
            Some(Ok(false)) => {
                under_way.end([], Answer::Nothing);
                Ok(None)
            }
            Some(Err((error, _))) => Err(self.unavailable(&error)),
            None => Err(ended()),
        }
    }

    pub(super) async fn leave(
        &self,
        room: &RoomName,
        member: &MemberId,
        conn: u64,
        why: Reason,
    ) -> Outcome<u64> {
        self.hosting.ended(room, member);
        let words =
            Words::new("leave").with(member.as_str()).show(format_args!("{conn} ")).with(why.as_str());
        let mut reply = self.run(room, words.with(self.last(room))).await?;
        reply.word()?;
        reply.number()
    }

    pub(super) async fn detach(&self, room: &RoomName, member: &MemberId, conn: u64) -> Outcome<()> {
        self.hosting.ended(room, member);
        let words = Words::new("detach").with(member.as_str()).show(conn).with(self.last(room));
        self.run(room, words).await.map(drop)
    }

    pub(super) async fn resume(&self, room: &RoomName, resume: &Resume) -> Outcome<Resumed> {
        let Resume { member, secret, holder, epoch, seq } = resume;
        let words = Words::new("resume").with(member.as_str()).with(secret).with(holder.as_str());
        let mut reply = self.run(room, words.show(epoch).show(seq)).await?;
        reply.word()?;
        let (conn, since) = (reply.number()?, reply.number()?);
        let view = reply.view()?;
        let missed = match reply.entries(*epoch, *seq)? {
            Read::Entries(entries) => Some(entries),
            Read::Lost => None,
        };
        Ok(Resumed { conn, since, view, missed })
    }

    pub(super) async fn read(&self, room: &RoomName, epoch: u64, seq: u64) -> Outcome<Read> {
        let mut reply = self.run(room, Words::new("read").show(epoch).show(seq)).await?;
        // whether it is published to this replica, and where the log ends
        for _ in 0..3 {
            reply.word()?;
        }
        reply.entries(epoch, seq)
    }

    pub(super) async fn view(&self, room: &RoomName) -> Outcome<Option<View>> {
        let mut reply = self.run(room, Words::new("view")).await?;
        match reply.word()?.as_str() {
            "gone" => Ok(None),
            _ => reply.view().map(Some),
        }
    }

    pub(super) async fn pulse(&self, rooms: &[RoomName]) -> Outcome<Vec<Pulse>> {
        // the queue gathers them
        let one = async |room| {
            let mut reply = self.run(room, Words::new("pulse")).await?;
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
        let words = Words::new("assert").with(holder.as_str()).show(epoch).show(seq).show(max);
        let mut words = words.show(members.len());
        for Held { member, secret, conn, since, profile } in members {
            words = words.with(member.as_str()).show(conn).show(since).with(secret).with(profile.as_str());
            words.push(self.brief(room, profile).as_str());
        }
        let mut reply = self.run(room, words).await?;
        reply.word()?;
        reply.view()
    }

    pub(super) async fn close(&self, room: &RoomName) -> Outcome<()> {
        self.run(room, Words::new("close")).await.map(drop)
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
            count.cmd("HLEN").arg(key(p, &format!("meta:{name}")));
        }
        let counts: Vec<usize> = match names.is_empty() {
            true => Vec::new(),
            false => count.query_async(&mut commands).await.map_err(|e| self.unavailable(&e))?,
        };
        // the record is no member
        let counts = counts.into_iter().map(|count| count.saturating_sub(1));
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
                self.run(&RoomName::from_stored(&room), Words::new("reap")).await?;
            }
        }
        outcome
    }

    pub(super) fn down(&self) -> Option<Down> {
        self.fleet.down()
    }
}

fn ended() -> StoreError {
    StoreError::Unavailable("the connection has ended".into())
}

/// What came of something to pass on.
fn sent(mut reply: Reply) -> Outcome<Sent> {
    if let Some(((_, seq), ..)) = reply.sent() {
        return Ok(Sent::Now(seq));
    }
    reply.word()?;
    Ok(Sent::Before(reply.number()?))
}
