//! One connection: which frame means what, and when.
//!
//! The driver gives it every frame ([`Session::text`], [`Session::binary`]) with the time, does what the
//! [`Step`] says, and reports a join or a resume that worked ([`Session::entered`]).

use crate::{
    client::{ClientFrame, Code, FrameError},
    close,
    limits::{Bucket, Limits},
    names::{MemberId, RequestId, ResumeToken, RoomName},
    server::ServerFrame,
};
use serde_json::value::RawValue;

/// What to do about a frame.
#[derive(Clone, Debug)]
pub enum Step {
    /// Send this.
    Reply(String),
    /// Have this done by the rooms, then answer.
    Do(Command),
    /// Send this, then close with this code and reason.
    Close(String, u16, &'static str),
}

/// What a client wants of the rooms.
#[derive(Clone, Debug)]
pub enum Command {
    /// Enter a room.
    Join {
        /// To answer.
        id: Option<RequestId>,
        /// Which.
        room: RoomName,
        /// To show.
        name: Option<String>,
        /// For the others.
        meta: Option<Box<RawValue>>,
        /// 0 for no limit.
        max: u32,
    },
    /// Pass something on.
    Signal {
        /// To answer.
        id: Option<RequestId>,
        /// All others if `None`.
        to: Option<MemberId>,
        /// JSON.
        data: String,
    },
    /// Leave.
    Leave {
        /// To answer.
        id: Option<RequestId>,
    },
    /// Go on with a session.
    Resume {
        /// To answer.
        id: Option<RequestId>,
        /// Which, and the proof.
        token: ResumeToken,
        /// Where the client stands.
        epoch: u64,
        /// Where the client stands.
        seq: u64,
    },
    /// Make credentials.
    Ice {
        /// To answer.
        id: Option<RequestId>,
    },
    /// Go on with a fresh token.
    Auth {
        /// To answer.
        id: Option<RequestId>,
        /// A JWT.
        token: Token,
    },
}

impl Command {
    /// The frame's `type`.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Join { .. } => "join",
            Self::Signal { .. } => "signal",
            Self::Leave { .. } => "leave",
            Self::Resume { .. } => "resume",
            Self::Ice { .. } => "ice",
            Self::Auth { .. } => "auth",
        }
    }

    /// To answer.
    #[must_use]
    pub const fn id(&self) -> Option<&RequestId> {
        match self {
            Self::Join { id, .. }
            | Self::Signal { id, .. }
            | Self::Leave { id }
            | Self::Resume { id, .. }
            | Self::Ice { id }
            | Self::Auth { id, .. } => id.as_ref(),
        }
    }
}

/// A client's token. Shown as nothing.
#[derive(Clone)]
pub struct Token(pub String);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token")
    }
}

/// The state of one connection.
#[derive(Clone, Debug)]
pub struct Session {
    limits: Limits,
    joined: bool,
    rate: Bucket,
    faults: Bucket,
}

