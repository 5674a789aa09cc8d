//! Waiting for conditions, with a deadline and with the reason why one is not met.

use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::Instant;

/// How often a condition is looked at.
const EVERY: Duration = Duration::from_millis(200);

/// Asks `probe` until it answers `Ok`, and returns what it answered.
///
/// `what` completes the sentence "waiting for …".
///
/// # Errors
/// When `within` is over; the message has the reason that `probe` gave last.
pub async fn until<T>(what: &str, within: Duration, mut probe: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    let started = Instant::now();
    loop {
        let reason = match tokio::time::timeout(within.max(EVERY), probe()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(reason)) => format!("{reason:#}"),
            Err(_) => "no answer at all".to_owned(),
        };
        if started.elapsed() >= within {
            bail!("waited {} s for {what}: {reason}", within.as_secs());
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// Watches that `probe` stays `Ok` for `long`.
///
/// # Errors
/// The first reason that `probe` gives.
pub async fn stays(what: &str, long: Duration, mut probe: impl AsyncFnMut() -> Result<()>) -> Result<()> {
    let started = Instant::now();
    while started.elapsed() < long {
        if let Err(reason) = probe().await {
            bail!("{what} did not last: after {:.1} s {reason:#}", started.elapsed().as_secs_f64());
        }
        tokio::time::sleep(EVERY).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn until_names_the_last_reason() {
        let mut count = 0;
        let error = until("five", Duration::from_secs(1), async || -> Result<()> {
            count += 1;
            bail!("it is {count}")
        })
        .await
        .expect_err("never met");
        assert_eq!(error.to_string(), format!("waited 1 s for five: it is {count}"));
        assert!(count > 2);
    }

    #[tokio::test(start_paused = true)]
    async fn until_returns_what_was_found() {
        let mut count = 0;
        let found = until("three", Duration::from_secs(5), async || {
            count += 1;
            if count < 3 { bail!("it is {count}") } else { Ok(count) }
        });
        assert_eq!(found.await.unwrap(), 3);
    }
}
