//! Connections of clients: counted, and bounded by the address that they come from.
//!
//! Nobody says who he is to an anonymous server, so what one address may hold and do is bounded. Each
//! replica counts by itself.

use crate::metrics::Metrics;
use axum::{
    extract::ConnectInfo,
    http::{Extensions, HeaderMap},
};
use ipnet::{IpNet, Ipv6Net};
use rtc_signaling_proto::limits::Bucket;
use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

/// The networks whose hosts are taken for proxies: loopback, private, shared and link-local ones.
const PRIVATE: [&str; 9] = [
    "127.0.0.0/8",
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "100.64.0.0/10",
    "169.254.0.0/16",
    "::1/128",
    "fc00::/7",
    "fe80::/10",
];
/// An address without connections is forgotten after so long: its bucket is full again by then.
const FORGET: Duration = Duration::from_secs(10);
/// Addresses that are remembered before those are looked for that can be forgotten.
const SWEEP: usize = 1024;

/// What the clients of one address may hold and do at one replica. An IPv6 client counts as its /64.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressLimits {
    /// Open connections; 0 for any number.
    pub connections: u32,
    /// Rooms entered a second on average, a burst of twice as many; 0 for any number.
    pub joins_per_second: u32,
    /// Who is believed when `X-Forwarded-For` says for whom it asks. One of them that names nobody is not
    /// bounded: it may be a load balancer, and speak for everybody.
    pub proxies: Vec<IpNet>,
}

impl Default for AddressLimits {
    /// A school behind one address gets in; proxies are all hosts with private addresses.
    fn default() -> Self {
        let proxies = PRIVATE.iter().filter_map(|net| net.parse().ok()).collect();
        Self { connections: 500, joins_per_second: 50, proxies }
    }
}

/// One source of connections.
type Source = IpAddr;

#[derive(Debug)]
struct Held {
    connections: u32,
    joins: Bucket,
    last: Instant,
}

/// All connections of one replica.
#[derive(Debug)]
pub(crate) struct Guests {
    limits: AddressLimits,
    open: AtomicUsize,
    sources: Mutex<HashMap<Source, Held>>,
    start: Instant,
    metrics: Arc<Metrics>,
}

/// An address has as many connections as it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "your address has {most} connections to this server, as many as it may; close one, or ask the operator \
     (--connections-per-address, --trusted-proxy)"
)]
pub(crate) struct TooMany {
    most: u32,
}

/// What a client is told that enters rooms too fast.
pub(crate) const TOO_FAST: &str = "your address enters too many rooms; wait a second and try again";

impl Guests {
    pub(crate) fn new(limits: AddressLimits, metrics: Arc<Metrics>) -> Arc<Self> {
        let (open, sources) = (AtomicUsize::new(0), Mutex::default());
        Arc::new(Self { limits, open, sources, start: Instant::now(), metrics })
    }

