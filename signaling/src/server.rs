//! A replica: everything that one process, or one of several replicas in a process, serves to clients.

use crate::{
    admin, api,
    arrival::{Arrival, sized},
    auth::{
        Mint, Origins, Policy,
        gate::{Gate, Pass},
    },
    dialect::{
        matchbox,
        native::Native,
        peerjs,
        socketio::{self, SocketIo, Table},
        ywebrtc,
    },
    drain::{self, Drained},
    guests::{AddressLimits, Guests},
    hub::{Bounds, Hub},
    ice::IceSource,
    metrics::Metrics,
    outbox::Outbox,
    store::Shared,
    tls::Tls,
    transport::{http, http::Paces, text::Line, websocket},
    web::{self, Tokens},
    webhooks::{Sender, Webhooks},
};
use axum::{
    Extension, Router,
    extract::{ConnectInfo, ws::WebSocketUpgrade},
    http::StatusCode,
    response::Response,
    routing::get,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use rtc_signaling_proto::Limits;
use serde_json::Value;
use std::{
    io,
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{Notify, watch},
    time::Instant,
};
use tracing::Instrument;

/// How long a drain takes at most, unless it is told.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(60);
/// Who opens a connection must say what it wants within this time.
const HEADERS: Duration = Duration::from_secs(15);
#[cfg(target_os = "linux")]
/// A client whose host confirms nothing for so long is gone.
const UNHEARD: Duration = Duration::from_secs(60);
/// Who has connected must enter a room within this time, unless it is told.
pub const JOIN_TIMEOUT: Duration = Duration::from_secs(60);

/// How a replica is set up.
#[derive(Clone, Debug)]
pub struct Builder {
    shared: Shared,
    ice: Arc<dyn IceSource>,
    name: String,
    limits: Limits,
    bounds: Bounds,
    origins: Origins,
    policy: Policy,
    page_tokens: Option<Arc<Mint>>,
    tls: Option<Arc<Tls>>,
    addresses: AddressLimits,
    join_timeout: Duration,
    polling: Table,
    webhooks: Option<Webhooks>,
}

impl Builder {
    /// What the replica is called; its process's life is added. `signaling` by default.
    #[must_use]
    pub fn name(mut self, name: &str) -> Self {
        self.name = name.to_owned();
        self
    }

    /// What one client may ask for.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// The most members of any room; 0, the default, for no limit.
    #[must_use]
    pub fn max_room_members(mut self, max: u32) -> Self {
        self.bounds.members = max;
        self
    }

    /// The most rooms with sessions here; 0, the default, for no limit.
    #[must_use]
    pub fn max_rooms(mut self, max: u32) -> Self {
        self.bounds.rooms = max;
        self
    }

    /// The origins of pages that may connect; all by default.
    #[must_use]
    pub fn allowed_origins(mut self, origins: Vec<String>) -> Self {
        self.origins = Origins::new(origins);
        self
    }

    /// Who may connect; anybody by default.
    #[must_use]
    pub fn auth(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// Where tokens are asked for, give everybody one who opens the page: so it protects nothing, and is for trying
    /// out. Without it the page asks its visitor for a token.
    #[must_use]
    pub fn page_tokens(mut self, mint: Arc<Mint>) -> Self {
        self.page_tokens = Some(mint);
        self
    }

    /// Speak TLS with those whom [`Server::serve`] accepts.
    #[must_use]
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = Some(Arc::new(tls));
        self
    }

    /// What the clients of one address may hold and do.
    #[must_use]
    pub fn address_limits(mut self, limits: AddressLimits) -> Self {
        self.addresses = limits;
        self
    }

    /// A connection that is in no room for so long is closed; [`JOIN_TIMEOUT`] by default.
    #[must_use]
    pub fn join_timeout(mut self, timeout: Duration) -> Self {
        self.join_timeout = timeout;
        self
    }

    /// Long-polling clients of Socket.IO, for replicas that share a port: each request of such a client may
    /// then come to any of them.
    #[must_use]
    pub fn polling(mut self, table: Table) -> Self {
        self.polling = table;
        self
    }

    /// Tell a backend who comes and goes; the same on every replica that shares the rooms.
    #[must_use]
    pub fn webhooks(mut self, webhooks: Webhooks) -> Self {
        self.webhooks = Some(webhooks);
        self
    }

    /// Starts the replica. Must be called in a tokio runtime.
    #[must_use]
    pub fn start(self) -> Arc<Server> {
        let Self { shared, ice, name, limits, bounds, origins, policy, .. } = self;
        let replica = crate::random::replica(&name);
        let metrics = Arc::new(Metrics::new());
        let hub = Hub::start(replica, &shared, bounds, self.webhooks.is_some(), metrics.clone());
        let lease = shared.limits().replica_lease;
        let webhooks = self.webhooks.map(|webhooks| Sender::start(webhooks, &hub, lease));
        let gate = Gate::start(policy, hub.clone());
        let native = Native { hub: hub.clone(), ice, limits, gate, pass: Arc::default() };
        Arc::new(Server {
            socketio: SocketIo::new(
                hub.clone(),
                self.polling,
                limits,
                self.join_timeout,
                native.gate.clone(),
            ),
            hub,
            native,
            origins,
            guests: Guests::new(self.addresses, metrics),
            join_timeout: self.join_timeout,
            page_tokens: self.page_tokens,
            tls: self.tls,
            webhooks,
            paces: Arc::new(Paces::new(limits)),
            deadline: watch::channel(None).0,
            done: watch::channel(false).0,
            router: OnceLock::new(),
        })
    }
}

/// A replica.
#[derive(Debug)]
pub struct Server {
    hub: Arc<Hub>,
    native: Native,
    socketio: SocketIo,
    origins: Origins,
    guests: Arc<Guests>,
    join_timeout: Duration,
    page_tokens: Option<Arc<Mint>>,
    tls: Option<Arc<Tls>>,
    webhooks: Option<Arc<Sender>>,
    paces: Arc<Paces>,
    /// When the drain that is under way ends.
    deadline: watch::Sender<Option<Instant>>,
    done: watch::Sender<bool>,
    router: OnceLock<Router>,
}

impl Server {
    /// A replica on these rooms, which hands these `iceServers` out.
    #[must_use]
    pub fn builder(shared: Shared, ice: Arc<dyn IceSource>) -> Builder {
        Builder {
            shared,
            ice,
            name: "signaling".into(),
            limits: Limits::default(),
            bounds: Bounds::default(),
            origins: Origins::new(Vec::new()),
            policy: Policy::Anonymous,
            page_tokens: None,
            tls: None,
            addresses: AddressLimits::default(),
            join_timeout: JOIN_TIMEOUT,
            polling: Table::default(),
            webhooks: None,
        }
    }

    /// Everything that clients ask for, as a service. Requests should carry [`ConnectInfo`] of the client.
    pub fn router(self: &Arc<Self>) -> Router {
        let make = || {
            Router::new()
                .route("/v1/connect", get(connect))
                .merge(http::router())
                .merge(api::router())
                .merge(socketio::router())
                .merge(peerjs::router())
                .merge(ywebrtc::router())
                .merge(matchbox::router())
                .merge(web::router(self.tokens()))
                .with_state(self.weak_state())
        };
        self.router.get_or_init(make).clone()
    }

    fn tokens(&self) -> Tokens {
        match &self.page_tokens {
            _ if !self.gate().is_guarded() => Tokens::Unneeded,
            Some(mint) => Tokens::Here(mint.clone()),
            None => Tokens::Elsewhere,
        }
    }

    fn weak_state(self: &Arc<Self>) -> Replica {
        Replica(Arc::downgrade(self))
    }

    /// Serves clients that connect to `listener`, until a drain has ended or the listener fails for good.
    ///
    /// # Errors
    /// When the listener fails.
    pub async fn serve(self: &Arc<Self>, listener: TcpListener) -> io::Result<()> {
        let mut done = self.done.subscribe();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = done.wait_for(|done| *done) => return Ok(()),
            };
            match accepted {
                Ok((socket, peer)) => {
                    // A signal is a small packet that somebody waits for.
                    if let Err(error) = socket.set_nodelay(true) {
                        tracing::debug!(%error, "cannot set TCP_NODELAY");
                    }
                    let server = self.clone();
                    give_up_on_the_dead(&socket);
                    tokio::spawn(async move { server.serve_accepted(socket, peer).await });
                }
                // A client that went away while it was accepted, or no file descriptor just now.
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn serve_accepted(self: &Arc<Self>, socket: TcpStream, peer: SocketAddr) {
        let Some(tls) = &self.tls else { return self.serve_connection(socket, peer).await };
        match tls.accept(socket).await {
            Ok(stream) => self.serve_connection(stream, peer).await,
            Err(error) => tracing::debug!(%error, "a connection began no session of TLS"),
        }
    }

    /// Serves one connection of a client, in the clear, until it ends or is a WebSocket: from then on a task of its own
    /// serves it. For those who accept connections themselves.
    pub async fn serve_connection<I>(self: &Arc<Self>, io: I, peer: SocketAddr)
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let hang_up = HangUp::default();
        let router = self.router().layer(Extension(ConnectInfo(peer))).layer(Extension(hang_up.clone()));
        let mut builder = auto::Builder::new(TokioExecutor::new()).http1_only();
        builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADERS);
        let serving =
            builder.serve_connection_with_upgrades(TokioIo::new(io), TowerToHyperService::new(router));
        tokio::select! {
            served = serving => {
                if let Err(error) = served {
                    tracing::debug!(error = %error, "a connection ended early");
                }
            }
            () = hang_up.0.notified() => tracing::debug!("a client did not read what it asked for"),
        }
    }

    /// The rooms as this replica has them.
    #[must_use]
    pub fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    /// Where `iceServers` come from.
    #[must_use]
    pub fn ice(&self) -> &Arc<dyn IceSource> {
        &self.native.ice
    }

    /// For one connection, or request, of the native protocol.
    pub(crate) fn native(&self, pass: Arc<Pass>) -> Native {
        Native { pass, ..self.native.clone() }
    }

    pub(crate) fn paces(&self) -> &Arc<Paces> {
        &self.paces
    }

    pub(crate) fn socketio(&self) -> &SocketIo {
        &self.socketio
    }

    pub(crate) fn origins(&self) -> &Origins {
        &self.origins
    }

    pub(crate) fn guests(&self) -> &Arc<Guests> {
        &self.guests
    }

    pub(crate) fn gate(&self) -> &Arc<Gate> {
        &self.native.gate
    }

    /// What a connection of a dialect with text frames has besides its dialect.
    pub(crate) fn line(&self, dialect: &'static str, pass: &Arc<Pass>) -> Line {
        let outbox = Outbox::new(self.native.limits.queue_bytes);
        self.gate().watch(pass, &outbox);
        Line {
            dialect,
            outbox,
            limits: self.native.limits,
            join_timeout: self.join_timeout,
            metrics: self.hub.metrics().clone(),
        }
    }

    /// Open connections of clients, whether in a room or not.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.guests.open()
    }

    /// Whether a drain is under way or has ended.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.deadline.borrow().is_some()
    }

    /// Whether clients should be sent here.
    ///
    /// # Errors
    /// Why not.
    pub fn ready(&self) -> Result<(), String> {
        if self.is_draining() {
            return Err("draining".into());
        }
        self.gate().ready()?;
        match self.hub.store().down() {
            None => Ok(()),
            Some(down) => Err(down.to_string()),
        }
    }

    /// `/status`.
    #[must_use]
    pub fn status(&self) -> Value {
        admin::status(self)
    }

    /// `/metrics`.
    #[must_use]
    pub fn metrics(&self) -> String {
        let up = self.hub.store().down().is_none();
        let hub = &self.hub;
        hub.metrics().text(hub.sessions(), hub.rooms(), hub.queue_bytes(), up)
    }

    /// Sends every client elsewhere and ends what is served, when no session is left or after `deadline`
    /// ([`DRAIN_TIMEOUT`] if `None`). No room sees anybody leave. A second call may move the deadline.
    pub async fn drain(&self, deadline: Option<Duration>) -> Drained {
        let first =
            self.deadline.send_replace(Some(Instant::now() + deadline.unwrap_or(DRAIN_TIMEOUT))).is_none();
        if !first {
            let _ = self.done.subscribe().wait_for(|done| *done).await;
            return Drained { before: 0, closed: 0 };
        }
        tracing::info!(sessions = self.hub.sessions(), "draining");
        let deadline = || self.deadline.borrow().unwrap_or_else(Instant::now);
        let drained = drain::drain(&self.hub, deadline).await;
        if let Some(webhooks) = &self.webhooks {
            webhooks.finish(deadline()).await;
        }
        self.done.send_replace(true);
        drained
    }

    /// Returns once a drain has ended.
    pub async fn drained(&self) {
        // the sender is ours, so this only ends when it is true
        let _ = self.done.subscribe().wait_for(|done| *done).await;
    }
}

