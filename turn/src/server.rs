//! Starts the workers, follows what changes, and ends when all is drained.

use crate::{
    certificate::Certificate,
    directory::Directory,
    external::{self, External},
    fleet_quota,
    follow::{self, Files},
    handle::Handle,
    listen,
    post::Doors,
    readiness,
    relay::Addresses,
    reload,
    settings::{Config, RelayAddress, SettingsFile},
    telemetry::{Published, Reloaded, Telemetry},
    worker::{Command, Mailbox, Setup, Worker},
};
use prometheus_client::registry::Registry;
use rtc_credentials::{Fleet, KeyRing, RingError, Secret, Transport};
use rtc_service::{clock::unix_now, config, net::BindError};
use rtc_turn_proto::{
    self as proto, Family, Mobility, Nonces, Now, Quotas, Reservations, Share, dtls::Cookies,
};
use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    thread::JoinHandle,
    time::Duration,
};
use tokio::{
    sync::watch as signal,
    time::{Instant, sleep, sleep_until},
};

/// A nonce is good for at least this long, in seconds (RFC 8656, section 5: at most an hour).
const NONCE_LIFETIME: u64 = 2400;
/// How often readiness is probed.
const PROBE: Duration = Duration::from_secs(5);
/// How often a server that is not ready is probed.
const PROBE_AGAIN: Duration = Duration::from_millis(250);

