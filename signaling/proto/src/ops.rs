//! What is asked of a room, and what comes back: the vocabulary that every store of rooms speaks.

use crate::{
    entry::{Entry, Kind, Profile, line, weight},
    names::{MemberId, ReplicaId},
};
use std::time::Duration;

/// How a room is kept. The same on every replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoomLimits {
    /// Entries of the log that a client may have missed and still resume.
    pub log_entries: u64,
    /// How long they are kept at least; at most twice as long.
    pub log_age: Duration,
    /// Bytes of entries that are kept at most, and half as many at least; but for the last entry, which is, and for
    /// [light](crate::entry::LIGHT) ones, which do not count.
    pub log_bytes: u64,
    /// Requests that are remembered at least, to recognise a repeated one; at most twice as many.
    pub seen: usize,
    /// How long a replica's members stay without a sign of it.
    pub replica_lease: Duration,
    /// How long a session stays without a connection.
    pub detached_lease: Duration,
}

impl Default for RoomLimits {
    fn default() -> Self {
        Self {
            log_entries: 512,
            log_age: Duration::from_secs(60),
            log_bytes: 2 << 20,
            seen: 1024,
            replica_lease: Duration::from_secs(12),
            detached_lease: Duration::from_secs(15),
        }
    }
}

/// A member enters.
#[derive(Clone, Debug)]
pub struct Join {
    /// Its id; the same id and secret again is answered as the first time.
    pub member: MemberId,
    /// What a resume must show; a hash, so that reading the store gives no session away.
    pub secret: String,
    /// On which replica its connection is.
    pub holder: ReplicaId,
    /// What the others are told.
    pub profile: Profile,
    /// The most members, if this one is the first; 0 for no limit.
    pub max: u32,
    /// The most members, itself among them, with whom this one enters; 0 for any number.
    pub bound: u32,
}

/// A member of a room, as a roster shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Present {
    /// Its id.
    pub id: MemberId,
    /// The seq at which it came; orders members by age.
    pub since: u64,
    /// What the others are told.
    pub profile: Profile,
}

/// A room, at one point of its log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// The log's life.
    pub epoch: u64,
    /// The log's last entry.
    pub seq: u64,
    /// All members, in no order.
    pub members: Vec<Present>,
}

/// What came of a [`Join`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Joined {
    /// The member is in.
    Entered(View),
    /// There is no place.
    Full {
        /// How many the room may have.
        max: u32,
    },
}

/// Something to pass on.
#[derive(Clone, Debug)]
pub struct Signal {
    /// The sender.
    pub from: MemberId,
    /// The sender's connection epoch; 0 for whichever it is, of a sender that has shown its secret.
    pub conn: u64,
    /// To whom; all others if `None`.
    pub to: Option<MemberId>,
    /// The request, as a word without spaces: a second one of the same sender is not passed on again, if it
    /// [may come](crate::entry::may_come_again).
    pub id: String,
    /// JSON.
    pub data: String,
}

impl Signal {
    /// How it stands in the log, but for its place: see [`Draft::line`](crate::entry::Draft::line).
    #[must_use]
    pub fn line(&self) -> String {
        line(Kind::Signal, &self.from, self.to.as_ref(), &self.id, &self.data)
    }

    /// What its line weighs: see [`Draft::weight`](crate::entry::Draft::weight).
    #[must_use]
    pub fn weight(&self) -> u64 {
        weight(&self.from, self.to.as_ref(), &self.id, &self.data)
    }

    /// Its entry at a place of the log.
    #[must_use]
    pub fn number(&self, epoch: u64, seq: u64) -> Entry {
        let Self { from, to, id, data, .. } = self.clone();
        Entry { kind: Kind::Signal, epoch, seq, from, to, id, body: data }
    }
}

/// Something to pass on from outside of the room.
#[derive(Clone, Debug)]
pub struct Post {
    /// The sender; no member but this one is left out.
    pub from: MemberId,
    /// To whom; all if `None`.
    pub to: Option<MemberId>,
    /// As in [`Signal`].
    pub id: String,
    /// JSON.
    pub data: String,
}

/// What came of a [`Signal`] or a [`Post`]: its place in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// It has been appended.
    Now(u64),
    /// It had been appended before, under the same request.
    Before(u64),
}

impl Sent {
    /// Its place in the log.
    #[must_use]
    pub const fn seq(self) -> u64 {
        match self {
            Self::Now(seq) | Self::Before(seq) => seq,
        }
    }
}

/// A session goes on, on another connection.
#[derive(Clone, Debug)]
pub struct Resume {
    /// The session.
    pub member: MemberId,
    /// As given when it joined.
    pub secret: String,
    /// On which replica the new connection is.
    pub holder: ReplicaId,
    /// Where the client stands.
    pub epoch: u64,
    /// Where the client stands.
    pub seq: u64,
}

/// What came of a [`Resume`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resumed {
    /// The new connection epoch; what any older one writes is refused.
    pub conn: u64,
    /// When the member came.
    pub since: u64,
    /// The room now.
    pub view: View,
    /// Every entry after the client's seq, or `None` if they are no longer all known.
    pub missed: Option<Vec<Entry>>,
}

/// What a replica finds when it renews its lease on a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pulse {
    /// All is well; the log stands here.
    Kept {
        /// The log's life.
        epoch: u64,
        /// The log's last entry.
        seq: u64,
    },
    /// The replica has no lease: if it knows the log of this epoch, its lease had run out and its members
    /// were removed; if not, the room has begun anew without it.
    Lapsed {
        /// The log's life.
        epoch: u64,
    },
    /// There is no such room: the store lost it.
    Gone,
}

/// What a replica knows of a member that it holds, to tell a store that lost it.
#[derive(Clone, Debug)]
pub struct Held {
    /// Its id.
    pub member: MemberId,
    /// What a resume must show.
    pub secret: String,
    /// Its connection epoch.
    pub conn: u64,
    /// When it came.
    pub since: u64,
    /// What the others are told.
    pub profile: Profile,
}

/// A replica says what it knows of a room that the store lost, wholly or the end of its log.
#[derive(Clone, Debug)]
pub struct Assert {
    /// Which replica.
    pub holder: ReplicaId,
    /// The last life of the log that it knew.
    pub epoch: u64,
    /// The last entry that it knew.
    pub seq: u64,
    /// The most members, if the room has to be made anew.
    pub max: u32,
    /// The members that it holds.
    pub members: Vec<Held>,
}

/// What a reader of the log finds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Read {
    /// Every entry after the seq that was asked for.
    Entries(Vec<Entry>),
    /// They are no longer all known, or the log is another one.
    Lost,
}

/// The room will not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    /// The session has ended, or never was.
    #[error("this session has ended; join again")]
    UnknownSession,
    /// Another connection resumed the session.
    #[error("another connection resumed this session; close this one")]
    Superseded,
    /// The room has no member with the id in `to`.
    #[error("the room has no member with that id; take ids from `members` and `member-joined`")]
    NoSuchMember,
    /// The client may not enter; the same whether there is such a room or not.
    #[error("this token does not let into that room; get one whose `rooms` names it")]
    Forbidden,
}
