//! One worker: a thread with its own sockets, its own protocol server and its own loop. Nothing on a
//! packet's way is shared with another.

use crate::{
    listen::Bound,
    relay::{Addresses, Relays},
    tcp::{Connection, ReadState},
    telemetry::Published,
    udp::{Inbox, Outbox, Udp, Via},
};
use mio::{Events, Interest, Poll, Registry, Token, Waker, event::Event, net::TcpListener};
use rtc_credentials::{KeyRing, Transport};
use rtc_service::clock::unix_now;
use rtc_turn_proto::{
    self as proto, ClientAction, Drop, Flow, Now, PeerPolicy, RelayId, channel_data::Channels,
};
use slab::Slab;
use std::{
    io,
    net::SocketAddr,
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

/// Batches that one socket may have before the others get their turn.
const TURNS: usize = 8;
/// How often counters are published, while they change.
const PUBLISH: Duration = Duration::from_millis(100);
/// How often idle connections are looked for.
const SWEEP: Duration = Duration::from_secs(10);
/// How long a connection may be silent without an allocation.
const IDLE: Duration = Duration::from_secs(60);
/// Connections of one worker.
const MAX_CONNECTIONS: usize = 1 << 16;

const WAKER: Token = Token(usize::MAX - 1);
/// Tokens are a kind and an index.
const KIND: usize = 1 << 32;
const LISTENER: usize = 0;
const RELAY: usize = 1;
const CONNECTION: usize = 2;
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
    Drain(Arc<[SocketAddr]>),
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
    Udp { udp: Udp, address: SocketAddr },
    Tcp { listener: TcpListener },
}

#[derive(Debug)]
pub(crate) struct Worker {
    poll: Poll,
    listeners: Vec<Listener>,
    connections: Slab<Connection>,
    /// Counts connections; part of their links.
    serial: u64,
    /// Connections that have something queued.
    dirty: Vec<usize>,
    /// Sockets that had more than their turn's worth.
    more: Vec<Token>,
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
    longest_turn: Duration,
    stopped: bool,
}

/// What a packet needs: the protocol, and the ways out.
#[derive(Debug)]
struct Core {
    server: proto::Server,
    relays: Relays,
    addresses: Addresses,
    outbox: Outbox,
    registry: Registry,
    channels: Channels,
    reply: Vec<u8>,
}

impl Core {
    /// Handles one message of a client. `true` when `self.reply` is to be sent back.
    fn client(&mut self, now: Now, flow: &Flow, packet: &[u8]) -> bool {
        let mut action = self.server.handle_client(now, flow, packet, &mut self.reply);
        let reply = loop {
            match action {
                ClientAction::None => break false,
                ClientAction::Reply => break true,
                ClientAction::Relay { relay, peer, payload, dont_fragment } => {
                    let peer = self.addresses.to_local(peer);
                    self.outbox.push(Via::Relay(relay.0 as usize), peer, None, dont_fragment, |out| {
                        out.extend_from_slice(payload);
                        true
                    });
                    // nothing closes on a packet's way
                    return false;
                }
                ClientAction::Open(open) => {
                    self.close_relays();
                    let token = token(RELAY, open.relay.0 as usize);
                    let opened = self.relays.open(open, &self.addresses, &self.registry, token);
                    if let Err(error) = &opened {
                        tracing::debug!(port = open.port, %error, "a relay port could not be opened");
                    }
                    action = self.server.relay_opened(now, open.relay, opened.is_ok(), &mut self.reply);
                }
            }
        };
        self.close_relays();
        reply
    }

    fn close_relays(&mut self) {
        while let Some(relay) = self.server.poll_closed() {
            self.relays.close(relay);
        }
    }
}

