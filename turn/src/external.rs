//! Under which addresses this host is seen from outside: a STUN server is asked from the addresses that are relayed
//! from, again and again, since what a NAT gives may change.

use crate::{server::Shared, settings::RelayAddress};
use rtc_turn_proto::{Class, Message, Method, TransactionId, Writer, attributes::XorMappedAddress};
use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::{
    net::{UdpSocket, lookup_host},
    time::{sleep, timeout},
};

/// How often it is asked while it answers.
pub(crate) const AGAIN: Duration = Duration::from_secs(20);
/// How often while it does not.
const SOON: Duration = Duration::from_secs(2);
/// How long names may take.
const LOOKUP: Duration = Duration::from_secs(5);
/// The first wait for an answer, which doubles with each repetition (RFC 8489, section 6.2.1).
const RTO: Duration = Duration::from_millis(500);
/// How often a request is sent: lost datagrams are no silence.
const ATTEMPTS: u32 = 4;

/// What is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct External {
    /// At most one of each family, as learnt last: one that cannot be asked again stays.
    pub(crate) addresses: Vec<IpAddr>,
    /// Why an address of a family that is relayed from could not be learnt when last asked for.
    pub(crate) error: Option<String>,
}

/// Why no address was learnt.
#[derive(Debug, thiserror::Error)]
enum Unknown {
    #[error("no answer from {0}")]
    Silence(SocketAddr),
    #[error("{0} answers without the address of who asks")]
    NoAddress(SocketAddr),
    #[error("{0} cannot be asked: {1}")]
    Io(SocketAddr, io::Error),
}

impl External {
    /// Takes what was learnt now, and keeps of what was known before the families that were not.
    fn take(&mut self, new: Self) {
        let Self { mut addresses, error } = new;
        let learnt = |ip: &IpAddr| addresses.iter().any(|new| new.is_ipv4() == ip.is_ipv4());
        let kept: Vec<_> = self.addresses.iter().copied().filter(|ip| !learnt(ip)).collect();
        addresses.extend(kept);
        addresses.sort_unstable();
        *self = Self { addresses, error };
    }

    /// These addresses to relay from, with what was learnt where no other address is advertised for them.
    pub(crate) fn advertise(&self, relay: &[RelayAddress]) -> Vec<RelayAddress> {
        let seen = |relay: &RelayAddress| {
            let of_family = |ip: &&IpAddr| ip.is_ipv4() == relay.local.is_ipv4();
            let advertised =
                self.addresses.iter().find(of_family).filter(|_| relay.local == relay.advertised);
            RelayAddress { local: relay.local, advertised: *advertised.unwrap_or(&relay.advertised) }
        };
        relay.iter().map(seen).collect()
    }
}

/// Asks until it is dropped.
pub(crate) async fn keep(this: Arc<Shared>) {
    let Some(stun) = &this.config.external_stun else { return };
    loop {
        let relay = this.state().relay.clone();
        let asked = ask_all(&stun.server, &relay).await;
        let pause = if asked.error.is_some() { SOON } else { stun.every };
        this.set_external(asked);
        sleep(pause).await;
    }
}

impl Shared {
    fn set_external(&self, asked: External) {
        let mut state = self.state();
        let before = state.external.clone();
        state.external.take(asked);
        let now = state.external.clone();
        match &now.error {
            Some(error) if before.error.is_none() => {
                tracing::warn!(error, known = ?now.addresses, "cannot learn this host's address by STUN");
            }
            _ if now.addresses != before.addresses || now.error != before.error => {
                tracing::info!(addresses = ?now.addresses, "learnt by STUN");
            }
            _ => {}
        }
        if let Some(up) = &self.telemetry.external_stun_up {
            up.store(now.error.is_none(), Ordering::Relaxed);
        }
        if now.addresses != before.addresses {
            self.set_addresses(&mut state);
        }
    }
}

