//! Lets the engine take the cookies of [`rtc_turn_proto::dtls::Cookies`] for its own.
//!
//! The engine's server keeps a session from a client's first hello on, and binds its cookie to the
//! hello's random but to no address. So the door is ours, and keeps nothing; but the hello that comes
//! back with our cookie is what both sides sign, so that the engine has to be given it as it is. It
//! computes its cookie by the HMAC of its crypto provider, over that random and nothing else: here
//! that HMAC answers, while a session expects it, with the cookie that was already checked. Every
//! other HMAC is computed.

use dimpl::{
    CryptoError,
    crypto::{HashAlgorithm, HmacProvider, rust_crypto},
};
use rtc_turn_proto::dtls::{COOKIE_LEN, Hello};
use std::cell::Cell;

thread_local! {
    static EXPECTED: Cell<Option<Expected>> = const { Cell::new(None) };
}

/// A hello whose cookie was checked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expected {
    pub(super) random: [u8; 32],
    cookie: [u8; COOKIE_LEN],
}

impl Expected {
    pub(super) fn new(hello: &Hello<'_>) -> Option<Self> {
        Some(Self { random: *hello.random, cookie: hello.cookie.try_into().ok()? })
    }
}

/// Runs a step of the engine that may ask for that hello's cookie.
pub(super) fn expecting<T>(expected: Option<Expected>, step: impl FnOnce() -> T) -> T {
    EXPECTED.set(expected);
    let result = step();
    EXPECTED.set(None);
    result
}

pub(super) static COOKIES: Cookies = Cookies;

#[derive(Debug)]
pub(super) struct Cookies;

impl HmacProvider for Cookies {
    fn hmac(
        &self,
        hash: HashAlgorithm,
        key: &[u8],
        data: &[u8],
        out: &mut [u8],
    ) -> Result<usize, CryptoError> {
        if let Some(expected) = EXPECTED.get()
            && data == expected.random
            && let Some(out) = out.first_chunk_mut()
        {
            *out = expected.cookie;
            return Ok(COOKIE_LEN);
        }
        rust_crypto::default_provider().hmac_provider.hmac(hash, key, data, out)
    }
}

/// A ClientHello without a cookie, and with nothing that matters.
pub(super) fn first_hello() -> [u8; 67] {
    let mut hello = [0; 67];
    // a handshake record of epoch 0; ClientHello, whole; DTLS 1.2
    hello[..13].copy_from_slice(&[22, 0xFE, 0xFD, 0, 0, 0, 0, 0, 0, 0, 0, 0, 54]);
    hello[13..27].copy_from_slice(&[1, 0, 0, 42, 0, 0, 0, 0, 0, 0, 0, 42, 0xFE, 0xFD]);
    // a random of zeros, no session, no cookie; one cipher suite, no compression
    hello[61..].copy_from_slice(&[0, 2, 0xC0, 0x2B, 1, 0]);
    hello
}
