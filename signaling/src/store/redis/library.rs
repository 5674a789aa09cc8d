//! The library of functions that write rooms, and what they answer: a list of words.

use super::known::Place;
use crate::store::{Outcome, StoreError};
use redis::{RedisResult, Value, aio::MultiplexedConnection};
use rtc_signaling_proto::{
    Entry, MemberId, Refusal, ReplicaId,
    entry::{LIGHT, Profile},
    ops::{Present, Read, RoomLimits, View},
};
use sha2::{Digest, Sha256};
use std::{fmt::Write, str::FromStr, vec::IntoIter};

/// What a member of a room can do, and its replica. An act is the body of a function of this name.
macro_rules! acts {
    ($($name:literal),*) => {
        [$(($name, include_str!(concat!("lua/", $name, ".lua")))),*]
    };
}

const ACTS: [(&str, &str); 13] = acts![
    "join", "prove", "signal", "post", "leave", "close", "detach", "resume", "read", "view", "pulse",
    "assert", "reap"
];
const ROOM: &str = include_str!("lua/room.lua");
const WRITE: &str = include_str!("lua/write.lua");

/// A library, and the name of its one function. It is named by what it contains, so that replicas of two versions, or
/// with other limits, use one Redis side by side.
#[derive(Debug)]
pub(super) struct Library {
    text: String,
    pub(super) function: String,
    /// Whether writes name each key that they may touch: so Redis Cluster sees that some are on their way to another server.
    pub(super) all_keys: bool,
    pub(super) limits: RoomLimits,
}

impl Library {
    /// Of these limits, for Redis Cluster or one server.
    pub(super) fn new(limits: RoomLimits, cluster: bool) -> Self {
        let RoomLimits { log_entries, log_age, log_bytes, seen, replica_lease, detached_lease } = limits;
        let publish = if cluster { "SPUBLISH" } else { "PUBLISH" };
        let all_keys = cluster;
        let mut body = format!(
            "local LOG_ENTRIES, LOG_AGE, LOG_BYTES, SEEN = {log_entries}, {}, {log_bytes}, {seen}\n\
             local REPLICA_LEASE, DETACHED_LEASE = {}, {}\n\
             local PUBLISH, LIGHT, FEW = '{publish}', {LIGHT}, {FEW}\n{ROOM}",
            log_age.as_millis(),
            replica_lease.as_millis(),
            detached_lease.as_millis(),
        );
        for (name, act) in ACTS {
            // writing to a String cannot fail
            let _ = write!(body, "\nfunction act.{name}(rest)\n{act}end\n");
        }
        body.push_str(WRITE);
        let hash = Sha256::digest(&body);
        let function = hash[..8].iter().fold(String::from("rtc_"), |mut name, byte| {
            let _ = write!(name, "{byte:02x}");
            name
        });
        let text = format!("#!lua name={function}\n{body}\nredis.register_function('{function}', write)\n");
        Self { text, function, all_keys, limits }
    }

    /// Gives it to a server, which keeps it for its replicas too.
    pub(super) async fn load(&self, connection: &mut MultiplexedConnection) -> RedisResult<()> {
        let mut load = redis::cmd("FUNCTION");
        load.arg("LOAD").arg("REPLACE").arg(&self.text);
        load.exec_async(connection).await
    }
}

/// Of each room.
pub(super) const ROOM_KEYS: [&str; 4] = ["meta", "log", "seen", "older"];
/// Of all rooms of a partition.
pub(super) const PART_KEYS: [&str; 2] = ["due", "news"];

/// Requests of a room that are looked through for those of one member.
const FEW: usize = 256;
/// No name of a replica.
const REQUESTS_FOLLOW: &str = "/";

/// What a write answers, read from the front.
#[derive(Debug)]
pub(super) struct Reply(IntoIter<String>);

impl Reply {
    /// What was appended comes before the answer, if there is a list.
    pub(super) fn new(value: Value) -> Outcome<(Vec<Entry>, Self)> {
        let (listed, words) = match value {
            Value::Array(words) => (true, words.into_iter().map(text).collect::<Outcome<_>>()?),
            word => (false, text(word)?.split(' ').map(str::to_owned).collect::<Vec<_>>()),
        };
        let mut reply = Self(words.into_iter());
        let count = if listed { reply.number()? } else { 0 };
        let mut written = || {
            let (epoch, seq) = (reply.number()?, reply.number()?);
            Entry::from_line(epoch, seq, &reply.word()?).ok_or_else(malformed)
        };
        let written = (0..count).map(|_| written());
        let written = written.collect::<Outcome<_>>()?;
        Ok((written, reply))
    }

