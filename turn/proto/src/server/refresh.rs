//! Refresh (RFC 8656, section 8.2, and RFC 8016, section 3.2.2), and how long an allocation lives.

use super::{
    Server,
    requests::{Request, protect},
};
use crate::{
    Class, ErrorCode, Method, Writer,
    attributes::{self as attr, Family, Lifetime, RequestedAddressFamily},
};
use std::time::Duration;

impl Server {
    /// RFC 8656, sections 7.2 and 8.2: what is asked for, between the default and the maximum.
    pub(super) fn granted(&self, asked: Option<Lifetime>) -> Duration {
        let asked = asked.map_or(Duration::ZERO, |Lifetime(seconds)| Duration::from_secs(seconds.into()));
        asked.min(self.config.max_lifetime).max(self.config.default_lifetime)
    }

    /// Whether the request `moves` the allocation to its flow, and whether it is by a ticket, so that the answer
    /// holds the next.
    pub(super) fn refresh(
        &mut self,
        request: &Request<'_, '_>,
        index: usize,
        moves: bool,
        by_ticket: bool,
        reply: &mut Vec<u8>,
    ) -> Result<(), ErrorCode> {
        let lifetime = request.message.get::<Lifetime>().map_err(|_| ErrorCode::BadRequest)?;
        let family = request.message.get::<RequestedAddressFamily>().map_err(|_| ErrorCode::BadRequest)?;
        let allocation = self.allocations.get(index).ok_or(ErrorCode::AllocationMismatch)?;
        let held = |family: Family| allocation.relays[family as usize].is_some();
        let only = match family {
            Some(RequestedAddressFamily(Some(family))) if held(family) => Some(family),
            Some(_) => return Err(ErrorCode::PeerAddressFamilyMismatch),
            None => None,
        };
        if moves {
            self.arrive(request, index)?;
        }
        let allocation = self.allocations.get(index).ok_or(ErrorCode::AllocationMismatch)?;
        let held = |family: Family| allocation.relays[family as usize].is_some();
        let granted = if lifetime == Some(Lifetime(0)) {
            let dual = held(Family::V4) && held(Family::V6);
            match only {
                Some(family) if dual => self.give_up(index, family),
                _ => self.remove(index),
            }
            Duration::ZERO
        } else {
            let granted = self.granted(lifetime);
            if let Some(allocation) = self.allocations.get_mut(index) {
                allocation.expires = request.now.instant + granted;
                self.schedule(index, false);
            }
            granted
        };
        let ticket = if by_ticket { self.ticket(index) } else { None };
        let mut w = Writer::new(reply, Class::Success, Method::REFRESH, request.message.id());
        w.u32(attr::LIFETIME, granted.as_secs() as u32);
        if let Some(ticket) = ticket {
            w.raw(attr::MOBILITY_TICKET, &ticket);
        }
        self.software(Method::REFRESH, &mut w);
        protect(&mut w, &request.who);
        Ok(())
    }

    /// Ends one half of a dual allocation.
    fn give_up(&mut self, index: usize, family: Family) {
        let Some(allocation) = self.allocations.get_mut(index) else { return };
        allocation.permissions.retain(|p| Family::of(&p.ip) != family);
        allocation.channels.retain(|c| Family::of(&c.peer.ip()) != family);
        let relay = allocation.relays[family as usize].take();
        self.close_connections_of(index, family);
        if let Some(relay) = relay {
            self.close(relay);
        }
    }
}
