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

/// After each entry of a message: no JSON has it, nor a name.
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
        for parcel in String::from_utf8_lossy(&message).split_terminator(SEPARATOR) {
            let entry = parcel.split_once('\n').and_then(|(key, record)| {
                let (_, room) = key.split_once(":meta:")?;
                Some((RoomName::from_stored(room), Entry::from_record(record)?))
            });
            match entry {
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
