//! Telling a backend who comes to rooms and who goes, as [Standard Webhooks] does.
//!
//! A store writes news down in the same step as the room's log, so none is lost with the replica that wrote
//! it. Of the replicas that share a store one leads: it reads them, and POSTs those of each room one after
//! the other and those of different rooms at once. When it ends, another goes on where it stopped. What
//! came to the receiver and was not yet taken off the store is then sent again, under the same id.
//!
//! [Standard Webhooks]: https://www.standardwebhooks.com

mod deliver;
mod event;
mod lead;
mod sign;

pub(crate) use lead::Sender;
pub use sign::SecretError;

use crate::http::Client;
use axum::http::Uri;
use rtc_service::watch;
use sign::Secrets;
use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

/// How old news are when they are no longer tried again.
const PATIENCE: Duration = Duration::from_secs(300);

/// Why there can be no webhooks.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    /// Not a URL.
    #[error("--webhook-url is no URL; write https://HOST/PATH")]
    Url,
    /// The file with the secret.
    #[error("cannot read {}: {source}; correct --webhook-secret-file", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// See [`SecretError`].
    #[error("{}: {source}", path.display())]
    Secret {
        /// Which.
        path: PathBuf,
        /// Why.
        source: SecretError,
    },
    /// See the message.
    #[error("{0}")]
    Client(String),
}

/// Where events are sent, and what signs them. Cloning shares it.
#[derive(Clone)]
pub struct Webhooks {
    url: Uri,
    client: Client,
    secrets: Arc<RwLock<Secrets>>,
    patience: Duration,
}

impl fmt::Debug for Webhooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // what follows the host may be a secret
        write!(f, "Webhooks({:?})", self.url.host())
    }
}

impl Webhooks {
    /// To `url`, signed with the secrets in a file, which is followed. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// [`WebhookError`].
    pub fn new(url: &str, secret_file: &Path) -> Result<Self, WebhookError> {
        let url: Uri = url.parse().map_err(|_| WebhookError::Url)?;
        match url.scheme_str() {
            Some("https") => {}
            Some("http") => {
                tracing::warn!(host = url.host(), "webhooks over plain HTTP can be read on the way");
            }
            _ => return Err(WebhookError::Url),
        }
        let path = || secret_file.to_owned();
        let mut seen = watch::files(path(), watch::INTERVAL)
            .map_err(|source| WebhookError::File { path: path(), source })?;
        let first = Secrets::from_files(&seen.borrow_and_update())
            .map_err(|source| WebhookError::Secret { path: path(), source })?;
        let secrets = Arc::new(RwLock::new(first));
        let (held, path) = (Arc::downgrade(&secrets), path());
        tokio::spawn(async move {
            while seen.changed().await.is_ok() {
                let Some(secrets) = held.upgrade() else { return };
                match Secrets::from_files(&seen.borrow_and_update()) {
                    Ok(now) => *secrets.write().unwrap_or_else(PoisonError::into_inner) = now,
                    Err(error) => {
                        tracing::warn!(path = %path.display(), %error, "keeping the secrets of webhooks");
                    }
                }
            }
        });
        let client = Client::new().map_err(WebhookError::Client)?;
        Ok(Self { url, client, secrets, patience: PATIENCE })
    }

    /// News are no longer tried again when they are so old; five minutes by default.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }
}
