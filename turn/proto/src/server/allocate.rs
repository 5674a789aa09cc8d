//! Allocate (RFC 8656, section 7.2). Relay sockets are the driver's to open, so an allocation may
//! wait: [`Server::allocate`] asks for the first socket, [`Server::relay_opened`] goes on.

use super::{
    ClientAction, Flow, Now, OpenRelay, RelayId, Server,
    allocation::{Allocation, Opening, Relay, Step},
    auth::Authenticated,
    is_stream,
    requests::Request,
    timers::Timer,
};
use crate::{
    Class, ErrorCode, Message, Method, TransactionId, Writer,
    attributes::{
        self as attr, AdditionalAddressFamily, EvenPort, Family, Lifetime, RequestedAddressFamily,
        RequestedTransport, ReservationToken,
    },
    bandwidth::Meter,
    ports::Wanted,
    quotas::Ticket,
    reservations::Reserved,
};
use rand::Rng;
use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

/// Ports that are tried when the system refuses them.
const ATTEMPTS: u8 = 8;

/// How long a reserved port waits (RFC 8656, section 7.2: at least 30 seconds).
const RESERVATION_LIFETIME: Duration = Duration::from_secs(30);

/// The numbers of TCP (RFC 6062, section 4.1) and UDP in REQUESTED-TRANSPORT.
const TCP: u8 = 6;
const UDP: u8 = 17;

/// What a request asks for.
enum Wish {
    /// New relayed addresses.
    Open { step: Step, next: Option<Step>, lacks: Option<(Family, ErrorCode)> },
    /// The port that was reserved under this token.
    Reserved([u8; 8]),
}

