//! `rtc up`: an RtcCluster on this machine.
//!
//! The manifest's signaling replicas run in this process behind one port, with the TURN server beside
//! them; all read the same two files as in Kubernetes (the key ring's directory and `turn.json`), so
//! what runs here is what runs there.

mod door;
mod keys;
mod lan;
mod report;
mod tokens;

use anyhow::Context;
use keys::Keys;
use report::Report;
use rtc_credentials::{Acknowledged, Fleet, FleetListener, FleetNode, Policy, PortRange, Transport};
use rtc_operator_api::{
    RtcCluster,
    spec::{Cidr, Transport as SpecTransport, TurnMode},
};
use rtc_service::{HumanDuration, admin, net, shutdown::Shutdown};
use rtc_signaling::{
    admin::Admin, dialect::socketio::Table, ice::Ice, store::Shared, store::memory::MemoryRooms,
    store::redis::RedisRooms,
};
use rtc_signaling_proto::ops::RoomLimits;
use rtc_turn::settings::{Listen, Ports};
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokens::Tokens;
use tokio_rustls::TlsAcceptor;

/// This machine's name in its own `turn.json`.
const NODE: &str = "this-machine";
/// How long Ctrl-C waits for calls to end: nobody else is there to take them over.
const DRAIN: Duration = Duration::from_secs(3);
/// How long TURN may take until it has relayed to itself.
const READY: Duration = Duration::from_secs(10);

/// Its own errors name the flags of `rtc-turn`; these are ours.
const TURN_CANNOT_START: &str = "the TURN server cannot start: choose another port with --turn-port, or other relay \
     ports in spec.turn.relayPorts";

/// Flags of `rtc up`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The manifest of an RtcCluster, such as examples/quickstart.yaml
    manifest: PathBuf,
    /// The port of the page and of signaling; 0 picks a free one
    #[arg(long, env = "RTC_UP_PORT", default_value_t = 8080)]
    port: u16,
    /// The port of the TURN server's first listener, instead of the manifest's; 0 picks a free one
    #[arg(long, env = "RTC_UP_TURN_PORT")]
    turn_port: Option<u16>,
    /// Keep rooms in this Redis (redis://HOST:PORT) instead of in this process
    #[arg(long, env = "RTC_UP_REDIS", hide_env_values = true)]
    redis: Option<String>,
    /// Listen on this machine's own address and serve the page over HTTPS, for other devices
    #[arg(long, env = "RTC_UP_LAN")]
    lan: bool,
    /// Serve the manifest's TLS and DTLS listeners with this certificate and its chain, as PEM
    #[arg(long, env = "RTC_UP_TURN_TLS_CERT", value_name = "FILE", requires = "turn_tls_key")]
    turn_tls_cert: Option<PathBuf>,
    /// The certificate's key, as PEM; for DTLS an ECDSA key
    #[arg(long, env = "RTC_UP_TURN_TLS_KEY", value_name = "FILE", requires = "turn_tls_cert")]
    turn_tls_key: Option<PathBuf>,
    /// With auth.mode JWT: the keys that tokens are signed with, as rtc-signaling's --jwt-keys, instead of the
    /// manifest's [default: a secret of this run's own]
    #[arg(long, env = "RTC_UP_JWT_KEYS", value_name = "PATH")]
    jwt_keys: Option<PathBuf>,
    /// With auth.mode JWT: how long the tokens live that whoever opens the page is given
    #[arg(long, env = "RTC_UP_TOKEN_TTL", default_value = "5m")]
    token_ttl: HumanDuration,
    /// Print one line of JSON when all is ready, and nothing else
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    let mut shutdown = Shutdown::listen().context("cannot listen for Ctrl-C")?;
    let cluster = read_manifest(&options.manifest)?;
    let notes = what_is_left_out(&options, &cluster)?;
    let home =
        tempfile::Builder::new().prefix("rtc-up-").tempdir().context("cannot make a folder for the keys")?;

    let address = if options.lan { lan::own_address()? } else { IpAddr::V4(Ipv4Addr::LOCALHOST) };
    let tls = options.lan.then(|| lan::acceptor(address)).transpose()?;
    let policy = policy(&cluster);
    let keys = Keys::create(&home.path().join("keys"), policy)?;
    let turn = start_turn(&options, &cluster, address, home.path()).await?;
    let tokens = Tokens::new(&options, &cluster, home.path())?;
    let signaling = Signaling::start(&options, &cluster, address, home.path(), tls, &tokens).await?;

    let report = Report {
        name: cluster.metadata.name.clone().unwrap_or_else(|| "rtc".into()),
        page: signaling.page.clone(),
        replicas: signaling.urls.clone(),
        store: if options.redis.is_some() { "Redis" } else { "this process" },
        tokens: tokens.words(options.token_ttl),
        turn: turn.uris.clone(),
        relay_ports: turn.relay_ports.to_string(),
        policy,
        turn_admin: turn.admin.clone(),
        signaling_admin: signaling.admin.clone(),
        notes,
    };
    if options.json {
        println!("{}", report.json())
    } else {
        println!("{report}")
    }

    let acknowledged = {
        let (turn, replicas) = (turn.handle.clone(), signaling.replicas.clone());
        move || Acknowledged {
            verifiers: Some(revision(&turn.status())),
            signers: replicas.iter().map(|replica| revision(&replica.status())).min(),
        }
    };
    let rotation = tokio::spawn(keys.rotate(acknowledged));
    shutdown.wait().await;
    if !options.json {
        println!("\nDraining for at most {} s; Ctrl-C again ends at once.", DRAIN.as_secs());
    }
    tokio::select! {
        () = drain(&signaling, &turn) => {}
        () = shutdown.wait() => {}
    }
    rotation.abort();
    Ok(())
}

