//! One line of a room's log: the header that a pod routes by, and the frame that clients get.
//!
//! The frame is written once, by whoever gives the entry its number, and passed on as it is: a pod that
//! forwards to a thousand clients reads a short header and copies nothing.

use crate::names::{MemberId, RequestId};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::fmt::Write;

/// What an entry says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A member sends something.
    Signal,
    /// A member came.
    Joined,
    /// A member went.
    Left,
    /// A session was resumed by another connection; no client is told. In the log, so that the pod of the
    /// old connection cannot miss it.
    Attached,
}

impl Kind {
    /// The letter that stands for it in a header.
    #[must_use]
    pub const fn letter(self) -> char {
        match self {
            Self::Signal => 's',
            Self::Joined => 'j',
            Self::Left => 'l',
            Self::Attached => 'a',
        }
    }

    /// The `type` of the frame.
    #[must_use]
    pub const fn frame_type(self) -> &'static str {
        match self {
            Self::Signal => "signal",
            Self::Joined => "member-joined",
            Self::Left => "member-left",
            Self::Attached => "",
        }
    }
}

/// Why a member went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// It said so.
    Left,
    /// It was not heard of for too long.
    Lost,
    /// Somebody removed it.
    Kicked,
}

impl Reason {
    /// As in `member-left`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Left => "left",
            Self::Lost => "lost",
            Self::Kicked => "kicked",
        }
    }
}

/// What is told of a member, as the inside of a JSON object: `"id":"…","name":"…","meta":…,"user":"…"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile(String);

impl Profile {
    /// A member's public side.
    #[must_use]
    pub fn new(id: &MemberId, name: Option<&str>, meta: Option<&RawValue>) -> Self {
        let mut text = format!("\"id\":\"{id}\"");
        if let Some(name) = name {
            let _ = write!(text, ",\"name\":{}", serde_json::Value::from(name));
        }
        if let Some(meta) = meta {
            let _ = write!(text, ",\"meta\":{}", meta.get());
        }
        Self(text)
    }

    /// The same, of a member whom a token names: `"user":"…"`, which no client can say of itself.
    #[must_use]
    pub fn of_user(mut self, user: &str) -> Self {
        let _ = write!(self.0, ",\"user\":{}", serde_json::Value::from(user));
        self
    }

    /// The same without `meta`, which may be long.
    #[must_use]
    pub fn brief(&self) -> Self {
        #[derive(Deserialize)]
        struct Whole<'a> {
            #[serde(borrow)]
            id: &'a RawValue,
            #[serde(borrow)]
            name: Option<&'a RawValue>,
            #[serde(borrow)]
            user: Option<&'a RawValue>,
        }
        let text = format!("{{{}}}", self.0);
        let Ok(Whole { id, name, user }) = serde_json::from_str(&text) else { return Self(String::new()) };
        let mut brief = format!("\"id\":{id}");
        for (key, value) in [("name", name), ("user", user)] {
            if let Some(value) = value {
                let _ = write!(brief, ",\"{key}\":{value}");
            }
        }
        Self(brief)
    }

    /// From a store, which got it from [`Self::as_str`].
    #[must_use]
    pub fn from_stored(text: String) -> Self {
        Self(text)
    }

    /// The inside of the object.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The member as an entry of a roster.
    #[must_use]
    pub fn to_json(&self, polite: bool) -> String {
        format!("{{{},\"polite\":{polite}}}", self.0)
    }
}

/// An entry before it has its number. `rest` is the frame from its fourth field on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// What it says.
    pub kind: Kind,
    /// Whom it is about, or who sends.
    pub from: MemberId,
    /// To whom alone, if not to all others.
    pub to: Option<MemberId>,
    /// Under which request: for deduplication; of a [`Kind::Attached`] the connection epoch, of a
    /// [`Kind::Left`] the reason.
    pub id: String,
    /// The frame from its fourth field on, with the closing brace.
    pub rest: String,
}

impl Draft {
    /// `data` from one member.
    #[must_use]
    pub fn signal(from: &MemberId, to: Option<&MemberId>, id: String, data: &str) -> Self {
        let mut rest = format!("\"from\":\"{from}\"");
        if let Some(to) = to {
            let _ = write!(rest, ",\"to\":\"{to}\"");
        }
        let _ = write!(rest, ",\"data\":{data}}}");
        Self { kind: Kind::Signal, from: from.clone(), to: to.cloned(), id, rest }
    }

    /// A member came; to those before it, it is not the polite side.
    #[must_use]
    pub fn joined(member: &MemberId, profile: &Profile) -> Self {
        let rest = format!("\"member\":{}}}", profile.to_json(false));
        Self { kind: Kind::Joined, from: member.clone(), to: None, id: "-".into(), rest }
    }

    /// A member went.
    #[must_use]
    pub fn left(member: &MemberId, reason: Reason) -> Self {
        let rest = format!("\"member\":\"{member}\",\"reason\":\"{}\"}}", reason.as_str());
        Self { kind: Kind::Left, from: member.clone(), to: None, id: reason.as_str().into(), rest }
    }

    /// A session has a new connection.
    #[must_use]
    pub fn attached(member: &MemberId, conn: u64) -> Self {
        Self {
            kind: Kind::Attached,
            from: member.clone(),
            to: None,
            id: conn.to_string(),
            rest: String::new(),
        }
    }

