//! Permissions and channels (RFC 8656, sections 10.2 and 12.2).

use super::{
    Server,
    allocation::{CHANNEL_LIFETIME, Channel, PERMISSION_LIFETIME},
    requests::Request,
};
use crate::{
    ErrorCode, Verdict,
    attributes::{ChannelNumber, XorPeerAddress},
};

impl Server {
    pub(super) fn create_permission(
        &mut self,
        request: &Request<'_, '_>,
        index: usize,
        reply: &mut Vec<u8>,
    ) -> Result<(), ErrorCode> {
        let allocation = self.allocations.get_mut(index).ok_or(ErrorCode::AllocationMismatch)?;
        let peers: Result<Vec<_>, _> = request.message.all::<XorPeerAddress>().collect();
        let peers = peers.ok().filter(|peers| !peers.is_empty()).ok_or(ErrorCode::BadRequest)?;
        // all or nothing: each is judged before the first is installed
        let mut judged = Vec::with_capacity(peers.len());
        for XorPeerAddress(peer) in peers {
            allocation.relay_for(&peer.ip()).ok_or(ErrorCode::PeerAddressFamilyMismatch)?;
            match self.peers.judge(peer.ip()) {
                Verdict::Denied => return Err(ErrorCode::Forbidden),
                verdict => judged.push((peer.ip(), verdict)),
            }
        }
        let (now, max) = (request.now.instant, self.config.max_permissions);
        if !allocation.has_room(judged.iter().map(|(ip, _)| *ip), now, max) {
            return Err(ErrorCode::InsufficientCapacity);
        }
        for (ip, verdict) in judged {
            allocation.permit(ip, verdict, now);
        }
        self.succeed(request, reply);
        Ok(())
    }

    pub(super) fn channel_bind(
        &mut self,
        request: &Request<'_, '_>,
        index: usize,
        reply: &mut Vec<u8>,
    ) -> Result<(), ErrorCode> {
        let now = request.now.instant;
        let (Ok(Some(ChannelNumber(number))), Ok(Some(XorPeerAddress(peer)))) =
            (request.message.get::<ChannelNumber>(), request.message.get::<XorPeerAddress>())
        else {
            return Err(ErrorCode::BadRequest);
        };
        if !self.config.channels.contains(number) {
            return Err(ErrorCode::BadRequest);
        }
        let allocation = self.allocations.get_mut(index).ok_or(ErrorCode::AllocationMismatch)?;
        if allocation.connections.is_some() {
            // channels are for datagrams (RFC 6062, section 3)
            return Err(ErrorCode::BadRequest);
        }
        allocation.channels.retain(|channel| channel.expires > now);
        if allocation.channels.iter().any(|c| (c.number == number) != (c.peer == peer)) {
            return Err(ErrorCode::BadRequest);
        }
        let relay = allocation.relay_for(&peer.ip()).ok_or(ErrorCode::PeerAddressFamilyMismatch)?;
        if !self.peers.permits(peer) {
            return Err(ErrorCode::Forbidden);
        }
        let bound = allocation.channels.iter().position(|channel| channel.number == number);
        let max = self.config.max_permissions;
        if bound.is_none() && allocation.channels.len() >= max {
            return Err(ErrorCode::InsufficientCapacity);
        }
        if !allocation.has_room([peer.ip()], now, max) {
            return Err(ErrorCode::InsufficientCapacity);
        }
        allocation.permit(peer.ip(), self.peers.judge(peer.ip()), now);
        let expires = now + CHANNEL_LIFETIME;
        match bound {
            Some(at) => allocation.channels[at].expires = expires,
            None => {
                let permitted_until = now + PERMISSION_LIFETIME;
                allocation.channels.push(Channel { number, peer, relay, expires, permitted_until });
            }
        }
        self.succeed(request, reply);
        Ok(())
    }
}