/// Why a server does not start. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A listener's port.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The keys' directory cannot be read.
    #[error("--keys {path}: {source}")]
    KeysDir {
        /// The directory.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The keys are no ring.
    #[error("--keys: {0}")]
    Ring(#[from] RingError),
    /// The configuration file cannot be followed.
    #[error("--config {path}: {source}")]
    Settings {
        /// The file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The fleet file cannot be used.
    #[error("--fleet-file {path}: {reason}")]
    Fleet {
        /// The file.
        path: String,
        /// Why.
        reason: String,
    },
    /// The certificate or its key cannot be used.
    #[error("--tls-cert and --tls-key: {path}: {reason}")]
    Tls {
        /// The file.
        path: String,
        /// Why.
        reason: String,
    },
    /// The system gave no random bytes.
    #[error("the system gave no random bytes: {0}")]
    Entropy(String),
    /// A worker could not be set up.
    #[error("a worker could not be set up: {0}; is the limit on open files too low?")]
    Worker(#[from] io::Error),
}

/// Why a server ended when nobody asked it to.
#[derive(Clone, Debug, thiserror::Error)]
#[error("a worker failed: {0}")]
pub struct Failed(String);

/// The TURN server.
#[derive(Debug)]
pub struct Server;

/// What the tasks and handles of one server share.
#[derive(Debug)]
pub(crate) struct Shared {
    /// As it began; what may change is in the state.
    pub(crate) config: Config,
    /// Tells this process from every other.
    pub(crate) name: String,
    pub(crate) local: Vec<(Transport, SocketAddr)>,
    pub(crate) admin: Option<SocketAddr>,
    pub(crate) mailboxes: Vec<Mailbox>,
    pub(crate) telemetry: Telemetry,
    pub(crate) registry: Registry,
    pub(crate) quotas: Arc<Quotas>,
    pub(crate) probe_secret: Secret,
    pub(crate) state: Mutex<State>,
    /// When the drain ends at the latest; `None` until it begins.
    pub(crate) drain_until: signal::Sender<Option<Instant>>,
    pub(crate) stopped: signal::Sender<Option<Result<(), Failed>>>,
}

#[derive(Debug)]
pub(crate) struct State {
    /// As it began, but for what has changed since.
    pub(crate) config: Config,
    /// Settings that have changed and wait for a restart.
    pub(crate) need_restart: Vec<String>,
    pub(crate) ring: KeyRing,
    pub(crate) fleet: Option<Fleet>,
    pub(crate) relay: Vec<RelayAddress>,
    /// What the STUN server told.
    pub(crate) external: External,
    pub(crate) certificate: Option<Arc<Certificate>>,
    pub(crate) ready: Result<(), String>,
}

impl Server {
    /// Binds the listeners, starts the workers and follows keys and fleet. Must be called in a tokio
    /// runtime, which is used for files, the admin port and probes, and for no packet.
    ///
    /// # Errors
    /// [`StartError`] says what to change.
    pub async fn start(config: Config) -> Result<Handle, StartError> {
        let (files, ring, fleet, certificate) = Files::read(&config)?;
        let relay = reload::relay_addresses(&config, fleet.as_ref(), &External::default());
        let addresses = Addresses::new(&relay);
        let quotas = Quotas::new(config.limits);
        if let Some(fleet) = &config.fleet_quota {
            quotas.set_elsewhere(fleet.unknown());
        }
        let reservations = Reservations::new();
        let probe_secret = Secret::generate().map_err(|e| StartError::Entropy(e.to_string()))?;
        let mut bound = listen::bind_all(&config.listen, config.workers, config.relay_ports)?;
        let behaviour = match config.alternate_address {
            Some(second) => listen::bind_alternate(&mut bound, second, config.relay_ports)?,
            None => None,
        };
        let local =
            bound.first().map_or_else(Vec::new, |b| b.iter().map(|b| (b.transport, b.address)).collect());
        let admin = match config.admin {
            Some(address) => Some(rtc_service::net::listen_tcp(address, "--admin").await?),
            None => None,
        };

        let keys = reload::with_probe_key(&ring, &probe_secret);
        let peers = reload::peer_policy(&config, fleet.as_ref(), &addresses);
        let nonces = Nonces::new(random()?, NONCE_LIFETIME);
        let cookies = Cookies::new(random()?);
        let mobility = if config.mobility { Some(Mobility::new(random()?)) } else { None };
        let directory = Arc::new(Directory::new(config.relay_ports));
        let (doors, parcels) = Doors::new(config.workers);
        let mut workers = Vec::new();
        let (mut mailboxes, mut published) = (Vec::new(), Vec::new());
        for ((index, sockets), parcels) in (0u16..).zip(bound).zip(parcels) {
            let mut proto_config = proto::Config::new(config.realm.clone(), nonces.clone());
            proto_config.relay_ports = config.relay_ports;
            proto_config.channels = config.channels;
            proto_config.stun_only = config.stun_only;
            proto_config.behaviour = behaviour;
            proto_config.mobility.clone_from(&mobility);
            proto_config.share = Share { index, count: config.workers };
            let mut server = proto::Server::new(
                proto_config,
                Arc::clone(&keys),
                Arc::clone(&peers),
                Arc::clone(&quotas),
                Arc::clone(&reservations),
                addresses.advertised(),
                random()?,
            );
            server.set_bandwidth(now(), config.bandwidth);
            let counters = Arc::new(Published::default());
            let (worker, mailbox) = Worker::new(Setup {
                index,
                bound: sockets,
                server,
                addresses,
                channels: config.channels,
                certificate: certificate.clone(),
                cookies: cookies.clone(),
                mobility: mobility.clone(),
                proxies: config.proxy_protocol.clone().into(),
                handshake_timeout: config.handshake_timeout,
                max_handshakes: config.max_handshakes,
                ring_revision: ring.revision,
                published: Arc::clone(&counters),
                directory: Arc::clone(&directory),
                doors: Arc::clone(&doors),
                parcels,
            })?;
            workers.push(worker);
            mailboxes.push(mailbox);
            published.push(counters);
        }
        let quota_store_up = config.fleet_quota.as_ref().map(|_| Arc::default());
        let external_stun_up = config.external_stun.as_ref().map(|_| Arc::default());
        let telemetry =
            Telemetry { workers: published, quota_store_up, external_stun_up, ..Telemetry::default() };
        if let Some(certificate) = &certificate {
            telemetry.certificate_expires.store(certificate.expires, Ordering::Relaxed);
        }
        let mut registry = Registry::default();
        registry.register_collector(Box::new(telemetry.clone()));
        let state = State {
            config: config.clone(),
            need_restart: Vec::new(),
            ring,
            fleet,
            relay,
            external: External::default(),
            certificate,
            ready: Err("starting".into()),
        };
        let name = format!("{:016x}", u64::from_ne_bytes(random()?));
        let shared = Arc::new(Shared {
            name,
            local,
            admin: admin.as_ref().and_then(|l| l.local_addr().ok()),
            mailboxes,
            telemetry,
            registry,
            quotas,
            probe_secret,
            state: Mutex::new(state),
            drain_until: signal::Sender::new(None),
            stopped: signal::Sender::new(None),
            config,
        });
        let mut threads = Vec::new();
        for (index, worker) in workers.into_iter().enumerate() {
            let thread = std::thread::Builder::new().name(format!("turn-{index}"));
            threads.push(thread.spawn(move || worker.run())?);
        }
        let handle = Handle::new(Arc::clone(&shared));
        follow::spawn(&shared, files, admin);
        if shared.config.fleet_quota.is_some() {
            until_stopped(&shared, fleet_quota::keep(Arc::clone(&shared)));
        }
        if shared.config.external_stun.is_some() {
            until_stopped(&shared, external::keep(Arc::clone(&shared)));
        }
        let this = Arc::clone(&shared);
        until_stopped(&shared, async move {
            loop {
                let ready = this.probe().await;
                let pause = if ready.is_ok() { PROBE } else { PROBE_AGAIN };
                this.set_ready(ready);
                sleep(pause).await;
            }
        });
        tokio::spawn(async move { shared.supervise(threads).await });
        Ok(handle)
    }
}

/// The time, on both clocks.
pub(crate) fn now() -> Now {
    Now { instant: std::time::Instant::now(), unix: unix_now() }
}

fn random<const N: usize>() -> Result<[u8; N], StartError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|e| StartError::Entropy(e.to_string()))?;
    Ok(bytes)
}

/// Runs a task that ends with the server.
pub(crate) fn until_stopped(shared: &Arc<Shared>, task: impl Future<Output = ()> + Send + 'static) {
    let mut stopped = shared.stopped.subscribe();
    tokio::spawn(async move {
        tokio::select! {
            () = task => {}
            _ = stopped.wait_for(Option::is_some) => {}
        }
    });
}

impl Shared {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, command: &Command) {
        self.mailboxes.iter().for_each(|mailbox| mailbox.send(command.clone()));
    }

    pub(crate) fn set_keys(&self, ring: KeyRing) {
        let mut state = self.state();
        let names: Vec<_> = ring.keys.iter().map(|key| key.id.as_str()).collect();
        tracing::info!(revision = ring.revision, keys = ?names, "new keys");
        self.tell(&Command::Keys(reload::with_probe_key(&ring, &self.probe_secret)));
        state.ring = ring;
        self.telemetry.reload_errors().remove(&Reloaded::Keys);
    }

    pub(crate) fn set_fleet(&self, fleet: Fleet) {
        let mut state = self.state();
        tracing::info!(revision = fleet.revision, nodes = fleet.nodes.len(), "new fleet");
        state.fleet = Some(fleet);
        self.set_addresses(&mut state);
        self.telemetry.reload_errors().remove(&Reloaded::FleetFile);
    }

    /// Takes the settings that may change while the server runs, and says which may not.
    pub(crate) fn set_settings(&self, file: &SettingsFile) -> Result<(), String> {
        let settings =
            config::load(Some(&file.path), file.flags.clone()).map_err(|error| error.to_string())?;
        let need_restart = reload::need_restart(&file.read, &settings);
        let config = settings.resolve().map_err(|error| error.to_string())?;
        let mut state = self.state();
        reload::take_live(&mut state.config, config);
        tracing::info!("new settings");
        if !need_restart.is_empty() {
            tracing::warn!("{} takes effect after a restart", need_restart.join(", "));
        }
        state.need_restart = need_restart;
        self.quotas.set_limits(state.config.limits);
        self.tell(&Command::Bandwidth(state.config.bandwidth));
        self.set_addresses(&mut state);
        if self.is_draining() {
            self.tell(&Command::Drain(state.config.alternates.clone().into()));
        }
        self.telemetry.reload_errors().remove(&Reloaded::Configuration);
        Ok(())
    }

    /// Tells the workers which peers and relayed addresses follow from settings and fleet.
    pub(crate) fn set_addresses(&self, state: &mut State) {
        let relay = reload::relay_addresses(&state.config, state.fleet.as_ref(), &state.external);
        let addresses = Addresses::new(&relay);
        self.tell(&Command::Peers(reload::peer_policy(&state.config, state.fleet.as_ref(), &addresses)));
        if relay != state.relay {
            self.tell(&Command::Addresses(addresses));
            state.relay = relay;
        }
    }

    pub(crate) fn set_certificate(&self, certificate: Arc<Certificate>) {
        tracing::info!("new certificate");
        self.tell(&Command::Certificate(Arc::clone(&certificate)));
        self.telemetry.certificate_expires.store(certificate.expires, Ordering::Relaxed);
        let mut state = self.state();
        state.certificate = Some(certificate);
        self.telemetry.reload_errors().remove(&Reloaded::Certificate);
        drop(state);
        self.warn_of_expiry();
    }

    pub(crate) fn warn_of_expiry(&self) {
        let certificate = self.state().certificate.clone();
        if let Some(warning) = certificate.and_then(|c| c.warning(unix_now())) {
            tracing::warn!("{warning}");
        }
    }

    pub(crate) fn cannot_reload(&self, what: Reloaded, error: String) {
        tracing::error!(error, "the {what} changed and cannot be used; keeping what was read before");
        self.telemetry.reload_errors().insert(what, error);
    }

    fn set_ready(&self, ready: Result<(), String>) {
        let mut state = self.state();
        if state.ready != ready {
            match &ready {
                Ok(()) => tracing::info!("ready"),
                Err(reason) => tracing::warn!(reason, "not ready"),
            }
        }
        state.ready = ready;
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.drain_until.borrow().is_some()
    }

    async fn probe(&self) -> Result<(), String> {
        if self.is_draining() {
            return Err("draining".into());
        }
        if self.state().relay.is_empty() && !self.config.stun_only {
            let node = self.config.fleet.as_ref().and_then(|f| f.node.clone()).unwrap_or_default();
            return Err(format!("node {node:?} has no address in the fleet file yet"));
        }
        if let Some(reason) = self.unadvertised() {
            return Err(reason);
        }
        let is_plain = |transport| matches!(transport, Transport::Udp | Transport::Tcp);
        let plain = self.local.iter().find(|(transport, _)| is_plain(*transport));
        let Some((transport, address)) = plain.or(self.local.first()) else {
            return Err("no listener".into());
        };
        let dtls = self.state().certificate.as_ref().and_then(|c| c.dtls.clone());
        let server = readiness::At {
            transport: *transport,
            address: *address,
            dtls: dtls.as_deref(),
            proxies: &self.config.proxy_protocol,
        };
        let probed = if self.config.stun_only {
            readiness::probe_binding(&server).await
        } else {
            let v4 = self.state().relay.iter().any(|relay| relay.advertised.is_ipv4());
            let family = if v4 { Family::V4 } else { Family::V6 };
            let holds_any = self.quotas.total() > 0;
            readiness::probe(&server, family, holds_any, &self.probe_secret, &self.name).await
        };
        probed.map_err(|e| e.to_string())
    }

    /// Why clients would be told an address that is nobody's outside: the STUN server has the say, and has not
    /// said yet.
    fn unadvertised(&self) -> Option<String> {
        let server = &self.config.external_stun.as_ref()?.server;
        let state = self.state();
        let given = state.relay.iter().any(|relay| relay.local != relay.advertised);
        let known = given || reload::in_fleet(&state.config, state.fleet.as_ref());
        if known || self.config.stun_only || !state.external.addresses.is_empty() {
            return None;
        }
        let why = state.external.error.as_deref().unwrap_or("it has not answered yet");
        Some(format!("{server} has not said under which address this host is seen: {why}"))
    }

    pub(crate) fn drain(&self, deadline: Duration) {
        // far enough for every deadline, and it does not overflow
        let until = Instant::now() + deadline.min(Duration::from_secs(365 * 24 * 3600));
        let began = self.drain_until.send_if_modified(|current| match current {
            Some(set) if *set <= until => false,
            _ => {
                *current = Some(until);
                true
            }
        });
        if began {
            tracing::info!(?deadline, allocations = self.quotas.total(), "draining");
            let alternates = self.state().config.alternates.clone();
            self.tell(&Command::Drain(alternates.into()));
        }
    }

    /// Waits until all calls have ended, the deadline has passed, or a worker has failed; then stops
    /// the workers.
    async fn supervise(&self, threads: Vec<JoinHandle<io::Result<()>>>) {
        let mut until = self.drain_until.subscribe();
        loop {
            let deadline = *until.borrow_and_update();
            if threads.iter().any(JoinHandle::is_finished) {
                break;
            }
            if deadline.is_some() && self.quotas.total() == 0 {
                tracing::info!("drained");
                break;
            }
            let far = Instant::now() + Duration::from_secs(3600);
            let pause = if deadline.is_some() { Duration::from_millis(50) } else { Duration::from_secs(1) };
            tokio::select! {
                () = sleep_until(deadline.unwrap_or(far)) => if deadline.is_some() {
                    tracing::warn!(allocations = self.quotas.total(), "the drain's deadline has passed");
                    break;
                },
                _ = until.changed() => {}
                () = sleep(pause) => {}
            }
        }
        self.tell(&Command::Stop);
        let joined = tokio::task::spawn_blocking(move || {
            threads.into_iter().try_for_each(|thread| match thread.join() {
                Ok(result) => result.map_err(|e| Failed(e.to_string())),
                Err(_) => Err(Failed("it panicked".into())),
            })
        });
        let result = joined.await.unwrap_or_else(|e| Err(Failed(e.to_string())));
        self.stopped.send_replace(Some(result));
    }
}
