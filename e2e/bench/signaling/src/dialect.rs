//! What the clients of each server say and hear, as text frames.

use std::fmt::Write as _;

/// The protocol of a server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Dialect {
    /// `rtc-signaling`'s own.
    Native,
    /// The same, with a request to answer each message.
    NativeAcks,
    /// Socket.IO 5 over Engine.IO 4, with the events `join`, `peer`, `message`, `leave`.
    SocketIo,
    /// PeerJS: no rooms, one client names the other.
    PeerJs,
    /// The bare relay's: a letter and what belongs to it.
    Bare,
}

/// What a frame says to a client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Heard {
    /// It may begin.
    Ready,
    /// It is in the room.
    Entered,
    /// Another one is in the room.
    Peer,
    /// A message, with its tag.
    Message(u64),
    /// It has left.
    Left,
    /// The server ended the connection.
    Gone,
    /// The frame has to be answered so.
    Answer(&'static str),
    /// Nothing that a load waits for.
    Noise,
    /// The server refuses.
    Refused,
}

/// Digits of the tag at the end of a message.
const TAG: usize = 10;

impl Dialect {
    /// Where client `number` connects.
    pub(crate) fn path(self, number: usize) -> String {
        match self {
            Dialect::Native | Dialect::NativeAcks => "/v1/connect".into(),
            Dialect::SocketIo => "/socket.io/?EIO=4&transport=websocket".into(),
            Dialect::PeerJs => format!("/peerjs?key=peerjs&id={}&token=t{number}&version=1.5.4", id(number)),
            Dialect::Bare => "/".into(),
        }
    }

    /// Whether a client may begin as soon as its WebSocket is open.
    pub(crate) fn ready_at_once(self) -> bool {
        matches!(self, Dialect::Native | Dialect::NativeAcks | Dialect::Bare)
    }

    /// Whether it has rooms; otherwise a call begins with its first message.
    pub(crate) fn has_rooms(self) -> bool {
        self != Dialect::PeerJs
    }

    /// Enters a room.
    pub(crate) fn join(self, room: u64) -> String {
        match self {
            Dialect::Native | Dialect::NativeAcks => {
                format!(r#"{{"type":"join","id":"j","room":"call-{room}"}}"#)
            }
            Dialect::SocketIo => format!(r#"420["join","call-{room}"]"#),
            Dialect::Bare => format!("jcall-{room}"),
            Dialect::PeerJs => String::new(),
        }
    }

    /// A message of so many bytes with a tag, from one client to the other, or to all others of its room.
    pub(crate) fn message(self, text: &mut String, length: usize, tag: u64, from: usize, to: usize) {
        text.clear();
        // Writing to a String cannot fail.
        let _ = match self {
            Dialect::Native => write!(text, r#"{{"type":"signal","data":""#),
            Dialect::NativeAcks => write!(text, r#"{{"type":"signal","id":{tag},"data":""#),
            Dialect::SocketIo => write!(text, r#"42["message",""#),
            Dialect::PeerJs => {
                let (from, to) = (id(from), id(to));
                write!(text, r#"{{"type":"OFFER","src":"{from}","dst":"{to}","payload":""#)
            }
            Dialect::Bare => write!(text, "m"),
        };
        text.extend(std::iter::repeat_n('x', length.saturating_sub(TAG)));
        let _ = write!(text, "{tag:0TAG$}");
        text.push_str(match self {
            Dialect::Native | Dialect::NativeAcks | Dialect::PeerJs => "\"}",
            Dialect::SocketIo => "\"]",
            Dialect::Bare => "",
        });
    }

    /// Leaves the room, or the other client.
    pub(crate) fn leave(self, from: usize, to: usize) -> String {
        match self {
            Dialect::Native | Dialect::NativeAcks => r#"{"type":"leave","id":"l"}"#.into(),
            Dialect::SocketIo => r#"421["leave"]"#.into(),
            Dialect::PeerJs => format!(r#"{{"type":"LEAVE","src":"{}","dst":"{}"}}"#, id(from), id(to)),
            Dialect::Bare => "l".into(),
        }
    }

    /// What a frame says.
    pub(crate) fn hear(self, text: &[u8]) -> Heard {
        let is = |start: &str| text.starts_with(start.as_bytes());
        match self {
            Dialect::NativeAcks => Dialect::Native.hear(text),
            Dialect::Native if is(r#"{"type":"signal""#) => message(text),
            Dialect::Native if is(r#"{"type":"joined""#) => Heard::Entered,
            Dialect::Native if is(r#"{"type":"member-joined""#) => Heard::Peer,
            Dialect::Native if is(r#"{"type":"ack","id":"l""#) => Heard::Left,
            Dialect::Native if is(r#"{"type":"error""#) => Heard::Refused,
            Dialect::SocketIo if is(r#"42["message""#) => message(text),
            Dialect::SocketIo if is("430") => Heard::Entered,
            Dialect::SocketIo if is(r#"42["peer""#) => Heard::Peer,
            Dialect::SocketIo if is("431") => Heard::Left,
            Dialect::SocketIo if is("0{") => Heard::Answer("40"),
            Dialect::SocketIo if is("40{") => Heard::Ready,
            Dialect::SocketIo if is("44") => Heard::Refused,
            Dialect::SocketIo if text == b"2" => Heard::Answer("3"),
            Dialect::PeerJs if is(r#"{"type":"OFFER""#) => message(text),
            Dialect::PeerJs if is(r#"{"type":"OPEN""#) => Heard::Ready,
            Dialect::PeerJs if is(r#"{"type":"LEAVE""#) => Heard::Left,
            Dialect::PeerJs if is(r#"{"type":"ERROR""#) || is(r#"{"type":"EXPIRE""#) => Heard::Refused,
            Dialect::Bare => match text.first() {
                Some(b'm') => message(text),
                Some(b'j') => Heard::Entered,
                Some(b'p') => Heard::Peer,
                Some(b'l') => Heard::Left,
                _ => Heard::Noise,
            },
            _ => Heard::Noise,
        }
    }
}

fn id(number: usize) -> String {
    format!("bench-{number}")
}

fn message(text: &[u8]) -> Heard {
    let end = text.iter().rposition(u8::is_ascii_digit).map_or(0, |at| at + 1);
    let digits = text.get(end.saturating_sub(TAG)..end).unwrap_or_default();
    let tag = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok());
    tag.map_or(Heard::Refused, Heard::Message)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn a_message_is_heard_with_its_tag_in_every_dialect() {
        let mut text = String::new();
        for dialect in
            [Dialect::Native, Dialect::NativeAcks, Dialect::SocketIo, Dialect::PeerJs, Dialect::Bare]
        {
            dialect.message(&mut text, 100, 1234, 1, 2);
            assert_eq!(dialect.hear(text.as_bytes()), Heard::Message(1234), "{text}");
            assert!(text.contains(&"x".repeat(90)));
        }
        let numbered = br#"{"type":"signal","epoch":17,"seq":4,"from":"ab","data":"xxx0000000042"}"#;
        assert_eq!(Dialect::Native.hear(numbered), Heard::Message(42));
    }
}
