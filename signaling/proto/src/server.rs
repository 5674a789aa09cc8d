//! What the server answers. Frames of a room's log are in [`crate::entry`].

use crate::{
    client::Code,
    limits::Limits,
    names::{RequestId, RoomName},
    room::Present,
};
use serde::Serialize;
use serde_json::value::RawValue;
use std::borrow::Cow;

/// What a member is told of ICE: a JSON array of `RTCIceServer`, and the Unix second at which the
/// credentials in it expire (0 when there are none).
#[derive(Clone, Debug)]
pub struct Ice {
    /// The array, as JSON.
    pub servers: Box<RawValue>,
    /// Unix seconds.
    pub expires: u64,
}

/// A frame of the server that is not an entry of the log.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ServerFrame<'a> {
    /// Answers `join`.
    #[serde(rename_all = "camelCase")]
    Joined {
        /// Of the request.
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a RequestId>,
        /// Which room.
        room: &'a RoomName,
        /// The new member's id.
        session: &'a str,
        /// What to show to resume; a secret.
        resume: &'a str,
        /// Where the log stands.
        epoch: u64,
        /// Where the log stands.
        seq: u64,
        /// The others.
        members: Roster<'a>,
        /// For `RTCPeerConnection`.
        ice_servers: Cow<'a, RawValue>,
        /// Unix seconds.
        expires: u64,
        /// Whether there is somebody to whom this member is the polite side.
        polite: bool,
        /// What a client may ask for.
        limits: LimitsFrame,
        /// A word for the replica behind this connection.
        replica: &'a str,
    },
    /// Answers `join`: the room has as many members as it may.
    Full {
        /// Of the request.
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a RequestId>,
        /// Which room.
        room: &'a RoomName,
        /// How many it may have.
        max: u32,
    },
    /// Answers `resume`: all that was missed follows, in order.
    Resumed {
        /// Of the request.
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a RequestId>,
        /// The member's id, as before.
        session: &'a str,
        /// The log's life, as before.
        epoch: u64,
        /// From where on the log is repeated: what the client named.
        seq: u64,
        /// The others as of `seq`, less those who have left since.
        members: Roster<'a>,
        /// A word for the replica behind this connection.
        replica: &'a str,
    },
    /// What was missed is no longer known (or, unasked, the log was lost): here is how things stand.
    Resync {
        /// Of the request.
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a RequestId>,
        /// The member's id, as before.
        session: &'a str,
        /// Where the log stands.
        epoch: u64,
        /// Where the log stands.
        seq: u64,
        /// The others.
        members: Roster<'a>,
        /// A word for the replica behind this connection.
        replica: &'a str,
    },
    /// Everything of the room up to this entry has been told, or is not for this member. Ends the answer to
    /// a poll.
    Position {
        /// Where the log stands.
        epoch: u64,
        /// Where the log stands.
        seq: u64,
    },
    /// Nothing follows, for this reason: what a WebSocket says by its close code.
    Closed {
        /// See [`crate::close`].
        code: u16,
        /// For people.
        reason: &'a str,
    },
    /// Done.
    Ack {
        /// Of the request.
        id: &'a RequestId,
        /// Of the entry, if the request made one.
        #[serde(skip_serializing_if = "Option::is_none")]
        seq: Option<u64>,
    },
    /// Not done.
    Error {
        /// Of the request.
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a RequestId>,
        /// A stable word.
        code: &'static str,
        /// What to do about it.
        message: &'a str,
    },
    /// Answers `ice`.
    #[serde(rename_all = "camelCase")]
    Ice {
        /// Of the request.
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a RequestId>,
        /// For `RTCPeerConnection.setConfiguration`.
        ice_servers: Cow<'a, RawValue>,
        /// Unix seconds.
        expires: u64,
    },
    /// Answers `auth`.
    Auth {
        /// Of the request.
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a RequestId>,
        /// When the token expires: Unix seconds; 0 where no token is asked for.
        expires: u64,
    },
    /// The token expires soon: send a fresh one by `auth`.
    AuthExpiring {
        /// Unix seconds.
        expires: u64,
    },
    /// Answers `ping`.
    Pong {
        /// Of the request.
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a RequestId>,
    },
    /// This server will end: resume elsewhere after a while of the client's own.
    #[serde(rename_all = "camelCase")]
    Goaway {
        /// Milliseconds.
        reconnect_in_ms: u64,
    },
    /// The store of rooms cannot be reached; only members on the same server get what is sent.
    Degraded {
        /// Unix seconds.
        since: u64,
    },
    /// The store of rooms is back.
    Recovered,
}

impl ServerFrame<'_> {
    /// The frame as text.
    #[must_use]
    pub fn to_text(&self) -> String {
        // Strings, numbers and JSON that was checked before always serialise.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// An `error`.
    #[must_use]
    pub fn error(id: Option<&RequestId>, code: Code, message: &str) -> String {
        ServerFrame::Error { id, code: code.as_str(), message }.to_text()
    }
}

/// [`Limits`] as a client is told them.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LimitsFrame {
    frame_bytes: usize,
    messages_per_second: u32,
    queue_bytes: usize,
}

impl From<Limits> for LimitsFrame {
    fn from(limits: Limits) -> Self {
        Self {
            frame_bytes: limits.frame_bytes,
            messages_per_second: limits.messages_per_second,
            queue_bytes: limits.queue_bytes,
        }
    }
}

/// The others of a room, as one of them is told.
#[derive(Clone, Copy, Debug)]
pub struct Roster<'a> {
    /// All members, with or without the one that is told.
    pub members: &'a [Present],
    /// Whose view: left out itself.
    pub own: &'a str,
    /// When it came: toward those before, it is the polite side.
    pub since: u64,
    /// Those who came later than this are left out.
    pub until: u64,
}

impl Serialize for Roster<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let others = self.members.iter().filter(|m| m.id.as_str() != self.own && m.since <= self.until);
        serializer.collect_seq(others.map(|m| {
            // a profile is JSON that was written by `Profile::new`
            RawValue::from_string(m.profile.to_json(m.since < self.since)).ok()
        }))
    }
}
