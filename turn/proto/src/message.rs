//! STUN messages (RFC 8489, section 5): a borrowed parser and an appending writer.

use crate::{
    address,
    attributes::{self, Attribute},
    error_code::ErrorCode,
    integrity,
};
use std::{fmt, net::SocketAddr};

/// The magic cookie of every STUN message since RFC 5389.
pub(crate) const MAGIC_COOKIE: u32 = 0x2112_A442;
/// Length of the header, in bytes.
pub(crate) const HEADER_LEN: usize = 20;

/// The 96 bits that tie a response to its request.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TransactionId(pub [u8; 12]);

impl fmt::Debug for TransactionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

/// The class of a message (RFC 8489, section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Wants a response.
    Request,
    /// Wants none.
    Indication,
    /// A request succeeded.
    Success,
    /// A request failed.
    Error,
}

/// A method, 12 bits (RFC 8489, section 18.2, and RFC 8656, section 17).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Method(pub u16);

impl Method {
    /// What is my address, seen from you?
    pub const BINDING: Self = Self(0x001);
    /// Give me a relayed transport address.
    pub const ALLOCATE: Self = Self(0x003);
    /// Keep, or end, my allocation.
    pub const REFRESH: Self = Self(0x004);
    /// Data to a peer.
    pub const SEND: Self = Self(0x006);
    /// Data from a peer.
    pub const DATA: Self = Self(0x007);
    /// Let these peers send to me.
    pub const CREATE_PERMISSION: Self = Self(0x008);
    /// A short name for a peer.
    pub const CHANNEL_BIND: Self = Self(0x009);
    /// Connect me with a peer by TCP (RFC 6062).
    pub const CONNECT: Self = Self(0x00A);
    /// This connection is for the data of that one with a peer (RFC 6062).
    pub const CONNECTION_BIND: Self = Self(0x00B);
    /// A peer has connected (RFC 6062).
    pub const CONNECTION_ATTEMPT: Self = Self(0x00C);
}

/// Why bytes are no STUN message that can be processed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Not STUN at all: too short, wrong cookie, or a length that does not fit. To be dropped.
    #[error("not a STUN message")]
    NotStun,
    /// The fingerprint does not match, so it is another protocol's packet. To be dropped.
    #[error("the fingerprint does not match")]
    Fingerprint,
    /// The header is sound and an attribute is not; a request may be answered with 400.
    #[error("an attribute is malformed")]
    Attribute {
        /// The class of the message.
        class: Class,
        /// The method of the message.
        method: Method,
        /// The transaction to answer.
        id: TransactionId,
    },
}

/// A parsed message that borrows the packet.
///
/// Only the attributes before MESSAGE-INTEGRITY are ever visible: those after it are not protected,
/// and are ignored (RFC 8489, section 14.5).
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    bytes: &'a [u8],
    class: Class,
    method: Method,
    id: TransactionId,
    /// Where the honoured attributes end.
    honoured: usize,
    /// Where the MESSAGE-INTEGRITY attribute starts.
    pub(crate) sha1_at: Option<usize>,
    /// Where the MESSAGE-INTEGRITY-SHA256 attribute starts.
    pub(crate) sha256_at: Option<usize>,
}

