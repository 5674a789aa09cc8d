//! Data on its way: ChannelData and Send to peers, and back (RFC 8656, sections 11 and 12).

use super::{
    ClientAction, Flow, Now, RelayId, Server,
    allocation::{Allocation, Channel},
    is_stream,
    requests::unknown_attributes,
};
use crate::{
    Class, Drop, Message, Method, TransactionId, Verdict, Writer,
    attributes::{self as attr, Family, Icmp, XorPeerAddress},
    bandwidth::Direction,
    channel_data,
};
use rand::Rng;
use std::{net::SocketAddr, time::Instant};

/// The longest payload that a Data indication can carry beside an IPv6 address.
const MAX_INDICATED: usize = 65_500;

/// Lost datagrams that a client is told of in a second, for one relayed address. The network's word
/// is easily forged, and what it costs is to be bounded.
const MAX_ICMP: u8 = 16;

/// Where datagrams from one peer go, and in what form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerRoute {
    /// The client's flow.
    pub flow: Flow,
    peer: SocketAddr,
    channel: Option<u16>,
    /// The allocation whose bandwidth is bounded, and when the datagrams came.
    metered: Option<(usize, Instant)>,
}

impl Server {
    /// The hot path: one look-up by flow (none within a train), one by channel.
    pub(super) fn handle_channel_data<'p>(
        &mut self,
        now: Now,
        flow: &Flow,
        packet: &'p [u8],
    ) -> ClientAction<'p> {
        let Some((number, payload)) = channel_data::parse(packet) else { return self.drop(Drop::Malformed) };
        let Some(index) = self.find(flow) else { return self.drop(Drop::NoAllocation) };
        self.heard(index, flow);
        let Some(allocation) = self.allocations.get_mut(index) else {
            return self.drop(Drop::NoAllocation);
        };
        let bound = allocation.channels.iter().find(|c| c.number == number && c.expires > now.instant);
        let Some(&Channel { relay, peer, .. }) = bound else { return self.drop(Drop::NoChannel) };
        if !allocation.may_relay(Direction::ToPeer, payload.len(), now.instant) {
            return self.drop(Drop::BandwidthQuota);
        }
        self.counters.to_peers[flow.transport as usize].add(payload.len());
        ClientAction::Relay { relay, peer, payload, dont_fragment: false }
    }

    /// Never answered, whatever is wrong with it (RFC 8656, section 11.2).
    pub(super) fn send_indication<'p>(
        &mut self,
        now: Now,
        flow: &Flow,
        message: &Message<'p>,
    ) -> ClientAction<'p> {
        let (Ok(Some(XorPeerAddress(peer))), Some(payload)) =
            (message.get::<XorPeerAddress>(), message.raw(attr::DATA))
        else {
            return self.drop(Drop::Malformed);
        };
        if unknown_attributes(message).next().is_some() {
            return self.drop(Drop::Malformed);
        }
        let Some(index) = self.find(flow) else { return self.drop(Drop::NoAllocation) };
        self.heard(index, flow);
        let Some(allocation) = self.allocations.get(index) else { return self.drop(Drop::NoAllocation) };
        if allocation.connections.is_some() {
            return self.drop(Drop::Unexpected);
        }
        let permission = allocation.permission(&peer.ip(), now.instant);
        let (Some(permission), Some(relay)) = (permission, allocation.relay_for(&peer.ip())) else {
            return self.drop(Drop::NoPermission);
        };
        if !self.may_exchange(permission.verdict, peer) {
            return self.drop(Drop::PeerDenied);
        }
        let within_quota = |a: &mut Allocation| a.may_relay(Direction::ToPeer, payload.len(), now.instant);
        if !self.allocations.get_mut(index).is_some_and(within_quota) {
            return self.drop(Drop::BandwidthQuota);
        }
        self.counters.to_peers[flow.transport as usize].add(payload.len());
        let dont_fragment = message.raw(attr::DONT_FRAGMENT).is_some();
        ClientAction::Relay { relay, peer, payload, dont_fragment }
    }

    /// The address that peers know a relay socket by. A driver that finds a peer's address among
    /// those of its own relay sockets may hand a payload over without the system: to
    /// [`Server::route_from_peer`] of the peer's relay socket, as sent from this one's address.
    #[must_use]
    pub fn relayed_address(&self, relay: RelayId) -> Option<SocketAddr> {
        self.relays.get(relay.0 as usize).map(|relay| relay.address)
    }

    /// Where datagrams that `peer` sent to `relay` go (RFC 8656, section 11.3). `None` is counted as
    /// `packets` drops.
    pub fn route_from_peer(
        &mut self,
        now: Now,
        relay: RelayId,
        peer: SocketAddr,
        packets: u64,
    ) -> Option<PeerRoute> {
        self.find_route(now, relay, peer).map_err(|why| self.counters.drops[why as usize] += packets).ok()
    }

    fn find_route(&self, now: Now, relay: RelayId, peer: SocketAddr) -> Result<PeerRoute, Drop> {
        let index = self.relays.get(relay.0 as usize).map(|relay| relay.allocation);
        let index = index.ok_or(Drop::NoAllocation)?;
        let allocation = self.allocations.get(index).ok_or(Drop::NoAllocation)?;
        if allocation.is_away() {
            return Err(Drop::ClientAway);
        }
        let metered = allocation.meter.is_some().then_some((index, now.instant));
        let bound = allocation.channels.iter().find(|c| c.peer == peer && c.expires > now.instant);
        if let Some(channel) = bound {
            if channel.permitted_until <= now.instant {
                return Err(Drop::NoPermission);
            }
            return Ok(PeerRoute { flow: allocation.flow, peer, channel: Some(channel.number), metered });
        }
        let permission = allocation.permission(&peer.ip(), now.instant).ok_or(Drop::NoPermission)?;
        if !self.may_exchange(permission.verdict, peer) {
            return Err(Drop::PeerDenied);
        }
        Ok(PeerRoute { flow: allocation.flow, peer, channel: None, metered })
    }

    /// Appends the message that carries `payload` to the client: ChannelData, or a Data indication.
    /// `false`, and counted, when no message can, or it is above the bandwidth quota.
    pub fn encode_to_client(&mut self, route: &PeerRoute, payload: &[u8], out: &mut Vec<u8>) -> bool {
        if let Some((index, now)) = route.metered
            && let Some(allocation) = self.allocations.get_mut(index)
            && !allocation.may_relay(Direction::ToClient, payload.len(), now)
        {
            self.counters.dropped(Drop::BandwidthQuota);
            return false;
        }
        match route.channel {
            Some(number) => channel_data::write(number, payload, is_stream(route.flow.transport), out),
            None if payload.len() > MAX_INDICATED => {
                self.counters.dropped(Drop::TooLong);
                return false;
            }
            None => {
                let id = TransactionId(self.rng.random());
                Writer::new(out, Class::Indication, Method::DATA, id)
                    .xor_address(attr::XOR_PEER_ADDRESS, route.peer)
                    .raw(attr::DATA, payload);
            }
        }
        self.counters.to_clients[route.flow.transport as usize].add(payload.len());
        true
    }

    /// The network says why a datagram from `relay` to `peer` was lost: appends the indication for the
    /// client, and returns its flow (RFC 8656, section 11.5). `None` without a permission, for a kind
    /// that no client is told of, and when the client has been told enough this second.
    pub fn icmp_from_peer(
        &mut self,
        now: Now,
        relay: RelayId,
        peer: SocketAddr,
        icmp: Icmp,
        out: &mut Vec<u8>,
    ) -> Option<Flow> {
        let entry = self.relays.get_mut(relay.0 as usize)?;
        let allocation = self.allocations.get(entry.allocation).filter(|a| !a.is_away())?;
        // addresses alone count, not ports
        let permitted = allocation.permission(&peer.ip(), now.instant).is_some();
        if !permitted || !icmp.is_relayed(Family::of(&peer.ip())) {
            return None;
        }
        if entry.told.0 != now.unix {
            entry.told = (now.unix, 0);
        }
        if entry.told.1 >= MAX_ICMP {
            self.counters.dropped(Drop::ErrorBudget);
            return None;
        }
        entry.told.1 += 1;
        // always an indication, even where a channel is bound (RFC 8656, section 12.7)
        Writer::new(out, Class::Indication, Method::DATA, TransactionId(self.rng.random()))
            .xor_address(attr::XOR_PEER_ADDRESS, peer)
            .raw(attr::ICMP, &icmp.encode());
        Some(allocation.flow)
    }

    pub(super) fn may_exchange(&self, verdict: Verdict, peer: SocketAddr) -> bool {
        match verdict {
            Verdict::Allowed => peer.port() != 0,
            Verdict::RelayPortsOnly => self.peers.relay_ports.contains(peer.port()),
            Verdict::Denied => false,
        }
    }
}
