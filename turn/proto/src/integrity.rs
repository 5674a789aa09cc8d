//! What protects a message: MESSAGE-INTEGRITY, MESSAGE-INTEGRITY-SHA256 and FINGERPRINT
//! (RFC 8489, sections 14.5 to 14.7), and the keys of long-term credentials (section 9.2.2).

use crate::message::Message;
use hmac::{Hmac, KeyInit, Mac};
use md5::{Digest, Md5};
use sha1::Sha1;
use sha2::Sha256;
use std::fmt;
use subtle::ConstantTimeEq;
use zeroize::Zeroize;

/// What a fingerprint's CRC is masked with: "STUN" in ASCII.
const FINGERPRINT_MASK: u32 = 0x5354_554E;

/// How a password becomes a key (RFC 8489, section 18.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PasswordAlgorithm {
    /// As since RFC 3489.
    Md5,
    /// New in RFC 8489.
    Sha256,
}

impl PasswordAlgorithm {
    /// Its number in PASSWORD-ALGORITHM.
    #[must_use]
    pub const fn number(self) -> u16 {
        match self {
            Self::Md5 => 1,
            Self::Sha256 => 2,
        }
    }
}

/// The key of a long-term credential, wiped on drop and never printed.
#[derive(Clone)]
pub struct LongTermKey {
    bytes: [u8; 32],
    length: u8,
}

impl LongTermKey {
    /// The hash of `username ":" realm ":" password`.
    #[must_use]
    pub fn new(algorithm: PasswordAlgorithm, username: &[u8], realm: &[u8], password: &[u8]) -> Self {
        fn hash<D: Digest>(parts: [&[u8]; 5], out: &mut [u8; 32]) -> u8 {
            let digest = parts.iter().fold(D::new(), |d, part| d.chain_update(part)).finalize();
            out[..digest.len()].copy_from_slice(&digest);
            digest.len() as u8
        }
        let parts: [&[u8]; 5] = [username, b":", realm, b":", password];
        let mut bytes = [0; 32];
        let length = match algorithm {
            PasswordAlgorithm::Md5 => hash::<Md5>(parts, &mut bytes),
            PasswordAlgorithm::Sha256 => hash::<Sha256>(parts, &mut bytes),
        };
        Self { bytes, length }
    }

    /// The key's bytes, 16 or 32.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

impl Drop for LongTermKey {
    fn drop(&mut self) {
        self.bytes.zeroize();
    }
}

impl fmt::Debug for LongTermKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LongTermKey(..)")
    }
}

/// Which of the two integrity attributes protects a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    /// MESSAGE-INTEGRITY.
    Sha1,
    /// MESSAGE-INTEGRITY-SHA256.
    Sha256,
}

/// What protects `message`; SHA-256 wins when both are there (RFC 8489, section 9.2.4).
#[must_use]
pub fn protection(message: &Message<'_>) -> Option<Protection> {
    match (message.sha256_at, message.sha1_at) {
        (Some(_), _) => Some(Protection::Sha256),
        (None, Some(_)) => Some(Protection::Sha1),
        (None, None) => None,
    }
}

/// Whether `key` made the message's integrity attribute; compares in constant time. A message
/// without one is never authentic.
#[must_use]
pub fn verify(message: &Message<'_>, key: &[u8]) -> bool {
    let bytes = message.bytes();
    if let Some(at) = message.sha256_at {
        let length = usize::from(bytes[at + 3]);
        let mac = sha256(bytes, at, 4 + length, key);
        return mac[..length].ct_eq(&bytes[at + 4..at + 4 + length]).into();
    }
    if let Some(at) = message.sha1_at {
        return sha1(bytes, at, 24, key).ct_eq(&bytes[at + 4..at + 24]).into();
    }
    false
}

/// HMAC-SHA1 of a message up to `at`, its length field as if the message ended with the attribute
/// there, which takes `attribute` bytes.
pub(crate) fn sha1(message: &[u8], at: usize, attribute: usize, key: &[u8]) -> [u8; 20] {
    // HMAC takes keys of every length (RFC 2104, section 2), so this does not fail
    Hmac::<Sha1>::new_from_slice(key).map_or([0; 20], |mac| feed(mac, message, at, attribute).into())
}

pub(crate) fn sha256(message: &[u8], at: usize, attribute: usize, key: &[u8]) -> [u8; 32] {
    Hmac::<Sha256>::new_from_slice(key).map_or([0; 32], |mac| feed(mac, message, at, attribute).into())
}

fn feed<M: Mac>(mut mac: M, message: &[u8], at: usize, attribute: usize) -> hmac::digest::Output<M> {
    let length = u16::try_from(at + attribute - 20).unwrap_or(u16::MAX);
    mac.update(&message[..2]);
    mac.update(&length.to_be_bytes());
    mac.update(&message[4..at]);
    mac.finalize().into_bytes()
}

/// The FINGERPRINT of a message whose length field already counts the attribute.
pub(crate) fn fingerprint(message: &[u8]) -> u32 {
    crc32fast::hash(message) ^ FINGERPRINT_MASK
}

pub(crate) fn fingerprint_matches(message: &[u8], at: usize, value: &[u8]) -> bool {
    value == fingerprint(&message[..at]).to_be_bytes()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{
        attributes,
        message::{Class, Method, TransactionId, Writer},
    };

    #[test]
    fn each_protection_verifies_under_its_key_only() {
        for sha256 in [false, true] {
            let mut buf = Vec::new();
            let mut w = Writer::new(&mut buf, Class::Request, Method::REFRESH, TransactionId([1; 12]));
            w.raw(attributes::USERNAME, b"alice");
            if sha256 {
                w.integrity_sha256(b"key")
            } else {
                w.integrity_sha1(b"key")
            };
            let message = Message::parse(&buf).unwrap();
            assert!(verify(&message, b"key"));
            assert!(!verify(&message, b"kez"));
            let mut forged = buf.clone();
            forged[24] ^= 1;
            assert!(!verify(&Message::parse(&forged).unwrap(), b"key"));
        }
    }

    #[test]
    fn a_truncated_sha256_still_verifies() {
        let mut buf = Vec::new();
        let w = Writer::new(&mut buf, Class::Request, Method::REFRESH, TransactionId([1; 12]));
        let mac = sha256(&w.buf[..], 20, 20, b"key");
        let mut w = w;
        w.raw(attributes::MESSAGE_INTEGRITY_SHA256, &mac[..16]);
        assert!(verify(&Message::parse(&buf).unwrap(), b"key"));
    }

    #[test]
    fn an_unprotected_message_is_never_authentic() {
        let mut buf = Vec::new();
        Writer::new(&mut buf, Class::Request, Method::REFRESH, TransactionId([1; 12]));
        assert!(!verify(&Message::parse(&buf).unwrap(), b""));
    }
}
