//! One line of a room's log: the header that a pod routes by, and the frame that clients get.
//!
//! The frame is made once on each pod, of what the log has, and shared by all clients there.

use crate::names::{MemberId, ReplicaId, RequestId};
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

/// An entry before it has its number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// What it says.
    pub kind: Kind,
    /// Whom it is about, or who sends.
    pub from: MemberId,
    /// To whom alone, if not to all others.
    pub to: Option<MemberId>,
    /// Under which request: for deduplication; of a [`Kind::Joined`] the replica, of a [`Kind::Attached`] the connection
    /// epoch, of a [`Kind::Left`] the reason.
    pub id: String,
    /// Of a signal its data (JSON), of a [`Kind::Joined`] the [`Profile`]; of others nothing.
    pub body: String,
}

impl Draft {
    /// `data` (JSON) from one member.
    #[must_use]
    pub fn signal(from: &MemberId, to: Option<&MemberId>, id: String, data: String) -> Self {
        Self { kind: Kind::Signal, from: from.clone(), to: to.cloned(), id, body: data }
    }

    /// A member came, on this replica; to those before it, it is not the polite side.
    #[must_use]
    pub fn joined(member: &MemberId, holder: &ReplicaId, profile: &Profile) -> Self {
        let (id, body) = (holder.as_str().to_owned(), profile.as_str().to_owned());
        Self { kind: Kind::Joined, from: member.clone(), to: None, id, body }
    }

    /// A member went.
    #[must_use]
    pub fn left(member: &MemberId, reason: Reason) -> Self {
        let (id, body) = (reason.as_str().into(), String::new());
        Self { kind: Kind::Left, from: member.clone(), to: None, id, body }
    }

    /// A session has a new connection.
    #[must_use]
    pub fn attached(member: &MemberId, conn: u64) -> Self {
        let (id, body) = (conn.to_string(), String::new());
        Self { kind: Kind::Attached, from: member.clone(), to: None, id, body }
    }

    /// How it stands in the log, but for its place: a header line of four words, and the body.
    #[must_use]
    pub fn line(&self) -> String {
        let Self { kind, from, to, id, body } = self;
        line(*kind, from, to.as_ref(), id, body)
    }

    /// What its [line](Self::line) weighs against [`RoomLimits::log_bytes`](crate::ops::RoomLimits::log_bytes): its
    /// bytes, or nothing if it has few, since of those the number is bounded.
    #[must_use]
    pub fn weight(&self) -> u64 {
        weight(&self.from, self.to.as_ref(), &self.id, &self.body)
    }

    /// The entry, numbered.
    #[must_use]
    pub fn number(self, epoch: u64, seq: u64) -> Entry {
        let Self { kind, from, to, id, body } = self;
        Entry { kind, epoch, seq, from, to, id, body }
    }
}

pub(crate) fn line(kind: Kind, from: &MemberId, to: Option<&MemberId>, id: &str, body: &str) -> String {
    let (from, to) = (from.as_str(), to.map_or("-", MemberId::as_str));
    let mut text = String::with_capacity(from.len() + to.len() + id.len() + body.len() + 5);
    text.push(kind.letter());
    for part in [" ", from, " ", to, " ", id, "\n", body] {
        text.push_str(part);
    }
    text
}

pub(crate) fn weight(from: &MemberId, to: Option<&MemberId>, id: &str, body: &str) -> u64 {
    let to = to.map_or(1, |to| to.as_str().len());
    let bytes = from.as_str().len() + to + id.len() + body.len() + 5;
    if bytes < LIGHT { 0 } else { bytes as u64 }
}

/// Lines of fewer bytes weigh nothing.
pub const LIGHT: usize = 1024;

