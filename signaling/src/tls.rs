//! TLS for clients: a certificate and its key from files, which are followed.
//!
//! A renewed certificate is for connections that begin from then on; those that are open go on.

use rtc_service::watch::{self, Files};
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

/// A handshake takes no longer than this.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Why TLS cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file.
    #[error("cannot read {}: {source}; correct {flag}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// The flag that names it.
        flag: &'static str,
        /// Why.
        source: io::Error,
    },
    /// What is in them.
    #[error("--tls-cert and --tls-key: {0}")]
    Pair(String),
}

/// What connections begin with.
pub struct Tls(Arc<RwLock<Arc<ServerConfig>>>);

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls")
    }
}

impl Tls {
    /// A chain, the server's own certificate first, and its key, both in PEM. Must be called in a tokio
    /// runtime.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn from_files(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        let follow = |path: &Path, flag| {
            watch::files(path.to_owned(), watch::INTERVAL).map_err(|source| TlsError::Read {
                path: path.to_owned(),
                flag,
                source,
            })
        };
        let (mut chains, mut keys) = (follow(certificate, "--tls-cert")?, follow(key, "--tls-key")?);
        let first = config(&chains.borrow_and_update(), &keys.borrow_and_update()).map_err(TlsError::Pair)?;
        let current = Arc::new(RwLock::new(first));
        let followed = Arc::downgrade(&current);
        tokio::spawn(async move {
            loop {
                let changed = tokio::select! {
                    changed = chains.changed() => changed,
                    changed = keys.changed() => changed,
                };
                let (Ok(()), Some(current)) = (changed, followed.upgrade()) else { return };
                match config(&chains.borrow_and_update(), &keys.borrow_and_update()) {
                    Ok(config) => {
                        tracing::info!("the certificate has changed");
                        *current.write().unwrap_or_else(PoisonError::into_inner) = config;
                    }
                    // one of the two may be seen before the other
                    Err(reason) => {
                        tracing::warn!(reason, "cannot use the certificate; keeping the one before")
                    }
                }
            }
        });
        Ok(Self(current))
    }

    /// Begins a session; an error when the client does not, in time.
    pub(crate) async fn accept<I: AsyncRead + AsyncWrite + Unpin>(&self, io: I) -> io::Result<TlsStream<I>> {
        let config = self.0.read().unwrap_or_else(PoisonError::into_inner).clone();
        tokio::time::timeout(HANDSHAKE, TlsAcceptor::from(config).accept(io)).await?
    }
}

fn config(chain: &Files, key: &Files) -> Result<Arc<ServerConfig>, String> {
    let text = |files: &Files| files.values().next().cloned().unwrap_or_default();
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&text(chain))
        .collect::<Result<_, _>>()
        .map_err(|e| format!("the certificate file: {e}"))?;
    if chain.is_empty() {
        return Err("the certificate file holds no PEM certificate".into());
    }
    let key = PrivateKeyDer::from_pem_slice(&text(key))
        .map_err(|e| format!("the key file holds no PEM private key: {e}"))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|e| format!("{e}; do the certificate and the key belong together?"))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // resumption by tickets, so that it costs the server no memory
    config.ticketer = ring::Ticketer::new().map_err(|e| e.to_string())?;
    config.send_tls13_tickets = 1;
    Ok(Arc::new(config))
}
