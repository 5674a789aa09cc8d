//! The little of STUN and TURN a load generator speaks: it writes requests and reads
//! what servers answer. Independent of `rtc-turn-proto` on purpose, so that a mistake
//! there does not agree with itself here.

use std::net::{Ipv4Addr, SocketAddrV4};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use md5::{Digest, Md5};
use sha1::Sha1;

const COOKIE: u32 = 0x2112_a442;
const HEADER: usize = 20;

/// Methods of requests (RFC 8489 section 18.2, RFC 8656 section 17).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Method {
    Binding = 0x001,
    Allocate = 0x003,
    Refresh = 0x004,
    ChannelBind = 0x009,
}

const USERNAME: u16 = 0x0006;
const MESSAGE_INTEGRITY: u16 = 0x0008;
const ERROR_CODE: u16 = 0x0009;
const CHANNEL_NUMBER: u16 = 0x000c;
const LIFETIME: u16 = 0x000d;
const XOR_PEER_ADDRESS: u16 = 0x0012;
const REALM: u16 = 0x0014;
const NONCE: u16 = 0x0015;
const XOR_RELAYED_ADDRESS: u16 = 0x0016;
const REQUESTED_TRANSPORT: u16 = 0x0019;

/// A user of the server's REST scheme: `expiry:name` and the HMAC-SHA1 of it.
pub(crate) struct User {
    /// `expiry:name`.
    pub(crate) name: String,
    password: String,
}

impl User {
    /// Mints the user `bench-{number}` under the static secret.
    pub(crate) fn mint(secret: &str, number: usize, expires_unix: u64) -> Self {
        let name = format!("{expires_unix}:bench-{number}");
        let mut mac = sha1(secret.as_bytes());
        mac.update(name.as_bytes());
        let password = STANDARD.encode(mac.finalize().into_bytes());
        User { name, password }
    }

    fn key(&self, realm: &str) -> [u8; 16] {
        Md5::digest(format!("{}:{realm}:{}", self.name, self.password)).into()
    }
}

fn sha1(key: &[u8]) -> Hmac<Sha1> {
    #[allow(clippy::expect_used)]
    Hmac::<Sha1>::new_from_slice(key).expect("HMAC takes a key of any length")
}

/// What a 401 gave: the realm, the nonce, and the key that follows from them.
#[derive(Clone)]
pub(crate) struct Challenge {
    username: String,
    realm: String,
    nonce: Vec<u8>,
    key: [u8; 16],
}

impl Challenge {
    /// Takes the challenge of a 401 (or 438) answer.
    pub(crate) fn from_answer(answer: &Answer<'_>, user: &User) -> Option<Self> {
        let realm = std::str::from_utf8(answer.attribute(REALM)?).ok()?.to_owned();
        Some(Challenge {
            username: user.name.clone(),
            nonce: answer.attribute(NONCE)?.to_vec(),
            key: user.key(&realm),
            realm,
        })
    }
}

/// A request being written.
pub(crate) struct Request {
    bytes: Vec<u8>,
}

impl Request {
    /// A request with a transaction id made of `number`.
    pub(crate) fn new(method: Method, number: u64) -> Self {
        let mut bytes = Vec::with_capacity(256);
        // The methods used fit the low bits: M0-M3 are at bits 0-3 of the type.
        bytes.extend((method as u16).to_be_bytes());
        bytes.extend([0, 0]);
        bytes.extend(COOKIE.to_be_bytes());
        bytes.extend(*b"rtcb");
        bytes.extend(number.to_be_bytes());
        Request { bytes }
    }

    fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        self.bytes.extend(kind.to_be_bytes());
        self.bytes.extend((value.len() as u16).to_be_bytes());
        self.bytes.extend(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self
    }

    /// REQUESTED-TRANSPORT: UDP.
    pub(crate) fn udp(self) -> Self {
        self.attribute(REQUESTED_TRANSPORT, &[17, 0, 0, 0])
    }

    /// LIFETIME in seconds.
    pub(crate) fn lifetime(self, seconds: u32) -> Self {
        self.attribute(LIFETIME, &seconds.to_be_bytes())
    }

    /// CHANNEL-NUMBER and XOR-PEER-ADDRESS.
    pub(crate) fn channel(self, number: u16, peer: SocketAddrV4) -> Self {
        let channel = u32::from(number) << 16;
        let mut address = vec![0, 1];
        address.extend((peer.port() ^ (COOKIE >> 16) as u16).to_be_bytes());
        address.extend((u32::from(*peer.ip()) ^ COOKIE).to_be_bytes());
        self.attribute(CHANNEL_NUMBER, &channel.to_be_bytes()).attribute(XOR_PEER_ADDRESS, &address)
    }

