//! TLS under a client's stream: certificates from files, and a session per connection.

use rtc_turn_proto::{
    channel_data::Channels,
    framing::{self, Frame},
};
use rustls::{
    ClientConfig, DigitallySignedStruct, ServerConfig, ServerConnection, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime},
};
use std::{
    io::{self, Read, Write},
    net::IpAddr,
    sync::Arc,
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

/// What clients may name (RFC 7443, section 3). One that names only other protocols is refused.
const ALPN: [&[u8]; 2] = [b"stun.turn", b"stun.nat-discovery"];

/// How many bytes are encrypted before they are written.
const BATCH: usize = 16 << 10;

/// What sessions begin with: a chain, the server's own certificate first, and its key.
pub(crate) fn config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = ALPN.map(<[u8]>::to_vec).into();
    // resumption by tickets, so that it costs the server no memory
    config.ticketer = ring::Ticketer::new()?;
    config.send_tls13_tickets = 1;
    Ok(Arc::new(config))
}

/// What may follow on a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decrypted {
    More,
    /// Nothing, as the client has said.
    Ended,
    /// Nothing that could be understood.
    Broken,
}

/// One connection's session.
#[derive(Debug)]
pub(crate) struct Session(ServerConnection);

impl Session {
    pub(crate) fn new(config: Arc<ServerConfig>) -> Result<Self, rustls::Error> {
        let mut session = ServerConnection::new(config)?;
        // what waits in it is bounded by how write() fills it
        session.set_buffer_limit(None);
        Ok(Self(session))
    }

    pub(crate) fn is_handshaking(&self) -> bool {
        self.0.is_handshaking()
    }

    /// Decrypts the front of `received`, which moves on, and appends what it says to `plain`: at most
    /// one record's worth, so that the caller can bound it.
    pub(crate) fn decrypt(&mut self, received: &mut &[u8], plain: &mut Vec<u8>) -> Decrypted {
        if self.0.read_tls(received).is_err() {
            return Decrypted::Broken;
        }
        let Ok(state) = self.0.process_new_packets() else { return Decrypted::Broken };
        let (start, length) = (plain.len(), state.plaintext_bytes_to_read());
        plain.resize(start + length, 0);
        if self.0.reader().read_exact(&mut plain[start..]).is_err() {
            return Decrypted::Broken;
        }
        if state.peer_has_closed() { Decrypted::Ended } else { Decrypted::More }
    }

    /// Whether something encrypted waits to be written.
    pub(crate) fn wants_write(&self) -> bool {
        self.0.wants_write()
    }

    /// Encrypts and writes `plain`. When it is `framed`, each frame gets a record of its own, as clients
    /// exist that take a record for a message. Returns how much of `plain` is not to be given again, and whether
    /// the stream is good; it is when it takes no more for now.
    pub(crate) fn write(&mut self, mut stream: impl Write, plain: &[u8], framed: bool) -> (usize, bool) {
        let mut taken = 0;
        loop {
            while self.0.wants_write() {
                match self.0.write_tls(&mut stream) {
                    Ok(0) => return (taken, false),
                    Ok(_) => {}
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) => return (taken, e.kind() == io::ErrorKind::WouldBlock),
                }
            }
            if taken == plain.len() || self.is_handshaking() {
                return (taken, true);
            }
            let batch = taken + BATCH;
            while taken < plain.len().min(batch) {
                let rest = &plain[taken..];
                let frame = match framing::next(rest, Channels::Rfc5766) {
                    Frame::Whole(frame) if framed => frame,
                    _ => &rest[..rest.len().min(BATCH)],
                };
                match self.0.writer().write(frame) {
                    Ok(length) if length > 0 => taken += length,
                    _ => return (taken, false),
                }
            }
        }
    }

    /// Says that no more will come, or why, as far as the stream takes it.
    pub(crate) fn close(&mut self, stream: impl Write) {
        self.0.send_close_notify();
        let _ = self.write(stream, &[], false);
    }
}

/// A client's end, for a server that asks itself whether it is ready. It checks that the server holds
/// the key of the certificate that it shows, but not for whom that is: the connection is to itself.
pub(crate) async fn connect_to_itself(stream: TcpStream, server: IpAddr) -> io::Result<TlsStream<TcpStream>> {
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone(provider.signature_verification_algorithms)))
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config)).connect(ServerName::IpAddress(server.into()), stream).await
}

#[derive(Debug)]
struct Anyone(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}
