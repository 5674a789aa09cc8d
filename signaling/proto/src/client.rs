//! What a client says, and why a frame is refused.

use crate::names::{MemberId, NameError, RequestId, ResumeToken, RoomName};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::{borrow::Cow, fmt};

/// The longest `name` of a member, in bytes.
pub const NAME_BYTES: usize = 128;
/// The longest `meta` of a member, in bytes of JSON.
pub const META_BYTES: usize = 4096;

/// A frame of a client. `id` is answered.
#[derive(Clone, Debug)]
pub enum ClientFrame<'a> {
    /// Enters a room.
    Join {
        /// Answered by `joined` or `full`.
        id: Option<RequestId>,
        /// Which room.
        room: RoomName,
        /// A name to show.
        name: Option<Cow<'a, str>>,
        /// Anything that the others should know.
        meta: Option<&'a RawValue>,
        /// The most members; counts from the first to join, 0 for no limit.
        max: u32,
    },
    /// Sends something to others.
    Signal {
        /// Answered by `ack`.
        id: Option<RequestId>,
        /// Whom; all others of the room when absent.
        to: Option<MemberId>,
        /// What.
        data: &'a RawValue,
    },
    /// Leaves the room.
    Leave {
        /// Answered by `ack`.
        id: Option<RequestId>,
    },
    /// Goes on with a session after its connection was lost.
    Resume {
        /// Answered by `resumed` or `resync`.
        id: Option<RequestId>,
        /// As given in `joined`.
        token: ResumeToken,
        /// Of the last frame of the room that arrived.
        epoch: u64,
        /// Of the last frame of the room that arrived.
        seq: u64,
    },
    /// Asks for fresh credentials.
    Ice {
        /// Answered by `ice`.
        id: Option<RequestId>,
    },
    /// Goes on with a fresh token.
    Auth {
        /// Answered by `auth`.
        id: Option<RequestId>,
        /// A JWT.
        token: Cow<'a, str>,
    },
    /// Asks whether the server is there.
    Ping {
        /// Answered by `pong`.
        id: Option<RequestId>,
    },
}

/// Why something that a client sent is answered with `error`: a stable code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Code {
    /// The frame is not JSON.
    BadJson,
    /// A field is missing, unknown, of the wrong type or of an illegal value.
    BadFrame,
    /// There is no such `type`.
    UnknownType,
    /// A binary frame.
    Binary,
    /// The frame is longer than the limit.
    TooLarge,
    /// Too many frames.
    RateLimited,
    /// The connection is in no room.
    NotJoined,
    /// The connection is in a room already.
    AlreadyJoined,
    /// The room has no member with that id.
    NoSuchMember,
    /// The session has ended, or never was.
    UnknownSession,
    /// Another connection resumed this session.
    Superseded,
    /// The server has as many rooms as it may.
    TooManyRooms,
    /// The store of rooms cannot be reached.
    StoreUnavailable,
    /// Only members on the same server got it.
    Degraded,
    /// No credentials can be made.
    IceUnavailable,
    /// The token is not good.
    Unauthorized,
    /// The token does not permit this.
    Forbidden,
}

impl Code {
    /// All of them.
    pub const ALL: [Self; 17] = [
        Self::BadJson,
        Self::BadFrame,
        Self::UnknownType,
        Self::Binary,
        Self::TooLarge,
        Self::RateLimited,
        Self::NotJoined,
        Self::AlreadyJoined,
        Self::NoSuchMember,
        Self::UnknownSession,
        Self::Superseded,
        Self::TooManyRooms,
        Self::StoreUnavailable,
        Self::Degraded,
        Self::IceUnavailable,
        Self::Unauthorized,
        Self::Forbidden,
    ];

