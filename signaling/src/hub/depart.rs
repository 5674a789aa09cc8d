//! Leaving a room, losing a connection, and a replica's own end.

use super::{Attachment, Hub, upkeep::Chore};
use crate::{outbox::Out, store::StoreError};
use rtc_signaling_proto::{RoomName, entry::Reason};
use std::{
    sync::{PoisonError, atomic::Ordering},
    time::Duration,
};

impl Hub {
    /// A member leaves. Whatever the store says, it will have left.
    pub async fn leave(&self, at: &Attachment, why: Reason) {
        if at.is_here() && self.remove(&at.room, at.key).is_none() {
            return;
        }
        if let Err(StoreError::Unavailable(_)) = self.store.leave(&at.room, &at.member, at.conn, why).await {
            self.later(Chore::leave(&at.room, &at.member, at.conn));
        }
    }

    /// A connection is gone; its session can be resumed for a while.
    pub async fn detach(&self, at: &Attachment) {
        if self.remove(&at.room, at.key).is_some() {
            self.detach_stored(at).await;
        }
    }

    /// Nothing more comes to a connection's outbox. Tells up to which entry (epoch and seq) all was put there;
    /// `None` if the session is no longer its own. To be followed by [`Self::detach_stored`].
    pub(crate) fn let_go(&self, at: &Attachment) -> Option<(u64, u64)> {
        self.remove(&at.room, at.key)
    }

    /// Tells the store that a session has no connection.
    pub(crate) async fn detach_stored(&self, at: &Attachment) {
        if let Err(StoreError::Unavailable(_)) = self.store.detach(&at.room, &at.member, at.conn).await {
            self.later(Chore::detach(&at.room, &at.member, at.conn));
        }
    }

    /// Removes a session from this replica, which has been told the log up to the entry that is returned;
    /// `None` when it was gone before.
    pub(super) fn remove(&self, room: &RoomName, key: u64) -> Option<(u64, u64)> {
        let mut rooms = self.lock(room);
        let hosted = rooms.get_mut(room)?;
        let at = hosted.locals.iter().position(|l| l.key == key);
        let local = at.map(|at| hosted.locals.remove(at));
        let epoch = hosted.base.map_or(0, |(epoch, _)| epoch);
        // also when its last session was ended by the log
        if hosted.locals.is_empty() {
            self.close(&mut rooms, room);
        }
        let local = local?;
        self.ended(1);
        Some((epoch, local.cursor()))
    }

    pub(super) fn close(&self, rooms: &mut super::Rooms, room: &RoomName) {
        if rooms.remove(room).is_some() {
            self.hosted.fetch_sub(1, Ordering::Relaxed);
            self.store.unhost(room);
        }
    }

    /// Tells every client something.
    pub(crate) fn tell_all(&self, out: impl Fn() -> Out) {
        for rooms in &self.rooms {
            let rooms = rooms.lock().unwrap_or_else(PoisonError::into_inner);
            for local in rooms.values().flat_map(|hosted| &hosted.locals) {
                local.outbox.push(out());
            }
        }
    }

    /// Tells every client, also those that come later, to reconnect within `spread`.
    pub(crate) fn go_away(&self, spread: Duration) {
        let spread = u64::try_from(spread.as_millis()).unwrap_or(u64::MAX).max(1);
        self.leaving.store(spread, Ordering::Relaxed);
        self.tell_all(|| Out::Goaway(crate::random::up_to(spread)));
    }

    /// Gives every session back to the store, to be resumed elsewhere.
    pub(crate) async fn detach_all(&self) {
        let mut all = Vec::new();
        for rooms in &self.rooms {
            let rooms = rooms.lock().unwrap_or_else(PoisonError::into_inner);
            for (room, hosted) in rooms.iter() {
                let live = hosted.locals.iter().filter(|l| l.is_live());
                all.extend(live.map(|l| Attachment {
                    room: room.clone(),
                    member: l.member.clone(),
                    conn: l.conn,
                    key: l.key,
                }));
            }
        }
        futures::future::join_all(all.iter().map(|at| self.detach(at))).await;
    }
}
