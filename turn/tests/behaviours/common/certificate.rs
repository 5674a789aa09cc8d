//! Certificates as an issuer would write them, and servers that use them.

use rcgen::{CertificateParams, KeyPair};
use rtc_turn::{Config, settings::TlsFiles};
use rustls::pki_types::CertificateDer;
use std::path::Path;

/// Writes a new certificate and its key, of ECDSA, and returns the certificate.
pub fn issue(dir: &Path) -> CertificateDer<'static> {
    issue_with(dir, |_| {})
}

/// As [`issue`], with something of its own.
pub fn issue_with(dir: &Path, change: impl FnOnce(&mut CertificateParams)) -> CertificateDer<'static> {
    let mut params = CertificateParams::new(["turn.example.org".to_owned()]).unwrap();
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    let made = params.self_signed(&key).unwrap();
    std::fs::write(dir.join("tls.crt"), made.pem()).unwrap();
    std::fs::write(dir.join("tls.key"), key.serialize_pem()).unwrap();
    made.der().clone()
}

/// A configuration with these listeners and the certificate in `dir`.
pub fn with_certificate(dir: &Path, listen: &[&str], config: Config) -> Config {
    let listen = listen.iter().map(|url| url.parse().unwrap()).collect();
    let tls = Some(TlsFiles { certificate: dir.join("tls.crt"), key: dir.join("tls.key") });
    Config { listen, tls, ..config }
}