    /// As it is sent.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BadJson => "bad_json",
            Self::BadFrame => "bad_frame",
            Self::UnknownType => "unknown_type",
            Self::Binary => "binary",
            Self::TooLarge => "too_large",
            Self::RateLimited => "rate_limited",
            Self::NotJoined => "not_joined",
            Self::AlreadyJoined => "already_joined",
            Self::NoSuchMember => "no_such_member",
            Self::UnknownSession => "unknown_session",
            Self::Superseded => "superseded",
            Self::TooManyRooms => "too_many_rooms",
            Self::StoreUnavailable => "store_unavailable",
            Self::Degraded => "degraded",
            Self::IceUnavailable => "ice_unavailable",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A frame is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct FrameError {
    /// The `id` that the frame had, if that much could be read.
    pub id: Option<RequestId>,
    /// Which kind of mistake.
    pub code: Code,
    /// What to do about it.
    pub message: String,
}

// One flat struct rather than an enum tagged by `type`: serde buffers tagged enums, which would copy
// `data`, and could not say which field is unknown.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    id: Option<RequestId>,
    #[serde(borrow)]
    room: Option<Cow<'a, str>>,
    #[serde(borrow)]
    name: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "given")]
    meta: Option<&'a RawValue>,
    max: Option<u32>,
    #[serde(borrow)]
    to: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "given")]
    data: Option<&'a RawValue>,
    #[serde(borrow)]
    resume: Option<Cow<'a, str>>,
    epoch: Option<u64>,
    seq: Option<u64>,
    #[serde(borrow)]
    token: Option<Cow<'a, str>>,
}

/// `null` is a value like others.
fn given<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

impl Raw<'_> {
    /// The first field that is there and is not `allowed`.
    fn stray(&self, allowed: &[&str]) -> Option<&'static str> {
        let there = [
            ("room", self.room.is_some()),
            ("name", self.name.is_some()),
            ("meta", self.meta.is_some()),
            ("max", self.max.is_some()),
            ("to", self.to.is_some()),
            ("data", self.data.is_some()),
            ("resume", self.resume.is_some()),
            ("epoch", self.epoch.is_some()),
            ("seq", self.seq.is_some()),
            ("token", self.token.is_some()),
        ];
        there.into_iter().find(|(name, given)| *given && !allowed.contains(name)).map(|(name, _)| name)
    }
}

/// Which fields each type has, besides `type` and `id`.
const TYPES: [(&str, &[&str]); 7] = [
    ("join", &["room", "name", "meta", "max"]),
    ("signal", &["to", "data"]),
    ("leave", &[]),
    ("resume", &["resume", "epoch", "seq"]),
    ("ice", &[]),
    ("auth", &["token"]),
    ("ping", &[]),
];

impl<'a> ClientFrame<'a> {
    /// Reads a text frame.
    ///
    /// # Errors
    /// [`FrameError`] says which field is wrong and what belongs there.
    pub fn parse(text: &'a str) -> Result<Self, FrameError> {
        let raw: Raw<'a> = serde_json::from_str(text).map_err(|e| unreadable(text, &e))?;
        let fail = |code, message: String| FrameError { id: raw.id.clone(), code, message };
        let bad = |message: String| fail(Code::BadFrame, message);
        let Some((kind, fields)) = TYPES.into_iter().find(|(kind, _)| *kind == raw.kind) else {
            let known = TYPES.map(|(kind, _)| kind).join(", ");
            let shown: String = raw.kind.chars().take(40).collect();
            return Err(fail(
                Code::UnknownType,
                format!("there is no type {shown:?}; write one of: {known}"),
            ));
        };
        if let Some(stray) = raw.stray(fields) {
            return Err(bad(format!("`{stray}` does not belong in `{kind}`; leave it out")));
        }
        let missing = |field: &str| bad(format!("`{kind}` needs `{field}`"));
        let named = |e: NameError| bad(e.to_string());
        Ok(match kind {
            "join" => {
                let room = raw.room.as_ref().ok_or_else(|| missing("room"))?.parse().map_err(named)?;
                if raw.name.as_ref().is_some_and(|name| name.len() > NAME_BYTES) {
                    return Err(bad(format!("`name` is longer than {NAME_BYTES} bytes")));
                }
                if raw.meta.is_some_and(|meta| meta.get().len() > META_BYTES) {
                    return Err(bad(format!("`meta` is longer than {META_BYTES} bytes")));
                }
                Self::Join { id: raw.id, room, name: raw.name, meta: raw.meta, max: raw.max.unwrap_or(0) }
            }
            "signal" => {
                let to = raw.to.as_ref().map(|to| to.parse()).transpose().map_err(named)?;
                let data = raw.data.ok_or_else(|| missing("data"))?;
                Self::Signal { id: raw.id, to, data }
            }
            "leave" => Self::Leave { id: raw.id },
            "resume" => Self::Resume {
                token: raw.resume.as_ref().ok_or_else(|| missing("resume"))?.parse().map_err(named)?,
                epoch: raw.epoch.ok_or_else(|| missing("epoch"))?,
                seq: raw.seq.ok_or_else(|| missing("seq"))?,
                id: raw.id,
            },
            "ice" => Self::Ice { id: raw.id },
            "auth" => Self::Auth { token: raw.token.clone().ok_or_else(|| missing("token"))?, id: raw.id },
            _ => Self::Ping { id: raw.id },
        })
    }
}