/// Ends the connection that a request came by.
#[derive(Clone, Debug, Default)]
pub(crate) struct HangUp(pub(crate) Arc<Notify>);

/// A replica as the state of its routes, which do not keep it alive.
#[derive(Clone, Debug)]
pub(crate) struct Replica(std::sync::Weak<Server>);

impl Replica {
    /// The replica, or what to answer when it is gone.
    pub(crate) fn get(&self) -> Result<Arc<Server>, StatusCode> {
        self.0.upgrade().ok_or(StatusCode::SERVICE_UNAVAILABLE)
    }
}

/// A stream hears nothing of its client but that what is sent arrives.
#[cfg(target_os = "linux")]
fn give_up_on_the_dead(socket: &TcpStream) {
    if let Err(error) = socket2::SockRef::from(socket).set_tcp_user_timeout(Some(UNHEARD)) {
        tracing::debug!(%error, "cannot set TCP_USER_TIMEOUT");
    }
}

/// Elsewhere the system's own patience has to do.
#[cfg(not(target_os = "linux"))]
fn give_up_on_the_dead(_: &TcpStream) {}

async fn connect(arrival: Arrival, upgrade: WebSocketUpgrade) -> Response {
    let Arrival { server, guest, pass, span } = arrival;
    let (native, join_timeout) = (server.native(pass), server.join_timeout);
    // a task of its own, since that of an upgrade keeps what the handshake needed
    sized(upgrade).on_upgrade(async move |socket| {
        tokio::spawn(websocket::serve(socket, native, guest, join_timeout).instrument(span));
    })
}
