//! What a client learns of its NAT from a server of two addresses (RFC 5780), over UDP.

use super::{ClientAction, Flow, Now, Server, requests::unknown_besides};
use crate::{
    Class, ErrorCode, Message, Method, Transport, Writer,
    attributes::{self as attr, ChangeRequest, ResponsePort},
};
use std::net::SocketAddr;

/// Comprehension-required attributes of RFC 5780, section 7, known where there are two addresses.
const KNOWN: &[u16] = &[attr::CHANGE_REQUEST, attr::PADDING, attr::RESPONSE_PORT];
/// The longest PADDING of a response: the usual MTU, so that its packet is over it (RFC 5780, section 6.1).
const MAX_PADDING: usize = 1500;

/// The four sockets of a server with two addresses, A and B, and two ports, 1 and 2: A1, A2, B1, B2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Behaviour {
    /// Each with its [`Flow::link`].
    corners: [(SocketAddr, u64); 4],
}

impl Behaviour {
    /// The two addresses, which are to differ in both IP and port, and the driver's names for the
    /// sockets: in order A1, A2, B1, B2.
    #[must_use]
    pub fn new(first: SocketAddr, second: SocketAddr, links: [u64; 4]) -> Self {
        let [a1, a2, b1, b2] = links;
        let at = |ip: SocketAddr, port: SocketAddr| SocketAddr::new(ip.ip(), port.port());
        let (a, b) = (first, second);
        Self { corners: [(at(a, a), a1), (at(a, b), a2), (at(b, a), b1), (at(b, b), b2)] }
    }

    /// Which of them a request came to.
    fn corner(&self, flow: &Flow) -> Option<usize> {
        let here = (flow.server, flow.link);
        (flow.transport == Transport::Udp).then(|| self.corners.iter().position(|c| *c == here))?
    }
}

impl Server {
    /// A Binding request to one of the four sockets (RFC 5780, section 6.1). `None`, with nothing done,
    /// when it came to none of them or is to be answered as if it had.
    pub(super) fn discover<'p>(
        &mut self,
        now: Now,
        flow: &Flow,
        message: &Message<'_>,
        reply: &mut Vec<u8>,
    ) -> Option<ClientAction<'p>> {
        let behaviour = self.config.behaviour?;
        let here = behaviour.corner(flow)?;
        if unknown_besides(message, KNOWN).next().is_some() {
            return Some(self.refuse_unknown(now, flow, message, KNOWN, None, reply));
        }
        let padding = message.raw(attr::PADDING);
        let (change, port) = match (message.get::<ChangeRequest>(), message.get::<ResponsePort>()) {
            // RFC 5780, section 7.5: never both, as that would make a flood of a forged request
            (Ok(change), Ok(port)) if port.is_none() || padding.is_none() => (change, port),
            _ => {
                let (method, id) = (Method::BINDING, message.id());
                return Some(self.refuse_stranger(now, flow, method, id, ErrorCode::BadRequest, reply));
            }
        };
        // The answer is up to four times as long as the request, whose source may be forged: like an
        // error's, its number is bounded. Above that, who asks for nothing special is told no more than
        // another server would tell.
        if !self.may_refuse(now, flow) {
            let plain = change.is_none() && port.is_none() && padding.is_none();
            return (!plain).then(|| self.drop(crate::Drop::ErrorBudget));
        }
        // RFC 5780, table 1: an index's bits are the IP and the port
        let from = here ^ change.map_or(0, ChangeRequest::bits);
        let ((origin, link), (other, _)) = (behaviour.corners[from], behaviour.corners[here ^ 3]);
        self.counters.bindings += 1;
        let mut w = Writer::new(reply, Class::Success, Method::BINDING, message.id());
        w.xor_address(attr::XOR_MAPPED_ADDRESS, flow.client)
            .address(attr::MAPPED_ADDRESS, flow.client)
            .address(attr::RESPONSE_ORIGIN, origin)
            .address(attr::OTHER_ADDRESS, other);
        if let Some(padding) = padding {
            // RFC 5780, section 10: not more than was received
            w.raw(attr::PADDING, &[0; MAX_PADDING][..padding.len().min(MAX_PADDING)]);
        }
        w.fingerprint();
        let client = port.map_or(flow.client, |ResponsePort(port)| SocketAddr::new(flow.client.ip(), port));
        Some(ClientAction::ReplyBy(Flow { client, server: origin, link, ..*flow }))
    }
}