fn read_manifest(path: &Path) -> anyhow::Result<RtcCluster> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {shown}"))?;
    rtc_operator_api::from_yaml(&text).map_err(|error| anyhow::anyhow!("{shown}: {error}"))
}

/// What the manifest says and this machine does not do, as notes for its reader.
fn what_is_left_out(options: &Options, cluster: &RtcCluster) -> anyhow::Result<Vec<String>> {
    let spec = &cluster.spec;
    anyhow::ensure!(
        spec.turn.mode == TurnMode::Turn,
        "spec.turn.mode: `rtc up` runs TURN alone; leave it out"
    );
    let mut notes = Vec::new();
    if spec.signaling.webhook.is_some() {
        notes.push(
            "spec.signaling.webhook names a Secret of a cluster; nobody is told who comes and goes".into(),
        );
    }
    if spec.redis.external.is_some() {
        notes.push("spec.redis.external names a Secret of a cluster; use --redis URL here".into());
    }
    for listener in &spec.turn.listeners {
        if transport(options, listener.transport).is_none() {
            notes.push(format!(
                "the TURN listener `{}` is left out: give its certificate by --turn-tls-cert and --turn-tls-key",
                listener.name
            ));
        }
    }
    Ok(notes)
}

fn policy(cluster: &RtcCluster) -> Policy {
    let credentials = &cluster.spec.credentials;
    Policy {
        ttl: credentials.ttl.into(),
        interval: credentials.rotation.interval.into(),
        overlap: credentials.rotation.overlap.into(),
        // one machine, one clock
        skew: Duration::from_secs(1),
    }
}

/// The ring's revision that a program's status reports.
fn revision(status: &serde_json::Value) -> u64 {
    status["ring"]["revision"].as_u64().unwrap_or(0)
}

struct Turn {
    handle: rtc_turn::Handle,
    uris: Vec<String>,
    admin: String,
    relay_ports: PortRange,
}

async fn start_turn(
    options: &Options,
    cluster: &RtcCluster,
    address: IpAddr,
    home: &Path,
) -> anyhow::Result<Turn> {
    let spec = &cluster.spec.turn;
    let relay_ports = PortRange { min: spec.relay_ports.min, max: spec.relay_ports.max };
    let mut fleet = Fleet {
        revision: "1".into(),
        realm: spec.realm.clone(),
        listeners: Vec::new(),
        relay_ports,
        stun_only: false,
        nodes: vec![FleetNode { node: NODE.into(), addresses: vec![address], serving: true }],
    };
    let file = home.join("turn.json");
    std::fs::write(&file, fleet.to_json())?;

    let bound = |quota: u32| (quota > 0).then_some(quota);
    let settings = rtc_turn::Settings {
        listen: listeners(options, cluster, address),
        relay_address: vec![address.to_string().parse().map_err(anyhow::Error::msg)?],
        relay_ports: Some(Ports(relay_ports)),
        realm: Some(spec.realm.clone()),
        keys: Some(home.join("keys")),
        tls_cert: options.turn_tls_cert.clone(),
        tls_key: options.turn_tls_key.clone(),
        allow_peer: ranges(&spec.peers.allow)?,
        deny_peer: ranges(&spec.peers.deny)?,
        // Of one server, both are the same.
        user_quota: bound(spec.quotas.allocations_per_user).into_iter().chain(spec.fleet_quota()).min(),
        total_quota: bound(spec.quotas.allocations),
        admin: Some((Ipv4Addr::LOCALHOST, 0).into()),
        fleet_file: Some(file.clone()),
        node: Some(NODE.into()),
        ..rtc_turn::Settings::default()
    };
    let config = settings.resolve().context(TURN_CANNOT_START)?;
    let handle = rtc_turn::Server::start(config).await.context(TURN_CANNOT_START)?;
    fleet.listeners = handle
        .local_addrs()
        .iter()
        .map(|(transport, address)| FleetListener { transport: *transport, port: address.port() })
        .collect();
    fleet.revision = "2".into();
    // whoever reads it meanwhile sees the old file or the new one
    let next = home.join("turn.json.next");
    std::fs::write(&next, fleet.to_json())?;
    std::fs::rename(&next, &file)?;
    // ready is a datagram that the relay has carried
    tokio::time::timeout(READY, handle.ready()).await.context("the TURN server relays nothing to itself")?;
    let uri = |l: &FleetListener| {
        let (scheme, over) = match l.transport {
            Transport::Udp => ("turn", "udp"),
            Transport::Tcp => ("turn", "tcp"),
            Transport::Tls => ("turns", "tcp"),
            Transport::Dtls => ("turns", "udp"),
        };
        format!("{scheme}:{address}:{}?transport={over}", l.port)
    };
    Ok(Turn {
        uris: fleet.listeners.iter().map(uri).collect(),
        admin: handle.admin_addr().map(|address| format!("http://{address}")).unwrap_or_default(),
        relay_ports,
        handle,
    })
}

