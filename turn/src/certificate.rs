//! A certificate and its key, as the listeners that need one use them.

use crate::{dtls, tls};
use rtc_service::watch::Files;
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject},
};
use std::{sync::Arc, time::Duration};
use x509_cert::der::Decode;

/// Less than this many seconds before it expires, a certificate is warned about.
const SOON: u64 = 7 * 24 * 3600;

/// Why a certificate and its key cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CertificateError {
    #[error("the certificate file holds no PEM certificate")]
    NoCertificate,
    #[error("the certificate file: {0}")]
    Certificate(pem::Error),
    #[error("the certificate file holds what is no X.509 certificate: {0}")]
    NotX509(x509_cert::der::Error),
    #[error("the key file holds no PEM private key: {0}")]
    Key(pem::Error),
    #[error("{0}; do the certificate and the key belong together?")]
    Pair(#[from] rustls::Error),
    #[error(transparent)]
    Dtls(#[from] dtls::ConfigError),
}

/// What sessions begin with.
#[derive(Clone, Debug)]
pub(crate) struct Certificate {
    pub(crate) tls: Arc<ServerConfig>,
    /// Where DTLS is served.
    pub(crate) dtls: Option<Arc<dtls::Config>>,
    /// When it expires, in Unix seconds.
    pub(crate) expires: u64,
}

impl Certificate {
    /// Reads a chain, the server's own certificate first, and its key, both PEM. For DTLS how long a
    /// handshake may take is given, and `None` where it is not served.
    pub(crate) fn parse(
        chain: &[u8],
        key: &[u8],
        dtls_handshake: Option<Duration>,
    ) -> Result<Self, CertificateError> {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(chain)
            .collect::<Result<_, _>>()
            .map_err(CertificateError::Certificate)?;
        let own = chain.first().ok_or(CertificateError::NoCertificate)?.clone();
        let parsed = x509_cert::Certificate::from_der(&own).map_err(CertificateError::NotX509)?;
        let expires = parsed.tbs_certificate().validity().not_after.to_unix_duration().as_secs();
        let key = PrivateKeyDer::from_pem_slice(key).map_err(CertificateError::Key)?;
        let key_der = key.clone_key();
        let intermediates = chain.len() - 1;
        let tls = tls::config(chain, key)?;
        let dtls = match dtls_handshake {
            Some(patience) => {
                if intermediates > 0 {
                    tracing::warn!(intermediates, "dtls:// sends the server's own certificate alone");
                }
                Some(Arc::new(dtls::Config::new(&own, key_der.secret_der(), patience)?))
            }
            None => None,
        };
        Ok(Self { tls, dtls, expires })
    }

    /// As [`Self::parse`], from files that are followed.
    pub(crate) fn read(
        chain: &Files,
        key: &Files,
        dtls_handshake: Option<Duration>,
    ) -> Result<Arc<Self>, String> {
        let text = |files: &Files| files.values().next().cloned().unwrap_or_default();
        let certificate = Self::parse(&text(chain), &text(key), dtls_handshake);
        certificate.map(Arc::new).map_err(|e| e.to_string())
    }

    /// What to warn of, at that Unix second.
    pub(crate) fn warning(&self, now: u64) -> Option<String> {
        match self.expires.checked_sub(now) {
            None | Some(0) => Some("the certificate has expired: clients refuse it".into()),
            Some(left) if left < SOON => {
                Some(format!("the certificate expires in {} hours: renew it", left / 3600))
            }
            Some(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn pair() -> (Vec<u8>, Vec<u8>) {
        let made = rcgen::generate_simple_self_signed(["turn.example.org".to_owned()]).unwrap();
        (made.cert.pem().into_bytes(), made.signing_key.serialize_pem().into_bytes())
    }

    #[test]
    fn a_certificate_needs_its_own_key() {
        let ((chain, key), (_, other)) = (pair(), pair());
        for dtls in [None, Some(Duration::from_secs(1))] {
            let parse = |chain: &[u8], key: &[u8]| Certificate::parse(chain, key, dtls);
            assert_eq!(parse(&chain, &key).unwrap().dtls.is_some(), dtls.is_some());
            let reason = |chain: &[u8], key: &[u8]| parse(chain, key).unwrap_err().to_string();
            assert!(reason(&chain, &other).contains("belong together"));
            assert!(reason(&key, &key).contains("no PEM certificate"));
            assert!(reason(&chain, &chain).contains("no PEM private key"));
            assert!(reason(b"", b"").contains("no PEM certificate"));
        }
    }

    #[test]
    fn what_expires_soon_is_warned_of() {
        let made = |seconds: i64| {
            let mut params = rcgen::CertificateParams::new(["turn.example.org".to_owned()]).unwrap();
            params.not_after = rcgen::date_time_ymd(2030, 1, 1);
            let key = rcgen::KeyPair::generate().unwrap();
            let certificate = params.self_signed(&key).unwrap();
            let parsed =
                Certificate::parse(certificate.pem().as_bytes(), key.serialize_pem().as_bytes(), None);
            let parsed = parsed.unwrap();
            assert_eq!(parsed.expires, 1_893_456_000, "2030-01-01T00:00:00Z");
            parsed.warning(parsed.expires.saturating_add_signed(-seconds))
        };
        assert_eq!(made(8 * 24 * 3600), None);
        assert!(made(3 * 3600).unwrap().contains("in 3 hours"));
        assert!(made(0).unwrap().contains("has expired"));
        assert!(made(-3600).unwrap().contains("has expired"));
    }
}
