//! Clients that change their address and keep their allocation (RFC 8016). The allocation stays at its
//! worker; the client's datagrams and connections go there, wherever they come in.

use super::{Flow, Server, allocation::Allocation, requests::Request};
use crate::{
    ErrorCode, Message, Method, TransactionId, Transport, attributes as attr, is_stream, mobility::Named,
};

/// What a ticket holds of an allocation's generation.
const GENERATIONS: u64 = (1 << 40) - 1;

/// What an allocation with a ticket knows beside its flow.
#[derive(Debug, Default)]
pub(super) struct Mobile {
    /// Which of its tickets is the good one.
    serial: u16,
    /// Where its client has gone. Data goes to the allocation's flow until some comes by this one.
    pub(super) next: Option<Flow>,
    /// The connection that it had is closed, and no other is known.
    pub(super) is_away: bool,
    /// The last move, to know its retransmissions by.
    last: Option<(TransactionId, Flow)>,
}

/// What a Refresh's ticket says; otherwise why it is refused.
pub(super) type Shown = Result<Named, ErrorCode>;

impl Server {
    /// Another worker serves the client of this flow, as its allocation is there.
    pub(super) fn served_by(&mut self, flow: &Flow) -> Option<u16> {
        let nobody = self.config.mobility.as_ref().is_none_or(|mobility| mobility.is_empty());
        if nobody || self.find(flow).is_some() {
            return None;
        }
        let worker = self.config.mobility.as_ref()?.worker_of(flow)?;
        (worker != self.config.share.index).then_some(worker)
    }

    /// Whether an Allocate asks for a ticket (RFC 8016, section 3.1.2).
    pub(super) fn wants_ticket(&self, message: &Message<'_>) -> Result<bool, ErrorCode> {
        match message.raw(attr::MOBILITY_TICKET) {
            None => Ok(false),
            Some([]) if self.config.mobility.is_some() => Ok(true),
            Some([]) => Err(ErrorCode::MobilityForbidden),
            Some(_) => Err(ErrorCode::BadRequest),
        }
    }

    /// The ticket of a Refresh, if it has one.
    pub(super) fn shown(&self, message: &Message<'_>) -> Option<Shown> {
        let ticket = message.raw(attr::MOBILITY_TICKET).filter(|_| message.method() == Method::REFRESH)?;
        Some(match &self.config.mobility {
            Some(mobility) => mobility.open(ticket).ok_or(ErrorCode::BadRequest),
            None => Err(ErrorCode::MobilityForbidden),
        })
    }

    /// The allocation of this worker that a ticket names.
    pub(super) fn named(&self, named: &Named) -> Option<usize> {
        let index = named.index as usize;
        let lives = |a: &Allocation| a.generation & GENERATIONS == named.generation && a.opening.is_none();
        (named.worker == self.config.share.index && self.allocations.get(index).is_some_and(lives))
            .then_some(index)
    }

    /// A Refresh with a ticket, whose sender is authentic (RFC 8016, section 3.2.2). `held` is the
    /// allocation of the flow that it came by.
    pub(super) fn refresh_by_ticket(
        &mut self,
        request: &Request<'_, '_>,
        held: Option<usize>,
        shown: Shown,
        reply: &mut Vec<u8>,
    ) -> Result<(), ErrorCode> {
        let named = shown?;
        let index = self.named(&named).ok_or(ErrorCode::AllocationMismatch)?;
        let allocation = self.allocations.get(index).ok_or(ErrorCode::AllocationMismatch)?;
        let mobile = allocation.mobile.as_ref().ok_or(ErrorCode::BadRequest)?;
        if held.is_some_and(|held| held != index) {
            // a five-tuple has one allocation
            return Err(ErrorCode::AllocationMismatch);
        }
        if allocation.username != request.who.username {
            return Err(ErrorCode::WrongCredentials);
        }
        // an old ticket is for retransmissions alone
        if mobile.serial == named.serial.wrapping_add(1)
            && mobile.last == Some((request.message.id(), *request.flow))
        {
            return self.refresh(request, index, false, true, reply);
        }
        if mobile.serial != named.serial || *request.flow == *mobile.next.as_ref().unwrap_or(&allocation.flow)
        {
            return Err(ErrorCode::BadRequest);
        }
        if allocation.connections.is_some() && !is_stream(request.flow.transport) {
            // what ConnectionAttempt and Connect tell has to arrive (RFC 6062, section 4.1)
            return Err(ErrorCode::MobilityForbidden);
        }
        self.refresh(request, index, true, true, reply)
    }

