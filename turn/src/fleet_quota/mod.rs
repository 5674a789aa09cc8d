//! What one user may hold on all servers together. Twice a second each server tells a Redis what its
//! users hold and learns which users hold much elsewhere; an allocation is decided by what was learnt
//! last, so that no packet waits for Redis. The price is that a user who allocates on several servers
//! within a second may exceed the quota, on each by what it alone permits.
//!
//! What a server tells is leased: when it dies, what it held stops counting as the lease ends.

use crate::{server::Shared, settings::QuotaFail};
use redis::{
    Client, RedisError, Script,
    aio::{ConnectionManager, ConnectionManagerConfig},
};
use rtc_turn_proto::{Elsewhere, Quotas};
use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};
use tokio::time::sleep;

/// How often servers tell each other.
const PERIOD: Duration = Duration::from_millis(500);
/// How long what was told, and what was learnt, is good.
const LEASE: Duration = Duration::from_secs(15);
/// Redis answers within a millisecond or is in trouble.
const ANSWER: Duration = Duration::from_secs(2);

/// Why a store cannot be used as configured.
#[derive(Debug, thiserror::Error)]
pub enum UrlError {
    /// The URL is none of Redis. What is shown has no password.
    #[error("--quota-store: {0:?} is no Redis URL; write redis://[[USER]:PASSWORD@]HOST[:PORT][/DATABASE]")]
    Url(String),
    /// TLS is not built in.
    #[error("--quota-store: rediss:// (TLS) is not supported; use redis:// within a network that you trust")]
    Tls,
}

/// The quota, and where servers tell each other.
#[derive(Clone)]
pub struct FleetQuota {
    client: Client,
    /// What one user may hold.
    pub max: u32,
    /// What to do while the store is away.
    pub fail: QuotaFail,
    /// How long what a server told is good after it was last heard, and what it learnt after the store
    /// was.
    pub lease: Duration,
}

impl fmt::Debug for FleetQuota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // the client knows the password
        let Self { max, fail, lease, .. } = self;
        f.debug_struct("FleetQuota").field("max", max).field("fail", fail).field("lease", lease).finish()
    }
}

impl FleetQuota {
    /// A quota by the Redis at `url`. Nothing is connected yet.
    ///
    /// # Errors
    /// [`UrlError`].
    pub fn new(url: &str, max: u32, fail: QuotaFail) -> Result<Self, UrlError> {
        if url.starts_with("rediss:") {
            return Err(UrlError::Tls);
        }
        let shown = url.rsplit('@').next().unwrap_or_default();
        let client = Client::open(url).map_err(|_| UrlError::Url(shown.to_owned()))?;
        Ok(Self { client, max, fail, lease: LEASE })
    }

    /// What holds while nothing has been learnt.
    pub(crate) fn unknown(&self) -> Elsewhere {
        match self.fail {
            QuotaFail::Open => Elsewhere::Known { max: self.max, held: HashMap::new() },
            QuotaFail::Closed => Elsewhere::Unknown,
        }
    }
}

/// One server's end.
struct Exchange {
    connection: ConnectionManager,
    script: Script,
    keys: [String; 3],
    server: String,
    lease: String,
    least: String,
}

impl Exchange {
    fn new(quota: &FleetQuota, realm: &str, server: &str) -> Result<Self, RedisError> {
        let config = ConnectionManagerConfig::new()
            .set_number_of_retries(1)
            .set_min_delay(Duration::from_millis(50))
            .set_max_delay(PERIOD)
            .set_response_timeout(Some(ANSWER))
            .set_connection_timeout(Some(ANSWER));
        Ok(Self {
            connection: ConnectionManager::new_lazy_with_config(quota.client.clone(), config)?,
            script: Script::new(include_str!("exchange.lua")),
            // in braces, so that Redis Cluster keeps them together
            keys: ["leases", "totals", "held:"].map(|key| format!("{{rtc-turn:{realm}}}:{key}")),
            server: server.to_owned(),
            lease: quota.lease.as_millis().to_string(),
            // users are told of before they are at the bound, so that fewer get over it
            least: quota.max.div_ceil(2).to_string(),
        })
    }

    /// `None` when the server's lease had ended, and all has to be told again.
    async fn step(
        &mut self,
        quotas: &Quotas,
        all: bool,
    ) -> Result<Option<HashMap<Box<str>, u32>>, RedisError> {
        let mut call = self.script.prepare_invoke();
        self.keys.iter().for_each(|key| {
            call.key(key);
        });
        call.arg(&self.server).arg(&self.lease).arg(&self.least).arg(u8::from(all));
        for (user, held) in quotas.counts(all) {
            call.arg(&*user).arg(held);
        }
        let others: Option<Vec<(String, u32)>> = call.invoke_async(&mut self.connection).await?;
        Ok(others.map(|others| others.into_iter().map(|(user, held)| (user.into(), held)).collect()))
    }
}

/// Tells and learns until it is dropped.
pub(crate) async fn keep(this: Arc<Shared>) {
    let (Some(quota), Some(up)) = (&this.config.fleet_quota, &this.telemetry.quota_store_up) else { return };
    let mut exchange = match Exchange::new(quota, &this.config.realm, &this.name) {
        Ok(exchange) => exchange,
        Err(error) => return tracing::error!(%error, "the quota store cannot be used"),
    };
    let (mut all, mut learnt, mut was_up) = (true, None::<Instant>, None);
    loop {
        let result = exchange.step(&this.quotas, all).await;
        let is_up = result.is_ok();
        match result {
            Ok(Some(held)) => {
                this.quotas.set_elsewhere(Elsewhere::Known { max: quota.max, held });
                (all, learnt) = (false, Some(Instant::now()));
            }
            Ok(None) => all = true,
            Err(error) => {
                if was_up != Some(false) {
                    let fail = quota.fail;
                    tracing::warn!(%error, ?fail, "the quota store is away");
                }
                // what was taken off the changes may not have arrived
                all = true;
                if learnt.is_none_or(|at| at.elapsed() >= quota.lease) {
                    this.quotas.set_elsewhere(quota.unknown());
                }
            }
        }
        if is_up && was_up == Some(false) {
            tracing::info!("the quota store is back");
        }
        was_up = Some(is_up);
        up.store(is_up, Ordering::Relaxed);
        sleep(PERIOD).await;
    }
}
