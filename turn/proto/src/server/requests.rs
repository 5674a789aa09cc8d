//! From a packet to a method, and from a result to a response.

use super::{ClientAction, Flow, Now, Server, auth, auth::Authenticated, is_stream};
use crate::{
    Class, Drop, ErrorCode, Message, Method, ParseError, TransactionId, Transport, Writer,
    attributes::{self as attr, ConnectionId},
};

/// Comprehension-required attributes that this server knows (RFC 8489, section 14).
const KNOWN: &[u16] = &[
    attr::MAPPED_ADDRESS,
    attr::USERNAME,
    attr::MESSAGE_INTEGRITY,
    attr::ERROR_CODE,
    attr::UNKNOWN_ATTRIBUTES,
    attr::CHANNEL_NUMBER,
    attr::LIFETIME,
    attr::XOR_PEER_ADDRESS,
    attr::DATA,
    attr::REALM,
    attr::NONCE,
    attr::XOR_RELAYED_ADDRESS,
    attr::REQUESTED_ADDRESS_FAMILY,
    attr::EVEN_PORT,
    attr::REQUESTED_TRANSPORT,
    attr::DONT_FRAGMENT,
    attr::MESSAGE_INTEGRITY_SHA256,
    attr::PASSWORD_ALGORITHM,
    attr::USERHASH,
    attr::XOR_MAPPED_ADDRESS,
    attr::RESERVATION_TOKEN,
    attr::CONNECTION_ID,
];

/// Unknown attributes that one response lists at most, so that it stays smaller than its request.
const MAX_UNKNOWN: usize = 16;

pub(super) fn unknown_attributes(message: &Message<'_>) -> impl Iterator<Item = u16> {
    unknown_besides(message, &[])
}

/// Of those that are neither known to every request nor to this one.
pub(super) fn unknown_besides(message: &Message<'_>, known: &[u16]) -> impl Iterator<Item = u16> {
    let kinds = message.attributes().map(|(kind, _)| kind);
    kinds.filter(move |kind| *kind < 0x8000 && !KNOWN.contains(kind) && !known.contains(kind))
}

/// A request, with all that its response needs.
#[derive(Debug)]
pub(super) struct Request<'m, 'p> {
    pub(super) message: &'m Message<'p>,
    pub(super) flow: &'m Flow,
    pub(super) now: Now,
    pub(super) who: Authenticated,
}

