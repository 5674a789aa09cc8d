//! A certificate authority of a test's own.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// An authority, and what trusts it alone.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its certificate, as PEM.
    pub pem: String,
    /// A client that trusts it.
    pub connector: TlsConnector,
}

impl Authority {
    /// Makes one.
    ///
    /// # Errors
    /// When there is no key to be had.
    pub fn new() -> Result<Self> {
        let mut parameters = CertificateParams::new(Vec::new())?;
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate()?;
        let pem = parameters.self_signed(&key)?.pem();
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(pem.as_bytes())?)?;
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector = TlsConnector::from(Arc::new(config));
        Ok(Self { issuer: Issuer::new(parameters, key), pem, connector })
    }

    /// A Secret of type `kubernetes.io/tls` with a new certificate for names and addresses.
    ///
    /// # Errors
    /// When a name is none.
    pub fn secret(&self, name: &str, names: &[String]) -> Result<Value> {
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new(names)?.signed_by(&key, &self.issuer)?;
        Ok(json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "type": "kubernetes.io/tls",
            "stringData": {"tls.crt": certificate.pem(), "tls.key": key.serialize_pem()},
        }))
    }

    /// The certificate that a server shows to who trusts this authority, as DER.
    ///
    /// # Errors
    /// When it shows none that is trusted.
    pub async fn shown_by(&self, server: SocketAddr) -> Result<Vec<u8>> {
        let stream = TcpStream::connect(server).await?;
        let stream = self.connector.connect(ServerName::IpAddress(server.ip().into()), stream).await?;
        let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        Ok(shown.context("no certificate at all")?.to_vec())
    }
}