impl Worker {
    /// A worker with its sockets registered, and the mailbox to reach it by.
    pub(crate) fn new(
        bound: Vec<Bound>,
        server: proto::Server,
        addresses: Addresses,
        channels: Channels,
        ring_revision: u64,
        published: Arc<Published>,
    ) -> io::Result<(Self, Mailbox)> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let (sender, commands) = mpsc::channel();
        let mut listeners = Vec::with_capacity(bound.len());
        for (index, Bound { transport, address, socket }) in bound.into_iter().enumerate() {
            let token = token(LISTENER, index);
            listeners.push(match transport {
                Transport::Udp | Transport::Dtls => {
                    let mut udp = Udp::new(socket.into())?;
                    poll.registry().register(&mut udp.socket, token, Interest::READABLE)?;
                    Listener::Udp { udp, address }
                }
                Transport::Tcp | Transport::Tls => {
                    let mut listener = TcpListener::from_std(socket.into());
                    poll.registry().register(&mut listener, token, Interest::READABLE)?;
                    Listener::Tcp { listener }
                }
            });
        }
        let core = Core {
            server,
            relays: Relays::default(),
            addresses,
            outbox: Outbox::default(),
            registry: poll.registry().try_clone()?,
            channels,
            reply: Vec::new(),
        };
        let mut worker = Self {
            poll,
            listeners,
            connections: Slab::new(),
            serial: 0,
            dirty: Vec::new(),
            more: Vec::new(),
            inbox: Inbox::new(),
            read_buffer: vec![0; 64 << 10].into(),
            replies: Vec::new(),
            core,
            commands,
            published,
            ring_revision,
            publish_at: None,
            sweep_at: Instant::now() + SWEEP,
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
            match self.poll.poll(&mut events, self.timeout()) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                result => result?,
            }
            let started = Instant::now();
            let now = Now { instant: started, unix: unix_now() };
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
            if self.sweep_at <= started {
                self.sweep(started);
            }
            self.longest_turn = self.longest_turn.max(started.elapsed());
            if self.publish_at.is_some_and(|at| at <= started) {
                self.publish();
            }
        }
        self.publish();
        Ok(())
    }

    fn timeout(&self) -> Option<Duration> {
        if !self.more.is_empty() {
            return Some(Duration::ZERO);
        }
        let sweep = (!self.connections.is_empty()).then_some(self.sweep_at);
        let due = [self.core.server.poll_timeout(), self.publish_at, sweep].into_iter().flatten().min()?;
        // a poll counts in milliseconds and rounds down, so one more spares a useless turn
        Some(due.saturating_duration_since(Instant::now()) + Duration::from_millis(1))
    }

    fn on_event(&mut self, now: Now, event: &Event) {
        let token = event.token();
        if token == WAKER {
            self.obey();
            return;
        }
        if token.0 / KIND == CONNECTION && event.is_writable() {
            self.flush_connection(token.0 % KIND);
        }
        if event.is_readable() || event.is_read_closed() || event.is_error() {
            self.on_ready(now, token, event.is_read_closed() || event.is_error());
        }
    }

    fn on_ready(&mut self, now: Now, token: Token, closing: bool) {
        let index = token.0 % KIND;
        let drained = match token.0 / KIND {
            LISTENER => match self.listeners.get(index) {
                Some(Listener::Udp { .. }) => self.receive_from_clients(now, index),
                Some(Listener::Tcp { .. }) => self.accept(now, index),
                None => true,
            },
            RELAY => self.receive_from_peers(now, index),
            _ => self.read_connection(now, index, closing),
        };
        self.publish_at.get_or_insert(now.instant + PUBLISH);
        if !drained {
            self.more.push(token);
        }
    }

    /// `true` when the socket is drained.
    fn receive_from_clients(&mut self, now: Now, index: usize) -> bool {
        let Self { listeners, inbox, core, .. } = self;
        let Some(Listener::Udp { udp, address }) = listeners.get(index) else { return true };
        let mut drained = false;
        for _ in 0..TURNS {
            let more = inbox.receive(udp).unwrap_or(false);
            for train in inbox.trains() {
                let server = SocketAddr::new(train.to.unwrap_or(address.ip()), address.port());
                let flow = Flow { transport: Transport::Udp, client: train.from, server, link: index as u64 };
                for datagram in train.datagrams() {
                    if core.client(now, &flow, datagram) {
                        let Core { outbox, reply, .. } = core;
                        outbox.push(Via::Listener(index), flow.client, train.to, false, |out| {
                            out.extend_from_slice(reply);
                            true
                        });
                    }
                }
            }
            flush(core, listeners);
            if !more {
                drained = true;
                break;
            }
        }
        drained
    }

    fn receive_from_peers(&mut self, now: Now, relay: usize) -> bool {
        let Self { listeners, inbox, core, connections, dirty, .. } = self;
        let mut drained = false;
        for _ in 0..TURNS {
            let Some(udp) = core.relays.get(relay) else { return true };
            let more = inbox.receive(udp).unwrap_or(false);
            for train in inbox.trains() {
                let peer = core.addresses.to_advertised(train.from);
                let route = core.server.route_from_peer(now, RelayId(relay as u32), peer, train.count());
                let Some(route) = route else { continue };
                let Core { server, outbox, .. } = core;
                if proto::is_stream(route.flow.transport) {
                    let index = (route.flow.link & LINK_INDEX) as usize;
                    let Some(connection) = connections.get_mut(index).filter(|c| c.flow == route.flow) else {
                        continue;
                    };
                    for datagram in train.datagrams() {
                        if !connection.push(|out| server.encode_to_client(&route, datagram, out)) {
                            server.count_drop(Drop::QueueFull);
                        }
                    }
                    dirty.push(index);
                } else {
                    let (via, source) =
                        (Via::Listener(route.flow.link as usize), Some(route.flow.server.ip()));
                    for datagram in train.datagrams() {
                        outbox.push(via, route.flow.client, source, false, |out| {
                            server.encode_to_client(&route, datagram, out)
                        });
                    }
                }
            }
            flush(core, listeners);
            if !more {
                drained = true;
                break;
            }
        }
        self.flush_dirty();
        drained
    }

    fn accept(&mut self, now: Now, index: usize) -> bool {
        for _ in 0..64 {
            let Some(Listener::Tcp { listener }) = self.listeners.get(index) else { return true };
            match listener.accept() {
                Ok((stream, client)) => self.greet(now, stream, client),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return true,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    return true;
                }
            }
        }
        false
    }

    fn greet(&mut self, now: Now, mut stream: mio::net::TcpStream, client: SocketAddr) {
        let entry = self.connections.vacant_key();
        let Ok(server) = stream.local_addr() else { return };
        if entry >= MAX_CONNECTIONS || stream.set_nodelay(true).is_err() {
            return;
        }
        self.serial += 1;
        let link = (self.serial << 24) | entry as u64;
        let flow = Flow { transport: Transport::Tcp, client, server, link };
        let interest = Interest::READABLE | Interest::WRITABLE;
        if self.poll.registry().register(&mut stream, token(CONNECTION, entry), interest).is_ok() {
            self.connections.insert(Connection::new(stream, flow, now.instant));
        }
    }

    fn read_connection(&mut self, now: Now, index: usize, closing: bool) -> bool {
        let mut state = ReadState::More;
        for _ in 0..TURNS {
            let Self { connections, core, read_buffer, replies, listeners, .. } = self;
            let Some(connection) = connections.get_mut(index) else { return true };
            connection.last_seen = now.instant;
            let flow = connection.flow;
            state = connection.read(read_buffer, core.channels, |frame| {
                if core.client(now, &flow, frame) {
                    replies.extend_from_slice(&core.reply);
                }
            });
            flush(core, listeners);
            if !replies.is_empty() {
                let queued = connection.push(|out| {
                    out.extend_from_slice(replies);
                    true
                });
                if !queued {
                    core.server.count_drop(Drop::QueueFull);
                }
                replies.clear();
                self.dirty.push(index);
            }
            // a short read drains the stream, except that its end may follow at once
            if state == ReadState::Closed || (state == ReadState::Drained && !closing) {
                break;
            }
            if state == ReadState::Drained && closing {
                state = ReadState::More;
            }
        }
        self.flush_dirty();
        if state == ReadState::Closed {
            self.hang_up(index);
        }
        state != ReadState::More
    }

    fn flush_dirty(&mut self) {
        while let Some(index) = self.dirty.pop() {
            self.flush_connection(index);
        }
    }

    fn flush_connection(&mut self, index: usize) {
        if self.connections.get_mut(index).is_some_and(|c| !c.flush()) {
            self.hang_up(index);
        }
    }

    fn hang_up(&mut self, index: usize) {
        if let Some(connection) = self.connections.try_remove(index) {
            self.core.server.client_gone(&connection.flow);
            self.core.close_relays();
        }
    }

    /// Ends connections that never got to an allocation.
    fn sweep(&mut self, now: Instant) {
        self.sweep_at = now + SWEEP;
        let server = &self.core.server;
        self.connections.retain(|_, c| now.duration_since(c.last_seen) < IDLE || server.holds(&c.flow));
    }

    fn obey(&mut self) {
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Keys(keys) => {
                    self.ring_revision = keys.revision;
                    self.core.server.set_keys(keys);
                }
                Command::Peers(peers) => self.core.server.set_peers(peers),
                Command::Addresses(addresses) => {
                    self.core.addresses = addresses;
                    self.core.server.set_relay_addresses(addresses.advertised());
                }
                Command::Drain(alternates) => self.core.server.drain(alternates),
                Command::Stop => self.stopped = true,
            }
        }
        self.publish();
    }

    fn publish(&mut self) {
        self.publish_at = None;
        let turn = std::mem::take(&mut self.longest_turn);
        self.published.update(&self.core.server, self.ring_revision, self.connections.len(), turn);
    }
}

/// Sends what a batch brought forth.
fn flush(core: &mut Core, listeners: &[Listener]) {
    let Core { outbox, relays, server, .. } = core;
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
}
