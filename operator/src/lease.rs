//! Which of several operators acts: a `coordination.k8s.io` Lease, in the way of client-go.
//!
//! A holder that cannot renew stops well before another may take over, so there are never two.

use std::time::Duration;

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff::Timestamp,
};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use tokio::time::Instant;

/// How the lease is held.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The namespace of the Lease.
    pub namespace: String,
    /// The name of the Lease.
    pub name: String,
    /// Who asks: unique among the candidates.
    pub identity: String,
    /// For how long a holder that is not heard of is waited for.
    pub duration: Duration,
    /// When a holder that could not renew gives up; less than `duration`.
    pub give_up: Duration,
    /// The time between attempts.
    pub retry: Duration,
}

impl Settings {
    /// The times that Kubernetes' own controllers take: 15, 10 and 2 seconds.
    #[must_use]
    pub fn new(namespace: &str, name: &str, identity: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            identity: identity.to_owned(),
            duration: Duration::from_secs(15),
            give_up: Duration::from_secs(10),
            retry: Duration::from_secs(2),
        }
    }
}

/// Whose the lease is after an attempt.
enum Answer {
    Ours,
    Theirs,
    /// Someone wrote between reading and writing.
    Overtaken,
}

/// A lease that is held, or waited for.
pub struct Election {
    api: Api<Lease>,
    settings: Settings,
    /// The other holder's last sign of life, and when it was seen: by this clock alone, since clocks differ.
    seen: Option<(Option<MicroTime>, Instant)>,
}

impl Election {
    /// Nothing is asked for yet.
    #[must_use]
    pub fn new(client: Client, settings: Settings) -> Self {
        Self { api: Api::namespaced(client, &settings.namespace), settings, seen: None }
    }

    /// Waits until the lease is this one's.
    pub async fn acquire(&mut self) {
        loop {
            match self.attempt().await {
                Ok(Answer::Ours) => return,
                Ok(Answer::Theirs | Answer::Overtaken) => {}
                Err(error) => tracing::warn!(%error, lease = self.settings.name, "cannot ask for the lease"),
            }
            tokio::time::sleep(self.settings.retry).await;
        }
    }

    /// Renews until that fails for too long, or somebody else has it. Whoever acted on the lease must then stop.
    pub async fn hold(&mut self) {
        let mut renewed = Instant::now();
        loop {
            tokio::time::sleep(self.settings.retry).await;
            // An answer that takes longer than is left comes too late.
            let left = self.settings.give_up.saturating_sub(renewed.elapsed());
            let began = Instant::now();
            match tokio::time::timeout(left, self.attempt()).await {
                Ok(Ok(Answer::Ours)) => renewed = began,
                // Perhaps by a renewal of this one's own that seemed to have failed: the next attempt will tell.
                Ok(Ok(Answer::Overtaken)) => {}
                Ok(Ok(Answer::Theirs)) => {
                    tracing::error!(lease = self.settings.name, "somebody else has the lease");
                    return;
                }
                Ok(Err(error)) => {
                    tracing::warn!(%error, lease = self.settings.name, "cannot renew the lease")
                }
                Err(_) => tracing::warn!(lease = self.settings.name, "no answer to the renewal of the lease"),
            }
            if renewed.elapsed() >= self.settings.give_up {
                return;
            }
        }
    }

    /// Gives it back, so that the next one need not wait.
    ///
    /// # Errors
    /// When the API server does not answer; then the lease expires by itself.
    pub async fn release(&self) -> Result<(), kube::Error> {
        let Some(mut lease) = self.api.get_opt(&self.settings.name).await? else { return Ok(()) };
        let Some(spec) = lease.spec.as_mut() else { return Ok(()) };
        if spec.holder_identity.as_deref() != Some(&self.settings.identity) {
            return Ok(());
        }
        spec.holder_identity = None;
        spec.lease_duration_seconds = Some(1);
        self.api.replace(&self.settings.name, &PostParams::default(), &lease).await.map(drop)
    }

    /// Takes, renews or leaves the lease.
    async fn attempt(&mut self) -> Result<Answer, kube::Error> {
        let now = MicroTime(Timestamp::now());
        let Some(mut lease) = self.api.get_opt(&self.settings.name).await? else {
            let lease = Lease {
                metadata: ObjectMeta { name: Some(self.settings.name.clone()), ..Default::default() },
                spec: Some(self.spec(now.clone(), now, 0)),
            };
            return won(self.api.create(&PostParams::default(), &lease).await);
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.as_deref().unwrap_or_default();
        let transitions = spec.lease_transitions.unwrap_or(0);
        let acquired = spec.acquire_time.clone();
        lease.spec = Some(if holder == self.settings.identity {
            self.spec(now.clone(), acquired.unwrap_or(now), transitions)
        } else {
            if !holder.is_empty() && !self.expired(&spec) {
                return Ok(Answer::Theirs);
            }
            self.spec(now.clone(), now, transitions.saturating_add(1))
        });
        // The version that was read is in it: if anybody wrote in between, this fails.
        won(self.api.replace(&self.settings.name, &PostParams::default(), &lease).await)
    }

    fn expired(&mut self, spec: &LeaseSpec) -> bool {
        let seconds = u64::try_from(spec.lease_duration_seconds.unwrap_or(0)).unwrap_or(0);
        match &self.seen {
            Some((sign, since)) if *sign == spec.renew_time => {
                since.elapsed() >= Duration::from_secs(seconds)
            }
            _ => {
                self.seen = Some((spec.renew_time.clone(), Instant::now()));
                false
            }
        }
    }

    fn spec(&self, now: MicroTime, acquired: MicroTime, transitions: i32) -> LeaseSpec {
        LeaseSpec {
            acquire_time: Some(acquired),
            holder_identity: Some(self.settings.identity.clone()),
            lease_duration_seconds: i32::try_from(self.settings.duration.as_secs().max(1)).ok(),
            lease_transitions: Some(transitions),
            renew_time: Some(now),
            ..Default::default()
        }
    }
}

/// A write that came second is no error.
fn won<T>(written: Result<T, kube::Error>) -> Result<Answer, kube::Error> {
    match written {
        Ok(_) => Ok(Answer::Ours),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(Answer::Overtaken),
        Err(error) => Err(error),
    }
}