    pub(super) fn refused(&self) -> Option<Refusal> {
        match self.0.as_slice().first()?.as_str() {
            "unknown" => Some(Refusal::UnknownSession),
            "superseded" => Some(Refusal::Superseded),
            "nobody" => Some(Refusal::NoSuchMember),
            _ => None,
        }
    }

    pub(super) fn word(&mut self) -> Outcome<String> {
        self.0.next().ok_or_else(malformed)
    }

    pub(super) fn number<T: FromStr>(&mut self) -> Outcome<T> {
        self.word()?.parse().map_err(|_| malformed())
    }

    pub(super) fn view(&mut self) -> Outcome<View> {
        let (epoch, seq) = (self.number()?, self.number()?);
        let count: usize = self.number()?;
        let mut member = || {
            let id = self.number()?;
            // connection, holder, until when, since, the secret's hash; and the profile in lines of its own
            let record = self.word()?;
            let (words, profile) = record.split_once('\n').ok_or_else(malformed)?;
            let since = words.split(' ').nth(3).and_then(|word| word.parse().ok()).ok_or_else(malformed)?;
            Ok(Present { id, since, profile: Profile::from_stored(profile.to_owned()) })
        };
        let members = (0..count).map(|_| member()).collect::<Outcome<_>>()?;
        Ok(View { epoch, seq, members })
    }

    /// Where the log ends, from an act that says so to a replica to which its entries are published.
    pub(super) fn end(&self) -> Option<Place> {
        let words = self.0.as_slice();
        let at = match words.first()?.as_str() {
            "at" if words.get(3)? == "-" => return None,
            "at" | "joined" | "asserted" | "hosted" | "kept" => 1,
            "resumed" => 3,
            _ => return None,
        };
        Some((words.get(at)?.parse().ok()?, words.get(at + 1)?.parse().ok()?))
    }

    /// Of one who came, what it may go on with: the members, and as [`Self::sent`].
    pub(super) fn joined(&self) -> Option<(Place, u64, Vec<MemberId>, impl Iterator<Item = ReplicaId>)> {
        let [joined, epoch, seq, _, members @ .., left, hosts] = self.0.as_slice() else { return None };
        let place = (epoch.parse().ok()?, seq.parse().ok()?);
        let members = members.iter().step_by(2).filter_map(|member| member.parse().ok()).collect();
        let hosts = hosts.split(' ').filter_map(|host| host.parse().ok());
        (joined == "joined").then(|| (place, left.parse().unwrap_or(0), members, hosts))
    }

    /// Of what was sent now, its place in the log, how many entries may follow before a function looks after the log, and
    /// which replicas are told.
    pub(super) fn sent(&self) -> Option<(Place, u64, impl Iterator<Item = ReplicaId>)> {
        let [at, epoch, seq, left, hosts @ ..] = self.0.as_slice() else { return None };
        let place = (epoch.parse().ok()?, seq.parse().ok()?);
        let hosts = hosts.iter().take_while(|host| *host != REQUESTS_FOLLOW);
        let hosts = hosts.filter_map(|host| host.parse().ok());
        (at == "at").then(|| (place, left.parse().unwrap_or(0), hosts))
    }

    /// All requests of who sent it, if they were asked for and are not too many.
    pub(super) fn requests(&self) -> Option<impl Iterator<Item = &str>> {
        let words = self.0.as_slice();
        let at = words.iter().position(|word| word == REQUESTS_FOLLOW)?;
        Some(words[at + 1..].iter().map(String::as_str))
    }

    /// The entries of an epoch after this one.
    pub(super) fn entries(&mut self, epoch: u64, seq: u64) -> Outcome<Read> {
        match self.word()?.as_str() {
            "known" => {
                let lines = self.0.by_ref().zip(seq + 1..);
                let entries = lines.map(|(line, seq)| Entry::from_line(epoch, seq, &line));
                entries.collect::<Option<_>>().map(Read::Entries).ok_or_else(malformed)
            }
            _ => Ok(Read::Lost),
        }
    }
}

fn text(value: Value) -> Outcome<String> {
    match value {
        Value::BulkString(bytes) => String::from_utf8(bytes).map_err(|_| malformed()),
        Value::ServerError(error) => Err(StoreError::Unavailable(error.to_string())),
        _ => Err(malformed()),
    }
}

pub(super) fn malformed() -> StoreError {
    StoreError::Unavailable("a function of another version answered; use one version on one Redis".into())
}
