//! Passing something on.

use super::{Attachment, Hub, SignalError};
use crate::{parcel::Parcel, store::StoreError, trace};
use rtc_signaling_proto::{
    Kind, MemberId, Refusal, RequestId, RoomName,
    entry::{Draft, request_word},
    ops::{Post, Signal},
};
use std::sync::Arc;

impl Hub {
    /// Passes `data` (JSON) on. The seq is `None` when the store cannot be reached and everybody whom it
    /// concerns is on this replica.
    ///
    /// # Errors
    /// [`SignalError`].
    pub async fn signal(
        &self,
        at: &Attachment,
        to: Option<MemberId>,
        id: Option<&RequestId>,
        data: String,
    ) -> Result<Option<u64>, SignalError> {
        trace::place(&at.room, Some(&at.member));
        let id = request_word(id, || self.number());
        let signal = Signal { from: at.member.clone(), conn: at.conn, to, id, data };
        let before = std::time::Instant::now();
        match self.store.signal(&at.room, &signal).await {
            Ok(sent) => {
                self.metrics.store_write.observe(before.elapsed().as_secs_f64());
                Ok(Some(sent.seq()))
            }
            Err(StoreError::Refused(refusal)) => Err(refusal.into()),
            Err(StoreError::Unavailable(reason)) => {
                tracing::debug!(room = %at.room, reason, "delivering on this replica only");
                self.signal_here(&at.room, signal)
            }
        }
    }

    /// Passes `data` (JSON) on to those in a room, from outside of it. `from` is no member of it, and `id`
    /// (a word) tells its messages apart: the same one again is not passed on twice.
    ///
    /// # Errors
    /// [`SignalError`]; [`Refusal::NoSuchMember`] when nobody in the room has a connection.
    pub async fn post(
        &self,
        room: &RoomName,
        from: &MemberId,
        id: String,
        data: String,
    ) -> Result<(), SignalError> {
        trace::place(room, Some(from));
        let post = Post { from: from.clone(), to: None, id, data };
        let before = std::time::Instant::now();
        match self.store.post(room, &post).await {
            Ok(_) => {
                self.metrics.store_write.observe(before.elapsed().as_secs_f64());
                Ok(())
            }
            Err(StoreError::Refused(refusal)) => Err(refusal.into()),
            Err(StoreError::Unavailable(reason)) => {
                tracing::debug!(%room, reason, "delivering on this replica only");
                let Post { from, to, id, data } = post;
                self.signal_here(room, Signal { from, conn: 0, to, id, data }).map(drop)
            }
        }
    }

    fn signal_here(&self, room: &RoomName, signal: Signal) -> Result<Option<u64>, SignalError> {
        let Signal { from, to, id, data, .. } = signal;
        let draft = Draft { kind: Kind::Signal, from, to, id, body: data };
        let parcel = Arc::new(Parcel::from(draft.number(0, 0)));
        let mut rooms = self.lock(room);
        match rooms.get_mut(room).map(|hosted| hosted.deliver_unnumbered(&parcel)) {
            Some(Some(true)) => Ok(None),
            Some(Some(false)) => Err(SignalError::Degraded),
            Some(None) => Err(Refusal::NoSuchMember.into()),
            None => Err(Refusal::UnknownSession.into()),
        }
    }
}
