//! A named secret, and where it is in its life.

use crate::Secret;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// The name of a key: 1 to 63 characters of `A-Z a-z 0-9 . _ -`, the first not a dot.
///
/// It is the name of the key's file, so it follows what a Kubernetes Secret allows as a data key
/// less the names that start with a dot, which are not keys in a ring's directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KeyId(String);

/// The text is no key id.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is no key id: use 1 to 63 characters of A-Z a-z 0-9 . _ - that do not start with a dot")]
pub struct KeyIdError(String);

impl KeyId {
    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for KeyId {
    type Err = KeyIdError;

    fn from_str(text: &str) -> Result<Self, KeyIdError> {
        let fits = (1..=63).contains(&text.len())
            && !text.starts_with('.')
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
        if fits { Ok(Self(text.to_owned())) } else { Err(KeyIdError(text.to_owned())) }
    }
}

impl TryFrom<String> for KeyId {
    type Error = KeyIdError;

    fn try_from(text: String) -> Result<Self, KeyIdError> {
        text.parse()
    }
}

impl From<KeyId> for String {
    fn from(id: KeyId) -> Self {
        id.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a key is in its life. A key that is gone from the ring verifies nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum KeyState {
    /// Every server verifies it, nobody signs with it yet.
    Staged,
    /// New credentials are minted with it. A ring has at most one such key.
    Signing,
    /// Verifies until the last credential that it signed has expired.
    Retiring,
}

/// A key of the ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Its name.
    pub id: KeyId,
    /// What it signs with.
    pub secret: Secret,
    /// Where it is in its life.
    pub state: KeyState,
    /// When it entered that state, in seconds since the Unix epoch; 0 when nobody knows.
    pub since: u64,
    /// From this time on, in seconds since the Unix epoch, it verifies nothing.
    pub not_after: Option<u64>,
}

impl Key {
    /// Whether a credential signed by this key is accepted at `now` (Unix seconds).
    #[must_use]
    pub fn verifies_at(&self, now: u64) -> bool {
        self.not_after.is_none_or(|end| now < end)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_key_id_is_a_file_name_that_is_not_hidden() {
        for good in ["k-1", "2026-11-23T10.00_a", "K"] {
            assert_eq!(good.parse::<KeyId>().unwrap().as_str(), good);
        }
        let long = "k".repeat(64);
        for bad in ["", ".ring.json", "..data", "a/b", "a b", "ü", &long] {
            assert!(bad.parse::<KeyId>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn not_after_is_the_first_second_that_verifies_nothing() {
        let key = |not_after| Key {
            id: "k".parse().unwrap(),
            secret: Secret::new(vec![1]),
            state: KeyState::Retiring,
            since: 0,
            not_after,
        };
        assert!(key(None).verifies_at(u64::MAX));
        assert!(key(Some(10)).verifies_at(9));
        assert!(!key(Some(10)).verifies_at(10));
    }
}