impl Server {
    pub(super) fn allocate<'p>(
        &mut self,
        request: Request<'_, '_>,
        existing: Option<usize>,
        reply: &mut Vec<u8>,
    ) -> ClientAction<'p> {
        if let Some(index) = existing {
            return self.allocate_again(&request, index, reply);
        }
        if self.alternates.is_some() {
            let code = match self.alternate_for(request.flow) {
                Some(_) => ErrorCode::TryAlternate,
                None => ErrorCode::AllocationQuotaReached,
            };
            return self.refuse(&request, code, reply);
        }
        let wish = self.wish(request.flow, request.message);
        let result = wish.and_then(|wish| self.begin(&request, wish));
        result.unwrap_or_else(|code| self.refuse(&request, code, reply))
    }

    /// The same transaction gets the same answer; another one, 437.
    fn allocate_again<'p>(
        &mut self,
        request: &Request<'_, '_>,
        index: usize,
        reply: &mut Vec<u8>,
    ) -> ClientAction<'p> {
        match self.allocations.get(index) {
            Some(a) if a.transaction == request.message.id() => {
                if a.opening.is_some() {
                    return ClientAction::None;
                }
                self.announce(index, request.now.instant, request.who.sha256, reply);
                ClientAction::Reply
            }
            _ => self.refuse(request, ErrorCode::AllocationMismatch, reply),
        }
    }

    /// The checks of RFC 8656, section 7.2, in its order.
    fn wish(&self, flow: &Flow, message: &Message<'_>) -> Result<Wish, ErrorCode> {
        let bad = |_| ErrorCode::BadRequest;
        match message.get::<RequestedTransport>().map_err(bad)? {
            Some(RequestedTransport(UDP)) => {}
            // RFC 6062, section 5.1
            Some(RequestedTransport(TCP)) => {
                let for_udp = [attr::DONT_FRAGMENT, attr::EVEN_PORT, attr::RESERVATION_TOKEN];
                if !is_stream(flow.transport) || for_udp.iter().any(|kind| message.raw(*kind).is_some()) {
                    return Err(ErrorCode::BadRequest);
                }
            }
            Some(_) => return Err(ErrorCode::UnsupportedTransport),
            None => return Err(ErrorCode::BadRequest),
        }
        message.get::<Lifetime>().map_err(bad)?;
        let token = message.get::<ReservationToken>().map_err(bad)?;
        let even = message.get::<EvenPort>().map_err(bad)?;
        let requested = message.get::<RequestedAddressFamily>().map_err(bad)?;
        let additional = message.get::<AdditionalAddressFamily>().map_err(bad)?;
        if let Some(ReservationToken(token)) = token {
            if even.is_some() || requested.is_some() || additional.is_some() {
                return Err(ErrorCode::BadRequest);
            }
            return Ok(Wish::Reserved(token));
        }
        if requested.is_some() && additional.is_some() {
            return Err(ErrorCode::BadRequest);
        }
        let family = match requested {
            Some(RequestedAddressFamily(family)) => family.ok_or(ErrorCode::AddressFamilyNotSupported)?,
            None => Family::V4,
        };
        let wanted = match even {
            None => Wanted::Any,
            Some(EvenPort { reserve_next: false }) => Wanted::Even,
            Some(EvenPort { reserve_next: true }) => Wanted::Pair,
        };
        match additional {
            Some(_) if wanted == Wanted::Pair => return Err(ErrorCode::BadRequest),
            Some(AdditionalAddressFamily(Some(Family::V6))) => return self.dual(wanted),
            Some(_) => return Err(ErrorCode::BadRequest),
            None => {}
        }
        self.relay_addresses.of(family).ok_or(ErrorCode::AddressFamilyNotSupported)?;
        Ok(Wish::Open { step: Step::Main(family, wanted), next: None, lacks: None })
    }

    /// One of each family; if there is only one, that one and the reason (RFC 8656, section 7.2, 9).
    fn dual(&self, wanted: Wanted) -> Result<Wish, ErrorCode> {
        let (v4, v6) = (Step::Main(Family::V4, wanted), Step::Main(Family::V6, wanted));
        let lacks = |family| Some((family, ErrorCode::AddressFamilyNotSupported));
        let held = |family| self.relay_addresses.of(family).is_some();
        match (held(Family::V4), held(Family::V6)) {
            (true, true) => {
                Ok(Wish::Open { step: v4, next: Some(Step::Additional(Family::V6)), lacks: None })
            }
            (true, false) => Ok(Wish::Open { step: v4, next: None, lacks: lacks(Family::V6) }),
            (false, true) => Ok(Wish::Open { step: v6, next: None, lacks: lacks(Family::V4) }),
            (false, false) => Err(ErrorCode::AddressFamilyNotSupported),
        }
    }

    fn begin<'p>(&mut self, request: &Request<'_, '_>, wish: Wish) -> Result<ClientAction<'p>, ErrorCode> {
        let mobile = self.wants_ticket(request.message)?;
        let index = self.allocations.vacant_key();
        let mut reserve = None;
        let tcp = request.message.get::<RequestedTransport>() == Ok(Some(RequestedTransport(TCP)));
        let (open, step, next, lacks) = match wish {
            Wish::Open { step, next, lacks } => {
                let ticket = self.take_ticket(&request.who.user)?;
                let second = match step {
                    Step::Main(_, Wanted::Pair) => Some(self.take_ticket(&request.who.user)?),
                    _ => None,
                };
                let open = self.open(step, index, ticket, tcp)?;
                let (family, port, home) = (open.family, open.port, self.config.share.index);
                reserve =
                    second.map(|ticket| Reserved { family, port: port + 1, home, ticket: Some(ticket) });
                (open, step, next, lacks)
            }
            Wish::Reserved(token) => {
                let reserved = self.reservations.take(&token, &request.who.user);
                let open = reserved.and_then(|reserved| self.open_reserved(reserved, index));
                let open = open.ok_or(ErrorCode::InsufficientCapacity)?;
                (open, Step::Reserved(open.family), None, None)
            }
        };
        let lifetime = request.message.get::<Lifetime>().ok().flatten();
        let opening = Opening {
            next,
            step,
            relay: open.relay,
            reserve,
            attempts: 1,
            lifetime: self.granted(lifetime),
            sha256: request.who.sha256,
        };
        let mut allocation = self.blank(request.flow, request.message.id(), &request.who, request.now);
        allocation.opening = Some(Box::new(opening));
        allocation.address_error = lacks;
        allocation.connections = tcp.then(Vec::new);
        allocation.mobile = mobile.then(Box::default);
        self.insert(allocation, request.who.signed_by.as_ref());
        Ok(ClientAction::Open(open))
    }

    fn take_ticket(&self, user: &str) -> Result<Ticket, ErrorCode> {
        self.quotas.take(user).ok_or(ErrorCode::AllocationQuotaReached)
    }

    /// A port and an entry for one more relay socket.
    fn open(
        &mut self,
        step: Step,
        allocation: usize,
        ticket: Ticket,
        tcp: bool,
    ) -> Result<OpenRelay, ErrorCode> {
        let family = step.family();
        let ip = self.relay_addresses.of(family).ok_or(ErrorCode::AddressFamilyNotSupported)?;
        let wanted = if let Step::Main(_, wanted) = step { wanted } else { Wanted::Any };
        let home = self.config.share.index;
        for (family, port) in self.reservations.come_home(home) {
            self.ports[family as usize].give(port);
        }
        let port = self.ports[family as usize].take(wanted, &mut self.rng);
        let address = SocketAddr::new(ip, port.ok_or(ErrorCode::InsufficientCapacity)?);
        Ok(self.enter(Relay { family, address, allocation, home, tcp, told: (0, 0), _ticket: ticket }))
    }

    fn open_reserved(&mut self, reserved: Reserved, allocation: usize) -> Option<OpenRelay> {
        let Reserved { family, port, home, ticket } = reserved;
        match (self.relay_addresses.of(family), ticket) {
            (Some(ip), Some(ticket)) => {
                let address = SocketAddr::new(ip, port);
                Some(self.enter(Relay {
                    family,
                    address,
                    allocation,
                    home,
                    tcp: false,
                    told: (0, 0),
                    _ticket: ticket,
                }))
            }
            _ => {
                self.give_port(family, port, home);
                None
            }
        }
    }

    fn enter(&mut self, relay: Relay) -> OpenRelay {
        let (family, port, tcp) = (relay.family, relay.address.port(), relay.tcp);
        OpenRelay { relay: RelayId(self.relays.insert(relay) as u32), family, port, tcp }
    }

    /// The driver has opened the relay socket that it was asked for, or could not (`false`). The
    /// action concerns the flow whose message asked for it.
    pub fn relay_opened<'p>(
        &mut self,
        now: Now,
        relay: RelayId,
        opened: bool,
        reply: &mut Vec<u8>,
    ) -> ClientAction<'p> {
        let index = self.relays.get(relay.0 as usize).map(|relay| relay.allocation);
        let Some(index) = index else {
            self.closed.push(relay);
            return ClientAction::None;
        };
        let Some(mut opening) = self.allocations.get_mut(index).and_then(|a| a.opening.take()) else {
            return ClientAction::None;
        };
        let result =
            if opened { self.opened(index, &mut opening) } else { self.try_another(index, &mut opening) };
        match result {
            Ok(Some(open)) => {
                if let Some(allocation) = self.allocations.get_mut(index) {
                    allocation.opening = Some(opening);
                }
                ClientAction::Open(open)
            }
            Ok(None) => {
                self.finish(now, index, *opening, reply);
                ClientAction::Reply
            }
            Err(code) => self.give_up_opening(index, *opening, code, reply),
        }
    }

    /// One is open: goes on to the next, if there is one.
    fn opened(&mut self, index: usize, opening: &mut Opening) -> Result<Option<OpenRelay>, ErrorCode> {
        if let Some(allocation) = self.allocations.get_mut(index) {
            allocation.relays[opening.step.family() as usize] = Some(opening.relay);
        }
        let Some(step) = opening.next.take() else { return Ok(None) };
        let user = self.user_of(index);
        let tcp = self.allocations.get(index).is_some_and(|a| a.connections.is_some());
        let result = self.take_ticket(&user).and_then(|ticket| self.open(step, index, ticket, tcp));
        match (result, step) {
            (Ok(open), _) => {
                (opening.step, opening.relay, opening.attempts) = (step, open.relay, 1);
                Ok(Some(open))
            }
            (Err(_), Step::Additional(family)) => {
                self.lacks(index, family);
                Ok(None)
            }
            (Err(code), _) => Err(code),
        }
    }

    /// The system refused the port: tries another before it gives this one back.
    fn try_another(&mut self, index: usize, opening: &mut Opening) -> Result<Option<OpenRelay>, ErrorCode> {
        let family = opening.step.family();
        let single = match opening.step {
            Step::Main(_, wanted) if wanted != Wanted::Pair => Some(wanted),
            Step::Additional(_) => Some(Wanted::Any),
            // a pair, or what was promised, has no other
            _ => None,
        };
        let port = single
            .filter(|_| opening.attempts < ATTEMPTS)
            .and_then(|wanted| self.ports[family as usize].take(wanted, &mut self.rng));
        if let (Some(port), Some(relay)) = (port, self.relays.get_mut(opening.relay.0 as usize)) {
            let (refused, tcp) = (relay.address.port(), relay.tcp);
            relay.address.set_port(port);
            self.ports[family as usize].give(refused);
            opening.attempts += 1;
            return Ok(Some(OpenRelay { relay: opening.relay, family, port, tcp }));
        }
        if matches!(opening.step, Step::Additional(_)) {
            self.forget(opening.relay);
            self.lacks(index, family);
            return Ok(None);
        }
        Err(ErrorCode::InsufficientCapacity)
    }

    fn lacks(&mut self, index: usize, family: Family) {
        if let Some(allocation) = self.allocations.get_mut(index) {
            allocation.address_error = Some((family, ErrorCode::InsufficientCapacity));
        }
    }

    /// Drops the entry of a socket that was never opened.
    fn forget(&mut self, id: RelayId) {
        if let Some(relay) = self.relays.try_remove(id.0 as usize) {
            self.ports[relay.family as usize].give(relay.address.port());
        }
    }

    fn give_up_opening<'p>(
        &mut self,
        index: usize,
        mut opening: Opening,
        code: ErrorCode,
        reply: &mut Vec<u8>,
    ) -> ClientAction<'p> {
        if let Some(reserved) = opening.reserve.take() {
            self.give_port(reserved.family, reserved.port, reserved.home);
        }
        self.counters.errors[code as usize] += 1;
        reply.clear();
        if let Some(allocation) = self.allocations.get(index) {
            let mut w = Writer::new(reply, Class::Error, Method::ALLOCATE, allocation.transaction);
            w.error_code(code, false);
            self.software(Method::ALLOCATE, &mut w);
            allocation.protect(&mut w, opening.sha256);
        }
        if let Some(allocation) = self.allocations.get_mut(index) {
            allocation.opening = Some(Box::new(opening));
        }
        self.remove(index);
        ClientAction::Reply
    }

    /// All sockets are open: the allocation lives.
    fn finish(&mut self, now: Now, index: usize, opening: Opening, reply: &mut Vec<u8>) {
        let token = opening.reserve.map(|reserved| {
            let token = self.rng.random();
            self.reservations.hold(token, reserved);
            self.set_timer(now.instant + RESERVATION_LIFETIME, Timer::Reservation(token));
            token
        });
        if let Some(allocation) = self.allocations.get_mut(index) {
            allocation.token = token;
            allocation.expires = now.instant + opening.lifetime;
        }
        self.live(index);
        self.announce(index, now.instant, opening.sha256, reply);
    }

    fn blank(
        &mut self,
        flow: &Flow,
        transaction: TransactionId,
        who: &Authenticated,
        now: Now,
    ) -> Allocation {
        self.generation += 1;
        Allocation {
            flow: *flow,
            transaction,
            generation: self.generation,
            username: who.username.clone(),
            key: who.key.clone(),
            algorithm: who.algorithm,
            relays: [None; 2],
            expires: now.instant,
            due: now.instant,
            permissions: Vec::new(),
            channels: Vec::new(),
            token: None,
            address_error: None,
            connections: None,
            mobile: None,
            meter: self.bandwidth.map(|rate| Box::new(Meter::new(rate, now.instant))),
            opening: None,
        }
    }

    fn insert(&mut self, allocation: Allocation, signed_by: Option<&rtc_credentials::KeyId>) {
        if let Some(id) = signed_by {
            *self.key_uses.entry(id.clone()).or_default() += 1;
        }
        self.by_flow.insert(allocation.flow, self.allocations.vacant_key());
        self.allocations.insert(allocation);
    }

    fn live(&mut self, index: usize) {
        self.counters.allocations += 1;
        self.counters.live += 1;
        self.schedule(index, true);
    }

    /// The success response, from what the allocation says of itself.
    fn announce(&mut self, index: usize, now: Instant, sha256: bool, reply: &mut Vec<u8>) {
        let ticket = self.ticket(index);
        let Some(allocation) = self.allocations.get(index) else { return };
        reply.clear();
        let mut w = Writer::new(reply, Class::Success, Method::ALLOCATE, allocation.transaction);
        for relay in allocation.relays.iter().flatten().filter_map(|id| self.relays.get(id.0 as usize)) {
            w.xor_address(attr::XOR_RELAYED_ADDRESS, relay.address);
        }
        w.xor_address(attr::XOR_MAPPED_ADDRESS, allocation.flow.client);
        let left = allocation.expires.saturating_duration_since(now);
        w.u32(attr::LIFETIME, left.as_secs() as u32);
        if let Some(token) = allocation.token {
            w.raw(attr::RESERVATION_TOKEN, &token);
        }
        if let Some(ticket) = ticket {
            w.raw(attr::MOBILITY_TICKET, &ticket);
        }
        if let Some((family, code)) = allocation.address_error {
            let code = code.code();
            w.raw(attr::ADDRESS_ERROR_CODE, &[family.number(), 0, (code / 100) as u8, (code % 100) as u8]);
        }
        self.software(Method::ALLOCATE, &mut w);
        allocation.protect(&mut w, sha256);
    }

    /// An alternate of the client's family (RFC 8489, section 14.15).
    pub(super) fn alternate_for(&self, flow: &Flow) -> Option<SocketAddr> {
        let v4 = flow.client.is_ipv4();
        self.alternates.as_ref()?.iter().find(|server| server.is_ipv4() == v4).copied()
    }

    fn user_of(&self, index: usize) -> Box<str> {
        let username = self.allocations.get(index).map_or("", |a| &a.username);
        rtc_credentials::parse_username(username).map_or("", |(_, user)| user).into()
    }
}
