//! One reconcile, as a pipeline: read, check, decide, write, report.
//!
//! [`dereference`] is the only step that reads, [`apply`] and [`status`] the only ones that write; [`validate`] and
//! [`plan`] are pure.

pub mod apply;
pub mod conditions;
pub mod dereference;
pub mod events;
pub mod plan;
pub mod pods;
pub mod poll;
pub mod requested;
pub mod secrets;
pub mod status;
pub mod validate;
pub mod watched;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use kube::{
    Api, Client, ResourceExt,
    core::DeserializeGuard,
    runtime::{controller::Action, events::Recorder},
};
use rtc_operator_api::{ADOPT_ANNOTATION, RtcCluster};

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
    /// What watches have told.
    pub watched: Arc<watched::Watched>,
    /// The levels of Pod Security of namespaces.
    pub pod_security: dereference::PodSecurity,
    /// When all was last read afresh.
    pub afresh: Afresh,
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
    /// A Secret with keys of somebody's that are to become the ring's, and cannot.
    #[error("Secret {secret} cannot be adopted: {why}; mend it, or delete it for new keys")]
    NotAdopted {
        /// Its name.
        secret: String,
        /// Why.
        why: String,
    },
    /// A Secret with the name of the key ring's is somebody else's.
    #[error(
        "Secret {0} exists and is not this RtcCluster's; if its keys shall be the first of the ring, `kubectl annotate \
         secret {0} {adopt}={1}`; else delete it, or give the RtcCluster another name",
        adopt = ADOPT_ANNOTATION
    )]
    ForeignKeys(String, String),
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
            Self::Foreign(_) | Self::ForeignKeys(..) => "NameTaken",
            Self::NotAdopted { .. } => "NotAdopted",
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

/// When each cluster was last read afresh: now and then each is, whatever watches tell.
#[derive(Default)]
pub struct Afresh(std::sync::Mutex<std::collections::HashMap<String, Instant>>);

impl Afresh {
    /// How often, at the least.
    const EVERY: Duration = Duration::from_secs(600);

    fn lock(&self) -> std::sync::MutexGuard<'_, std::collections::HashMap<String, Instant>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Whether it is time. Where an operator begins, its first lists are as good; then not all clusters at once.
    fn is_due(&self, key: &str) -> bool {
        let ago = crate::build::fingerprint(key) % Self::EVERY.as_secs();
        let now = Instant::now();
        let since = now.checked_sub(Duration::from_secs(ago)).unwrap_or(now);
        self.lock().entry(key.to_owned()).or_insert(since).elapsed() >= Self::EVERY
    }

    fn note(&self, key: &str) {
        self.lock().insert(key.to_owned(), Instant::now());
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

/// Looks at what watches told whether there is something to do; and if so, or now and then, acts on all as it is, rather
/// than as it was when a watch last told of it: one that lags, or was rolled back, would have an older spec put back, and
/// pods drained for it.
async fn now(cluster: &RtcCluster, context: &Context) -> Result<Action, Error> {
    let key = key(&cluster.metadata);
    if !context.afresh.is_due(&key)
        && let Some(action) = nothing_to_do(cluster, context).await?
    {
        return Ok(action);
    }
    let name = cluster.name_any();
    let clusters =
        Api::<RtcCluster>::namespaced(context.client.clone(), &cluster.namespace().unwrap_or_default());
    match clusters.get_opt(&name).await {
        Ok(None) => Ok(Action::await_change()),
        Ok(Some(cluster)) if cluster.metadata.deletion_timestamp.is_some() => Ok(Action::await_change()),
        Ok(Some(cluster)) => {
            let action = run(&cluster, context).await?;
            context.afresh.note(&key);
            Ok(action)
        }
        Err(source) => Err(Error::Read { what: format!("RtcCluster {name}"), source: Box::new(source) }),
    }
}

/// When to look again, where by what watches told nothing is to be written but numbers.
async fn nothing_to_do(cluster: &RtcCluster, context: &Context) -> Result<Option<Action>, Error> {
    if cluster.metadata.deletion_timestamp.is_some() {
        return Ok(None);
    }
    let Some(observed) = dereference::glance(cluster, context).await? else { return Ok(None) };
    let verdict = validate::validate(cluster);
    let plan = plan::plan(cluster, &observed, &verdict, &context.image, &context.namespace)?;
    let (namespace, name) = (cluster.namespace().unwrap_or_default(), cluster.name_any());
    if apply::is_due(&observed, &plan, &namespace, context) {
        return Ok(None);
    }
    let new = status::build(cluster, &observed, &plan, &verdict, None);
    let old = cluster.status.clone().unwrap_or_default();
    let written = match status::difference(&old, &new) {
        status::Difference::None => true,
        status::Difference::Counts => status::write_counts(cluster, &new, context).await?,
        status::Difference::News => false,
    };
    let certificates = secrets::certificates(cluster, &observed).map(|(name, found)| (name, found.until));
    context.metrics.figures.note((&namespace, &name), &new, &plan.nodes, certificates.collect());
    Ok(written.then(|| Action::requeue(Duration::from_secs(plan.requeue))))
}

impl Context {
    /// Keeps nothing of a cluster that is gone.
    pub(crate) fn forget(&self, metadata: &kube::api::ObjectMeta) {
        let key = key(metadata);
        self.afresh.lock().remove(&key);
        self.written.forget(metadata);
        self.gone.forget(metadata.uid.as_deref().unwrap_or_default());
        self.failures.forget(&key);
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
