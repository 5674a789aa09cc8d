//! DTLS under a client's datagrams: what sessions begin with, and a session per client.

mod client;
mod cookie;

pub(crate) use client::Link;

use cookie::{COOKIES, Expected};
use dimpl::{Dtls, DtlsCertificate, Output};
use rtc_turn_proto::dtls::Hello;
use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

/// The longest message that one record carries (RFC 6347, section 4.1).
pub(crate) const MAX_MESSAGE: usize = 1 << 14;
/// Records are kept within what every path carries; messages are not split.
const MTU: usize = 1200;
/// What a record adds to its message, at most.
const OVERHEAD: usize = 64;

/// Why a certificate and its key cannot be used for DTLS.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("dtls:// needs an ECDSA key, of P-256 or P-384, and this is none; RSA serves tls:// alone")]
    Key,
    #[error("DTLS: {0}")]
    Engine(#[from] dimpl::Error),
}

/// What sessions begin with.
#[derive(Clone)]
pub(crate) struct Config {
    engine: Arc<dimpl::Config>,
    certificate: DtlsCertificate,
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("dtls::Config(..)")
    }
}

impl Config {
    /// `certificate` and `key` are DER. Of a chain the server's own certificate is all that is sent.
    pub(crate) fn new(certificate: &[u8], key: &[u8], handshake: Duration) -> Result<Self, ConfigError> {
        let mut provider = dimpl::crypto::rust_crypto::default_provider();
        // the engine would panic over it later
        provider.key_provider.load_private_key(key).map_err(|_| ConfigError::Key)?;
        provider.hmac_provider = &COOKIES;
        let engine = dimpl::Config::builder()
            .with_crypto_provider(provider)
            .require_client_certificate(false)
            .use_server_cookie(true)
            .handshake_timeout(handshake)
            .mtu(MTU)
            .build()?;
        let certificate = DtlsCertificate { certificate: certificate.to_vec(), private_key: key.to_vec() };
        Ok(Self { engine: Arc::new(engine), certificate })
    }
}

/// Messages that a datagram brought.
#[derive(Debug, Default)]
pub(crate) struct Messages {
    contents: Vec<u8>,
    ends: Vec<usize>,
}

impl Messages {
    fn push(&mut self, message: &[u8]) {
        self.contents.extend_from_slice(message);
        self.ends.push(self.contents.len());
    }

    pub(crate) fn clear(&mut self) {
        self.contents.clear();
        self.ends.clear();
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, end)| &self.contents[start..*end])
    }
}

/// The session can only be dropped: it was closed, by the client or by a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Over;

/// One client's session. After each call what is to be sent has been handed to `send`, a datagram at
/// a time.
#[derive(Debug)]
pub(crate) struct Session {
    dtls: Dtls,
    expected: Expected,
    established: bool,
    due: Instant,
}

impl Session {
    /// For a client whose hello has a cookie that was accepted; [`Self::receive`] is to be called with
    /// that hello next.
    pub(crate) fn new(config: &Config, hello: &Hello<'_>, now: Instant) -> Result<Self, Over> {
        let dtls = Dtls::new_12(Arc::clone(&config.engine), config.certificate.clone(), now);
        let expected = Expected::new(hello).ok_or(Over)?;
        let mut session = Self { dtls, expected, established: false, due: now };
        session.dtls.handle_timeout(now).map_err(|_| Over)?;
        // The engine has to see a hello without a cookie first: after it the next is message 1, and
        // its own are counted from 1 on, as the client expects. What it saw before and what it
        // answered are in no transcript (RFC 6347, section 4.2.1), so that any hello will do.
        session.dtls.handle_packet(&cookie::first_hello()).map_err(|_| Over)?;
        session.drain(&mut Vec::new(), &mut Messages::default(), &mut |_| {})?;
        Ok(session)
    }

    pub(crate) fn is_established(&self) -> bool {
        self.established
    }

    /// Whether the hello is the one that this session began with, sent again.
    pub(crate) fn began_with(&self, hello: &Hello<'_>) -> bool {
        self.expected.random == *hello.random
    }

    /// When [`Self::handle_timeout`] is due.
    pub(crate) fn due(&self) -> Instant {
        self.due
    }

    /// Takes a datagram of the client, and appends what it says to `messages`.
    pub(crate) fn receive(
        &mut self,
        now: Instant,
        datagram: &[u8],
        buffer: &mut Vec<u8>,
        messages: &mut Messages,
        mut send: impl FnMut(&[u8]),
    ) -> Result<(), Over> {
        let expected = (!self.established).then_some(self.expected);
        cookie::expecting(expected, || {
            self.dtls.handle_timeout(now)?;
            self.dtls.handle_packet(datagram)
        })
        .map_err(|_| Over)?;
        self.drain(buffer, messages, &mut send)
    }

    /// Sends again what may have been lost.
    pub(crate) fn handle_timeout(
        &mut self,
        now: Instant,
        buffer: &mut Vec<u8>,
        mut send: impl FnMut(&[u8]),
    ) -> Result<(), Over> {
        self.dtls.handle_timeout(now).map_err(|_| Over)?;
        self.drain(buffer, &mut Messages::default(), &mut send)
    }

    /// Sends one message, in a datagram of its own. It must not be longer than [`MAX_MESSAGE`].
    pub(crate) fn send(
        &mut self,
        message: &[u8],
        buffer: &mut Vec<u8>,
        mut send: impl FnMut(&[u8]),
    ) -> Result<(), Over> {
        self.dtls.send_application_data(message).map_err(|_| Over)?;
        self.drain(buffer, &mut Messages::default(), &mut send)
    }

    /// Says goodbye.
    pub(crate) fn close(&mut self, buffer: &mut Vec<u8>, mut send: impl FnMut(&[u8])) {
        if self.dtls.close().is_ok() {
            let _ = self.drain(buffer, &mut Messages::default(), &mut send);
        }
    }

    fn drain(
        &mut self,
        buffer: &mut Vec<u8>,
        messages: &mut Messages,
        send: &mut impl FnMut(&[u8]),
    ) -> Result<(), Over> {
        buffer.resize(buffer.len().max(MAX_MESSAGE + OVERHEAD), 0);
        let mut over = false;
        loop {
            match self.dtls.poll_output(buffer) {
                Output::Packet(datagram) => send(datagram),
                Output::ApplicationData(message) => messages.push(message),
                Output::Connected => self.established = true,
                // the engine answers it by its own
                Output::CloseNotify => over = true,
                Output::Timeout(at) => {
                    self.due = at;
                    return if over || self.dtls.is_closed() { Err(Over) } else { Ok(()) };
                }
                Output::BufferTooSmall { needed } => buffer.resize(needed, 0),
                _ => {}
            }
        }
    }
}
