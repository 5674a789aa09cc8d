//! Minting and checking time-limited credentials (draft-uberti-behave-turn-rest-00, section 2.2).
//!
//! `username = expiry ":" user`, with the expiry in Unix seconds;
//! `password = base64(HMAC-SHA1(secret, username))`.

use crate::{KeyId, KeyRing, Secret};
use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use std::{fmt, time::Duration};

/// A username and a password that a TURN server accepts until `expires`.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    /// `expiry:user`.
    pub username: String,
    /// base64, 28 characters.
    pub password: String,
    /// Unix seconds.
    pub expires: u64,
    /// Which key signed it.
    pub key: KeyId,
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential")
            .field("username", &self.username)
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

/// Why no credential could be minted.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum MintError {
    /// The ring has no key in state `Signing`.
    #[error("the key ring has no signing key: wait for the operator, or add a key")]
    NoSigningKey,
    /// The user's name is too long or holds a control character.
    #[error("{0:?} is no user name: use at most 256 bytes without control characters")]
    User(String),
}

/// Why a username is none of ours.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the username is not `expiry:user` with the expiry in Unix seconds")]
pub struct UsernameError;

/// A credential for `user` that lives for `ttl` from `now` (Unix seconds), signed by the ring's
/// signing key.
///
/// # Errors
/// [`MintError`], when nothing signs or the user's name does not fit.
pub fn mint(ring: &KeyRing, user: &str, ttl: Duration, now: u64) -> Result<Credential, MintError> {
    let key = ring.signing().ok_or(MintError::NoSigningKey)?;
    if user.len() > 256 || user.chars().any(char::is_control) {
        return Err(MintError::User(user.to_owned()));
    }
    let expires = now.saturating_add(ttl.as_secs());
    let username = format!("{expires}:{user}");
    let password = password(&key.secret, &username);
    Ok(Credential { username, password, expires, key: key.id.clone() })
}

/// The password that belongs to `username` under `secret`: 28 base64 characters.
#[must_use]
pub fn password(secret: &Secret, username: &str) -> String {
    // HMAC takes a key of any length (RFC 2104, section 2)
    let Ok(mut mac) = Hmac::<Sha1>::new_from_slice(secret.expose()) else { return String::new() };
    mac.update(username.as_bytes());
    STANDARD.encode(mac.finalize().into_bytes())
}

/// The expiry (Unix seconds) and the user of a username `expiry:user`; `expiry` alone names the
/// empty user.
///
/// # Errors
/// [`UsernameError`] when it does not start with a decimal number.
pub fn parse_username(username: &str) -> Result<(u64, &str), UsernameError> {
    let (expiry, user) = username.split_once(':').unwrap_or((username, ""));
    if expiry.is_empty() || !expiry.bytes().all(|b| b.is_ascii_digit()) {
        return Err(UsernameError);
    }
    Ok((expiry.parse().map_err(|_| UsernameError)?, user))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_password_is_what_openssl_computes() {
        // printf '1800000000:alice' | openssl dgst -sha1 -hmac north -binary | base64
        let secret = Secret::new(b"north".to_vec());
        assert_eq!(password(&secret, "1800000000:alice"), "sIm7pn/teO7y3AyXGeXl/xAQR6Q=");
    }

    #[test]
    fn a_minted_credential_carries_its_expiry_and_its_key() {
        let ring = KeyRing::single(Secret::new(b"north".to_vec()));
        let minted = mint(&ring, "alice", Duration::from_secs(3600), 1_000).unwrap();
        assert_eq!(minted.username, "4600:alice");
        assert_eq!(minted.expires, 4600);
        assert_eq!(minted.key.as_str(), "static");
        assert_eq!(parse_username(&minted.username), Ok((4600, "alice")));
        assert!(!format!("{minted:?}").contains(&minted.password));
    }

    #[test]
    fn a_ring_without_a_signing_key_mints_nothing() {
        let result = mint(&KeyRing::default(), "alice", Duration::from_secs(1), 0);
        assert_eq!(result, Err(MintError::NoSigningKey));
    }

    #[test]
    fn usernames_that_are_not_ours_are_told_apart() {
        assert_eq!(parse_username("17:a:b"), Ok((17, "a:b")));
        assert_eq!(parse_username("17"), Ok((17, "")));
        for bad in ["", ":", "alice", "+1:a", "-1:a", "99999999999999999999999:a", " 1:a"] {
            assert_eq!(parse_username(bad), Err(UsernameError), "{bad:?}");
        }
    }
}