fn ranges(list: &[Cidr]) -> anyhow::Result<Vec<ipnet::IpNet>> {
    list.iter().map(|range| range.as_str().parse().with_context(|| format!("{:?}", range.as_str()))).collect()
}

/// What is served here of a listener; nothing without the certificate that it needs.
fn transport(options: &Options, of: SpecTransport) -> Option<Transport> {
    let transport = match of {
        SpecTransport::Udp => Transport::Udp,
        SpecTransport::Tcp => Transport::Tcp,
        SpecTransport::Tls => Transport::Tls,
        SpecTransport::Dtls => Transport::Dtls,
    };
    let is_secure = matches!(transport, Transport::Tls | Transport::Dtls);
    (!is_secure || options.turn_tls_cert.is_some()).then_some(transport)
}

/// The manifest's listeners; `--turn-port` moves them all by as much as the first.
fn listeners(options: &Options, cluster: &RtcCluster, address: IpAddr) -> Vec<Listen> {
    let spec = &cluster.spec.turn.listeners;
    let first = spec.first().map_or(3478, |l| l.port);
    let port = |own: u16| match options.turn_port {
        None => own,
        Some(0) => 0,
        Some(wanted) => wanted.wrapping_add(own.wrapping_sub(first)),
    };
    spec.iter()
        .filter_map(|listener| {
            let transport = transport(options, listener.transport)?;
            let address = SocketAddr::new(address, port(listener.port));
            Some(Listen { transport, address })
        })
        .collect()
}

struct Signaling {
    replicas: Vec<Arc<rtc_signaling::Server>>,
    urls: Vec<String>,
    page: String,
    admin: Vec<String>,
}

impl Signaling {
    async fn start(
        options: &Options,
        cluster: &RtcCluster,
        address: IpAddr,
        home: &Path,
        tls: Option<TlsAcceptor>,
        tokens: &Tokens,
    ) -> anyhow::Result<Self> {
        let front = net::listen_tcp(SocketAddr::new(address, options.port), "--port").await?;
        let scheme = if tls.is_some() { "https" } else { "http" };
        let page = format!("{scheme}://{}", front.local_addr()?);
        let spec = &cluster.spec.signaling;
        let rooms = match &options.redis {
            None => Shared::Memory(MemoryRooms::new(RoomLimits::default())),
            Some(url) => Shared::Redis(RedisRooms::new(url, RoomLimits::default()).context("--redis")?),
        };
        let ttl = cluster.spec.credentials.ttl.into();
        let ice = Ice::new(&[], Some(&home.join("turn.json")), Some(&home.join("keys")), ttl)?;
        let (ice, polling) = (Arc::new(ice), Table::default());
        let count = match &spec.autoscaling {
            Some(scaled) => scaled.min_replicas,
            None => spec.replicas,
        };
        let mut this = Self { replicas: Vec::new(), urls: Vec::new(), page, admin: Vec::new() };
        for number in 1..=count.max(1) {
            let mut builder = rtc_signaling::Server::builder(rooms.clone(), ice.clone())
                .name(&format!("signaling-{number}"))
                .max_room_members(spec.max_room_members)
                .allowed_origins(spec.allowed_origins.clone())
                .auth(tokens.policy.clone())
                .polling(polling.clone());
            if let Some(mint) = &tokens.mint {
                builder = builder.page_tokens(mint.clone());
            }
            let replica = builder.start();
            let own = net::listen_tcp(SocketAddr::new(address, 0), "--port").await?;
            this.urls.push(format!("{scheme}://{}", own.local_addr()?));
            tokio::spawn(door::serve(own, vec![replica.clone()], tls.clone()));
            let admin = net::listen_tcp((Ipv4Addr::LOCALHOST, 0).into(), "--admin").await?;
            this.admin.push(format!("http://{}", admin.local_addr()?));
            tokio::spawn(admin::serve(admin, Arc::new(Admin(replica.clone())), admin::open()));
            this.replicas.push(replica);
        }
        tokio::spawn(door::serve(front, this.replicas.clone(), tls));
        Ok(this)
    }
}

async fn drain(signaling: &Signaling, turn: &Turn) {
    turn.handle.drain(DRAIN);
    let replicas = signaling.replicas.iter().map(|replica| replica.drain(Some(DRAIN)));
    futures::future::join_all(replicas).await;
    if let Err(error) = turn.handle.stopped().await {
        tracing::error!(%error, "TURN had stopped before");
    }
}
