//! An entry of a room's log on its way to clients.

use axum::extract::ws::Utf8Bytes;
use rtc_signaling_proto::{Entry, Kind, MemberId};

/// An entry whose frame is shared by everybody who gets it.
#[derive(Clone, Debug)]
pub struct Parcel {
    /// What it says.
    pub kind: Kind,
    /// Which life of the log; 0 for what was never in it.
    pub epoch: u64,
    /// Its place in the log; 0 for what was never in it.
    pub seq: u64,
    /// Whom it is about, or who sends.
    pub from: MemberId,
    /// To whom alone.
    pub to: Option<MemberId>,
    /// The request.
    pub id: String,
    /// The connection epoch of an attachment.
    pub conn: u64,
    /// The frame.
    pub frame: Utf8Bytes,
    /// Bytes of the body of its entry.
    body: usize,
}

impl Parcel {
    /// What a member sent (JSON), of a signal.
    #[must_use]
    pub fn data(&self) -> Option<&str> {
        let end = self.frame.len().checked_sub(1)?;
        let data = end.checked_sub(self.body).and_then(|start| self.frame.get(start..end));
        data.filter(|_| self.kind == Kind::Signal)
    }

    /// One that nobody is told, so that it needs no frame.
    #[must_use]
    pub(crate) fn untold(entry: Entry) -> Self {
        Self::with_frame(entry, Utf8Bytes::default())
    }

    fn with_frame(entry: Entry, frame: Utf8Bytes) -> Self {
        Self {
            conn: entry.conn(),
            frame,
            body: entry.body.len(),
            kind: entry.kind,
            epoch: entry.epoch,
            seq: entry.seq,
            from: entry.from,
            to: entry.to,
            id: entry.id,
        }
    }

    /// Whether `member` is told.
    #[must_use]
    pub fn is_for(&self, member: &MemberId) -> bool {
        self.kind != Kind::Attached && self.from != *member && self.to.as_ref().is_none_or(|to| to == member)
    }
}

impl From<Entry> for Parcel {
    fn from(entry: Entry) -> Self {
        let frame = entry.frame().into();
        Self::with_frame(entry, frame)
    }
}