impl<'a> Message<'a> {
    /// Parses one whole message: `bytes` must hold it and nothing else.
    ///
    /// # Errors
    /// See [`ParseError`]; no input panics.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ParseError> {
        let Some((header, _)) = bytes.split_first_chunk::<HEADER_LEN>() else {
            return Err(ParseError::NotStun);
        };
        let kind = u16::from_be_bytes([header[0], header[1]]);
        let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
        let cookie = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
        if kind >= 0x4000 || cookie != MAGIC_COOKIE || length % 4 != 0 || bytes.len() != HEADER_LEN + length {
            return Err(ParseError::NotStun);
        }
        let (class, method) = split_kind(kind);
        let mut id = TransactionId([0; 12]);
        id.0.copy_from_slice(&header[8..20]);
        let mut message =
            Self { bytes, class, method, id, honoured: bytes.len(), sha1_at: None, sha256_at: None };
        message.scan()?;
        Ok(message)
    }

    /// Walks the attributes once: finds the ones that protect the message and where honour ends.
    fn scan(&mut self) -> Result<(), ParseError> {
        let malformed = ParseError::Attribute { class: self.class, method: self.method, id: self.id };
        let mut at = HEADER_LEN;
        while at < self.bytes.len() {
            let (kind, value, next) = attribute_at(self.bytes, at).ok_or(malformed)?;
            match kind {
                attributes::MESSAGE_INTEGRITY if self.sha1_at.is_none() && self.sha256_at.is_none() => {
                    if value.len() != 20 {
                        return Err(malformed);
                    }
                    self.sha1_at = Some(at);
                    self.honoured = self.honoured.min(at);
                }
                attributes::MESSAGE_INTEGRITY_SHA256 if self.sha256_at.is_none() => {
                    // RFC 8489, section 14.6: 16 to 32 bytes, a multiple of 4
                    if !(16..=32).contains(&value.len()) || value.len() % 4 != 0 {
                        return Err(malformed);
                    }
                    self.sha256_at = Some(at);
                    self.honoured = self.honoured.min(at);
                }
                attributes::FINGERPRINT => {
                    // RFC 8489, section 14.7: the last attribute; what follows it is none of ours
                    self.honoured = self.honoured.min(at);
                    if next != self.bytes.len() || !integrity::fingerprint_matches(self.bytes, at, value) {
                        return Err(ParseError::Fingerprint);
                    }
                }
                _ => {}
            }
            at = next;
        }
        Ok(())
    }

    /// The message's class.
    #[must_use]
    pub fn class(&self) -> Class {
        self.class
    }

    /// The message's method.
    #[must_use]
    pub fn method(&self) -> Method {
        self.method
    }

    /// The message's transaction.
    #[must_use]
    pub fn id(&self) -> TransactionId {
        self.id
    }

    /// The whole packet.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The honoured attributes, in order: type and value without padding.
    pub fn attributes(&self) -> impl Iterator<Item = (u16, &'a [u8])> + use<'a> {
        let (bytes, end) = (self.bytes, self.honoured);
        let mut at = HEADER_LEN;
        std::iter::from_fn(move || {
            if at >= end {
                return None;
            }
            let (kind, value, next) = attribute_at(bytes, at)?;
            at = next;
            Some((kind, value))
        })
    }

    /// The value of the first honoured attribute of that type (RFC 8489, section 14: later ones of
    /// the same type are ignored).
    #[must_use]
    pub fn raw(&self, kind: u16) -> Option<&'a [u8]> {
        self.attributes().find(|(k, _)| *k == kind).map(|(_, value)| value)
    }

    /// The first honoured attribute of that type, decoded; `Err` when its value is malformed.
    ///
    /// # Errors
    /// [`attributes::Malformed`].
    pub fn get<T: Attribute<'a>>(&self) -> Result<Option<T>, attributes::Malformed> {
        self.raw(T::TYPE).map(|value| T::decode(value, &self.id)).transpose()
    }

    /// Every honoured attribute of that type, decoded.
    pub fn all<T: Attribute<'a>>(
        &self,
    ) -> impl Iterator<Item = Result<T, attributes::Malformed>> + use<'a, T> {
        let id = self.id;
        self.attributes().filter(|(k, _)| *k == T::TYPE).map(move |(_, value)| T::decode(value, &id))
    }
}

/// The attribute at `at`: its type, its value, and where the next one starts.
fn attribute_at(bytes: &[u8], at: usize) -> Option<(u16, &[u8], usize)> {
    let head = bytes.get(at..at + 4)?;
    let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
    let value = bytes.get(at + 4..at + 4 + length)?;
    let next = at + 4 + length.next_multiple_of(4);
    (next <= bytes.len()).then_some((u16::from_be_bytes([head[0], head[1]]), value, next))
}

