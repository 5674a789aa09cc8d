//! `--lan`: this machine's own address, and a certificate for it, so that a phone in the same
//! network may use its camera (browsers give one only to HTTPS pages).

use anyhow::Context;
use rcgen::{CertificateParams, KeyPair, SanType};
use rustls::{ServerConfig, pki_types::PrivateKeyDer};
use std::{
    net::{IpAddr, Ipv4Addr, UdpSocket},
    sync::Arc,
};
use tokio_rustls::TlsAcceptor;

/// The address of the interface that leads out of this machine.
pub(crate) fn own_address() -> anyhow::Result<IpAddr> {
    // Connecting a UDP socket sends nothing; it asks the routing table. 192.0.2.1 is nobody's (RFC 5737).
    let address = || -> std::io::Result<IpAddr> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9))?;
        Ok(socket.local_addr()?.ip())
    };
    let address = address()
        .context("--lan: this machine has no route to a network; connect it to one, or leave --lan out")?;
    anyhow::ensure!(!address.is_loopback(), "--lan: this machine has no address but loopback");
    Ok(address)
}

/// TLS with a certificate made on the spot, for `address` and `localhost`.
pub(crate) fn acceptor(address: IpAddr) -> anyhow::Result<TlsAcceptor> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(vec!["localhost".to_owned()])?;
    params.subject_alt_names.push(SanType::IpAddress(address));
    params.distinguished_name.push(rcgen::DnType::CommonName, "rtc up");
    // Apple's browsers refuse a certificate that lives longer than 825 days
    params.not_before = rcgen::date_time_ymd(2025, 1, 1);
    let certificate = params.self_signed(&key)?;
    let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(anyhow::Error::msg)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