    /// The entry, numbered.
    #[must_use]
    pub fn number(self, epoch: u64, seq: u64) -> Entry {
        let frame = match self.kind {
            Kind::Attached => String::new(),
            kind => {
                format!("{{\"type\":\"{}\",\"epoch\":{epoch},\"seq\":{seq},{}", kind.frame_type(), self.rest)
            }
        };
        Entry { kind: self.kind, epoch, seq, from: self.from, to: self.to, id: self.id, frame }
    }

    /// The frame without a number: for members on the same pod while no log can be written.
    #[must_use]
    pub fn unnumbered_frame(&self) -> String {
        format!("{{\"type\":\"{}\",{}", self.kind.frame_type(), self.rest)
    }
}

/// A numbered entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it says.
    pub kind: Kind,
    /// Which life of the room's log.
    pub epoch: u64,
    /// Its place in the log; each entry of an epoch has a higher one than those before.
    pub seq: u64,
    /// Whom it is about, or who sends.
    pub from: MemberId,
    /// To whom alone, if not to all others.
    pub to: Option<MemberId>,
    /// The request, as a word; of a [`Kind::Attached`] the connection epoch, of a [`Kind::Left`] the reason.
    pub id: String,
    /// The whole frame; empty for an [`Kind::Attached`].
    pub frame: String,
}

impl Entry {
    /// Whether `member` is told.
    #[must_use]
    pub fn is_for(&self, member: &MemberId) -> bool {
        match self.kind {
            Kind::Attached => false,
            _ => self.from != *member && self.to.as_ref().is_none_or(|to| to == member),
        }
    }

    /// The connection epoch of an [`Kind::Attached`]; 0 for others.
    #[must_use]
    pub fn conn(&self) -> u64 {
        match self.kind {
            Kind::Attached => self.id.parse().unwrap_or(0),
            _ => 0,
        }
    }

    /// As it stands in the log: a header line of six words, and the frame.
    #[must_use]
    pub fn to_record(&self) -> String {
        let to = self.to.as_ref().map_or("-", MemberId::as_str);
        let kind = self.kind.letter();
        format!("{kind} {} {} {} {to} {}\n{}", self.epoch, self.seq, self.from, self.id, self.frame)
    }

    /// Reads what [`Self::to_record`] wrote; `None` when it is something else.
    #[must_use]
    pub fn from_record(record: &str) -> Option<Self> {
        let (header, frame) = record.split_once('\n')?;
        let mut words = header.split(' ');
        let kind = match words.next()? {
            "s" => Kind::Signal,
            "j" => Kind::Joined,
            "l" => Kind::Left,
            "a" => Kind::Attached,
            _ => return None,
        };
        let epoch = words.next()?.parse().ok()?;
        let seq = words.next()?.parse().ok()?;
        let from = words.next()?.parse().ok()?;
        let to = match words.next()? {
            "-" => None,
            to => Some(to.parse().ok()?),
        };
        let id = words.next()?.to_owned();
        words.next().is_none().then(|| Self { kind, epoch, seq, from, to, id, frame: frame.to_owned() })
    }
}

/// The word of a request in a header: the client's `id`, or one that the server made.
#[must_use]
pub fn request_word(id: Option<&RequestId>, otherwise: impl FnOnce() -> u64) -> String {
    id.map_or_else(|| format!("u{}", otherwise()), RequestId::to_string)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_brief_profile_lacks_nothing_but_meta() {
        let a: MemberId = "aa".parse().unwrap();
        // deeper than parsers of trees go, and with what looks like another field
        let deep = format!("{{\"user\":\"m\",\"k\":{}1{}}}", "[".repeat(2000), "]".repeat(2000));
        let meta = RawValue::from_string("0".into()).unwrap();
        let meta = serde_json::from_str::<Box<RawValue>>(&deep).unwrap_or(meta);
        let name = "Zoë \"z\",\"meta\":";
        let brief = Profile::new(&a, Some(name), None).of_user("u\u{1}");
        assert_eq!(Profile::new(&a, Some(name), Some(&meta)).of_user("u\u{1}").brief(), brief);
        assert_eq!(brief.brief(), brief);
    }

    #[test]
    fn a_record_reads_back() {
        let a: MemberId = "aa".parse().unwrap();
        let b: MemberId = "bb".parse().unwrap();
        let meta: Box<RawValue> = serde_json::from_str("{\"k\":\"line\\nbreak\"}").unwrap();
        let profile = Profile::new(&a, Some("Zoë \"z\"\n"), Some(&meta));
        for draft in [
            Draft::signal(&a, Some(&b), "n7".into(), "{\"sdp\":\"v=0\\r\\n\"}"),
            Draft::signal(&a, None, "t-".into(), "null"),
            Draft::joined(&a, &profile),
            Draft::left(&a, Reason::Lost),
            Draft::attached(&a, 4),
        ] {
            let entry = draft.number(1_790_000_000_000_000, 12);
            assert_eq!(Entry::from_record(&entry.to_record()).unwrap(), entry);
            if entry.kind != Kind::Attached {
                let frame: serde_json::Value = serde_json::from_str(&entry.frame).unwrap();
                assert_eq!((frame["epoch"].as_u64(), frame["seq"].as_u64()), (Some(entry.epoch), Some(12)));
            }
        }
        assert_eq!(Entry::from_record("s 1 2 aa - n1 more\n{}"), None);
        assert_eq!(Entry::from_record("s 1 x aa - n1\n{}"), None);
    }
}