/// A numbered entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it says.
    pub kind: Kind,
    /// Which life of the room's log; 0 for what was never in it.
    pub epoch: u64,
    /// Its place in the log; each entry of an epoch has a higher one than those before. 0 for what was never in it.
    pub seq: u64,
    /// Whom it is about, or who sends.
    pub from: MemberId,
    /// To whom alone, if not to all others.
    pub to: Option<MemberId>,
    /// The request, as a word; of others as in [`Draft`].
    pub id: String,
    /// As in [`Draft`].
    pub body: String,
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

    /// What clients are told: empty for an [`Kind::Attached`], and without a place for what was never in the log.
    /// The data of a signal are the end of it, but for the closing brace.
    #[must_use]
    pub fn frame(&self) -> String {
        let Self { kind, epoch, seq, from, to, id, body } = self;
        if *kind == Kind::Attached {
            return String::new();
        }
        let mut text = String::with_capacity(body.len() + 192);
        let mut number = itoa::Buffer::new();
        for part in ["{\"type\":\"", kind.frame_type(), "\""] {
            text.push_str(part);
        }
        if *seq != 0 {
            text.push_str(",\"epoch\":");
            text.push_str(number.format(*epoch));
            text.push_str(",\"seq\":");
            text.push_str(number.format(*seq));
        }
        let parts: &[&str] = match (kind, to) {
            (Kind::Signal, None) => &[",\"from\":\"", from.as_str(), "\",\"data\":", body, "}"],
            (Kind::Signal, Some(to)) => {
                &[",\"from\":\"", from.as_str(), "\",\"to\":\"", to.as_str(), "\",\"data\":", body, "}"]
            }
            (Kind::Left, _) => &[",\"member\":\"", from.as_str(), "\",\"reason\":\"", id, "\"}"],
            (Kind::Joined | Kind::Attached, _) => &[",\"member\":{", body, ",\"polite\":false}}"],
        };
        parts.iter().for_each(|part| text.push_str(part));
        text
    }

    /// The entry as a text: its place and its line ([`Draft::line`]).
    #[must_use]
    pub fn to_record(&self) -> String {
        let Self { kind, epoch, seq, from, to, id, body } = self;
        format!("{epoch} {seq} {}", line(*kind, from, to.as_ref(), id, body))
    }

    /// Reads what [`Self::to_record`] wrote; `None` when it is something else.
    #[must_use]
    pub fn from_record(record: &str) -> Option<Self> {
        let (epoch, rest) = record.split_once(' ')?;
        let (seq, line) = rest.split_once(' ')?;
        Self::from_line(epoch.parse().ok()?, seq.parse().ok()?, line)
    }

    /// The entry at a place of the log; `None` when the line is none.
    #[must_use]
    pub fn from_line(epoch: u64, seq: u64, line: &str) -> Option<Self> {
        let (header, body) = line.split_once('\n')?;
        let mut words = header.split(' ');
        let kind = match words.next()? {
            "s" => Kind::Signal,
            "j" => Kind::Joined,
            "l" => Kind::Left,
            "a" => Kind::Attached,
            _ => return None,
        };
        let from = words.next()?.parse().ok()?;
        let to = match words.next()? {
            "-" => None,
            to => Some(to.parse().ok()?),
        };
        let id = words.next()?.to_owned();
        words.next().is_none().then(|| Self { kind, epoch, seq, from, to, id, body: body.to_owned() })
    }
}

/// The word of a request in a header: the client's `id`, or one that the server made.
#[must_use]
pub fn request_word(id: Option<&RequestId>, otherwise: impl FnOnce() -> u64) -> String {
    id.map_or_else(|| ["u", itoa::Buffer::new().format(otherwise())].concat(), RequestId::to_string)
}

/// Whether a request may come again under this word: not under one that the server made, which no client knows.
#[must_use]
pub fn may_come_again(word: &str) -> bool {
    !word.starts_with('u')
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
            Draft::signal(&a, Some(&b), "n7".into(), "{\"sdp\":\"v=0\\r\\n\"}".into()),
            Draft::signal(&a, None, "t-".into(), "null".into()),
            Draft::signal(&a, Some(&b), "n1".into(), format!("\"{}\"", "x".repeat(LIGHT))),
            Draft::joined(&a, &"pod-a-1".parse().unwrap(), &profile),
            Draft::left(&a, Reason::Lost),
            Draft::attached(&a, 4),
        ] {
            let (line, weight) = (draft.line(), draft.weight());
            assert_eq!(weight, if line.len() < LIGHT { 0 } else { line.len() as u64 });
            let entry = draft.number(1_790_000_000_000_000, 12);
            assert_eq!(Entry::from_record(&entry.to_record()).unwrap(), entry);
            if entry.kind != Kind::Attached {
                let frame: serde_json::Value = serde_json::from_str(&entry.frame()).unwrap();
                assert_eq!((frame["epoch"].as_u64(), frame["seq"].as_u64()), (Some(entry.epoch), Some(12)));
                let apart = Entry { epoch: 0, seq: 0, ..entry }.frame();
                let apart: serde_json::Value = serde_json::from_str(&apart).unwrap();
                assert_eq!((apart["type"].clone(), apart.get("seq")), (frame["type"].clone(), None));
            }
        }
        assert_eq!(Entry::from_record("1 2 s aa - n1 more\n{}"), None);
        assert_eq!(Entry::from_record("1 x s aa - n1\n{}"), None);
    }
}
