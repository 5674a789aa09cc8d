//! The door of a DTLS listener (RFC 6347, section 4.2.1): who has not shown that they receive at
//! their address gets a HelloVerifyRequest, which is never longer than what they sent, and is
//! forgotten. A cookie is an HMAC of a time window, the addresses and the ClientHello's random under a
//! secret that all workers share, so that nothing need be kept to know it again.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::net::{IpAddr, SocketAddr};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// Length of a cookie, in bytes.
pub const COOKIE_LEN: usize = 32;
/// Seconds that a cookie is good for at least; at most twice as long.
const WINDOW: u64 = 30;

/// Length of a record's header, in bytes.
const RECORD: usize = 13;
/// Length of a handshake message's header, in bytes.
const HANDSHAKE: usize = 12;
/// The alert of RFC 5246, section 7.2.
const FATAL: u8 = 2;
const PROTOCOL_VERSION: u8 = 70;

/// What a ClientHello says up to its cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello<'a> {
    /// The client's random.
    pub random: &'a [u8; 32],
    /// The session it would resume. It is not resumed.
    pub session_id: &'a [u8],
    /// The cookie; empty in a first ClientHello.
    pub cookie: &'a [u8],
}

impl<'a> Hello<'a> {
    /// Whether a datagram begins with an unprotected ClientHello for DTLS 1.2, or with the first
    /// fragment of one. A client that offers 1.3 too sends the same, and takes the answer of a server
    /// that has 1.2 alone (RFC 9147, section 5.3).
    #[must_use]
    pub fn parse(datagram: &'a [u8]) -> Option<Self> {
        let (header, rest) = datagram.split_at_checked(RECORD)?;
        let &[22, 0xFE, 0xFD | 0xFF, 0, 0, _, _, _, _, _, _, high, low] = header else { return None };
        let record = rest.get(..usize::from(u16::from_be_bytes([high, low])))?;
        let (header, body) = record.split_at_checked(HANDSHAKE)?;
        let &[1, l0, l1, l2, _, _, 0, 0, 0, f0, f1, f2] = header else { return None };
        let (length, fragment) = (u24(l0, l1, l2), u24(f0, f1, f2));
        if fragment > length || fragment != body.len() {
            return None;
        }
        let body = body.strip_prefix(&[0xFE, 0xFD])?;
        let (random, body) = body.split_first_chunk::<32>()?;
        let (session_id, body) = opaque(body)?;
        let (cookie, _) = opaque(body)?;
        (session_id.len() <= 32).then_some(Self { random, session_id, cookie })
    }
}

/// The answer to a ClientHello for DTLS 1.0, which is not to be agreed on (RFC 8996, section 5): an alert, shorter
/// than what it answers, so that a client which has another version too tries that at once.
#[must_use]
pub fn refuse_version(datagram: &[u8]) -> Option<[u8; RECORD + 2]> {
    let &[22, 0xFE, 0xFF, 0, 0, ..] = datagram else { return None };
    let (header, body) = datagram.get(RECORD..)?.split_at_checked(HANDSHAKE)?;
    let is_old = header.first() == Some(&1) && body.starts_with(&[0xFE, 0xFF]);
    is_old.then_some([21, 0xFE, 0xFF, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, FATAL, PROTOCOL_VERSION])
}

fn u24(a: u8, b: u8, c: u8) -> usize {
    usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c)
}

/// A vector with one byte of length, and what follows it.
fn opaque(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&length, rest) = bytes.split_first()?;
    rest.split_at_checked(usize::from(length))
}

/// Makes and checks cookies.
#[derive(Clone, Debug)]
pub struct Cookies(Zeroizing<[u8; 32]>);

impl Cookies {
    /// `secret` is to be random, and the same for all workers.
    #[must_use]
    pub fn new(secret: [u8; 32]) -> Self {
        Self(Zeroizing::new(secret))
    }

