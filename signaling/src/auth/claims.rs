//! What a token says, and what it permits.

use serde::Deserialize;
use std::str::FromStr;

/// The longest `sub` and `name`, in bytes.
const WORD_BYTES: usize = 128;
/// The most patterns of rooms in a token.
const PATTERNS: usize = 256;

/// The claims that are read besides `exp`, `nbf`, `iss` and `aud`. Others are left alone.
#[derive(Debug, Deserialize)]
pub(super) struct Claims {
    sub: String,
    /// A number, perhaps with a fraction (RFC 7519, section 2).
    exp: f64,
    jti: Option<String>,
    #[serde(default)]
    once: bool,
    name: Option<String>,
    room: Option<String>,
    #[serde(default)]
    rooms: Vec<String>,
    publish: Option<bool>,
    subscribe: Option<bool>,
    max: Option<u32>,
    #[serde(default)]
    api: Vec<String>,
}

/// Which rooms: one by its name, or all that begin with what stands before a final `*`.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Pattern {
    Exactly(String),
    Beginning(String),
}

impl Pattern {
    fn new(text: String) -> Self {
        match text.strip_suffix('*') {
            Some(beginning) => Self::Beginning(beginning.to_owned()),
            None => Self::Exactly(text),
        }
    }

    fn admits(&self, name: &str) -> bool {
        match self {
            Self::Exactly(room) => room == name,
            Self::Beginning(beginning) => name.starts_with(beginning),
        }
    }
}

/// What a backend may do by the HTTP API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    /// `rooms:list`
    ListRooms,
    /// `rooms:read`
    ReadRoom,
    /// `members:kick`
    Kick,
    /// `messages:send`
    Send,
    /// `rooms:close`
    CloseRoom,
}

impl Permission {
    /// As in the claim `api`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ListRooms => "rooms:list",
            Self::ReadRoom => "rooms:read",
            Self::Kick => "members:kick",
            Self::Send => "messages:send",
            Self::CloseRoom => "rooms:close",
        }
    }
}

impl FromStr for Permission {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let all = [Self::ListRooms, Self::ReadRoom, Self::Kick, Self::Send, Self::CloseRoom];
        all.into_iter().find(|permission| permission.as_str() == text).ok_or(())
    }
}

/// What a token permits, and until when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    pub(crate) subject: String,
    pub(crate) name: Option<String>,
    /// Unix seconds, leeway included.
    pub(crate) expires: u64,
    /// May be used for one connection only.
    pub(crate) once: Option<String>,
    pub(crate) publish: bool,
    pub(crate) subscribe: bool,
    /// The most members of a room that it begins; 0 for no limit.
    pub(crate) max: u32,
    rooms: Vec<Pattern>,
    api: Vec<Permission>,
}

impl Grant {
    /// Reads claims whose signature and times have been checked; the error says which claim is wrong.
    pub(super) fn new(claims: Claims, leeway: u64) -> Result<Self, &'static str> {
        let Claims { sub, exp, jti, once, name, room, mut rooms, publish, subscribe, max, api } = claims;
        let is_word =
            |text: &str| (1..=WORD_BYTES).contains(&text.len()) && !text.chars().any(char::is_control);
        if !is_word(&sub) {
            return Err("`sub` is a text of 1 to 128 bytes without control characters");
        }
        if name.as_deref().is_some_and(|name| !is_word(name)) {
            return Err("`name` is a text of 1 to 128 bytes without control characters");
        }
        let once = match (once, jti) {
            (false, _) => None,
            (true, Some(jti)) if is_word(&jti) => Some(jti),
            (true, _) => return Err("`once` needs a `jti` of 1 to 128 bytes without control characters"),
        };
        rooms.extend(room);
        if rooms.len() > PATTERNS {
            return Err("`rooms` has more than 256 patterns");
        }
        Ok(Self {
            subject: sub,
            name,
            // saturates, and was in the future a moment ago
            expires: (exp as u64).saturating_add(leeway),
            once,
            publish: publish.unwrap_or(true),
            subscribe: subscribe.unwrap_or(true),
            max: max.unwrap_or(0),
            rooms: rooms.into_iter().map(Pattern::new).collect(),
            // a permission of a later version permits nothing here
            api: api.iter().filter_map(|word| word.parse().ok()).collect(),
        })
    }

    /// Whether it lets into the room (topic, peer) that a client calls so.
    #[must_use]
    pub fn admits(&self, name: &str) -> bool {
        self.rooms.iter().any(|pattern| pattern.admits(name))
    }

    /// Whether it permits something by the HTTP API.
    #[must_use]
    pub fn permits(&self, what: Permission) -> bool {
        self.api.contains(&what)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn grant(claims: Value) -> Result<Grant, &'static str> {
        Grant::new(serde_json::from_value(claims).unwrap(), 5)
    }

    #[test]
    fn a_token_without_rooms_lets_into_none() {
        let grant = grant(json!({"sub": "u", "exp": 100})).unwrap();
        assert!(!grant.admits("") && !grant.admits("a") && !grant.admits("*"));
        assert_eq!((grant.expires, grant.publish, grant.subscribe), (105, true, true));
        assert!(!grant.permits(Permission::ListRooms));
    }

    #[test]
    fn a_pattern_is_a_name_or_a_beginning() {
        let grant = grant(json!({"sub": "u", "exp": 1, "room": "a*b", "rooms": ["team-*", "x"]})).unwrap();
        for (name, admitted) in [
            ("a*b", true),
            ("ab", false),
            ("team-", true),
            ("team-7", true),
            ("team", false),
            ("x", true),
            ("xy", false),
        ] {
            assert_eq!(grant.admits(name), admitted, "{name}");
        }
    }

    #[test]
    fn claims_that_make_no_sense_are_named() {
        for (claims, word) in [
            (json!({"sub": "", "exp": 1}), "`sub`"),
            (json!({"sub": "a\nb", "exp": 1}), "`sub`"),
            (json!({"sub": "u", "exp": 1, "name": "x".repeat(129)}), "`name`"),
            (json!({"sub": "u", "exp": 1, "once": true}), "`jti`"),
            (json!({"sub": "u", "exp": 1, "rooms": vec!["a"; 257]}), "`rooms`"),
        ] {
            assert!(grant(claims).unwrap_err().contains(word), "{word}");
        }
    }

    proptest! {
        #[test]
        fn a_beginning_admits_what_begins_so_and_nothing_else(start in "[a-c]{0,3}", name in "[a-c*]{0,5}") {
            let grant = grant(json!({"sub": "u", "exp": 1, "rooms": [format!("{start}*")]})).unwrap();
            prop_assert_eq!(grant.admits(&name), name.starts_with(&start));
        }
    }
}
