//! Those who write by requests of their own, which may come to any replica.

use super::{Attachment, Hub};
use crate::store::{Outcome, StoreError};
use rtc_signaling_proto::ResumeToken;

/// The key of a place that no connection here has.
const NOWHERE: u64 = u64::MAX;

impl Attachment {
    pub(super) fn is_here(&self) -> bool {
        self.key != NOWHERE
    }
}

impl Hub {
    /// The place from which a session of this `user` writes that shows its token, wherever its connection is. Nothing
    /// comes to it.
    ///
    /// # Errors
    /// [`StoreError`]; when the store cannot be reached, only a session whose connection is here can write.
    pub async fn writer(&self, token: &ResumeToken, user: Option<&str>) -> Outcome<Attachment> {
        let ResumeToken { member, secret, room } = token;
        let secret = crate::random::hash_for(secret, user);
        match self.store.prove(room, member, &secret).await {
            Ok(()) => Ok(Attachment { room: room.clone(), member: member.clone(), conn: 0, key: NOWHERE }),
            Err(error @ StoreError::Unavailable(_)) => {
                let rooms = self.lock(room);
                let locals = rooms.get(room).map(|hosted| hosted.locals.as_slice()).unwrap_or_default();
                let own = locals.iter().find(|l| l.is_live() && l.member == *member && l.secret == secret);
                let own = own.map(|l| (l.conn, l.key)).ok_or(error)?;
                Ok(Attachment { room: room.clone(), member: member.clone(), conn: own.0, key: own.1 })
            }
            Err(error) => Err(error),
        }
    }
}
