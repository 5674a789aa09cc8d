//! What the store tells: entries, gaps, and how it is.

use super::{
    Hub,
    hosted::{Hosted, Next},
};
use crate::{outbox::Out, parcel::Parcel, store::Listener};
use rtc_signaling_proto::{Entry, RoomName};
use std::{sync::Arc, time::Duration};

impl Listener for Hub {
    fn entry(&self, room: &RoomName, parcel: &Arc<Parcel>) {
        let mut rooms = self.lock(room);
        if let Some(hosted) = rooms.get_mut(room) {
            self.accept(room, hosted, parcel);
        }
    }

    fn wrote(&self, room: &RoomName, entry: Entry) {
        let mut rooms = self.lock(room);
        if let Some(hosted) = rooms.get_mut(room) {
            // most signals are for somebody elsewhere: there nobody reads a frame
            let parcel = if hosted.tells(&entry) { Parcel::from(entry) } else { Parcel::untold(entry) };
            self.accept(room, hosted, &Arc::new(parcel));
        }
    }

    fn missing(&self, room: &RoomName) {
        let mut rooms = self.lock(room);
        if let Some(hosted) = rooms.get_mut(room)
            && let Some((epoch, seq)) = hosted.base
        {
            hosted.missing = true;
            self.follow(room, hosted, Next::Read { epoch, seq });
        }
    }

    fn gap(&self) {
        self.poke.notify_one();
    }

    fn answered(&self, after: Duration) {
        self.metrics.store_answer.observe(after.as_secs_f64());
    }

    fn health(&self, down_since: Option<u64>) {
        match down_since {
            Some(since) => self.tell_all(|| Out::Degraded(since)),
            None => {
                self.tell_all(|| Out::Recovered);
                self.poke.notify_one();
            }
        }
    }
}

impl Hub {
    pub(super) fn accept(&self, room: &RoomName, hosted: &mut Hosted, parcel: &Arc<Parcel>) {
        let before = hosted.locals.len();
        let next = hosted.accept(parcel);
        self.ended(before - hosted.locals.len());
        self.follow(room, hosted, next);
    }

    pub(super) fn follow(&self, room: &RoomName, hosted: &mut Hosted, next: Next) {
        let Some(me) = self.me.upgrade() else { return };
        let room = room.clone();
        match next {
            Next::Nothing => {}
            Next::Read { epoch, seq } if !hosted.reading => {
                hosted.reading = true;
                tokio::spawn(async move { me.read(&room, epoch, seq).await });
            }
            Next::Sync if !hosted.syncing => {
                hosted.syncing = true;
                tokio::spawn(async move { me.sync(&room).await });
            }
            Next::Read { .. } | Next::Sync => {}
        }
    }
}
