//! Room names, member ids, request ids, resume tokens, and what they may contain.
//!
//! All of them end up in headers of the log and in keys of Redis, so what they may contain is checked
//! where they enter.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{fmt, str::FromStr, sync::Arc};

/// A text is no such name; the message says what one looks like.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NameError(&'static str);

/// A room's name: 1 to 128 bytes without control characters; or one of a dialect's own.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct RoomName(Arc<str>);

/// Between the parts of a dialect's own name (ASCII's unit separator): nothing that is parsed has it.
const SEPARATOR: char = '\u{1f}';

impl RoomName {
    /// The room of a dialect that keeps its rooms to itself: no parsed name is equal to it.
    ///
    /// # Errors
    /// When it would have more than 128 bytes, or a part has control characters.
    pub fn scoped(dialect: &str, parts: &[&str]) -> Result<Self, NameError> {
        let mut name = String::from(dialect);
        for part in parts {
            if part.chars().any(char::is_control) {
                return Err(NameError("a name has no control characters"));
            }
            name.push(SEPARATOR);
            name.push_str(part);
        }
        if name.len() > 128 {
            return Err(NameError("the name is too long"));
        }
        Ok(Self(name.into()))
    }

    /// Whether it is a dialect's own.
    #[must_use]
    pub fn is_scoped(&self) -> bool {
        self.0.contains(SEPARATOR)
    }

    /// From a store, which got it from [`Self::as_str`].
    #[must_use]
    pub fn from_stored(text: &str) -> Self {
        Self(text.into())
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RoomName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.is_empty() || text.len() > 128 || text.chars().any(char::is_control) {
            return Err(NameError("a room's name has 1 to 128 bytes and no control characters"));
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for RoomName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

macro_rules! word {
    ($(#[$doc:meta])* $name:ident, $max:literal, $error:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                let legal = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
                if text.len() < 2 || text.len() > $max || !text.bytes().all(legal) {
                    return Err(NameError($error));
                }
                Ok(Self(text.into()))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

word!(
    /// A member of a room, and its session: 2 to 64 of `A-Za-z0-9._-`. Drawn at random by the server.
    MemberId,
    64,
    "a member's id has 2 to 64 of A-Z a-z 0-9 . _ -; take it from `members`, `member-joined` or `from`"
);

word!(
    /// A pod, and which life of it: 2 to 96 of `A-Za-z0-9._-`. Differs after a restart, so that a pod that
    /// comes back does not keep the leases of its former life alive.
    ReplicaId,
    96,
    "a replica's id has 2 to 96 of A-Z a-z 0-9 . _ -"
);

/// The `id` of a client's frame: a number up to 2^53 - 1, or up to 64 visible ASCII characters without
/// space. It is echoed in the answer, and a signal that comes again under the id of an earlier one is
/// answered and not delivered again.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RequestId {
    /// A number.
    Number(u64),
    /// A text.
    Text(String),
}

const ID_ERROR: &str =
    "an `id` is a whole number from 0 to 2^53 - 1, or 1 to 64 visible ASCII characters without spaces";

impl<'de> Deserialize<'de> for RequestId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Raw {
            Number(u64),
            Text(String),
        }
        match Raw::deserialize(deserializer) {
            Ok(Raw::Number(n)) if n < 1 << 53 => Ok(Self::Number(n)),
            Ok(Raw::Text(text))
                if (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic()) =>
            {
                Ok(Self::Text(text))
            }
            _ => Err(de::Error::custom(ID_ERROR)),
        }
    }
}

impl Serialize for RequestId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Number(n) => serializer.serialize_u64(*n),
            Self::Text(text) => serializer.serialize_str(text),
        }
    }
}

impl fmt::Display for RequestId {
    /// A word that tells `7` from `"7"`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(n) => write!(f, "n{n}"),
            Self::Text(text) => write!(f, "t{text}"),
        }
    }
}

/// What a client shows to resume its session on another connection: opaque to it, secret, and good for any
/// pod, so it names the room too.
#[derive(Clone, PartialEq, Eq)]
pub struct ResumeToken {
    /// The session.
    pub member: MemberId,
    /// Proves that the session is the client's; 1 to 64 of `A-Za-z0-9_-`.
    pub secret: String,
    /// The room.
    pub room: RoomName,
}

impl fmt::Debug for ResumeToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ResumeToken({} in {})", self.member, self.room)
    }
}

impl ResumeToken {
    /// The token as text.
    #[must_use]
    pub fn to_text(&self) -> String {
        format!("{}~{}~{}", self.member, self.secret, self.room)
    }
}

impl FromStr for ResumeToken {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let bad = || NameError("`resume` is no token of this server; send what `joined` gave, or join again");
        let mut parts = text.splitn(3, '~');
        let mut part = || parts.next().ok_or_else(bad);
        let (member, secret, room) = (part()?, part()?, part()?);
        let legal = |b: u8| b.is_ascii_alphanumeric() || b"_-".contains(&b);
        if !(1..=64).contains(&secret.len()) || !secret.bytes().all(legal) {
            return Err(bad());
        }
        Ok(Self {
            member: member.parse().map_err(|_| bad())?,
            secret: secret.into(),
            room: room.parse().map_err(|_| bad())?,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_resume_token_reads_back_whatever_the_room_is_called() {
        for room in ["a", "~", "a~b~c", "Zürich / 2. Stock", "{p1}"] {
            let token = ResumeToken {
                member: "m-1".parse().unwrap(),
                secret: "s_-9".into(),
                room: room.parse().unwrap(),
            };
            assert_eq!(token.to_text().parse(), Ok(token.clone()));
            assert!(!format!("{token:?}").contains("s_-9"));
        }
        for bad in ["", "m", "m-1~s", "m-1~~r", "m-1~s!~r", "m 1~s~r", "m-1~s~"] {
            assert!(bad.parse::<ResumeToken>().is_err(), "{bad}");
        }
    }

    #[test]
    fn names_that_could_confuse_a_header_are_refused() {
        for bad in ["", "a\nb", "a\0", &"x".repeat(129)] {
            assert!(bad.parse::<RoomName>().is_err());
        }
        for bad in ["", "-", "a b", "a\n", "é2", &"x".repeat(65)] {
            assert!(bad.parse::<MemberId>().is_err());
        }
    }

    #[test]
    fn a_room_of_a_dialect_cannot_be_named_by_another() {
        let room = RoomName::scoped("peerjs", &["key", "alice"]).unwrap();
        assert_ne!(room, RoomName::scoped("peerjs", &["key alice"]).unwrap());
        assert!(room.as_str().parse::<RoomName>().is_err());
        assert!(format!("m-1~s~{room}").parse::<ResumeToken>().is_err());
        assert_eq!(RoomName::from_stored(room.as_str()), room);
        for bad in ["a\u{1f}b", "a\n", &"x".repeat(122)] {
            assert!(RoomName::scoped("peerjs", &[bad]).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn ids_are_numbers_or_visible_words_and_keep_their_type() {
        for (json, word) in [("7", "n7"), ("\"7\"", "t7"), ("\"a/b\"", "ta/b")] {
            let id: RequestId = serde_json::from_str(json).unwrap();
            assert_eq!(id.to_string(), word);
            assert_eq!(serde_json::to_string(&id).unwrap(), json);
        }
        for bad in ["-1", "1.5", "9007199254740992", "\"\"", "\"a b\"", "\"a\\n\"", "null", "{}"] {
            assert!(serde_json::from_str::<RequestId>(bad).unwrap_err().to_string().contains("whole number"));
        }
    }
}