    /// Whether the hello has a cookie that was made for it, and its addresses, less than a minute ago.
    /// `now` is in Unix seconds.
    #[must_use]
    pub fn accepts(&self, hello: &Hello<'_>, client: SocketAddr, server: SocketAddr, now: u64) -> bool {
        let window = now / WINDOW;
        [Some(window), window.checked_sub(1)].into_iter().flatten().any(|window| {
            let cookie = self.cookie(hello, client, server, window);
            hello.cookie.len() == COOKIE_LEN && bool::from(cookie[..].ct_eq(hello.cookie))
        })
    }

    /// Appends the datagram that asks for the ClientHello again, with a cookie. It is 60 bytes; the
    /// shortest ClientHello that there is has more.
    pub fn challenge(
        &self,
        hello: &Hello<'_>,
        client: SocketAddr,
        server: SocketAddr,
        now: u64,
        out: &mut Vec<u8>,
    ) {
        const BODY: u8 = 2 + 1 + COOKIE_LEN as u8;
        // the record's number is always 0: a second answer to the same client is a replay to it, and
        // numbers from 1 on are left for the association, which knows of none of these
        out.extend_from_slice(&[22, 0xFE, 0xFF, 0, 0, 0, 0, 0, 0, 0, 0, 0, HANDSHAKE as u8 + BODY]);
        out.extend_from_slice(&[3, 0, 0, BODY, 0, 0, 0, 0, 0, 0, 0, BODY]);
        // RFC 6347, section 4.2.1: DTLS 1.0, whatever will be agreed on
        out.extend_from_slice(&[0xFE, 0xFF, COOKIE_LEN as u8]);
        out.extend_from_slice(&self.cookie(hello, client, server, now / WINDOW));
    }