    /// The finished request, with MESSAGE-INTEGRITY when there is a challenge.
    pub(crate) fn finish(self, challenge: Option<&Challenge>) -> Vec<u8> {
        let Some(challenge) = challenge else {
            let mut bytes = self.bytes;
            set_length(&mut bytes, 0);
            return bytes;
        };
        let mut bytes = self
            .attribute(USERNAME, challenge.username.as_bytes())
            .attribute(REALM, challenge.realm.as_bytes())
            .attribute(NONCE, &challenge.nonce)
            .bytes;
        // The length counts MESSAGE-INTEGRITY itself (RFC 8489 section 14.5).
        set_length(&mut bytes, 24);
        let mut mac = sha1(&challenge.key);
        mac.update(&bytes);
        let tag = mac.finalize().into_bytes();
        Request { bytes }.attribute(MESSAGE_INTEGRITY, &tag).bytes
    }
}

fn set_length(bytes: &mut [u8], more: usize) {
    let length = (bytes.len() - HEADER + more) as u16;
    bytes[2..4].copy_from_slice(&length.to_be_bytes());
}

/// A server's answer, as it came.
pub(crate) struct Answer<'a> {
    bytes: &'a [u8],
}

impl<'a> Answer<'a> {
    /// Reads a response to the request with this transaction number; none for anything else.
    pub(crate) fn read(bytes: &'a [u8], number: u64) -> Option<Self> {
        let length = u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?);
        let ours = bytes.get(12..HEADER)? == number.to_be_bytes();
        let response = bytes[0] & 0xc1 == 0x01;
        (ours && response && bytes.len() >= HEADER + usize::from(length)).then_some(Answer { bytes })
    }

    /// The code of an error response, none for success.
    pub(crate) fn error(&self) -> Option<u16> {
        // The class bits of an error response are 0b11 (RFC 8489 section 5).
        if self.bytes[1] & 0x10 == 0 {
            return None;
        }
        let value = self.attribute(ERROR_CODE).filter(|value| value.len() >= 4);
        Some(value.map_or(0, |value| u16::from(value[2] & 7) * 100 + u16::from(value[3])))
    }

    /// XOR-RELAYED-ADDRESS, IPv4.
    pub(crate) fn relayed(&self) -> Option<SocketAddrV4> {
        let value = self.attribute(XOR_RELAYED_ADDRESS)?;
        let port = u16::from_be_bytes(value.get(2..4)?.try_into().ok()?);
        let address = u32::from_be_bytes(value.get(4..8)?.try_into().ok()?);
        Some(SocketAddrV4::new(Ipv4Addr::from(address ^ COOKIE), port ^ (COOKIE >> 16) as u16))
    }

    fn attribute(&self, wanted: u16) -> Option<&'a [u8]> {
        let mut rest = self.bytes.get(HEADER..)?;
        while rest.len() >= 4 {
            let kind = u16::from_be_bytes([rest[0], rest[1]]);
            let length = usize::from(u16::from_be_bytes([rest[2], rest[3]]));
            if kind == wanted {
                return rest.get(4..4 + length);
            }
            rest = rest.get(4 + length.next_multiple_of(4)..)?;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn long_term_key_is_that_of_rfc_8489_section_9_2_2() {
        let user = User { name: "user".into(), password: "pass".into() };
        let key = user.key("realm");
        assert_eq!(key.map(|byte| format!("{byte:02x}")).concat(), "8493fbc53ba582fb4c044c456bdc40eb");
    }

    #[test]
    fn error_answer_yields_its_code_and_challenge() {
        let number = 7;
        let request = Request::new(Method::Allocate, number)
            .attribute(ERROR_CODE, &[0, 0, 4, 1])
            .attribute(REALM, b"bench")
            .attribute(NONCE, b"abcde");
        let mut bytes = request.finish(None);
        bytes[0] |= 0x01;
        bytes[1] |= 0x10;
        let answer = Answer::read(&bytes, number).unwrap();
        assert_eq!(answer.error(), Some(401));
        let user = User::mint("secret", 0, 1);
        let challenge = Challenge::from_answer(&answer, &user).unwrap();
        assert_eq!(challenge.nonce, b"abcde");
        assert!(Answer::read(&bytes, number + 1).is_none());
    }

    #[test]
    fn integrity_length_counts_the_attribute() {
        let user = User::mint("secret", 0, 1);
        let key = user.key("bench");
        let challenge = Challenge { username: user.name, realm: "bench".into(), nonce: b"n".to_vec(), key };
        let bytes = Request::new(Method::Refresh, 1).lifetime(0).finish(Some(&challenge));
        let length = usize::from(u16::from_be_bytes([bytes[2], bytes[3]]));
        assert_eq!(length, bytes.len() - HEADER);
    }
}
