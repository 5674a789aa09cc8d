//! What other replicas write of rooms that this one hosts, as Redis passes it on.
//!
//! A replica has a channel of its own, and a write is published to those that hold a lease on the room, less
//! the one that asks for it: so nobody gets what it does not host, or wrote itself, and entering a room costs
//! no subscription.

use crate::{parcel::Parcel, store::Listener};
use redis::{PushInfo, PushKind, Value};
use rtc_signaling_proto::{Entry, RoomName};
use std::sync::{
    Arc, Weak,
    atomic::{AtomicBool, Ordering},
};
use tokio::sync::Notify;

/// Before each entry of a message: no JSON has it, nor a name.
const SEPARATOR: char = '\u{1e}';

/// One subscription's end.
pub(super) struct Inbox {
    pub(super) listener: Weak<dyn Listener>,
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
        let Some(listener) = self.listener.upgrade() else { return };
        for parcel in String::from_utf8_lossy(&message).split(SEPARATOR).skip(1) {
            match read(parcel) {
                Some((room, entry)) => listener.entry(&room, &Arc::new(Parcel::from(entry))),
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

/// The room's first key, the epoch in a line of its own, a space, seq, and the entry, which begins with a letter.
fn read(parcel: &str) -> Option<(RoomName, Entry)> {
    let (key, rest) = parcel.split_once('\n')?;
    let (_, room) = key.split_once(":meta:")?;
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
        for other in
            ["", "rtc:{p7}:log:r\n1 2s aa - u1\n1", "rtc:{p7}:meta:r\n1 2", "rtc:{p7}:meta:r\n1 s aa - u1\n1"]
        {
            assert_eq!(read(other), None, "{other:?}");
        }
    }
}
