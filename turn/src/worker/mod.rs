//! One worker: a thread with its own sockets, its own protocol server and its own loop. Nothing on a
//! packet's way is shared with another, but for what its clients send to another's clients.

mod alarm;
mod associations;
mod core;
mod splice;
mod streams;

use crate::{
    certificate::Certificate,
    directory::Directory,
    listen::Bound,
    post::{Arrival, Doors, Label, Parcel, Post},
    relay::{Addresses, Relays},
    tcp::Connection,
    telemetry::{Published, Work},
    udp::{Inbox, Udp, Via},
};
use alarm::Alarm;
pub(crate) use associations::Association;
use associations::Associations;
use core::{After, Core};
use ipnet::IpNet;
use mio::{Events, Interest, Poll, Token, Waker, event::Event, net::TcpListener};
use rtc_credentials::{KeyRing, Transport};
use rtc_service::clock::unix_now;
use rtc_turn_proto::{
    self as proto, Drop, Flow, Mobility, Now, PeerPolicy, RelayId, channel_data::Channels, dtls::Cookies,
};
use rustls::ServerConfig;
use slab::Slab;
pub(crate) use splice::Step;
use std::{
    collections::BTreeSet,
    io,
    net::SocketAddr,
    num::NonZeroU64,
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

/// Batches that one socket may have before the others get their turn.
const TURNS: usize = 8;
/// Parcels of other workers that are taken before the sockets get their turn.
const PARCELS: usize = 32;
/// Datagrams that the network says were lost, of those that one socket sent, that one turn looks at.
const ERRORS: usize = 64;
/// How often counters are published, while they change.
const PUBLISH: Duration = Duration::from_millis(100);
/// How often connections that are idle, or slow to begin TLS, are looked for.
const SWEEP: Duration = Duration::from_secs(5);
/// How long a connection may be silent without an allocation.
const IDLE: Duration = Duration::from_secs(60);
/// What the start of a message may hold, in bytes, of a client on a stream that has no allocation: requests are far
/// shorter, and data it has none.
const MAX_REQUEST: usize = 4 << 10;
/// Who could not be accepted, since something ran out, is tried again after so long. No event says when.
const ACCEPT_AGAIN: Duration = Duration::from_millis(500);
/// Signatures take up to a millisecond, so a turn of the loop takes so many steps of handshakes, and
/// a flood of them delays them, not the packets of calls.
const HANDSHAKE_STEPS: u32 = 8;
/// Connections of one worker.
const MAX_CONNECTIONS: usize = 1 << 16;

const WAKER: Token = Token(usize::MAX - 1);
const TIMER: Token = Token(usize::MAX - 2);
/// Tokens are a kind and an index.
const KIND: usize = 1 << 32;
const LISTENER: usize = 0;
const RELAY: usize = 1;
const CONNECTION: usize = 2;
const PEER: usize = 3;
/// A connection's link is a serial number over its index.
const LINK_INDEX: u64 = (1 << 24) - 1;

fn token(kind: usize, index: usize) -> Token {
    Token(kind * KIND + index)
}

/// What a worker is told from outside.
#[derive(Clone, Debug)]
pub(crate) enum Command {
    Keys(Arc<KeyRing>),
    Peers(Arc<PeerPolicy>),
    Addresses(Addresses),
    Bandwidth(Option<NonZeroU64>),
    Drain(Arc<[SocketAddr]>),
    /// For new connections.
    Certificate(Arc<Certificate>),
    Stop,
}

/// Where commands for a worker go.
#[derive(Clone, Debug)]
pub(crate) struct Mailbox {
    sender: mpsc::Sender<Command>,
    waker: Arc<Waker>,
}

impl Mailbox {
    /// A worker that has ended gets nothing.
    pub(crate) fn send(&self, command: Command) {
        if self.sender.send(command).is_ok() {
            let _ = self.waker.wake();
        }
    }
}

#[derive(Debug)]
enum Listener {
    Udp { udp: Udp, address: SocketAddr, dtls: bool },
    Tcp { listener: TcpListener, transport: Transport },
}

#[derive(Debug)]
pub(crate) struct Worker {
    poll: Poll,
    listeners: Vec<Listener>,
    connections: Slab<Connection>,
    /// What new connections begin TLS with.
    tls: Option<Arc<ServerConfig>>,
    /// Load balancers, which say first who a connection's client is.
    proxies: Arc<[IpNet]>,
    handshakes: Handshakes,
    associations: Associations,
    /// Counts connections; part of their links.
    serial: u64,
    /// Connections that have something queued.
    dirty: Vec<usize>,
    /// Sockets that had more than their turn's worth.
    more: Vec<Token>,
    /// Connections with peers that have used up their bandwidth, and until when.
    paused: BTreeSet<(Instant, Token)>,
    inbox: Inbox,
    read_buffer: Box<[u8]>,
    /// Frames for the connection that is being read.
    replies: Vec<u8>,
    core: Core,
    commands: mpsc::Receiver<Command>,
    published: Arc<Published>,
    ring_revision: u64,
    publish_at: Option<Instant>,
    sweep_at: Instant,
    alarm: Alarm,
    longest_turn: Duration,
    stopped: bool,
}

/// Handshakes of TLS and DTLS, and streams whose load balancer has not said yet who the client is.
#[derive(Debug, Default)]
struct Handshakes {
    timeout: Duration,
    max: usize,
    /// Those of streams that are under way.
    pending: usize,
    /// Steps that this turn of the loop may still take.
    steps_left: u32,
    done: u64,
    failed: u64,
    done_dtls: u64,
    failed_dtls: u64,
}

/// What a worker begins with.
#[derive(Debug)]
pub(crate) struct Setup {
    pub(crate) index: u16,
    pub(crate) bound: Vec<Bound>,
    pub(crate) server: proto::Server,
    pub(crate) addresses: Addresses,
    pub(crate) channels: Channels,
    pub(crate) certificate: Option<Arc<Certificate>>,
    /// The same for all workers.
    pub(crate) cookies: Cookies,
    /// The same for all workers.
    pub(crate) mobility: Option<Mobility>,
    pub(crate) proxies: Arc<[IpNet]>,
    pub(crate) handshake_timeout: Duration,
    pub(crate) max_handshakes: usize,
    pub(crate) ring_revision: u64,
    pub(crate) published: Arc<Published>,
    /// The same for all workers.
    pub(crate) directory: Arc<Directory>,
    pub(crate) doors: Arc<Doors>,
    /// This worker's end.
    pub(crate) parcels: mpsc::Receiver<Parcel>,
}

impl Worker {
    /// A worker with its sockets registered, and the mailbox to reach it by.
    pub(crate) fn new(setup: Setup) -> io::Result<(Self, Mailbox)> {
        let Setup { index, bound, server, addresses, channels, ring_revision, published, .. } = setup;
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let alarm = Alarm::new(poll.registry(), TIMER)?;
        let post = Post::new(setup.doors, index, setup.parcels, Arc::clone(&waker));
        let relays = Relays::new(index, setup.directory);
        let registry = poll.registry().try_clone()?;
        let core = Core::new(server, index, relays, addresses, registry, channels, post);
        let (sender, commands) = mpsc::channel();
        let mut listeners = Vec::with_capacity(bound.len());
        for (index, Bound { transport, address, socket }) in bound.into_iter().enumerate() {
            let token = token(LISTENER, index);
            listeners.push(match transport {
                Transport::Udp | Transport::Dtls => {
                    let mut udp = Udp::new(socket.into())?;
                    poll.registry().register(&mut udp.socket, token, Interest::READABLE)?;
                    Listener::Udp { udp, address, dtls: transport == Transport::Dtls }
                }
                Transport::Tcp | Transport::Tls => {
                    let mut listener = TcpListener::from_std(socket.into());
                    poll.registry().register(&mut listener, token, Interest::READABLE)?;
                    Listener::Tcp { listener, transport }
                }
            });
        }
        let (tls, dtls) =
            setup.certificate.map_or((None, None), |c| (Some(Arc::clone(&c.tls)), c.dtls.clone()));
        let mut worker = Self {
            poll,
            listeners,
            connections: Slab::new(),
            tls,
            proxies: setup.proxies,
            associations: Associations::new(dtls, setup.cookies, setup.mobility, setup.max_handshakes),
            handshakes: Handshakes {
                timeout: setup.handshake_timeout,
                max: setup.max_handshakes,
                ..Handshakes::default()
            },
            serial: 0,
            dirty: Vec::new(),
            more: Vec::new(),
            paused: BTreeSet::new(),
            inbox: Inbox::new(),
            read_buffer: vec![0; 64 << 10].into(),
            replies: Vec::new(),
            core,
            commands,
            published,
            ring_revision,
            publish_at: None,
            sweep_at: Instant::now() + SWEEP,
            alarm,
            longest_turn: Duration::ZERO,
            stopped: false,
        };
        // an idle worker has its ring too
        worker.publish();
        Ok((worker, Mailbox { sender, waker }))
    }

    /// Runs until told to stop.
    ///
    /// # Errors
    /// When the poll fails, which leaves nothing to go on with.
    pub(crate) fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(1024);
        while !self.stopped {
            let at_once = (!self.more.is_empty()).then_some(Duration::ZERO);
            if let (None, Some(due)) = (at_once, self.due()) {
                self.alarm.set(due)?;
            }
            match self.poll.poll(&mut events, at_once) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                result => result?,
            }
            let started = Instant::now();
            let now = Now { instant: started, unix: unix_now() };
            self.handshakes.steps_left = HANDSHAKE_STEPS;
            self.resume(started);
            for event in &events {
                self.on_event(now, event);
            }
            for token in std::mem::take(&mut self.more) {
                self.on_ready(now, token, false);
            }
            if self.core.server.poll_timeout().is_some_and(|at| at <= started) {
                self.core.server.handle_timeout(now);
                self.core.close_relays();
                self.publish_at.get_or_insert(started + PUBLISH);
            }
            if self.associations.due().is_some_and(|at| at <= started) {
                self.associations.handle_timeout(started, &mut self.core, &mut self.handshakes);
                self.flush();
                self.publish_at.get_or_insert(started + PUBLISH);
            }
            if self.sweep_at <= started {
                self.sweep(started);
                self.flush();
            }
            self.settle();
            self.longest_turn = self.longest_turn.max(started.elapsed());
            if self.publish_at.is_some_and(|at| at <= started) {
                self.publish();
            }
        }
        self.connections.iter_mut().for_each(|(_, connection)| connection.close());
        self.associations.close(&mut self.core, &mut self.handshakes);
        self.flush();
        self.publish();
        Ok(())
    }

    /// When something is due that no socket tells.
    fn due(&self) -> Option<Instant> {
        let clients = self.connections.len() + self.associations.len();
        let sweep = (clients > 0).then_some(self.sweep_at);
        let paused = self.paused.first().map(|(until, _)| *until);
        [self.core.server.poll_timeout(), self.associations.due(), self.publish_at, sweep, paused]
            .into_iter()
            .flatten()
            .min()
    }

    fn on_event(&mut self, now: Now, event: &Event) {
        let token = event.token();
        if token == TIMER {
            self.alarm.rang();
            return;
        }
        if token == WAKER {
            self.obey();
            self.on_ready(now, token, false);
            return;
        }
        if token.0 / KIND == CONNECTION && event.is_writable() {
            self.on_writable(token.0 % KIND);
        }
        if token.0 / KIND == PEER {
            return self.on_ready(now, token, false);
        }
        if token.0 / KIND == RELAY && event.is_error() {
            self.hear_errors(now, token.0 % KIND);
        }
        if event.is_readable() || event.is_read_closed() || event.is_error() {
            self.on_ready(now, token, event.is_read_closed() || event.is_error());
        }
    }

    fn on_ready(&mut self, now: Now, token: Token, closing: bool) {
        let index = token.0 % KIND;
        let drained = match token.0 / KIND {
            _ if token == WAKER => self.receive_from_workers(now),
            LISTENER => match self.listeners.get(index) {
                Some(Listener::Udp { dtls: true, .. }) => self.receive_from_dtls_clients(now, index),
                Some(Listener::Udp { .. }) => self.receive_from_clients(now, index),
                Some(Listener::Tcp { .. }) => self.accept(now, index),
                None => true,
            },
            RELAY => self.receive_from_peers(now, index),
            PEER => self.on_peer(now, index),
            _ => self.read_connection(now, index, closing),
        };
        self.publish_at.get_or_insert(now.instant + PUBLISH);
        if !drained {
            self.more.push(token);
        }
    }

    /// `true` when the socket is drained.
    fn receive_from_clients(&mut self, now: Now, index: usize) -> bool {
        let mut drained = false;
        for _ in 0..TURNS {
            let Self { listeners, inbox, core, .. } = self;
            let Some(Listener::Udp { udp, address, .. }) = listeners.get(index) else { return true };
            let more = inbox.receive(udp).unwrap_or(false);
            for train in inbox.trains() {
                let server = SocketAddr::new(train.to.unwrap_or(address.ip()), address.port());
                let flow = Flow { transport: Transport::Udp, client: train.from, server, link: index as u64 };
                for datagram in train.datagrams() {
                    if let Some(worker) = core.datagram(now, &flow, train.to, datagram) {
                        core.post.push(worker, Label::Client { flow, to: train.to }, datagram);
                    }
                }
            }
            self.flush();
            if !more {
                drained = true;
                break;
            }
        }
        self.flush_dirty();
        drained
    }

    fn receive_from_peers(&mut self, now: Now, relay: usize) -> bool {
        let mut drained = false;
        for _ in 0..TURNS {
            let Self { inbox, core, .. } = self;
            let Some(udp) = core.relays.get(relay) else { return self.accept_peers(now, relay) };
            let more = inbox.receive(udp).unwrap_or(false);
            for train in inbox.trains() {
                let peer = core.addresses.to_advertised(train.from);
                let route = core.server.route_from_peer(now, RelayId(relay as u32), peer, train.count());
                let Some(route) = route else { continue };
                for datagram in train.datagrams() {
                    core.deliver(&route, datagram);
                }
            }
            self.flush();
            if !more {
                drained = true;
                break;
            }
        }
        self.flush_dirty();
        drained
    }

    /// Tells a client of its datagrams that the network says were lost (RFC 8656, section 11.5).
    fn hear_errors(&mut self, now: Now, relay: usize) {
        for _ in 0..ERRORS {
            let core = &mut self.core;
            let Some(lost) = core.relays.get(relay).and_then(Udp::lost) else { break };
            core.lost(now, RelayId(relay as u32), lost);
        }
        self.flush();
        self.flush_dirty();
    }

    fn receive_from_workers(&mut self, now: Now) -> bool {
        self.core.post.look();
        while let Some(client) = self.core.post.arrived() {
            match client {
                Arrival::Stream(connection) => self.adopt(now, *connection),
                Arrival::Association(association, messages) => {
                    let Self { associations, core, handshakes, .. } = self;
                    associations.adopt(now, *association, &messages, core, handshakes);
                }
            }
        }
        let mut drained = false;
        for _ in 0..PARCELS {
            let Some(parcel) = self.core.post.receive() else {
                drained = true;
                break;
            };
            let Self { core, associations, handshakes, .. } = self;
            core.letters(now, &parcel, |core, flow, source, datagram| {
                associations.receive_from_worker(now, flow, source, datagram, core, handshakes);
            });
            self.flush();
        }
        self.flush_dirty();
        drained
    }

    /// Sends what a batch brought forth; what goes by streams waits for [`Self::flush_dirty`].
    fn flush(&mut self) {
        let Self { core, listeners, connections, associations, dirty, .. } = self;
        let Core { outbox, relays, server, frames, .. } = core;
        frames.drain(|flow, frame| {
            let index = (flow.link & LINK_INDEX) as usize;
            if flow.transport == Transport::Dtls {
                if !associations.deliver(index, flow, frame, outbox) {
                    server.count_drop(Drop::SendFailed);
                }
                return;
            }
            let Some(connection) = connections.get_mut(index).filter(|c| c.flow == *flow) else {
                server.count_drop(Drop::SendFailed);
                return;
            };
            if !connection.push(frame) {
                server.count_drop(Drop::QueueFull);
            }
            if dirty.last() != Some(&index) {
                dirty.push(index);
            }
        });
        let failed = outbox.flush(|via| match via {
            Via::Listener(index) => match listeners.get(index) {
                Some(Listener::Udp { udp, .. }) => Some(udp),
                _ => None,
            },
            Via::Relay(id) => relays.get(id),
        });
        for _ in 0..failed {
            server.count_drop(Drop::SendFailed);
        }
        core.end_batch();
    }

    fn obey(&mut self) {
        let mut obeyed = false;
        while let Ok(command) = self.commands.try_recv() {
            obeyed = true;
            match command {
                Command::Keys(keys) => {
                    self.ring_revision = keys.revision;
                    self.core.server.set_keys(keys);
                }
                Command::Peers(peers) => self.core.server.set_peers(peers),
                Command::Addresses(addresses) => {
                    self.core.addresses = addresses;
                    self.core.relays.withdraw();
                    self.core.server.set_relay_addresses(addresses.advertised());
                }
                Command::Bandwidth(bandwidth) => {
                    self.core.server.set_bandwidth(crate::server::now(), bandwidth);
                }
                Command::Drain(alternates) => self.core.server.drain(alternates),
                Command::Certificate(certificate) => {
                    self.tls = Some(Arc::clone(&certificate.tls));
                    self.associations.config.clone_from(&certificate.dtls);
                }
                Command::Stop => self.stopped = true,
            }
        }
        if obeyed {
            self.publish();
        }
    }

    fn publish(&mut self) {
        self.publish_at = None;
        let turn = std::mem::take(&mut self.longest_turn);
        let Core { server, short_cuts, .. } = &self.core;
        let work = Work {
            ring_revision: self.ring_revision,
            connections: self.connections.len() as u64,
            peer_connections: self.core.peers.len() as u64,
            short_cuts: *short_cuts,
            handshakes_done: self.handshakes.done,
            handshakes_failed: self.handshakes.failed,
            associations: self.associations.len() as u64,
            challenges: self.associations.challenges,
            dtls_handshakes_done: self.handshakes.done_dtls,
            dtls_handshakes_failed: self.handshakes.failed_dtls,
            longest_turn: turn,
        };
        self.published.update(server, work);
    }
}
