//! One request, until it is answered well or is given up.

use super::{Webhooks, event::Event};
use crate::metrics::Metrics;
use axum::{
    body::Bytes,
    http::{Request, header},
};
use http_body_util::Full;
use std::{sync::PoisonError, time::Duration};
use tokio::{sync::Semaphore, time::Instant};

/// The first pause after a failure; each next one is twice as long.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

impl Webhooks {
    /// Sends an event, until the receiver answers 2xx, or it would be tried after `end`. It is tried once
    /// in any case. `permits` bound how many requests are under way.
    pub(super) async fn deliver(&self, event: &Event, end: Instant, permits: &Semaphore, metrics: &Metrics) {
        let mut pause = PAUSE;
        loop {
            let asked = {
                let _permit = permits.acquire().await;
                self.post(event).await
            };
            let Err(error) = asked else {
                metrics.webhook("sent", 1);
                return;
            };
            metrics.webhook("failed", 1);
            let wait = crate::random::jitter(pause);
            if Instant::now() + wait > end {
                tracing::warn!(host = self.url.host(), error, id = event.id, "a webhook is given up");
                metrics.webhook("dropped", 1);
                return;
            }
            tracing::debug!(host = self.url.host(), error, id = event.id, "a webhook is tried again");
            tokio::time::sleep(wait).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn post(&self, event: &Event) -> Result<(), String> {
        let now = rtc_service::clock::unix_now();
        let signature = {
            let secrets = self.secrets.read().unwrap_or_else(PoisonError::into_inner);
            secrets.sign(&event.id, now, event.body.as_bytes())
        };
        let request = Request::post(self.url.clone())
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::USER_AGENT, concat!("rtc-signaling/", env!("CARGO_PKG_VERSION")))
            .header("webhook-id", &event.id)
            .header("webhook-timestamp", now)
            .header("webhook-signature", signature)
            .body(Full::new(Bytes::from(event.body.clone())))
            .map_err(|e| e.to_string())?;
        match self.client.send(request).await?.status {
            200..=299 => Ok(()),
            status => Err(format!("the answer is {status}")),
        }
    }
}
