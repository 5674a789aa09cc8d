//! What a packet needs: the protocol, and the ways out. Nothing is sent here; the worker sends what a
//! batch brought forth.

use super::{PEER, RELAY, token};
use crate::{
    peers::Peers,
    post::{Label, Parcel, Post},
    relay::{Addresses, Relays},
    tcp::Next,
    udp::{Lost, MAX_DATAGRAM, Outbox, Via},
};
use mio::Registry;
use rtc_credentials::Transport;
use rtc_turn_proto::{
    self as proto, ClientAction, ConnectionId, Drop, Flow, Now, PeerRoute, RelayId, channel_data::Channels,
};
use std::{
    io,
    net::{IpAddr, SocketAddr},
};

/// What a stream or socket is to do after a client's message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    Nothing,
    /// Send the answer.
    Reply,
    /// Send the answer, and carry that connection's data from then on.
    Bind(ConnectionId),
    /// Let another worker handle the message.
    HandOver(u16),
}

#[derive(Debug)]
pub(super) struct Core {
    pub(super) server: proto::Server,
    pub(super) index: u16,
    pub(super) relays: Relays,
    pub(super) peers: Peers,
    pub(super) addresses: Addresses,
    pub(super) registry: Registry,
    pub(super) channels: Channels,
    /// The answer to the last message of a client.
    pub(super) reply: Vec<u8>,
    /// Datagrams to clients and peers.
    pub(super) outbox: Outbox,
    /// Frames to clients over streams, and messages to clients over DTLS.
    pub(super) frames: Frames,
    /// Datagrams to other workers' clients.
    pub(super) post: Post,
    /// The way of the last datagram to a peer. Good until something other than data is handled.
    last_way: Option<(RelayId, SocketAddr, Way)>,
    /// Datagrams that went to a client of this server without the kernel.
    pub(super) short_cuts: u64,
}

/// How a datagram from a client goes on.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// By the relay socket, to this address.
    Kernel(SocketAddr),
    /// To a client of this worker.
    Here(PeerRoute),
    /// To a client of another.
    Across(u16, Label),
}

impl Core {
    pub(super) fn new(
        server: proto::Server,
        index: u16,
        relays: Relays,
        addresses: Addresses,
        registry: Registry,
        channels: Channels,
        post: Post,
    ) -> Self {
        Self {
            server,
            index,
            relays,
            peers: Peers::default(),
            addresses,
            registry,
            channels,
            reply: Vec::new(),
            outbox: Outbox::default(),
            frames: Frames::default(),
            post,
            last_way: None,
            short_cuts: 0,
        }
    }

