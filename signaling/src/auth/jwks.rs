//! The JWK set at a URL: read now and then, and when a token names a key that is not known.

use super::keys::Keys;
use crate::http::Client;
use axum::{
    body::Bytes,
    http::{Request, Uri, header},
};
use http_body_util::Full;
use std::{
    fmt,
    sync::{Arc, PoisonError, RwLock, Weak},
    time::Duration,
};
use tokio::{sync::Mutex, time::Instant};

/// How often the set is read when nobody asks for it.
const EVERY: Duration = Duration::from_secs(300);
/// Tokens with made-up keys do not have the issuer asked more often than this.
const PAUSE: Duration = Duration::from_secs(5);
/// After a failure it is tried again after so long, then twice as long, up to a minute.
const RETRY: Duration = Duration::from_secs(1);

/// Why there is no fresh set.
#[derive(Debug)]
pub(super) enum RefreshError {
    /// It has been read, or tried, a moment ago.
    TooSoon,
    /// It cannot be had.
    Failed,
}

struct Inner {
    client: Client,
    url: Uri,
    /// The last good ones: they stay in force while the URL cannot be read.
    keys: RwLock<Option<Arc<Keys>>>,
    /// When it was last asked for. Whoever holds it asks; others wait for what comes of it.
    asked: Mutex<Option<Instant>>,
}

/// See the module.
pub(super) struct JwksUrl(Arc<Inner>);

impl fmt::Debug for JwksUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JwksUrl({})", self.0.url)
    }
}

impl JwksUrl {
    pub(super) fn start(url: &str) -> Result<Self, String> {
        let bad = || format!("{url:?} is no URL; write https://HOST/PATH");
        let url: Uri = url.parse().map_err(|_| bad())?;
        match url.scheme_str() {
            Some("https") => {}
            Some("http") => {
                tracing::warn!(%url, "keys over plain HTTP are as good as the network on the way")
            }
            _ => return Err(bad()),
        }
        let inner =
            Arc::new(Inner { client: Client::new()?, url, keys: RwLock::new(None), asked: Mutex::new(None) });
        tokio::spawn(follow(Arc::downgrade(&inner)));
        Ok(Self(inner))
    }

    pub(super) fn keys(&self) -> Option<Arc<Keys>> {
        self.0.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the set, unless that has just been done.
    pub(super) async fn refresh(&self) -> Result<Arc<Keys>, RefreshError> {
        let before = Instant::now();
        let mut asked = self.0.asked.lock().await;
        if let Some(at) = *asked {
            // somebody else has asked while this one waited
            if at >= before {
                return self.keys().ok_or(RefreshError::Failed);
            }
            if at.elapsed() < PAUSE {
                return Err(RefreshError::TooSoon);
            }
        }
        let read = self.0.read().await;
        *asked = Some(Instant::now());
        read.map_err(|error| {
            tracing::warn!(%error, url = %self.0.url, "cannot read the keys of tokens");
            RefreshError::Failed
        })
    }
}

impl Inner {
    async fn read(&self) -> Result<Arc<Keys>, String> {
        let request = Request::get(self.url.clone())
            .header(header::ACCEPT, "application/jwk-set+json, application/json");
        let request = request.body(Full::<Bytes>::default()).map_err(|e| e.to_string())?;
        let answer = self.client.send(request).await?;
        if answer.status != 200 {
            return Err(format!("the answer is {}", answer.status));
        }
        let text = std::str::from_utf8(&answer.body).map_err(|_| "the answer is no text".to_owned())?;
        let keys = Arc::new(Keys::from_jwks("the answer", text).map_err(|e| e.to_string())?);
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Some(keys.clone());
        Ok(keys)
    }
}

/// Reads the set for as long as somebody has it.
async fn follow(inner: Weak<Inner>) {
    let mut retry = RETRY;
    loop {
        let Some(held) = inner.upgrade() else { return };
        let read = held.read().await;
        drop(held);
        let pause = match read {
            Ok(_) => {
                retry = RETRY;
                EVERY
            }
            Err(error) => {
                tracing::warn!(error, "cannot read the keys of tokens; trying again");
                retry = (retry * 2).min(Duration::from_secs(60));
                retry / 2
            }
        };
        tokio::time::sleep(crate::random::jitter(pause)).await;
    }
}
