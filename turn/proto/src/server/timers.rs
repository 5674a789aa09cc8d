//! What is due when. What ends before its time leaves a timer behind, and an hour may pass until that
//! would fire, so a heap that has grown is rid of those that stand for nothing any more: its size follows
//! what lives, whatever clients begin and end.

use super::{Now, Server};
use crate::ConnectionId;
use std::{cmp::Reverse, time::Instant};

/// Timers that nobody minds.
pub(super) const FEW: usize = 256;

/// What is due at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// By index and generation.
    Allocation(usize, u64),
    Reservation([u8; 8]),
    Connection(ConnectionId),
}

impl Server {
    /// When [`Server::handle_timeout`] is due. It may prove to be early.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.peek().map(|Reverse((at, _))| *at)
    }

    /// Ends what has expired.
    pub fn handle_timeout(&mut self, now: Now) {
        while let Some(Reverse((at, timer))) = self.timers.peek().copied()
            && at <= now.instant
        {
            self.timers.pop();
            if !self.stands(at, timer) {
                continue;
            }
            match timer {
                Timer::Allocation(index, _) => match self.allocations.get_mut(index) {
                    Some(a) if a.expires > now.instant => {
                        a.due = a.expires;
                        let due = a.due;
                        self.set_timer(due, timer);
                    }
                    _ => self.remove(index),
                },
                Timer::Connection(id) => self.connection_timeout(id),
                Timer::Reservation(token) => {
                    if let Some(reserved) = self.reservations.expire(&token) {
                        self.give_port(reserved.family, reserved.port, reserved.home);
                    }
                }
            }
        }
    }

    /// Sees to it that an allocation ends when it expires. One that expires later than it did finds out
    /// when its timer fires.
    pub(super) fn schedule(&mut self, index: usize, is_new: bool) {
        let Some(allocation) = self.allocations.get_mut(index) else { return };
        if is_new || allocation.expires < allocation.due {
            allocation.due = allocation.expires;
            let (due, timer) = (allocation.due, Timer::Allocation(index, allocation.generation));
            self.set_timer(due, timer);
        }
    }

    pub(super) fn set_timer(&mut self, at: Instant, timer: Timer) {
        if self.timers.len() >= self.many_timers {
            let mut timers = std::mem::take(&mut self.timers);
            timers.retain(|Reverse((at, timer))| self.stands(*at, *timer));
            self.many_timers = FEW.max(2 * timers.len());
            timers.shrink_to(self.many_timers);
            self.timers = timers;
        }
        self.timers.push(Reverse((at, timer)));
    }

    /// Whether a timer is still for something.
    fn stands(&self, at: Instant, timer: Timer) -> bool {
        match timer {
            Timer::Allocation(index, generation) => {
                self.allocations.get(index).is_some_and(|a| a.generation == generation && a.due == at)
            }
            Timer::Reservation(token) => self.reservations.holds(&token),
            Timer::Connection(id) => self.connection_due(id) == Some(at),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use crate::{
        ClientAction, Config, Flow, Nonces, PeerPolicy, Quotas, RelayAddresses, Reservations, Transport,
        client::{Answer, Client},
    };
    use rtc_credentials::{KeyRing, Secret};
    use std::{sync::Arc, time::Duration};

    fn server() -> (Server, Client, Now) {
        let ring = KeyRing::single(Secret::new(b"a secret".to_vec()));
        let now = Now { instant: Instant::now(), unix: 1_800_000_000 };
        let credential = rtc_credentials::mint(&ring, "a", Duration::from_secs(86_400), now.unix).unwrap();
        let addresses = RelayAddresses { v4: Some([192, 0, 2, 1].into()), v6: None };
        let (config, peers) = (Config::new("x", Nonces::new([1; 32], 86_400)), PeerPolicy::default());
        let (quotas, reservations) = (Quotas::new(crate::Limits::default()), Reservations::new());
        let server =
            Server::new(config, ring.into(), Arc::new(peers), quotas, reservations, addresses, [2; 32]);
        (server, Client::new(credential.username, credential.password, 1), now)
    }

    fn ask(server: &mut Server, client: &mut Client, now: Now, f: impl Fn(&mut Client) -> Vec<u8>) {
        let at = |port| ([192, 0, 2, 7], port).into();
        let flow = Flow { transport: Transport::Udp, client: at(9), server: at(3478), link: 0 };
        for _ in 0..2 {
            let (packet, mut reply) = (f(client), Vec::new());
            if let ClientAction::Open(open) = server.handle_client(now, &flow, &packet, &mut reply) {
                server.relay_opened(now, open.relay, true, &mut reply);
            }
            match client.read(&reply) {
                Answer::Challenged => {}
                Answer::Success { .. } => return,
                answer => panic!("{answer:?}"),
            }
        }
    }

    #[test]
    fn a_client_that_begins_and_ends_allocations_leaves_no_heap_of_timers() {
        let (mut server, mut client, now) = server();
        for _ in 0..5000 {
            ask(&mut server, &mut client, now, Client::allocate);
            ask(&mut server, &mut client, now, |c| c.refresh(0));
        }
        assert!(server.timers.len() <= FEW, "{}", server.timers.len());
    }

    #[test]
    fn a_client_that_lengthens_and_shortens_its_lifetime_has_one_timer() {
        let (mut server, mut client, mut now) = server();
        ask(&mut server, &mut client, now, Client::allocate);
        for _ in 0..100 {
            ask(&mut server, &mut client, now, |c| c.refresh(3600));
            ask(&mut server, &mut client, now, |c| c.refresh(600));
        }
        assert_eq!(server.timers.len(), 1);
        for _ in 0..5 {
            ask(&mut server, &mut client, now, |c| c.refresh(3600));
            now.instant += Duration::from_secs(601);
            now.unix += 601;
            server.handle_timeout(now);
            ask(&mut server, &mut client, now, |c| c.refresh(600));
        }
        assert!(server.timers.len() <= 6, "{}", server.timers.len());
        now.instant += Duration::from_secs(599);
        server.handle_timeout(now);
        assert_eq!(server.open_relays(), 1);
        now.instant += Duration::from_secs(1);
        server.handle_timeout(now);
        assert_eq!(server.open_relays(), 0, "it ends on time");
    }
}
