//! What other replicas write of rooms that this one hosts, as Redis passes it on.
//!
//! A replica has a channel of its own, and a write is published to those that hold a lease on the room, less
//! the one that asks for it: so nobody gets what it does not host, or wrote itself, and entering a room costs
//! no subscription.

use super::{hosting::Hosting, known::Place, slots::push_key};
use redis::{PushInfo, PushKind, Value};
use rtc_signaling_proto::{Entry, RoomName};
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};
use tokio::sync::Notify;

/// Before each entry of a message: no JSON has it, nor a name.
const SEPARATOR: char = '\u{1e}';
/// Before each proposal of a message that has nothing else.
const PROPOSED: char = '\u{1d}';

/// One subscription's end.
pub(super) struct Inbox {
    pub(super) hosting: Arc<Hosting>,
    /// Tells subscriptions apart.
    pub(super) number: u64,
    /// Who renews it when it ends.
    pub(super) doubt: Arc<Notify>,
    pub(super) ended: AtomicBool,
}

impl Inbox {
    pub(super) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    fn deliver(&self, data: Vec<Value>) {
        // the channel, and the message
        let Some(Value::BulkString(message)) = data.into_iter().nth(1) else { return };
        let Ok(message) = String::from_utf8(message) else { return tracing::warn!("not of a room's log") };
        let proposed = message.starts_with(PROPOSED);
        let separator = if proposed { PROPOSED } else { SEPARATOR };
        let starts = memchr::memchr_iter(separator as u8, message.as_bytes()).map(|at| at + 1);
        let mut starts = starts.peekable();
        while let Some(start) = starts.next() {
            let end = starts.peek().map_or(message.len(), |next| next - 1);
            match message.get(start..end).and_then(read) {
                Some((room, entry)) => self.hosting.heard(&room, self.number, entry, proposed),
                // the number that is missing now will be read from the log
                None => tracing::warn!("not an entry of a room's log"),
            }
        }
    }

    /// Takes what Redis says without having been asked. Must not block.
    pub(super) fn take(&self, push: PushInfo) {
        match push.kind {
            PushKind::Message | PushKind::SMessage => self.deliver(push.data),
            // the connection has ended, or the channel's slot went to another server
            PushKind::Disconnection | PushKind::Unsubscribe | PushKind::SUnsubscribe => {
                self.ended.store(true, Ordering::Relaxed);
                self.doubt.notify_one();
            }
            _ => {}
        }
    }
}

/// Adds what is published of an entry that is appended in the same step, or not at all.
pub(super) fn propose(text: &mut String, room: &RoomName, partition: usize, (epoch, seq): Place, line: &str) {
    let mut number = itoa::Buffer::new();
    text.reserve(line.len() + room.as_str().len() + 64);
    text.push(PROPOSED);
    push_key(text, partition, "meta:");
    for part in [room.as_str(), "\n", number.format(epoch), " "] {
        text.push_str(part);
    }
    text.push_str(number.format(seq));
    text.push_str(line);
}

/// The room's first key, the epoch in a line of its own, a space, seq, and the entry, which begins with a letter.
fn read(parcel: &str) -> Option<(RoomName, Entry)> {
    let (key, rest) = parcel.split_once('\n')?;
    let mut parts = key.splitn(4, ':').skip(2);
    let room = parts.next().filter(|part| *part == "meta").and(parts.next())?;
    let (epoch, rest) = rest.split_once(' ')?;
    let (seq, line) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit())?);
    Some((RoomName::from_stored(room), Entry::from_line(epoch.parse().ok()?, seq.parse().ok()?, line)?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_entry_is_read_with_its_room_and_place_and_nothing_else_is() {
        let (room, entry) = read("rtc:{p7}:meta:a room\n17 12s aa bb u1\n{\"x\":1}").unwrap();
        assert_eq!(room.as_str(), "a room");
        assert_eq!((entry.epoch, entry.seq, entry.body.as_str()), (17, 12, "{\"x\":1}"));
        let mut own = String::new();
        propose(&mut own, &"a room".parse().unwrap(), 7, (17, 12), "s aa bb u1\n{\"x\":1}");
        assert_eq!(read(own.strip_prefix(PROPOSED).unwrap()), Some((room, entry)));
        for other in
            ["", "rtc:{p7}:log:r\n1 2s aa - u1\n1", "rtc:{p7}:meta:r\n1 2", "rtc:{p7}:meta:r\n1 s aa - u1\n1"]
        {
            assert_eq!(read(other), None, "{other:?}");
        }
    }
}