fn split_kind(kind: u16) -> (Class, Method) {
    let class = match kind & 0x0110 {
        0x0000 => Class::Request,
        0x0010 => Class::Indication,
        0x0100 => Class::Success,
        _ => Class::Error,
    };
    (class, Method((kind & 0x000F) | ((kind & 0x00E0) >> 1) | ((kind & 0x3E00) >> 2)))
}

fn join_kind(class: Class, method: Method) -> u16 {
    let m = method.0;
    let class = match class {
        Class::Request => 0x0000,
        Class::Indication => 0x0010,
        Class::Success => 0x0100,
        Class::Error => 0x0110,
    };
    class | (m & 0x000F) | ((m & 0x0070) << 1) | ((m & 0x0F80) << 2)
}

/// Appends one message to a buffer. The header's length is right after every call, so a writer may
/// be dropped at any point.
#[derive(Debug)]
pub struct Writer<'b> {
    pub(crate) buf: &'b mut Vec<u8>,
    pub(crate) start: usize,
    id: TransactionId,
}

impl<'b> Writer<'b> {
    /// Starts a message at the end of `buf`.
    pub fn new(buf: &'b mut Vec<u8>, class: Class, method: Method, id: TransactionId) -> Self {
        let start = buf.len();
        buf.extend_from_slice(&join_kind(class, method).to_be_bytes());
        buf.extend_from_slice(&[0, 0]);
        buf.extend_from_slice(&MAGIC_COOKIE.to_be_bytes());
        buf.extend_from_slice(&id.0);
        Self { buf, start, id }
    }

    /// Adds an attribute by its type and value. Values longer than 65,535 bytes are cut.
    pub fn raw(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let length = u16::try_from(value.len()).unwrap_or(u16::MAX);
        let value = &value[..usize::from(length)];
        self.buf.extend_from_slice(&kind.to_be_bytes());
        self.buf.extend_from_slice(&length.to_be_bytes());
        self.buf.extend_from_slice(value);
        let padding = value.len().next_multiple_of(4) - value.len();
        self.buf.extend_from_slice(&[0; 3][..padding]);
        self.set_length(self.buf.len() - self.start - HEADER_LEN);
        self
    }