    /// Has an allocation served at the request's flow too, and data follow as soon as the client sends some
    /// from there.
    pub(super) fn arrive(&mut self, request: &Request<'_, '_>, index: usize) -> Result<(), ErrorCode> {
        let (flow, own) = (*request.flow, self.config.share.index);
        let Some(allocation) = self.allocations.get_mut(index) else { return Ok(()) };
        let Some(mobile) = &mut allocation.mobile else { return Ok(()) };
        let is_back = flow == allocation.flow;
        if !is_back && flow.transport == Transport::Udp {
            let entered = self.config.mobility.as_ref().is_none_or(|mobility| mobility.enter(&flow, own));
            if !entered {
                return Err(ErrorCode::AllocationMismatch);
            }
        }
        mobile.serial = mobile.serial.wrapping_add(1);
        mobile.last = Some((request.message.id(), flow));
        let left = if is_back { mobile.next.take() } else { mobile.next.replace(flow) };
        let was_away = std::mem::take(&mut mobile.is_away);
        self.by_flow.insert(flow, index);
        if let Some(left) = left {
            self.leave(&left, index);
        }
        if was_away {
            self.settle(index);
        }
        self.last = None;
        self.counters.moves += 1;
        Ok(())
    }

    /// A client has sent data by `flow`. If it has moved there, it is not at the old one any more.
    pub(super) fn heard(&mut self, index: usize, flow: &Flow) {
        let next = self.allocations.get(index).and_then(|a| a.mobile.as_ref()).and_then(|m| m.next);
        if next.as_ref() == Some(flow) {
            self.settle(index);
        }
    }

    fn settle(&mut self, index: usize) {
        let Some(allocation) = self.allocations.get_mut(index) else { return };
        if let Some(next) = allocation.mobile.as_mut().and_then(|mobile| mobile.next.take()) {
            let old = std::mem::replace(&mut allocation.flow, next);
            self.leave(&old, index);
        }
    }

    /// The connection of an allocation with a ticket is closed: the client may come back by another. `false`
    /// when the allocation has none.
    pub(super) fn outlives(&mut self, index: usize, flow: &Flow) -> bool {
        let Some(allocation) = self.allocations.get_mut(index) else { return false };
        let Some(mobile) = &mut allocation.mobile else { return false };
        if mobile.next == Some(*flow) {
            mobile.next = None;
        } else if mobile.next.is_some() {
            self.settle(index);
        } else {
            mobile.is_away = true;
        }
        self.leave(flow, index);
        true
    }

    /// An allocation is served at `flow` no more.
    pub(super) fn leave(&mut self, flow: &Flow, index: usize) {
        if self.by_flow.get(flow) == Some(&index) {
            self.by_flow.remove(flow);
        }
        self.last = None;
        if let Some(mobility) = self.config.mobility.as_ref().filter(|_| flow.transport == Transport::Udp) {
            mobility.leave(flow, self.config.share.index);
        }
    }

    /// A ticket, if the allocation has one.
    pub(super) fn ticket(&self, index: usize) -> Option<Vec<u8>> {
        let allocation = self.allocations.get(index)?;
        let serial = allocation.mobile.as_ref()?.serial;
        let (worker, generation) = (self.config.share.index, allocation.generation & GENERATIONS);
        let named = Named { worker, index: index as u32, generation, serial };
        Some(self.config.mobility.as_ref()?.seal(&named))
    }
}