fn unreadable(text: &str, error: &serde_json::Error) -> FrameError {
    #[derive(Deserialize)]
    struct OnlyId {
        id: Option<RequestId>,
    }
    let id = serde_json::from_str::<OnlyId>(text).ok().and_then(|frame| frame.id);
    let (code, message) = if error.is_data() {
        (Code::BadFrame, error.to_string())
    } else {
        (Code::BadJson, format!("a frame is one JSON object: {error}"))
    };
    FrameError { id, code, message }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn each_type_is_read() {
        for (text, expected) in [
            (r#"{"type":"join","id":1,"room":"a","name":"n","meta":{"x":[1]},"max":4}"#, "Join"),
            (r#"{"type":"signal","to":"m-1","data":{"sdp":"x"}}"#, "Signal"),
            (r#"{"data":null,"type":"signal"}"#, "Signal"),
            (r#"{"type":"leave"}"#, "Leave"),
            (r#"{"type":"resume","resume":"m-1~s~room","epoch":1,"seq":2}"#, "Resume"),
            (r#"{"type":"ice"}"#, "Ice"),
            (r#"{"type":"auth","token":"a.b.c"}"#, "Auth"),
            (r#"{"type":"\u0070ing","id":"x"}"#, "Ping"),
        ] {
            let frame = ClientFrame::parse(text).unwrap();
            assert!(format!("{frame:?}").starts_with(expected), "{frame:?}");
        }
    }

    #[test]
    fn a_refused_frame_names_its_mistake_and_keeps_its_id() {
        for (text, code, word) in [
            ("hello", Code::BadJson, "JSON"),
            ("", Code::BadJson, "JSON"),
            ("[]", Code::BadFrame, "invalid"),
            (r#"{"id":7}"#, Code::BadFrame, "type"),
            (r#"{"type":"jion","id":7}"#, Code::UnknownType, "join, signal"),
            (r#"{"type":"join","id":7}"#, Code::BadFrame, "`room`"),
            (r#"{"type":"join","id":7,"room":""}"#, Code::BadFrame, "128"),
            (r#"{"type":"join","id":7,"room":"a","colour":1}"#, Code::BadFrame, "colour"),
            (r#"{"type":"leave","id":7,"room":"a"}"#, Code::BadFrame, "`room` does not belong"),
            (r#"{"type":"signal","id":7}"#, Code::BadFrame, "`data`"),
            (r#"{"type":"auth","id":7}"#, Code::BadFrame, "`token`"),
            (r#"{"type":"signal","id":7,"to":"a b","data":1}"#, Code::BadFrame, "members"),
            (r#"{"type":"resume","id":7,"resume":"x","epoch":1,"seq":1}"#, Code::BadFrame, "join again"),
            (r#"{"type":"join","id":7,"room":"a","max":-1}"#, Code::BadFrame, "u32"),
        ] {
            let error = ClientFrame::parse(text).unwrap_err();
            assert_eq!(error.code, code, "{text}");
            assert!(error.message.contains(word), "{text}: {}", error.message);
            assert_eq!(error.id.is_some(), text.contains("\"id\":7"), "{text}");
        }
    }
}