impl Server {
    pub(super) fn handle_stun<'p>(
        &mut self,
        now: Now,
        flow: &Flow,
        packet: &'p [u8],
        reply: &mut Vec<u8>,
    ) -> ClientAction<'p> {
        let message = match Message::parse(packet) {
            Ok(message) => message,
            Err(ParseError::Attribute { class: Class::Request, method, id }) if self.supports(method) => {
                self.counters.dropped(Drop::Malformed);
                return self.refuse_stranger(now, flow, method, id, ErrorCode::BadRequest, reply);
            }
            Err(_) => return self.drop(Drop::Malformed),
        };
        if !self.supports(message.method()) {
            return self.drop(Drop::Unexpected);
        }
        match (message.class(), message.method()) {
            (Class::Request, Method::BINDING) => self.binding(now, flow, &message, reply),
            (Class::Request, _) => self.request(now, flow, &message, reply),
            (Class::Indication, Method::SEND) => self.send_indication(now, flow, &message),
            // a keep-alive (RFC 8489, section 12.1)
            (Class::Indication, Method::BINDING) => ClientAction::None,
            _ => self.drop(Drop::Unexpected),
        }
    }

    /// A message of a method that a server does not support is silently discarded (RFC 8489, section
    /// 6.3), and without relaying none of TURN's is supported.
    fn supports(&self, method: Method) -> bool {
        !self.config.stun_only || method == Method::BINDING
    }

    fn binding<'p>(
        &mut self,
        now: Now,
        flow: &Flow,
        message: &Message<'_>,
        reply: &mut Vec<u8>,
    ) -> ClientAction<'p> {
        if let Some(action) = self.discover(now, flow, message, reply) {
            return action;
        }
        if unknown_attributes(message).next().is_some() {
            return self.refuse_unknown(now, flow, message, &[], None, reply);
        }
        self.counters.bindings += 1;
        let mut w = Writer::new(reply, Class::Success, Method::BINDING, message.id());
        w.xor_address(attr::XOR_MAPPED_ADDRESS, flow.client).fingerprint();
        ClientAction::Reply
    }

    fn request<'p>(
        &mut self,
        now: Now,
        flow: &Flow,
        message: &Message<'_>,
        reply: &mut Vec<u8>,
    ) -> ClientAction<'p> {
        let allocation = self.find(flow);
        let mut known = allocation;
        if let (Method::CONNECTION_BIND, None, Ok(Some(id))) =
            (message.method(), allocation, message.get::<ConnectionId>())
        {
            if let Some(worker) = self.elsewhere(flow, id) {
                return ClientAction::HandOver { worker };
            }
            known = self.allocation_of(id);
        }
        let shown = self.shown(message);
        if let (None, Some(Ok(named))) = (allocation, &shown) {
            if named.worker != self.config.share.index && named.worker < self.config.share.count {
                return ClientAction::HandOver { worker: named.worker };
            }
            known = self.named(named);
        }
        let who = match self.authenticate(now, flow, message, known) {
            Ok(who) => who,
            Err(code) => return self.refuse_stranger(now, flow, message.method(), message.id(), code, reply),
        };
        if unknown_attributes(message).next().is_some() {
            return self.refuse_unknown(now, flow, message, &[], Some(&who), reply);
        }
        let request = Request { message, flow, now, who };
        let result = match (message.method(), allocation, shown) {
            (Method::ALLOCATE, existing, _) => return self.allocate(request, existing, reply),
            (Method::REFRESH, held, Some(shown)) => self.refresh_by_ticket(&request, held, shown, reply),
            (
                Method::REFRESH | Method::CREATE_PERMISSION | Method::CHANNEL_BIND | Method::CONNECT,
                None,
                _,
            ) => Err(ErrorCode::AllocationMismatch),
            (Method::CONNECTION_BIND, None, _) if is_stream(flow.transport) => {
                match self.connection_bind(&request, reply) {
                    Ok(action) => return action,
                    Err(code) => Err(code),
                }
            }
            (method, Some(index), _) => match self.allocations.get(index) {
                Some(a) if a.opening.is_some() => Err(ErrorCode::AllocationMismatch),
                // RFC 8656, section 5
                Some(a) if a.username != request.who.username => Err(ErrorCode::WrongCredentials),
                _ => match method {
                    Method::REFRESH => self.refresh(&request, index, false, false, reply),
                    Method::CREATE_PERMISSION => self.create_permission(&request, index, reply),
                    Method::CHANNEL_BIND => self.channel_bind(&request, index, reply),
                    Method::CONNECT => match self.connect(&request, index) {
                        Ok(action) => return action,
                        Err(code) => Err(code),
                    },
                    _ => Err(ErrorCode::BadRequest),
                },
            },
            _ => Err(ErrorCode::BadRequest),
        };
        match result {
            Ok(()) => ClientAction::Reply,
            Err(code) => self.refuse(&request, code, reply),
        }
    }

    /// An error response to somebody who proved who they are.
    pub(super) fn refuse<'p>(
        &mut self,
        request: &Request<'_, '_>,
        code: ErrorCode,
        reply: &mut Vec<u8>,
    ) -> ClientAction<'p> {
        self.counters.errors[code as usize] += 1;
        reply.clear();
        let method = request.message.method();
        let mut w = Writer::new(reply, Class::Error, method, request.message.id());
        w.error_code(code, false);
        if code == ErrorCode::TryAlternate
            && let Some(server) = self.alternate_for(request.flow)
        {
            w.address(attr::ALTERNATE_SERVER, server);
        }
        self.software(method, &mut w);
        protect(&mut w, &request.who);
        ClientAction::Reply
    }

    /// An error response to somebody who proved nothing: short, and within the budget of their
    /// prefix, since the source may be forged. Over a stream it is not.
    pub(super) fn refuse_stranger<'p>(
        &mut self,
        now: Now,
        flow: &Flow,
        method: Method,
        id: TransactionId,
        code: ErrorCode,
        reply: &mut Vec<u8>,
    ) -> ClientAction<'p> {
        if !self.may_refuse(now, flow) {
            return self.drop(Drop::ErrorBudget);
        }
        self.counters.errors[code as usize] += 1;
        let mut w = Writer::new(reply, Class::Error, method, id);
        w.error_code(code, true);
        if matches!(code, ErrorCode::Unauthenticated | ErrorCode::StaleNonce) {
            w.raw(attr::REALM, self.config.realm.as_bytes());
            w.raw(attr::NONCE, &self.config.nonces.issue(flow.client, now.unix));
            w.raw(attr::PASSWORD_ALGORITHMS, &auth::ALGORITHMS);
        }
        ClientAction::Reply
    }

    /// 420 and the attributes that are not known (RFC 8489, section 6.3.1).
    pub(super) fn refuse_unknown<'p>(
        &mut self,
        now: Now,
        flow: &Flow,
        message: &Message<'_>,
        known: &[u16],
        who: Option<&Authenticated>,
        reply: &mut Vec<u8>,
    ) -> ClientAction<'p> {
        if who.is_none() && !self.may_refuse(now, flow) {
            return self.drop(Drop::ErrorBudget);
        }
        self.counters.errors[ErrorCode::UnknownAttribute as usize] += 1;
        let mut list = Vec::with_capacity(2 * MAX_UNKNOWN);
        for kind in unknown_besides(message, known).take(MAX_UNKNOWN) {
            list.extend_from_slice(&kind.to_be_bytes());
        }
        let mut w = Writer::new(reply, Class::Error, message.method(), message.id());
        w.error_code(ErrorCode::UnknownAttribute, true).raw(attr::UNKNOWN_ATTRIBUTES, &list);
        if let Some(who) = who {
            protect(&mut w, who);
        }
        ClientAction::Reply
    }

    pub(super) fn may_refuse(&mut self, now: Now, flow: &Flow) -> bool {
        // who completed a handshake did not forge their address
        flow.transport != Transport::Udp || self.budget.take(flow.client.ip(), now.instant)
    }

    /// SOFTWARE, in Allocate and Refresh responses (RFC 8656, section 5).
    pub(super) fn software(&self, method: Method, w: &mut Writer<'_>) {
        if matches!(method, Method::ALLOCATE | Method::REFRESH)
            && let Some(software) = &self.config.software
        {
            w.raw(attr::SOFTWARE, software.as_bytes());
        }
    }

    /// A success response without attributes of its own.
    pub(super) fn succeed(&self, request: &Request<'_, '_>, reply: &mut Vec<u8>) {
        let mut w = Writer::new(reply, Class::Success, request.message.method(), request.message.id());
        protect(&mut w, &request.who);
    }
}

/// RFC 8489, section 9.2.4, last paragraph.
pub(super) fn protect(w: &mut Writer<'_>, who: &Authenticated) {
    if who.sha256 {
        w.integrity_sha256(who.key.expose())
    } else {
        w.integrity_sha1(who.key.expose())
    };
}
