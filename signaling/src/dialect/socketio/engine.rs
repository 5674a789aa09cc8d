//! Engine.IO, revisions 3 and 4: packets and payloads, without IO.
//!
//! Source: the protocol documents of `socketio/engine.io-protocol`. Revision 3 is what Socket.IO 1 and 2
//! speak, revision 4 what 3 and 4 speak. Binary packets are not supported: WebRTC's signaling is text.

use serde_json::json;

/// Milliseconds between pings.
pub(super) const PING_INTERVAL: u64 = 25_000;
/// Milliseconds that an answer may take.
pub(super) const PING_TIMEOUT: u64 = 20_000;
/// Bytes of a polling request's body.
pub(super) const MAX_PAYLOAD: usize = 256 << 10;

/// `1`: the session ends.
pub(super) const CLOSE: &str = "1";
/// `2`: a ping of revision 4's server.
pub(super) const PING: &str = "2";
/// `6`: ends a poll with nothing.
pub(super) const NOOP: &str = "6";

/// Which revision a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Revision {
    Three,
    Four,
}

impl Revision {
    pub(super) fn from_query(eio: &str) -> Option<Self> {
        match eio {
            "3" => Some(Self::Three),
            "4" => Some(Self::Four),
            _ => None,
        }
    }

    /// The first packet of a session.
    pub(super) fn open(self, sid: &str, upgrades: &[&str]) -> String {
        let mut handshake = json!({
            "sid": sid,
            "upgrades": upgrades,
            "pingInterval": PING_INTERVAL,
            "pingTimeout": PING_TIMEOUT,
        });
        if self == Self::Four {
            handshake["maxPayload"] = MAX_PAYLOAD.into();
        }
        format!("0{handshake}")
    }

    /// Several packets as the body of a response.
    pub(super) fn payload(self, packets: &[String]) -> String {
        match self {
            Self::Four => packets.join("\u{1e}"),
            // lengths are those of JavaScript's strings: in UTF-16 code units
            Self::Three => packets.iter().map(|p| format!("{}:{p}", p.encode_utf16().count())).collect(),
        }
    }

    /// The packets of a request's body; `None` when it is malformed.
    pub(super) fn packets(self, body: &str) -> Option<Vec<&str>> {
        match self {
            Self::Four => Some(body.split('\u{1e}').collect()),
            Self::Three => {
                let mut packets = Vec::new();
                let mut rest = body;
                while !rest.is_empty() {
                    let (length, tail) = rest.split_once(':')?;
                    let end = utf16_end(tail, length.parse().ok()?)?;
                    let (packet, tail) = tail.split_at(end);
                    packets.push(packet);
                    rest = tail;
                }
                Some(packets)
            }
        }
    }
}

/// Where in `text` so many UTF-16 code units end, in bytes.
fn utf16_end(text: &str, units: usize) -> Option<usize> {
    let mut left = units;
    for (at, c) in text.char_indices() {
        if left == 0 {
            return Some(at);
        }
        left = left.checked_sub(c.len_utf16())?;
    }
    (left == 0).then_some(text.len())
}

/// What a client's packet says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Received<'a> {
    Close,
    /// To be answered by `3` and the same.
    Ping(&'a str),
    Pong,
    /// For Socket.IO.
    Message(&'a str),
    Upgrade,
    Noop,
    /// Something that cannot be understood: the session ends.
    Bad,
}

pub(super) fn read(packet: &str) -> Received<'_> {
    let Some(kind) = packet.chars().next() else { return Received::Bad };
    let data = &packet[kind.len_utf8()..];
    match kind {
        '1' => Received::Close,
        '2' => Received::Ping(data),
        '3' => Received::Pong,
        '4' => Received::Message(data),
        '5' => Received::Upgrade,
        '6' => Received::Noop,
        _ => Received::Bad,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn payloads_read_back(packets in proptest::collection::vec("[^\u{1e}]{1,20}", 1..6)) {
            for revision in [Revision::Three, Revision::Four] {
                let body = revision.payload(&packets);
                prop_assert_eq!(revision.packets(&body).unwrap(), packets.clone());
            }
        }

        #[test]
        fn no_body_is_too_much(body in "\\PC{0,80}") {
            let _ = Revision::Three.packets(&body);
            let _ = Revision::Four.packets(&body);
        }
    }

    #[test]
    fn lengths_count_as_javascript_does() {
        assert_eq!(Revision::Three.payload(&["4😀".into(), "2".into()]), "3:4😀1:2");
        assert_eq!(Revision::Three.packets("3:4😀1:2"), Some(vec!["4😀", "2"]));
        assert_eq!(Revision::Three.packets("2:4😀"), None);
        assert_eq!(Revision::Three.packets("9:4"), None);
    }
}
