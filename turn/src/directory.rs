//! Which worker holds which relayed address, so that data between two clients of this server need
//! not pass through the kernel. Read on every packet to such an address, written where a relay
//! socket opens or closes.

use rtc_turn_proto::{Family, PortRange, RelayId};
use std::{
    net::SocketAddr,
    sync::atomic::{AtomicU64, Ordering},
};

/// Where a relayed address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Holder {
    pub(crate) worker: u16,
    pub(crate) relay: RelayId,
}

/// One entry per relay port and family, for all workers; a port is one holder's at a time. The
/// address is not in it: only relay sockets on the host's present addresses are entered.
#[derive(Debug)]
pub(crate) struct Directory {
    first: u16,
    /// 0 when nobody holds the port, else one more than the worker over the relay's id.
    by_family: [Box<[AtomicU64]>; 2],
}

impl Directory {
    pub(crate) fn new(ports: PortRange) -> Self {
        let entries = || (ports.min..=ports.max).map(|_| AtomicU64::new(0)).collect();
        Self { first: ports.min, by_family: [entries(), entries()] }
    }

    fn entry(&self, family: Family, port: u16) -> Option<&AtomicU64> {
        let index = port.checked_sub(self.first)?;
        self.by_family[family as usize].get(usize::from(index))
    }

    /// To be called when the socket is open.
    pub(crate) fn enter(&self, family: Family, port: u16, holder: Holder) {
        if let Some(entry) = self.entry(family, port) {
            let value = (u64::from(holder.worker) + 1) << 32 | u64::from(holder.relay.0);
            entry.store(value, Ordering::Release);
        }
    }

    /// To be called before the socket closes, as then another worker may open the port.
    pub(crate) fn leave(&self, family: Family, port: u16) {
        if let Some(entry) = self.entry(family, port) {
            entry.store(0, Ordering::Release);
        }
    }

    pub(crate) fn find(&self, address: SocketAddr) -> Option<Holder> {
        let value = self.entry(Family::of(&address.ip()), address.port())?.load(Ordering::Acquire);
        let worker = (value >> 32).checked_sub(1)?;
        Some(Holder { worker: worker as u16, relay: RelayId(value as u32) })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_port_is_found_while_it_is_held_and_by_family() {
        let directory = Directory::new("50000-50003".parse().unwrap());
        let at = |address: &str| directory.find(address.parse().unwrap());
        let holder = Holder { worker: 0, relay: RelayId(0) };
        let other = Holder { worker: u16::MAX, relay: RelayId(u32::MAX) };
        directory.enter(Family::V4, 50_000, holder);
        directory.enter(Family::V6, 50_003, other);
        assert_eq!(at("192.0.2.1:50000"), Some(holder));
        assert_eq!(at("[2001:db8::1]:50003"), Some(other));
        assert_eq!((at("192.0.2.1:50003"), at("[2001:db8::1]:50000")), (None, None));
        for outside in ["192.0.2.1:49999", "192.0.2.1:50004", "192.0.2.1:0"] {
            directory.enter(Family::V4, outside.parse::<SocketAddr>().unwrap().port(), holder);
            assert_eq!(at(outside), None);
        }
        directory.leave(Family::V4, 50_000);
        assert_eq!(at("192.0.2.1:50000"), None);
    }
}