    /// Open connections.
    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// A client begins a connection with this request.
    pub(crate) fn admit(
        self: &Arc<Self>,
        extensions: &Extensions,
        headers: &HeaderMap,
    ) -> Result<Guest, TooMany> {
        let peer = extensions.get::<ConnectInfo<SocketAddr>>();
        let source = peer.and_then(|peer| source(peer.0.ip(), headers, &self.limits.proxies));
        if let Some(source) = source {
            let most = self.limits.connections;
            let mut sources = self.lock();
            if sources.len() >= SWEEP && sources.len().is_power_of_two() && !sources.contains_key(&source) {
                sources.retain(|_, held| held.connections > 0 || held.last.elapsed() < FORGET);
            }
            let rate = self.limits.joins_per_second;
            let held = sources.entry(source).or_insert_with(|| Held {
                connections: 0,
                joins: Bucket::new(rate, rate.saturating_mul(2)),
                last: Instant::now(),
            });
            if most > 0 && held.connections >= most {
                drop(sources);
                self.metrics.refused("connections_per_address");
                tracing::debug!(%source, "an address has too many connections");
                return Err(TooMany { most });
            }
            held.connections += 1;
        }
        self.open.fetch_add(1, Ordering::Relaxed);
        Ok(Guest { guests: self.clone(), source })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Source, Held>> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection, until it is dropped.
#[derive(Debug)]
pub(crate) struct Guest {
    guests: Arc<Guests>,
    source: Option<Source>,
}

impl Guest {
    /// Whether it may enter a room now. To be asked once for each.
    pub(crate) fn may_join(&self) -> bool {
        let (Some(source), 1..) = (self.source, self.guests.limits.joins_per_second) else { return true };
        let now = u64::try_from(self.guests.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        let may = self.guests.lock().get_mut(&source).is_none_or(|held| held.joins.take(now));
        if !may {
            self.guests.metrics.refused("joins_per_address");
        }
        may
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.guests.open.fetch_sub(1, Ordering::Relaxed);
        if let Some(source) = self.source
            && let Some(held) = self.guests.lock().get_mut(&source)
        {
            held.connections = held.connections.saturating_sub(1);
            held.last = Instant::now();
        }
    }
}

/// Whom a request comes from; `None` when that cannot be told.
fn source(peer: IpAddr, headers: &HeaderMap, proxies: &[IpNet]) -> Option<Source> {
    let peer = peer.to_canonical();
    let is_proxy = |address: &IpAddr| proxies.iter().any(|net| net.contains(address));
    if !is_proxy(&peer) {
        return Some(network(peer));
    }
    // Each proxy appends whom it was asked by, so what stands before the last stranger is hearsay.
    let values = headers.get_all("x-forwarded-for").iter().filter_map(|value| value.to_str().ok());
    let hops: Option<Vec<IpAddr>> = values
        .flat_map(|value| value.split(','))
        .map(|hop| Some(hop.trim().parse::<IpAddr>().ok()?.to_canonical()))
        .collect();
    let hops = hops?;
    hops.iter().rev().find(|hop| !is_proxy(hop)).or(hops.first()).copied().map(network)
}

fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => Ipv6Net::new(v6, 64).map_or(address, |net| IpAddr::V6(net.network())),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    fn from(peer: &str, forwarded: &[&str]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for value in forwarded {
            headers.append("x-forwarded-for", value.parse().unwrap());
        }
        let proxies = AddressLimits::default().proxies;
        source(peer.parse().unwrap(), &headers, &proxies).map(|source| source.to_string())
    }

    #[test]
    fn a_stranger_is_taken_by_its_own_address_whatever_it_claims() {
        assert_eq!(from("203.0.113.7", &["198.51.100.1"]).unwrap(), "203.0.113.7");
        assert_eq!(from("::ffff:203.0.113.7", &[]).unwrap(), "203.0.113.7");
        assert_eq!(from("2001:db8:1:2:3:4:5:6", &[]).unwrap(), "2001:db8:1:2::");
    }

    #[test]
    fn a_proxy_is_believed_about_the_last_stranger_only() {
        assert_eq!(from("10.0.0.1", &["198.51.100.1"]).unwrap(), "198.51.100.1");
        assert_eq!(from("10.0.0.1", &["1.2.3.4, 198.51.100.1", "10.9.9.9"]).unwrap(), "198.51.100.1");
        assert_eq!(from("::1", &["192.168.1.5, 10.0.0.2"]).unwrap(), "192.168.1.5");
        assert_eq!(from("10.0.0.1", &[]), None);
        assert_eq!(from("10.0.0.1", &["unknown"]), None);
    }

    fn admit(guests: &Arc<Guests>, peer: &str) -> Result<Guest, TooMany> {
        let mut extensions = Extensions::new();
        let peer: IpAddr = peer.parse().unwrap();
        extensions.insert(ConnectInfo(SocketAddr::from((peer, 1))));
        guests.admit(&extensions, &HeaderMap::new())
    }

    #[test]
    fn an_address_holds_so_many_connections_and_gets_them_back() {
        let limits = AddressLimits { connections: 2, ..AddressLimits::default() };
        let guests = Guests::new(limits, Arc::new(Metrics::new()));
        let held: Vec<Guest> = (0..2).map(|_| admit(&guests, "203.0.113.7").unwrap()).collect();
        assert_eq!(admit(&guests, "203.0.113.7").unwrap_err(), TooMany { most: 2 });
        let other = admit(&guests, "203.0.113.8").unwrap();
        assert_eq!(guests.open(), 3);
        drop(held);
        drop(admit(&guests, "203.0.113.7").unwrap());
        drop(other);
        assert_eq!(guests.open(), 0);
    }

    #[test]
    fn reconnecting_gives_no_fresh_joins() {
        let limits = AddressLimits { joins_per_second: 1, ..AddressLimits::default() };
        let guests = Guests::new(limits, Arc::new(Metrics::new()));
        let joins = (0..50).filter(|_| admit(&guests, "203.0.113.7").unwrap().may_join());
        assert_eq!(joins.count(), 2);
        assert!((0..50).all(|_| admit(&guests, "10.0.0.1").unwrap().may_join()));
    }

    #[test]
    fn addresses_that_are_gone_are_forgotten() {
        let guests = Guests::new(AddressLimits::default(), Arc::new(Metrics::new()));
        let arrive = |n: u32| admit(&guests, &std::net::Ipv4Addr::from(0xcb00_0000 + n).to_string());
        for n in 0..1024 {
            drop(arrive(n).unwrap());
        }
        for held in guests.lock().values_mut() {
            held.last -= FORGET;
        }
        let _one = arrive(5000).unwrap();
        assert_eq!(guests.lock().len(), 1);
    }
}