impl Session {
    /// A connection that is in no room yet.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            joined: false,
            rate: Bucket::new(limits.messages_per_second, limits.messages_per_second.saturating_mul(2)),
            faults: Bucket::new(1, limits.faults),
        }
    }

    /// Its join or resume worked.
    pub fn entered(&mut self) {
        self.joined = true;
    }

    /// It is in no room any more.
    pub fn left(&mut self) {
        self.joined = false;
    }

    /// A text frame arrived at `now_ms`.
    pub fn text(&mut self, text: &str, now_ms: u64) -> Step {
        if !self.rate.take(now_ms) {
            let most = self.limits.messages_per_second;
            return self.refuse(
                now_ms,
                None,
                Code::RateLimited,
                &format!("send at most {most} frames a second"),
            );
        }
        if text.len() > self.limits.frame_bytes {
            let most = self.limits.frame_bytes;
            return self.refuse(now_ms, None, Code::TooLarge, &format!("a frame has at most {most} bytes"));
        }
        match ClientFrame::parse(text) {
            Ok(frame) => self.frame(frame, now_ms),
            Err(FrameError { id, code, message }) => self.refuse(now_ms, id.as_ref(), code, &message),
        }
    }

    /// A binary frame arrived at `now_ms`.
    pub fn binary(&mut self, now_ms: u64) -> Step {
        self.refuse(now_ms, None, Code::Binary, "send JSON in text frames")
    }

    fn frame(&mut self, frame: ClientFrame<'_>, now_ms: u64) -> Step {
        let joined = self.joined;
        match frame {
            ClientFrame::Ping { id } => Step::Reply(ServerFrame::Pong { id: id.as_ref() }.to_text()),
            ClientFrame::Join { id, .. } | ClientFrame::Resume { id, .. } if joined => {
                let how = "this connection is in a room already; leave it first, or open another connection";
                self.refuse(now_ms, id.as_ref(), Code::AlreadyJoined, how)
            }
            ClientFrame::Auth { id, token } => Step::Do(Command::Auth { id, token: Token(token.into()) }),
            ClientFrame::Join { id, room, name, meta, max } => Step::Do(Command::Join {
                id,
                room,
                name: name.map(Into::into),
                meta: meta.map(ToOwned::to_owned),
                max,
            }),
            ClientFrame::Resume { id, token, epoch, seq } => {
                Step::Do(Command::Resume { id, token, epoch, seq })
            }
            ClientFrame::Signal { id, .. } | ClientFrame::Leave { id } | ClientFrame::Ice { id }
                if !joined =>
            {
                self.refuse(now_ms, id.as_ref(), Code::NotJoined, "send `join` or `resume` first")
            }
            ClientFrame::Signal { id, to, data } => {
                Step::Do(Command::Signal { id, to, data: data.get().to_owned() })
            }
            ClientFrame::Leave { id } => Step::Do(Command::Leave { id }),
            ClientFrame::Ice { id } => Step::Do(Command::Ice { id }),
        }
    }

    fn refuse(&mut self, now_ms: u64, id: Option<&RequestId>, code: Code, message: &str) -> Step {
        let answer = ServerFrame::error(id, code, message);
        if self.faults.take(now_ms) {
            Step::Reply(answer)
        } else {
            Step::Close(answer, close::PROTOCOL, "too many refused frames; see the errors before this")
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    fn code(step: &Step) -> String {
        match step {
            Step::Reply(text) | Step::Close(text, ..) => {
                let value: serde_json::Value = serde_json::from_str(text).unwrap();
                value["code"].as_str().or(value["type"].as_str()).unwrap().to_owned()
            }
            Step::Do(command) => format!("{command:?}").split(' ').next().unwrap().to_owned(),
        }
    }

    #[test]
    fn what_a_frame_means_depends_on_whether_the_client_is_in_a_room() {
        let mut session = Session::new(Limits::default());
        let join = r#"{"type":"join","room":"a"}"#;
        let signal = r#"{"type":"signal","data":1}"#;
        assert_eq!(code(&session.text(signal, 0)), "not_joined");
        assert_eq!(code(&session.text(r#"{"type":"ping"}"#, 0)), "pong");
        assert_eq!(code(&session.text(join, 0)), "Join");
        session.entered();
        assert_eq!(code(&session.text(join, 0)), "already_joined");
        assert_eq!(code(&session.text(signal, 0)), "Signal");
        session.left();
        assert_eq!(code(&session.text(signal, 0)), "not_joined");
        assert_eq!(code(&session.text(join, 0)), "Join");
        assert_eq!(code(&session.binary(0)), "binary");
    }

    #[test]
    fn a_flood_is_refused_and_then_closed_and_a_pause_makes_good() {
        let limits = Limits { messages_per_second: 10, faults: 5, ..Limits::default() };
        let mut session = Session::new(limits);
        let ping = r#"{"type":"ping"}"#;
        let answers: Vec<String> = (0..25).map(|_| code(&session.text(ping, 0))).collect();
        assert_eq!(answers.iter().filter(|a| *a == "pong").count(), 20);
        assert_eq!(answers.iter().filter(|a| *a == "rate_limited").count(), 5);
        assert!(matches!(session.text(ping, 0), Step::Close(_, close::PROTOCOL, _)));
        assert_eq!(code(&session.text(ping, 60_000)), "pong");
    }

    #[test]
    fn a_frame_over_the_limit_is_answered_without_being_read() {
        let mut session = Session::new(Limits { frame_bytes: 100, ..Limits::default() });
        assert_eq!(code(&session.text(&"x".repeat(101), 0)), "too_large");
    }
}
