//! Nonces without state: an HMAC of a time window and the client's address under a secret that all
//! workers share (RFC 8489, section 9.2, and RFC 8656, section 5).

use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::net::SocketAddr;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// "obMatJos2" and the 24 bits of security features (RFC 8489, sections 9.2 and 18.1): bit 0,
/// password algorithms, is set; bit 1, username anonymity, is not, since a time-limited username
/// cannot be looked up by its hash.
const COOKIE: &[u8; 13] = b"obMatJos2gAAA";

/// Windows that one nonce is good for: its own and these many after.
const WINDOWS_AFTER: u8 = 2;

/// Length of every nonce, in bytes: a cookie, a byte of the window and seven of the HMAC. Short, as it
/// goes to sources that proved nothing.
pub(crate) const LEN: usize = COOKIE.len() + 11;

/// Makes and checks nonces.
#[derive(Clone, Debug)]
pub struct Nonces {
    secret: Zeroizing<[u8; 32]>,
    window: u64,
}

impl Nonces {
    /// `lifetime` is the least that a nonce is good for, in seconds; at most one and a half times
    /// as long.
    #[must_use]
    pub fn new(secret: [u8; 32], lifetime: u64) -> Self {
        Self { secret: Zeroizing::new(secret), window: (lifetime / u64::from(WINDOWS_AFTER)).max(1) }
    }

    /// The nonce for `client` at `now` (Unix seconds).
    #[must_use]
    pub fn issue(&self, client: SocketAddr, now: u64) -> [u8; LEN] {
        self.nonce(client, now / self.window)
    }

    /// Whether `nonce` was issued to `client` and is still good.
    #[must_use]
    pub fn accepts(&self, nonce: &[u8], client: SocketAddr, now: u64) -> bool {
        let current = now / self.window;
        let Some(low) = nonce
            .strip_prefix(COOKIE)
            .and_then(|text| STANDARD_NO_PAD.decode(text).ok())
            .and_then(|raw| raw.first().copied())
        else {
            return false;
        };
        let age = (current as u8).wrapping_sub(low);
        let Some(window) = current.checked_sub(u64::from(age)) else { return false };
        age <= WINDOWS_AFTER && bool::from(self.nonce(client, window)[..].ct_eq(nonce))
    }

    fn nonce(&self, client: SocketAddr, window: u64) -> [u8; LEN] {
        let mut raw = [0u8; 8];
        raw[0] = window as u8;
        if let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(self.secret.as_ref()) {
            mac.update(&window.to_be_bytes());
            match client.ip() {
                std::net::IpAddr::V4(ip) => mac.update(&ip.octets()),
                std::net::IpAddr::V6(ip) => mac.update(&ip.octets()),
            }
            mac.update(&client.port().to_be_bytes());
            raw[1..].copy_from_slice(&mac.finalize().into_bytes()[..7]);
        }
        let mut nonce = [0; LEN];
        nonce[..COOKIE.len()].copy_from_slice(COOKIE);
        // 8 bytes are 11 characters, which is what is left
        let _ = STANDARD_NO_PAD.encode_slice(raw, &mut nonce[COOKIE.len()..]);
        nonce
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn client(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_nonce_is_good_for_its_lifetime_and_its_client() {
        let nonces = Nonces::new([1; 32], 600);
        let alice = client("192.0.2.1:1000");
        let nonce = nonces.issue(alice, 1_000_000);
        for later in [0, 1, 300, 599] {
            assert!(nonces.accepts(&nonce, alice, 1_000_000 + later), "{later}");
        }
        assert!(!nonces.accepts(&nonce, alice, 1_000_000 + 901));
        assert!(!nonces.accepts(&nonce, alice, 999_000));
        assert!(!nonces.accepts(&nonce, client("192.0.2.1:1001"), 1_000_000));
        assert!(!nonces.accepts(&nonce, client("[2001:db8::1]:1000"), 1_000_000));
        assert!(!Nonces::new([2; 32], 600).accepts(&nonce, alice, 1_000_000));
        assert!(Nonces::new([1; 32], 600).accepts(&nonce, alice, 1_000_000), "workers share the secret");
    }

    #[test]
    fn the_window_may_wrap_its_byte() {
        let nonces = Nonces::new([1; 32], 2);
        let alice = client("192.0.2.1:1000");
        assert!(nonces.accepts(&nonces.issue(alice, 255), alice, 257));
        assert!(!nonces.accepts(&nonces.issue(alice, 0), alice, 256));
    }

    #[test]
    fn nothing_else_is_a_nonce() {
        let nonces = Nonces::new([1; 32], 600);
        for bad in [&b""[..], b"obMatJos2gAAA", b"obMatJos2gAAAAAAAAAAAAAA", &[0xFF; 24]] {
            assert!(!nonces.accepts(bad, client("192.0.2.1:1"), 0));
        }
    }
}
