//! One reconcile, as a pipeline: read, check, decide, write, report.
//!
//! [`dereference`] is the only step that reads, [`apply`] and [`status`] the only ones that write; [`validate`] and
//! [`plan`] are pure.

pub mod apply;
pub mod conditions;
pub mod dereference;
pub mod events;
pub mod plan;
pub mod poll;
pub mod requested;
pub mod secrets;
pub mod status;
pub mod validate;

use std::{sync::Arc, time::Duration};

use kube::{
    Api, Client, ResourceExt,
    core::DeserializeGuard,
    runtime::{controller::Action, events::Recorder},
};
use rtc_operator_api::RtcCluster;

use crate::{metrics::Metrics, rotation};

/// The field manager of everything that the operator writes.
pub const FIELD_MANAGER: &str = "rtc-operator";

/// What all reconciles share.
pub struct Context {
    /// The cluster.
    pub client: Client,
    /// Where events go.
    pub recorder: Recorder,
    /// The image of the operator, and of its pods unless a manifest names another.
    pub image: String,
    /// The operator's own namespace.
    pub namespace: String,
    /// What was written last, so that what stands as it was written is not written again.
    pub written: apply::Written,
    /// What need not be looked for any more.
    pub gone: dereference::Gone,
    /// Failures in a row, by object.
    pub failures: Failures,
    /// Counters.
    pub metrics: Metrics,
}

/// Why a reconcile ended early. Each has a name for metrics.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server could not be read.
    #[error("cannot read {what}: {source}")]
    Read {
        /// Which object or list.
        what: String,
        /// Why.
        source: Box<kube::Error>,
    },
    /// An object could not be written.
    #[error("cannot apply {what}: {source}")]
    Apply {
        /// Which object.
        what: String,
        /// Why.
        source: Box<kube::Error>,
    },
    /// An object of the same name belongs to somebody else.
    #[error("{0} exists and is not this RtcCluster's; delete it, or give the RtcCluster another name")]
    Foreign(String),
    /// The status could not be written.
    #[error("cannot write the status: {0}")]
    Status(Box<kube::Error>),
    /// There were no random bytes for a key.
    #[error("cannot make a key: {0}")]
    Keys(#[from] rtc_credentials::rotate::RotateError),
}

impl Error {
    /// A name for metrics and conditions.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Read { .. } => "ReadFailed",
            Self::Apply { .. } => "ApplyFailed",
            Self::Foreign(_) => "NameTaken",
            Self::Status(_) => "StatusFailed",
            Self::Keys(_) => "NoRandomness",
        }
    }
}

/// How often each object has failed in a row, for its back-off.
#[derive(Default)]
pub struct Failures(std::sync::Mutex<std::collections::HashMap<String, u32>>);

impl Failures {
    fn count(&self, key: &str) -> u32 {
        let mut map = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let count = map.entry(key.to_owned()).or_default();
        *count += 1;
        *count
    }

    fn forget(&self, key: &str) {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).remove(key);
    }
}

fn key(metadata: &kube::api::ObjectMeta) -> String {
    format!(
        "{}/{}",
        metadata.namespace.as_deref().unwrap_or_default(),
        metadata.name.as_deref().unwrap_or_default()
    )
}

/// Brings one RtcCluster closer to its manifest.
///
/// # Errors
/// [`Error`], after which [`on_error`] says when to try again.
pub async fn reconcile(
    object: Arc<DeserializeGuard<RtcCluster>>,
    context: Arc<Context>,
) -> Result<Action, Error> {
    let started = std::time::Instant::now();
    let outcome = match &object.0 {
        Ok(cluster) => now(cluster, &context).await,
        Err(invalid) => {
            tracing::warn!(
                cluster = key(&invalid.metadata),
                error = invalid.error,
                "cannot read this RtcCluster"
            );
            status::not_understood(&context, invalid).await.map(|()| Action::await_change())
        }
    };
    let metadata = match &object.0 {
        Ok(cluster) => &cluster.metadata,
        Err(invalid) => &invalid.metadata,
    };
    if outcome.is_ok() {
        context.failures.forget(&key(metadata));
    }
    context.metrics.reconciled(started.elapsed(), outcome.as_ref().err().map(Error::reason));
    outcome
}

/// Acts on the resource as it is, rather than as it was when the watch last told of it: a watch that lags, or was
/// rolled back, would have an older spec put back, and pods drained for it.
async fn now(cluster: &RtcCluster, context: &Context) -> Result<Action, Error> {
    let name = cluster.name_any();
    let clusters =
        Api::<RtcCluster>::namespaced(context.client.clone(), &cluster.namespace().unwrap_or_default());
    match clusters.get_opt(&name).await {
        Ok(None) => Ok(Action::await_change()),
        Ok(Some(cluster)) if cluster.metadata.deletion_timestamp.is_some() => Ok(Action::await_change()),
        Ok(Some(cluster)) => run(&cluster, context).await,
        Err(source) => Err(Error::Read { what: format!("RtcCluster {name}"), source: Box::new(source) }),
    }
}

async fn run(cluster: &RtcCluster, context: &Context) -> Result<Action, Error> {
    let observed = dereference::dereference(cluster, context).await?;
    let verdict = validate::validate(cluster);
    let mut plan = plan::plan(cluster, &observed, &verdict, &context.image, &context.namespace)?;
    let outcome = apply::apply(cluster, &observed, &plan, context).await;
    if !outcome.ring {
        // A ring that could not be written is nobody's: told of, it would seem to have been lost.
        plan.ring = rotation::as_it_is(&observed.ring);
    }
    let new = status::build(cluster, &observed, &plan, &verdict, outcome.error.as_ref());
    let certificates = secrets::certificates(cluster, &observed).map(|(name, found)| (name, found.until));
    let (namespace, name) = (cluster.namespace().unwrap_or_default(), cluster.name_any());
    context.metrics.figures.note((&namespace, &name), &new, &plan.nodes, certificates.collect());
    // Told before the status is written: what is announced twice after a crash is better than never.
    for event in &events::news(cluster, &new, &plan, &outcome) {
        events::publish(context, cluster, event).await;
    }
    status::write(cluster, new, context).await?;
    if let Some(error) = outcome.error {
        return Err(error);
    }
    Ok(Action::requeue(Duration::from_secs(plan.requeue)))
}

/// When to try again: after a time that doubles with each failure, up to two minutes, and differs between objects.
#[must_use]
pub fn on_error(object: Arc<DeserializeGuard<RtcCluster>>, error: &Error, context: Arc<Context>) -> Action {
    let key = format!("{}/{}", object.namespace().unwrap_or_default(), object.name_any());
    let failures = context.failures.count(&key);
    let delay = backoff(failures, crate::build::fingerprint(&format!("{key}{failures}")));
    tracing::warn!(cluster = key, reason = error.reason(), %error, retry_in = ?delay, "reconcile failed");
    Action::requeue(delay)
}

fn backoff(failures: u32, salt: u64) -> Duration {
    let base = 500 * 2u64.saturating_pow(failures.min(8).saturating_sub(1));
    // From half to all of it, so that objects that failed together do not come back together.
    Duration::from_millis(base.min(120_000) / 2 + salt % (base.min(120_000) / 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_back_off_grows_and_is_bounded() {
        assert!(backoff(1, 7) < Duration::from_millis(500));
        assert!(backoff(8, 7) >= Duration::from_secs(32));
        assert!(backoff(u32::MAX, u64::MAX) <= Duration::from_secs(120));
    }
}