    /// Handles one message of a client. The answer, if there is one, is `self.reply`.
    pub(super) fn client(&mut self, now: Now, flow: &Flow, packet: &[u8]) -> After {
        let mut action = self.server.handle_client(now, flow, packet, &mut self.reply);
        let after = loop {
            match action {
                ClientAction::None => break After::Nothing,
                ClientAction::Reply => break After::Reply,
                ClientAction::ReplyBy(flow) => {
                    let (via, reply) = (Via::Listener(flow.link as usize), &self.reply);
                    self.outbox.push(via, flow.client, Some(flow.server.ip()), false, |out| {
                        out.extend_from_slice(reply);
                        true
                    });
                    break After::Nothing;
                }
                ClientAction::Bind { connection } => break After::Bind(connection),
                ClientAction::HandOver { worker } => break After::HandOver(worker),
                ClientAction::Connect { connection, relay, peer } => {
                    if let Err(error) = self.connect(connection, relay, peer) {
                        tracing::debug!(%peer, %error, "a peer could not be connected to");
                        self.server.connected(now, connection, false);
                    }
                    break After::Nothing;
                }
                ClientAction::Relay { relay, peer, payload, dont_fragment } => {
                    self.relay(now, relay, peer, payload, dont_fragment);
                    // nothing closes on a packet's way
                    return After::Nothing;
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
        self.last_way = None;
        self.close_relays();
        after
    }

    /// Handles one datagram of a client, which came to the listener that is the flow's link, at the address
    /// `to` where that has to be named. Returns the worker that is to handle it instead.
    pub(super) fn datagram(
        &mut self,
        now: Now,
        flow: &Flow,
        to: Option<IpAddr>,
        datagram: &[u8],
    ) -> Option<u16> {
        match self.client(now, flow, datagram) {
            After::Reply => {
                let Self { outbox, reply, .. } = self;
                outbox.push(Via::Listener(flow.link as usize), flow.client, to, false, |out| {
                    out.extend_from_slice(reply);
                    true
                });
                None
            }
            After::HandOver(worker) => Some(worker),
            After::Nothing | After::Bind(_) => None,
        }
    }

    /// Adds the answer, if there is one, to what a stream is sent. Returns how to go on with it.
    pub(super) fn answer(&self, after: After, replies: &mut Vec<u8>) -> Next {
        if matches!(after, After::Reply | After::Bind(_)) {
            replies.extend_from_slice(&self.reply);
        }
        match after {
            After::Nothing | After::Reply => Next::Frame,
            After::Bind(_) => Next::Stop,
            After::HandOver(_) => Next::StopBefore,
        }
    }

    fn connect(&mut self, id: ConnectionId, relay: RelayId, peer: SocketAddr) -> io::Result<()> {
        let stream = self.relays.connect(relay, self.addresses.to_local(peer))?;
        self.peers.insert(id, stream, true, &self.registry, |index| token(PEER, index))
    }

    /// Queues a message for a client.
    pub(super) fn notify(&mut self, flow: &Flow, message: &[u8]) {
        let write = |out: &mut Vec<u8>| {
            out.extend_from_slice(message);
            true
        };
        if flow.transport != Transport::Udp {
            self.frames.push(flow, write);
        } else {
            let via = Via::Listener(flow.link as usize);
            self.outbox.push(via, flow.client, Some(flow.server.ip()), false, write);
        }
    }

    /// A client has gone, and its allocation with it.
    pub(super) fn gone(&mut self, flow: &Flow) {
        self.server.client_gone(flow);
        self.last_way = None;
        self.close_relays();
    }

    pub(super) fn close_relays(&mut self) {
        while let Some(relay) = self.server.poll_closed() {
            self.relays.close(relay);
        }
    }

    fn relay(&mut self, now: Now, relay: RelayId, peer: SocketAddr, payload: &[u8], dont_fragment: bool) {
        let way = match self.last_way {
            // what no datagram can carry is left to the kernel to refuse
            _ if payload.len() > MAX_DATAGRAM => Way::Kernel(self.addresses.to_local(peer)),
            Some((last_relay, last_peer, way)) if last_relay == relay && last_peer == peer => way,
            _ => {
                let Some(way) = self.way(now, relay, peer) else { return };
                self.last_way = Some((relay, peer, way));
                way
            }
        };
        match way {
            Way::Kernel(to) => {
                self.outbox.push(Via::Relay(relay.0 as usize), to, None, dont_fragment, |out| {
                    out.extend_from_slice(payload);
                    true
                });
            }
            Way::Here(route) => {
                self.short_cuts += 1;
                self.deliver(&route, payload);
            }
            Way::Across(worker, label) => {
                self.short_cuts += 1;
                self.post.push(worker, label, payload);
            }
        }
    }

    /// `None`, and counted, when the peer is a client of this worker that does not want it.
    fn way(&mut self, now: Now, relay: RelayId, peer: SocketAddr) -> Option<Way> {
        let kernel = Way::Kernel(self.addresses.to_local(peer));
        if !self.addresses.is_advertised(peer.ip()) {
            return Some(kernel);
        }
        let (Some(holder), Some(from)) = (self.relays.holder(peer), self.server.relayed_address(relay))
        else {
            return Some(kernel);
        };
        // what a client sends to itself goes by the socket: the readiness probe is about sockets
        let itself = holder.worker == self.index && holder.relay == relay;
        if itself || !self.addresses.is_advertised(from.ip()) {
            return Some(kernel);
        }
        if holder.worker != self.index {
            let label = Label::Peer { relay: holder.relay, to: peer, from };
            return Some(Way::Across(holder.worker, label));
        }
        self.arrive(now, holder.relay, peer, from).map(Way::Here)
    }

    /// What a datagram that arrives at the relay socket meets. `None` is counted.
    fn arrive(&mut self, now: Now, relay: RelayId, to: SocketAddr, from: SocketAddr) -> Option<PeerRoute> {
        // a letter may be late: the allocation gone, its number another's
        if self.server.relayed_address(relay) != Some(to) {
            self.server.count_drop(Drop::NoAllocation);
            return None;
        }
        self.server.route_from_peer(now, relay, from, 1)
    }

    /// Datagrams from another worker. Those of clients over DTLS are for `dtls`.
    pub(super) fn letters(
        &mut self,
        now: Now,
        parcel: &Parcel,
        mut dtls: impl FnMut(&mut Self, Flow, Option<IpAddr>, &[u8]),
    ) {
        let mut last = None;
        for (label, datagram) in parcel.letters() {
            let route = match (label, last) {
                (Label::Client { flow, to }, _) if flow.transport == Transport::Dtls => {
                    dtls(self, flow, to, datagram);
                    continue;
                }
                (Label::Client { flow, to }, _) => {
                    // a letter is not sent on, lest it travel for ever
                    if self.datagram(now, &flow, to, datagram).is_some() {
                        self.server.count_drop(Drop::NoAllocation);
                    }
                    continue;
                }
                (_, Some((same, route))) if same == label => route,
                (Label::Peer { relay, to, from }, _) => {
                    let Some(route) = self.arrive(now, relay, to, from) else { continue };
                    last = Some((label, route));
                    route
                }
            };
            self.deliver(&route, datagram);
        }
    }

    /// Queues a datagram of a peer for a client.
    pub(super) fn deliver(&mut self, route: &PeerRoute, datagram: &[u8]) {
        let Self { server, outbox, frames, .. } = self;
        let flow = &route.flow;
        let write = |out: &mut Vec<u8>| server.encode_to_client(route, datagram, out);
        if flow.transport != Transport::Udp {
            frames.push(flow, write);
        } else {
            let via = Via::Listener(flow.link as usize);
            outbox.push(via, flow.client, Some(flow.server.ip()), false, write);
        }
    }

    /// Queues word of a lost datagram for the client that sent it.
    pub(super) fn lost(&mut self, now: Now, relay: RelayId, lost: Lost) {
        let peer = self.addresses.to_advertised(lost.to);
        let mut message = Vec::new();
        if let Some(flow) = self.server.icmp_from_peer(now, relay, peer, lost.icmp, &mut message) {
            self.notify(&flow, &message);
        }
    }

    /// To be called at the end of a batch, when the outbox and the frames have been sent.
    pub(super) fn end_batch(&mut self) {
        self.last_way = None;
        for _ in 0..self.post.flush() {
            self.server.count_drop(Drop::QueueFull);
        }
    }
}

/// Frames of a batch, for clients over streams or DTLS.
#[derive(Debug, Default)]
pub(super) struct Frames {
    contents: Vec<u8>,
    /// Each with the end of its frame.
    flows: Vec<(Flow, usize)>,
}

impl Frames {
    /// Adds the frame that `write` appends; nothing when that is `false`.
    fn push(&mut self, flow: &Flow, write: impl FnOnce(&mut Vec<u8>) -> bool) {
        let start = self.contents.len();
        if write(&mut self.contents) {
            self.flows.push((*flow, self.contents.len()));
        } else {
            self.contents.truncate(start);
        }
    }

    /// Hands all of them over.
    pub(super) fn drain(&mut self, mut each: impl FnMut(&Flow, &[u8])) {
        let mut start = 0;
        for (flow, end) in self.flows.drain(..) {
            each(&flow, &self.contents[start..end]);
            start = end;
        }
        self.contents.clear();
    }
}