async fn ask_all(server: &str, relay: &[RelayAddress]) -> External {
    let failed = |error: String| External { addresses: Vec::new(), error: Some(error) };
    let found = match timeout(LOOKUP, lookup_host(server)).await {
        Ok(Ok(found)) => found.collect::<Vec<_>>(),
        Ok(Err(error)) => return failed(format!("{server} is not found: {error}")),
        Err(_) => return failed(format!("{server} is not found within {LOOKUP:?}")),
    };
    let (mut addresses, mut needed, mut others) = (Vec::new(), Vec::new(), Vec::new());
    for any in [IpAddr::from(Ipv4Addr::UNSPECIFIED), Ipv6Addr::UNSPECIFIED.into()] {
        let same = |ip: IpAddr| ip.is_ipv4() == any.is_ipv4();
        let own = relay.iter().map(|relay| relay.local).find(|ip| same(*ip));
        let Some(to) = found.iter().copied().find(|to| same(to.ip())) else { continue };
        match ask(own.unwrap_or(any), to).await {
            Ok(seen) => addresses.push(seen),
            Err(error) if own.is_some() => needed.push(error.to_string()),
            Err(error) => others.push(error.to_string()),
        }
    }
    // that a host has no IPv6 matters to nobody who does not relay from it
    if addresses.is_empty() {
        needed.append(&mut others);
        if needed.is_empty() {
            needed.push(format!("{server} has no address of a family that is relayed from"));
        }
    }
    External { addresses, error: (!needed.is_empty()).then(|| needed.join("; ")) }
}

/// The address from which `to` sees `from`.
async fn ask(from: IpAddr, to: SocketAddr) -> Result<IpAddr, Unknown> {
    let io = |error| Unknown::Io(to, error);
    let socket = UdpSocket::bind((from, 0)).await.map_err(io)?;
    socket.connect(to).await.map_err(io)?;
    let mut id = [0; 12];
    getrandom::fill(&mut id).map_err(|error| io(io::Error::other(error.to_string())))?;
    let id = TransactionId(id);
    let mut request = Vec::new();
    Writer::new(&mut request, Class::Request, Method::BINDING, id);
    let mut buffer = [0; 1500];
    for attempt in 0..ATTEMPTS {
        socket.send(&request).await.map_err(io)?;
        let Ok(received) = timeout(RTO * 2u32.pow(attempt), answer(&socket, id, &mut buffer)).await else {
            continue;
        };
        return received.map_err(io)?.ok_or(Unknown::NoAddress(to));
    }
    Err(Unknown::Silence(to))
}

async fn answer(socket: &UdpSocket, id: TransactionId, buffer: &mut [u8]) -> io::Result<Option<IpAddr>> {
    loop {
        let length = socket.recv(buffer).await?;
        match Message::parse(&buffer[..length]) {
            Ok(message) if message.id() == id => {
                let seen = message.get::<XorMappedAddress>().ok().flatten().map(|seen| seen.0.ip());
                let usable = |ip: &IpAddr| !ip.is_unspecified() && !ip.is_multicast();
                return Ok(seen.filter(|_| message.class() == Class::Success).filter(usable));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn ips(list: &[&str]) -> Vec<IpAddr> {
        list.iter().map(|ip| ip.parse().unwrap()).collect()
    }

    #[test]
    fn a_family_that_is_not_learnt_again_stays_as_it_was_known() {
        let mut known = External::default();
        known.take(External { addresses: ips(&["198.51.100.1", "2001:db8::1"]), error: None });
        let half = External { addresses: ips(&["198.51.100.2"]), error: Some("silence".into()) };
        known.take(half);
        assert_eq!(known.addresses, ips(&["198.51.100.2", "2001:db8::1"]));
        known.take(External { addresses: Vec::new(), error: Some("silence".into()) });
        assert_eq!((known.addresses.len(), known.error.as_deref()), (2, Some("silence")));
    }

    #[test]
    fn what_was_learnt_is_advertised_where_nothing_else_is() {
        let known = External { addresses: ips(&["198.51.100.1"]), error: None };
        let relay = |list: &[&str]| list.iter().map(|r| r.parse().unwrap()).collect::<Vec<RelayAddress>>();
        assert_eq!(known.advertise(&relay(&["10.0.0.1"])), relay(&["10.0.0.1,198.51.100.1"]));
        let given = relay(&["10.0.0.1,203.0.113.9", "fd00::1"]);
        assert_eq!(known.advertise(&given), given);
    }
}
