//! What one user may hold on all servers together. Twice a second each server tells a Redis what its
//! users hold and learns which users hold much elsewhere; an allocation is decided by what was learnt
//! last, so that no packet waits for Redis. The price is that a user who allocates on several servers
//! within a second may exceed the quota, on each by what it alone permits.
//!
//! What a server tells is leased: when it dies, what it held stops counting as the lease ends.

use crate::{server::Shared, settings::QuotaFail};
use redis::{
    Client, ClientTlsConfig, IntoConnectionInfo, RedisError, Script, TlsCertificates,
    aio::{ConnectionManager, ConnectionManagerConfig},
};
use rtc_turn_proto::{Elsewhere, Quotas};
use std::{
    collections::HashMap,
    error::Error,
    fmt, io,
    path::PathBuf,
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
pub enum StoreError {
    /// The URL is none of Redis. What is shown has no password.
    #[error(
        "--quota-store: {0:?} is no Redis URL; write redis[s]://[[USER]:PASSWORD@]HOST[:PORT][/DATABASE]"
    )]
    Url(String),
    /// A file.
    #[error("{flag} {}: {source}", path.display())]
    File {
        /// The flag that names it.
        flag: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Half of a client's certificate.
    #[error("--quota-redis-cert and --quota-redis-key go together")]
    HalfCertificate,
    /// Files for TLS, and no TLS.
    #[error("--quota-redis-ca, --quota-redis-cert and --quota-redis-key are for a rediss:// URL")]
    NoTls,
    /// What the files hold.
    #[error("the files of --quota-redis-ca, --quota-redis-cert and --quota-redis-key cannot be used: {0}")]
    Certificates(String),
}

/// The Redis by which servers tell each other.
#[derive(Clone, Default)]
pub struct Store {
    /// Its URL, if no file holds it.
    pub url: String,
    /// The file that holds its URL.
    pub url_file: Option<PathBuf>,
    /// The authorities (PEM) that may sign its certificate, instead of those of the system.
    pub ca: Option<PathBuf>,
    /// The certificate (PEM) to show to it.
    pub cert: Option<PathBuf>,
    /// The key (PEM) of that certificate.
    pub key: Option<PathBuf>,
}

impl Store {
    /// A client by what the files say now. Nothing is connected yet.
    fn open(&self) -> Result<Client, StoreError> {
        let read = |flag, path: &PathBuf| {
            std::fs::read(path).map_err(|source| StoreError::File { flag, path: path.clone(), source })
        };
        let url = match &self.url_file {
            Some(path) => String::from_utf8_lossy(&read("--quota-redis-url-file", path)?).into_owned(),
            None => self.url.clone(),
        };
        let url = url.trim();
        let unusable = || StoreError::Url(url.rsplit('@').next().unwrap_or_default().to_owned());
        let given = self.ca.is_some() || self.cert.is_some() || self.key.is_some();
        if !url.starts_with("rediss:") {
            return if given { Err(StoreError::NoTls) } else { Client::open(url).map_err(|_| unusable()) };
        }
        let client_tls = match (&self.cert, &self.key) {
            (Some(cert), Some(key)) => Some(ClientTlsConfig {
                client_cert: read("--quota-redis-cert", cert)?,
                client_key: read("--quota-redis-key", key)?,
            }),
            (None, None) => None,
            _ => return Err(StoreError::HalfCertificate),
        };
        let root_cert = self.ca.as_ref().map(|path| read("--quota-redis-ca", path)).transpose()?;
        let info = url.into_connection_info().map_err(|_| unusable())?;
        Client::build_with_tls(info, TlsCertificates { client_tls, root_cert })
            .map_err(|error| StoreError::Certificates(error.to_string()))
    }
}

/// The quota, and where servers tell each other.
#[derive(Clone)]
pub struct FleetQuota {
    store: Store,
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
        // the store's URL has the password
        let Self { max, fail, lease, .. } = self;
        f.debug_struct("FleetQuota").field("max", max).field("fail", fail).field("lease", lease).finish()
    }
}

impl FleetQuota {
    /// A quota by that Redis. Its files are read anew while it is away, so that a new password or certificate needs
    /// no restart.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn new(store: Store, max: u32, fail: QuotaFail) -> Result<Self, StoreError> {
        store.open()?;
        Ok(Self { store, max, fail, lease: LEASE })
    }

    /// What holds while nothing has been learnt.
    pub(crate) fn unknown(&self) -> Elsewhere {
        match self.fail {
            QuotaFail::Open => Elsewhere::Known { max: self.max, held: HashMap::new() },
            QuotaFail::Closed => Elsewhere::Unknown,
        }
    }
}

/// Connects when it is first needed.
fn connect(store: &Store) -> Result<ConnectionManager, Box<dyn Error + Send + Sync>> {
    let config = ConnectionManagerConfig::new()
        .set_number_of_retries(1)
        .set_min_delay(Duration::from_millis(50))
        .set_max_delay(PERIOD)
        .set_response_timeout(Some(ANSWER))
        .set_connection_timeout(Some(ANSWER));
    Ok(ConnectionManager::new_lazy_with_config(store.open()?, config)?)
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
    fn new(quota: &FleetQuota, realm: &str, server: &str) -> Result<Self, Box<dyn Error + Send + Sync>> {
        Ok(Self {
            connection: connect(&quota.store)?,
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
    let mut exchange = loop {
        match Exchange::new(quota, &this.config.realm, &this.name) {
            Ok(exchange) => break exchange,
            Err(error) => tracing::error!(%error, "the quota store cannot be used"),
        }
        sleep(LEASE).await;
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
                // by files that may have changed; while they cannot be used, as before
                if let Ok(connection) = connect(&quota.store) {
                    exchange.connection = connection;
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