    /// Adds a 32-bit number.
    pub fn u32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.raw(kind, &value.to_be_bytes())
    }

    /// Adds an address, masked as in RFC 8489, section 14.2.
    pub fn xor_address(&mut self, kind: u16, address: SocketAddr) -> &mut Self {
        let (bytes, length) = address::encode_xor(address, &self.id);
        self.raw(kind, &bytes[..length])
    }

    /// Adds an address in the clear, as ALTERNATE-SERVER takes it (RFC 8489, section 14.15).
    pub fn address(&mut self, kind: u16, address: SocketAddr) -> &mut Self {
        let (bytes, length) = address::encode(address);
        self.raw(kind, &bytes[..length])
    }

    /// Adds ERROR-CODE (RFC 8489, section 14.8). The phrase is empty when `brief`: a reply to a
    /// source that proved nothing is kept small.
    pub fn error_code(&mut self, code: ErrorCode, brief: bool) -> &mut Self {
        let mut value = [0u8; 64];
        value[2] = (code.code() / 100) as u8;
        value[3] = (code.code() % 100) as u8;
        let phrase = if brief { "" } else { code.phrase() };
        let end = 4 + phrase.len().min(60);
        value[4..end].copy_from_slice(&phrase.as_bytes()[..end - 4]);
        self.raw(attributes::ERROR_CODE, &value[..end])
    }

    /// Adds MESSAGE-INTEGRITY over everything so far (RFC 8489, section 14.5).
    pub fn integrity_sha1(&mut self, key: &[u8]) -> &mut Self {
        let at = self.buf.len();
        let mac = integrity::sha1(&self.buf[self.start..], at - self.start, 24, key);
        self.raw(attributes::MESSAGE_INTEGRITY, &mac)
    }

    /// Adds MESSAGE-INTEGRITY-SHA256 over everything so far (RFC 8489, section 14.6).
    pub fn integrity_sha256(&mut self, key: &[u8]) -> &mut Self {
        let at = self.buf.len();
        let mac = integrity::sha256(&self.buf[self.start..], at - self.start, 36, key);
        self.raw(attributes::MESSAGE_INTEGRITY_SHA256, &mac)
    }

    /// Adds FINGERPRINT (RFC 8489, section 14.7). Nothing may follow it.
    pub fn fingerprint(&mut self) -> &mut Self {
        self.set_length(self.buf.len() - self.start - HEADER_LEN + 8);
        let crc = integrity::fingerprint(&self.buf[self.start..]);
        self.u32(attributes::FINGERPRINT, crc)
    }

    fn set_length(&mut self, length: usize) {
        let length = u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes();
        self.buf[self.start + 2..self.start + 4].copy_from_slice(&length);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    const ID: TransactionId = TransactionId([7; 12]);

    #[test]
    fn every_method_and_class_survives_the_bit_weave() {
        for method in 0..0x1000 {
            for class in [Class::Request, Class::Indication, Class::Success, Class::Error] {
                let kind = join_kind(class, Method(method));
                assert!(kind < 0x4000);
                assert_eq!(split_kind(kind), (class, Method(method)));
            }
        }
    }

    #[test]
    fn attributes_after_integrity_are_invisible() {
        let mut buf = Vec::new();
        let mut w = Writer::new(&mut buf, Class::Request, Method::REFRESH, ID);
        w.raw(attributes::USERNAME, b"u").integrity_sha1(b"key").u32(attributes::LIFETIME, 0).fingerprint();
        let message = Message::parse(&buf).unwrap();
        assert_eq!(message.raw(attributes::USERNAME), Some(&b"u"[..]));
        assert_eq!(message.raw(attributes::LIFETIME), None);
    }

    #[test]
    fn a_wrong_fingerprint_is_not_stun() {
        let mut buf = Vec::new();
        Writer::new(&mut buf, Class::Request, Method::BINDING, ID).fingerprint();
        assert!(Message::parse(&buf).is_ok());
        *buf.last_mut().unwrap() ^= 1;
        assert_eq!(Message::parse(&buf).unwrap_err(), ParseError::Fingerprint);
    }

    #[test]
    fn an_attribute_that_overruns_is_reported_with_its_transaction() {
        let mut buf = Vec::new();
        Writer::new(&mut buf, Class::Request, Method::BINDING, ID).u32(attributes::LIFETIME, 1);
        buf[23] = 8;
        let error = Message::parse(&buf).unwrap_err();
        assert_eq!(error, ParseError::Attribute { class: Class::Request, method: Method::BINDING, id: ID });
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Message::parse(&bytes);
        }

        #[test]
        fn no_body_panics(body in proptest::collection::vec(any::<u8>(), 0..50)) {
            let mut buf = Vec::new();
            Writer::new(&mut buf, Class::Request, Method::ALLOCATE, ID);
            buf.extend(body.iter().copied().cycle().take(body.len() / 4 * 4));
            let length = (buf.len() - HEADER_LEN) as u16;
            buf[2..4].copy_from_slice(&length.to_be_bytes());
            if let Ok(message) = Message::parse(&buf) {
                message.attributes().count();
            }
        }

        #[test]
        fn what_is_written_is_read(values in proptest::collection::vec(
            (0x0100u16..0x0200, proptest::collection::vec(any::<u8>(), 0..40)), 0..8)) {
            let mut buf = Vec::new();
            let mut w = Writer::new(&mut buf, Class::Success, Method::BINDING, ID);
            for (kind, value) in &values {
                w.raw(*kind, value);
            }
            let message = Message::parse(&buf).unwrap();
            let read: Vec<_> = message.attributes().map(|(k, v)| (k, v.to_vec())).collect();
            prop_assert_eq!(read, values);
        }
    }
}
