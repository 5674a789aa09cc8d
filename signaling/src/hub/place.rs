//! What it takes to enter a room, what one has then, and why not.

use crate::{parcel::Parcel, store::StoreError};
use rtc_signaling_proto::{MemberId, Refusal, ResumeToken, RoomName, ops::View};
use serde_json::value::RawValue;
use std::{fmt, sync::Arc};

/// Who wants to enter which room.
#[derive(Clone)]
pub struct Entering<'a> {
    /// Which.
    pub room: RoomName,
    /// As whom: an id that is met only once; drawn at random if `None`.
    pub member: Option<MemberId>,
    /// To show.
    pub name: Option<&'a str>,
    /// For the others.
    pub meta: Option<&'a RawValue>,
    /// Who it is by its token; told to the others, and to be the same when it resumes.
    pub user: Option<&'a str>,
    /// What a resume must show; drawn at random if `None`.
    pub secret: Option<&'a str>,
    /// The most members, if it is the first; 0 for no limit.
    pub max: u32,
    /// The most members with whom it enters; 0 for any number.
    pub bound: u32,
}

impl Entering<'_> {
    /// Anybody, into a room without a limit.
    #[must_use]
    pub fn new(room: RoomName) -> Self {
        Self { room, member: None, name: None, meta: None, user: None, secret: None, max: 0, bound: 0 }
    }
}

impl fmt::Debug for Entering<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Entering({:?})", self.room)
    }
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
    pub(super) key: u64,
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
    /// This replica has as many rooms as it may.
    #[error("this server has {max} rooms, as many as it may; try again later")]
    TooManyRooms {
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
