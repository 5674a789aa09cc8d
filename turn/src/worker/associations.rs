//! Clients over DTLS. Nothing is kept of a client that has not sent back its cookie.

use super::{After, Handshakes, IDLE, Listener, TURNS, Worker, core::Core};
use crate::{
    dtls::{Config, MAX_MESSAGE, Messages, Over, Session},
    places::Places,
    post::{Arrival, Label},
    udp::{Outbox, Via},
};
use rtc_credentials::Transport;
use rtc_turn_proto::{
    Drop, Flow, Mobility, Now,
    dtls::{Cookies, Hello, refuse_version},
};
use slab::Slab;
use std::{
    collections::{BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

/// Associations of one worker, which are no more than its connections may be.
const MAX_ASSOCIATIONS: usize = 1 << 16;
/// A source prefix gets this part of the associations, and of the handshakes.
const PREFIX_SHARE: usize = 8;
/// How long a client may be silent when its allocation is over, and may begin another.
const GRACE: Duration = Duration::from_secs(1);
/// The least between two timers of one session.
const TICK: Duration = Duration::from_millis(10);

/// Where a datagram came in, and from whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Path {
    listener: usize,
    client: SocketAddr,
    server: SocketAddr,
    /// The server's address, where it has to be named.
    source: Option<IpAddr>,
}

impl Path {
    /// What other workers know it by.
    fn flow(self) -> Flow {
        let (transport, link) = (Transport::Dtls, self.listener as u64);
        Flow { transport, client: self.client, server: self.server, link }
    }

    fn send(self, outbox: &mut Outbox, datagram: &[u8]) {
        outbox.push(Via::Listener(self.listener), self.client, self.source, false, |out| {
            out.extend_from_slice(datagram);
            true
        });
    }
}

/// One client's.
#[derive(Debug)]
pub(crate) struct Association {
    path: Path,
    flow: Flow,
    session: Session,
    /// As it is in the set of timers.
    due: Instant,
    last_seen: Instant,
    /// Whether there has been an allocation.
    has_allocated: bool,
}

/// A worker's clients over DTLS.
#[derive(Debug)]
pub(super) struct Associations {
    /// What new ones begin with.
    pub(super) config: Option<Arc<Config>>,
    cookies: Cookies,
    mobility: Option<Mobility>,
    slab: Slab<Association>,
    by_path: HashMap<Path, usize>,
    timers: BTreeSet<(Instant, usize)>,
    places: Places,
    /// Counts associations; part of their links.
    serial: u64,
    pub(super) challenges: u64,
    buffer: Vec<u8>,
    messages: Messages,
}

impl Associations {
    pub(super) fn new(
        config: Option<Arc<Config>>,
        cookies: Cookies,
        mobility: Option<Mobility>,
        max_handshakes: usize,
    ) -> Self {
        Self {
            config,
            cookies,
            mobility,
            slab: Slab::new(),
            by_path: HashMap::new(),
            timers: BTreeSet::new(),
            places: Places::new(max_handshakes, MAX_ASSOCIATIONS, PREFIX_SHARE),
            serial: 0,
            challenges: 0,
            buffer: Vec::new(),
            messages: Messages::default(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.slab.len()
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Handles one datagram.
    fn receive(
        &mut self,
        now: Now,
        path: Path,
        datagram: &[u8],
        core: &mut Core,
        handshakes: &mut Handshakes,
    ) {
        let held = self.by_path.get(&path).copied();
        if held.is_none()
            && let Some(worker) = self.mobility.as_ref().and_then(|m| m.worker_of(&path.flow()))
            && worker != core.index
        {
            let label = Label::Client { flow: path.flow(), to: path.source };
            return core.post.push(worker, label, datagram);
        }
        let index = match (Hello::parse(datagram), held) {
            (None, Some(index)) => index,
            (None, None) => {
                if let Some(alert) = refuse_version(datagram) {
                    handshakes.failed_dtls += 1;
                    return path.send(&mut core.outbox, &alert);
                }
                return core.server.count_drop(Drop::NoAssociation);
            }
            (Some(hello), Some(index)) if self.is_of(index, &hello) => index,
            (Some(hello), _) => {
                if !self.cookies.accepts(&hello, path.client, path.server, now.unix) {
                    self.challenges += 1;
                    let mut answer = Vec::new();
                    self.cookies.challenge(&hello, path.client, path.server, now.unix, &mut answer);
                    return path.send(&mut core.outbox, &answer);
                }
                // the client has begun anew, and has shown that it is who it was (RFC 6347, section 4.2.8)
                if let Some(old) = held {
                    self.end(old, core, handshakes);
                }
                let Some(index) = self.begin(now.instant, path, &hello) else {
                    handshakes.failed_dtls += 1;
                    return;
                };
                index
            }
        };
        let Self { slab, buffer, messages, timers, places, .. } = self;
        let Some(association) = slab.get_mut(index) else { return };
        let Association { flow, session, .. } = association;
        let shaking = !session.is_established();
        if shaking {
            handshakes.steps_left = handshakes.steps_left.saturating_sub(1);
        }
        messages.clear();
        let outbox = &mut core.outbox;
        let mut result =
            session.receive(now.instant, datagram, buffer, messages, |out| path.send(outbox, out));
        if shaking && session.is_established() {
            places.established(path.client.ip());
            handshakes.done_dtls += 1;
            association.last_seen = now.instant;
        }
        let mut leaves = None;
        for (n, message) in messages.iter().enumerate() {
            association.last_seen = now.instant;
            match core.client(now, flow, message) {
                After::Reply => {
                    let Core { reply, outbox, .. } = core;
                    result = result.and_then(|()| session.send(reply, buffer, |out| path.send(outbox, out)));
                }
                After::HandOver(worker) => {
                    leaves = Some((worker, messages.iter().skip(n).map(<[u8]>::to_vec).collect()));
                    break;
                }
                After::Nothing | After::Bind(_) => {}
            }
            association.has_allocated |= core.server.holds(flow);
        }
        set_timer(timers, index, association, now.instant);
        match leaves {
            _ if result == Err(Over) => self.end(index, core, handshakes),
            Some((worker, messages)) => self.hand_over(index, worker, messages, core),
            None => {}
        }
    }

    /// Handles a datagram that came to another worker's socket.
    pub(super) fn receive_from_worker(
        &mut self,
        now: Now,
        flow: Flow,
        source: Option<IpAddr>,
        datagram: &[u8],
        core: &mut Core,
        handshakes: &mut Handshakes,
    ) {
        let path = Path { listener: flow.link as usize, client: flow.client, server: flow.server, source };
        if self.by_path.contains_key(&path) {
            self.receive(now, path, datagram, core, handshakes);
        } else {
            core.server.count_drop(Drop::NoAssociation);
        }
    }

    /// Another worker serves this association from now on, as its client's allocation is there.
    fn hand_over(&mut self, index: usize, worker: u16, messages: Vec<Vec<u8>>, core: &mut Core) {
        let Some(association) = self.slab.try_remove(index) else { return };
        let path = association.path;
        self.by_path.remove(&path);
        self.timers.remove(&(association.due, index));
        self.places.give(path.client.ip(), true);
        let Some(mobility) = &self.mobility else { return };
        // where its datagrams go that come in here; the other worker takes it back at the end
        mobility.leave(&path.flow(), core.index);
        let entered = mobility.enter(&path.flow(), worker);
        if entered && !core.post.hand_over(worker, Arrival::Association(Box::new(association), messages)) {
            mobility.leave(&path.flow(), worker);
        }
    }

    /// Takes over another worker's association, and handles the messages that it brought along.
    pub(super) fn adopt(
        &mut self,
        now: Now,
        mut association: Association,
        messages: &[Vec<u8>],
        core: &mut Core,
        handshakes: &mut Handshakes,
    ) {
        let path = association.path;
        if self.by_path.contains_key(&path) || !self.places.take(path.client.ip()) {
            // who is not served here may begin anew where they come in
            self.forget_path(&path, core.index);
            return;
        }
        self.places.established(path.client.ip());
        let index = self.slab.vacant_key();
        self.serial += 1;
        association.flow.link = (self.serial << 24) | index as u64;
        self.by_path.insert(path, index);
        self.timers.insert((association.due, index));
        self.slab.insert(association);
        for message in messages {
            let Some(association) = self.slab.get_mut(index) else { return };
            let flow = association.flow;
            let answered = core.client(now, &flow, message) == After::Reply;
            let Core { reply, outbox, .. } = core;
            let sent = !answered
                || association.session.send(reply, &mut self.buffer, |out| path.send(outbox, out)).is_ok();
            association.has_allocated |= core.server.holds(&flow);
            if !sent {
                return self.end(index, core, handshakes);
            }
        }
    }

    /// Datagrams of that path are served where they come in again.
    fn forget_path(&self, path: &Path, own: u16) {
        if let Some(mobility) = &self.mobility {
            mobility.leave(&path.flow(), own);
        }
    }

    fn is_of(&self, index: usize, hello: &Hello<'_>) -> bool {
        self.slab.get(index).is_some_and(|association| association.session.began_with(hello))
    }

    /// `None` when there is no place for it, or no certificate.
    fn begin(&mut self, now: Instant, path: Path, hello: &Hello<'_>) -> Option<usize> {
        let config = self.config.as_ref()?;
        if !self.places.take(path.client.ip()) {
            return None;
        }
        let Ok(session) = Session::new(config, hello, now) else {
            self.places.give(path.client.ip(), false);
            return None;
        };
        self.serial += 1;
        let entry = self.slab.vacant_entry();
        let index = entry.key();
        let link = (self.serial << 24) | index as u64;
        let flow = Flow { transport: Transport::Dtls, client: path.client, server: path.server, link };
        let due = session.due();
        entry.insert(Association { path, flow, session, due, last_seen: now, has_allocated: false });
        self.by_path.insert(path, index);
        self.timers.insert((due, index));
        Some(index)
    }

    /// Sends a message to a client. `false` when it could not be.
    pub(super) fn deliver(&mut self, index: usize, flow: &Flow, message: &[u8], outbox: &mut Outbox) -> bool {
        let Some(association) = self.slab.get_mut(index).filter(|a| a.flow == *flow) else { return false };
        let path = association.path;
        // who is over is found so when its timer or its next datagram comes
        message.len() <= MAX_MESSAGE
            && association.session.send(message, &mut self.buffer, |out| path.send(outbox, out)).is_ok()
    }

    /// Sends again what may have been lost, and ends handshakes that take too long.
    pub(super) fn handle_timeout(&mut self, now: Instant, core: &mut Core, handshakes: &mut Handshakes) {
        while let Some((at, index)) = self.timers.first().copied()
            && at <= now
        {
            let Some(association) = self.slab.get_mut(index) else { return };
            let path = association.path;
            let outbox = &mut core.outbox;
            let result =
                association.session.handle_timeout(now, &mut self.buffer, |out| path.send(outbox, out));
            set_timer(&mut self.timers, index, association, now);
            if result == Err(Over) {
                self.end(index, core, handshakes);
            }
        }
    }

    /// Ends those that never got to an allocation, and those whose allocation is over.
    pub(super) fn sweep(&mut self, now: Instant, core: &mut Core, handshakes: &mut Handshakes) {
        let idle = |a: &Association| {
            let patience = if a.has_allocated { GRACE } else { IDLE };
            a.session.is_established()
                && now.duration_since(a.last_seen) >= patience
                && !core.server.holds(&a.flow)
        };
        let over: Vec<_> = self.slab.iter().filter(|(_, a)| idle(a)).map(|(index, _)| index).collect();
        for index in over {
            self.end(index, core, handshakes);
        }
    }

    /// Ends all of them.
    pub(super) fn close(&mut self, core: &mut Core, handshakes: &mut Handshakes) {
        let all: Vec<_> = self.slab.iter().map(|(index, _)| index).collect();
        for index in all {
            self.end(index, core, handshakes);
        }
    }

    fn end(&mut self, index: usize, core: &mut Core, handshakes: &mut Handshakes) {
        let Some(mut association) = self.slab.try_remove(index) else { return };
        let path = association.path;
        self.by_path.remove(&path);
        self.forget_path(&path, core.index);
        self.timers.remove(&(association.due, index));
        let established = association.session.is_established();
        self.places.give(path.client.ip(), established);
        handshakes.failed_dtls += u64::from(!established);
        let outbox = &mut core.outbox;
        association.session.close(&mut self.buffer, |out| path.send(outbox, out));
        core.gone(&association.flow);
    }
}

fn set_timer(
    timers: &mut BTreeSet<(Instant, usize)>,
    index: usize,
    association: &mut Association,
    now: Instant,
) {
    let due = association.session.due().max(now + TICK);
    if due != association.due {
        timers.remove(&(association.due, index));
        timers.insert((due, index));
        association.due = due;
    }
}

impl Worker {
    /// `true` when the socket is drained.
    pub(super) fn receive_from_dtls_clients(&mut self, now: Now, index: usize) -> bool {
        let mut drained = false;
        for _ in 0..TURNS {
            // whoever is in a handshake waits for the next turn, and all behind them
            if self.handshakes.steps_left == 0 {
                break;
            }
            let Self { listeners, inbox, core, associations, handshakes, .. } = self;
            let Some(Listener::Udp { udp, address, .. }) = listeners.get(index) else { return true };
            let more = inbox.receive(udp).unwrap_or(false);
            for train in inbox.trains() {
                let server = SocketAddr::new(train.to.unwrap_or(address.ip()), address.port());
                let path = Path { listener: index, client: train.from, server, source: train.to };
                for datagram in train.datagrams() {
                    associations.receive(now, path, datagram, core, handshakes);
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
}
