//! Asking others by HTTP: for keys, and with webhooks.

use axum::body::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client as Legacy, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use rustls::{ClientConfig, crypto::ring};
use std::{fmt, sync::Arc, time::Duration};

/// From the request to the last byte of the answer.
const ANSWER: Duration = Duration::from_secs(5);
/// A longer answer is a mistake.
const MAX_BODY: usize = 1 << 20;

/// A client of HTTP and HTTPS. It trusts the operating system's certificates (or those of `SSL_CERT_FILE`),
/// and follows no redirects.
#[derive(Clone)]
pub(crate) struct Client(Legacy<HttpsConnector<HttpConnector>, Full<Bytes>>);

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Client")
    }
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Bytes,
}

impl Client {
    /// Fails when there is not one certificate to trust.
    pub(crate) fn new() -> Result<Self, String> {
        let tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|e| e.to_string())?
            .with_native_roots()
            .map_err(|e| format!("no certificates of authorities are installed: {e}"))?
            .with_no_client_auth();
        let connector =
            HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().build();
        let client = Legacy::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(30))
            .build(connector);
        Ok(Self(client))
    }

    /// Asks, and waits for all of the answer.
    pub(crate) async fn send(&self, request: axum::http::Request<Full<Bytes>>) -> Result<Answer, String> {
        let asking = async {
            let response = self.0.request(request).await.map_err(|e| chain(&e))?;
            let status = response.status().as_u16();
            let body =
                Limited::new(response.into_body(), MAX_BODY).collect().await.map_err(|e| chain(&*e))?;
            Ok(Answer { status, body: body.to_bytes() })
        };
        tokio::time::timeout(ANSWER, asking).await.map_err(|_| "no answer in time".to_owned())?
    }
}

/// An error with what it came of, which hyper's own text leaves out.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    std::iter::successors(Some(error), |e| e.source()).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