    fn cookie(
        &self,
        hello: &Hello<'_>,
        client: SocketAddr,
        server: SocketAddr,
        window: u64,
    ) -> [u8; COOKIE_LEN] {
        // an HMAC takes keys of every length
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(self.0.as_ref()) else { return [0; COOKIE_LEN] };
        mac.update(&window.to_be_bytes());
        for address in [client, server] {
            match address.ip() {
                IpAddr::V4(ip) => mac.update(&ip.to_ipv6_mapped().octets()),
                IpAddr::V6(ip) => mac.update(&ip.octets()),
            }
            mac.update(&address.port().to_be_bytes());
        }
        mac.update(hello.random);
        mac.update(hello.session_id);
        mac.finalize().into_bytes().into()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    /// A ClientHello, or as much of it as `fragment` says.
    fn hello(random: [u8; 32], session_id: &[u8], cookie: &[u8], rest: &[u8], fragment: usize) -> Vec<u8> {
        let mut body = vec![0xFE, 0xFD];
        body.extend_from_slice(&random);
        for opaque in [session_id, cookie] {
            body.push(opaque.len() as u8);
            body.extend_from_slice(opaque);
        }
        body.extend_from_slice(rest);
        let (length, fragment) = (body.len() as u32, fragment.min(body.len()) as u32);
        let mut datagram = vec![22, 0xFE, 0xFF, 0, 0, 0, 0, 0, 0, 0, 5];
        datagram.extend_from_slice(&(fragment as u16 + 12).to_be_bytes());
        datagram.push(1);
        datagram.extend_from_slice(&length.to_be_bytes()[1..]);
        datagram.extend_from_slice(&[0, 0, 0, 0, 0]);
        datagram.extend_from_slice(&fragment.to_be_bytes()[1..]);
        datagram.extend_from_slice(&body[..fragment as usize]);
        datagram
    }

    /// The least that follows a cookie: one cipher suite and one compression.
    const LEAST: [u8; 6] = [0, 2, 0xC0, 0x2B, 1, 0];

    fn address() -> impl Strategy<Value = SocketAddr> {
        (any::<IpAddr>(), any::<u16>()).prop_map(SocketAddr::from)
    }

    proptest! {
        #[test]
        fn a_hello_with_the_cookie_that_it_was_asked_for_is_let_in(
            random: [u8; 32], secret: [u8; 32], client in address(), server in address(), now in 60u64..1 << 40,
            session_id in proptest::collection::vec(any::<u8>(), 0..=32),
            rest in proptest::collection::vec(any::<u8>(), 6..300),
        ) {
            let cookies = Cookies::new(secret);
            let first = hello(random, &session_id, &[], &rest, usize::MAX);
            let parsed = Hello::parse(&first).unwrap();
            prop_assert!(!cookies.accepts(&parsed, client, server, now));
            let mut challenge = Vec::new();
            cookies.challenge(&parsed, client, server, now, &mut challenge);
            prop_assert!(challenge.len() <= first.len(), "no amplification");
            let cookie = &challenge[challenge.len() - COOKIE_LEN..];
            // the fragment that has the cookie is enough
            for fragment in [usize::MAX, 70 + session_id.len()] {
                let second = hello(random, &session_id, cookie, &rest, fragment);
                let parsed = Hello::parse(&second).unwrap();
                for later in [0, 29] {
                    prop_assert!(cookies.accepts(&parsed, client, server, now + later));
                }
                prop_assert!(!cookies.accepts(&parsed, client, server, now + 60));
                prop_assert!(!cookies.accepts(&parsed, client, server, now - 30));
                prop_assert!(!cookies.accepts(&parsed, server, client, now) || client == server);
            }
            let mut other = random;
            other[31] ^= 1;
            let stolen = hello(other, &session_id, cookie, &rest, usize::MAX);
            prop_assert!(!cookies.accepts(&Hello::parse(&stolen).unwrap(), client, server, now));
            let elsewhere = SocketAddr::new(client.ip(), client.port() ^ 1);
            let second = hello(random, &session_id, cookie, &rest, usize::MAX);
            prop_assert!(!cookies.accepts(&Hello::parse(&second).unwrap(), elsewhere, server, now));
        }

        #[test]
        fn nothing_breaks_the_parser(
            noise in proptest::collection::vec(any::<u8>(), 0..200),
            at in 0usize..89, byte: u8, cut in 0usize..89,
        ) {
            let _ = (Hello::parse(&noise), refuse_version(&noise));
            let mut damaged = hello([7; 32], &[1, 2], &[3; 20], &LEAST, usize::MAX);
            damaged[at] = byte;
            let _ = Hello::parse(&damaged);
            damaged.truncate(cut);
            prop_assert_eq!(Hello::parse(&damaged), None);
        }
    }

    #[test]
    fn the_shortest_hello_is_longer_than_its_answer() {
        // even as a fragment that ends with the cookie
        let mut out = Vec::new();
        for fragment in [usize::MAX, 36] {
            let shortest = hello([7; 32], &[], &[], &LEAST, fragment);
            let parsed = Hello::parse(&shortest).unwrap();
            let any = "192.0.2.1:1".parse().unwrap();
            out.clear();
            Cookies::new([1; 32]).challenge(&parsed, any, any, 0, &mut out);
            assert!(out.len() <= shortest.len(), "{} for {}", out.len(), shortest.len());
        }
    }

    #[test]
    fn what_is_no_hello_for_dtls_1_2_is_none() {
        let good = hello([7; 32], &[], &[], &LEAST, usize::MAX);
        assert!(Hello::parse(&good).is_some());
        for (at, value, why) in [
            (0, 23, "data"),
            (1, 3, "TLS"),
            (4, 1, "protected"),
            (13, 2, "another message"),
            (21, 1, "not the first fragment"),
            (26, 0xFF, "DTLS 1.0"),
        ] {
            let mut bad = good.clone();
            bad[at] = value;
            assert_eq!(Hello::parse(&bad), None, "{why}");
            let refused = refuse_version(&bad).inspect(|alert| assert!(alert.len() < bad.len()));
            assert_eq!(refused.is_some(), why == "DTLS 1.0", "{why}");
        }
        assert_eq!(refuse_version(&good), None);
    }
}
