//! The `iceServers` that a browser is given (W3C WebRTC, `RTCIceServer`).

use crate::{Fleet, KeyRing, MintError, Transport, mint};
use serde::{Deserialize, Serialize};
use std::{
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
    net::IpAddr,
    time::Duration,
};

/// How many nodes a client is told of: a second for when the first is lost. More would cost each
/// browser an allocation on each of them (RFC 8445, section 5.1.1.2).
const NODES_PER_CLIENT: usize = 2;

/// An `RTCIceServer`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IceServer {
    /// `stun:` and `turn:` URIs (RFC 7064, RFC 7065).
    pub urls: Vec<String>,
    /// For `turn:` URIs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// The password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credential: Option<String>,
}

impl fmt::Debug for IceServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IceServer")
            .field("urls", &self.urls)
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

/// What to hand to `user` at `now` (Unix seconds), and when its credential expires.
///
/// One `stun:` entry and one `turn:` entry for at most two serving nodes. Which two follows from the
/// user's name by rendezvous hashing: users spread evenly, and when a node goes only its own users
/// move. No serving node gives an empty list. A fleet for STUN alone gives its `stun:` entry, which
/// does not expire: the time is 0.
///
/// # Errors
/// [`MintError`].
pub fn ice_servers(
    fleet: &Fleet,
    ring: &KeyRing,
    user: &str,
    ttl: Duration,
    now: u64,
) -> Result<(Vec<IceServer>, u64), MintError> {
    let nodes = pick(fleet, user);
    if fleet.stun_only {
        let urls: Vec<String> = nodes.iter().flat_map(|addresses| stun_uris(fleet, addresses)).collect();
        let server = (!urls.is_empty()).then_some(IceServer { urls, username: None, credential: None });
        return Ok((server.into_iter().collect(), 0));
    }
    let turn: Vec<String> = nodes.iter().flat_map(|addresses| turn_uris(fleet, addresses)).collect();
    let stun: Vec<String> = nodes.iter().flat_map(|addresses| stun_uris(fleet, addresses)).collect();
    with_uris(stun, turn, ring, user, ttl, now)
}

/// The same for URIs that are given instead of found in a fleet.
///
/// # Errors
/// [`MintError`].
pub fn with_uris(
    stun: Vec<String>,
    turn: Vec<String>,
    ring: &KeyRing,
    user: &str,
    ttl: Duration,
    now: u64,
) -> Result<(Vec<IceServer>, u64), MintError> {
    let credential = mint(ring, user, ttl, now)?;
    let mut servers = Vec::with_capacity(2);
    if !stun.is_empty() {
        servers.push(IceServer { urls: stun, username: None, credential: None });
    }
    if !turn.is_empty() {
        servers.push(IceServer {
            urls: turn,
            username: Some(credential.username),
            credential: Some(credential.password),
        });
    }
    Ok((servers, credential.expires))
}

fn pick<'a>(fleet: &'a Fleet, user: &str) -> Vec<&'a [IpAddr]> {
    let mut nodes: Vec<_> = fleet
        .nodes
        .iter()
        .filter(|n| n.serving && !n.addresses.is_empty())
        .map(|n| {
            let mut hasher = DefaultHasher::new();
            (&n.node, user).hash(&mut hasher);
            (hasher.finish(), n.addresses.as_slice())
        })
        .collect();
    nodes.sort_unstable_by_key(|(hash, _)| *hash);
    nodes.truncate(NODES_PER_CLIENT);
    nodes.into_iter().map(|(_, addresses)| addresses).collect()
}

fn turn_uris(fleet: &Fleet, addresses: &[IpAddr]) -> Vec<String> {
    let uri = |address: &IpAddr, port: u16, transport| {
        let (scheme, over) = match transport {
            Transport::Udp => ("turn", "udp"),
            Transport::Tcp => ("turn", "tcp"),
            Transport::Tls => ("turns", "tcp"),
            Transport::Dtls => ("turns", "udp"),
        };
        format!("{scheme}:{}:{port}?transport={over}", host(address))
    };
    addresses.iter().flat_map(|a| fleet.listeners.iter().map(move |l| uri(a, l.port, l.transport))).collect()
}

fn stun_uris(fleet: &Fleet, addresses: &[IpAddr]) -> Vec<String> {
    let udp = || fleet.listeners.iter().filter(|l| l.transport == Transport::Udp).take(1);
    addresses.iter().flat_map(|a| udp().map(move |l| format!("stun:{}:{}", host(a), l.port))).collect()
}

/// An IPv6 address stands in brackets in a URI (RFC 3986, section 3.2.2).
fn host(address: &IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => format!("[{v6}]"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{FleetListener, FleetNode, PortRange, Secret};

    fn fleet(nodes: u8) -> Fleet {
        Fleet {
            revision: "1".into(),
            realm: "example.com".into(),
            listeners: vec![
                FleetListener { transport: Transport::Udp, port: 3478 },
                FleetListener { transport: Transport::Tls, port: 5349 },
            ],
            relay_ports: PortRange::DYNAMIC,
            stun_only: false,
            nodes: (1..=nodes)
                .map(|n| FleetNode {
                    node: format!("w{n}"),
                    addresses: vec![format!("192.0.2.{n}").parse().unwrap()],
                    serving: true,
                })
                .collect(),
        }
    }

    fn ask(fleet: &Fleet, user: &str) -> Vec<IceServer> {
        let ring = KeyRing::single(Secret::new(b"north".to_vec()));
        ice_servers(fleet, &ring, user, Duration::from_secs(60), 1_000).unwrap().0
    }

    #[test]
    fn a_browser_gets_stun_and_turn_of_each_transport_with_a_credential() {
        let servers = ask(&fleet(1), "alice");
        assert_eq!(servers[0].urls, ["stun:192.0.2.1:3478"]);
        assert_eq!(servers[0].username, None);
        assert_eq!(
            servers[1].urls,
            ["turn:192.0.2.1:3478?transport=udp", "turns:192.0.2.1:5349?transport=tcp"]
        );
        assert_eq!(servers[1].username.as_deref(), Some("1060:alice"));
        let json = serde_json::to_value(&servers).unwrap();
        assert!(json[0].get("credential").is_none() && json[1]["credential"].is_string());
    }

    #[test]
    fn a_user_keeps_its_nodes_when_another_node_goes_and_users_spread() {
        let ten = fleet(10);
        let mut moved = 0;
        let mut used = std::collections::HashSet::new();
        for user in 0..500 {
            let user = format!("user-{user}");
            let before = ask(&ten, &user)[1].urls.clone();
            assert_eq!(before.len(), 2 * NODES_PER_CLIENT);
            used.extend(before.clone());
            let mut less = ten.clone();
            less.nodes[3].serving = false;
            let after = ask(&less, &user)[1].urls.clone();
            assert!(!after.iter().any(|u| u.contains("192.0.2.4:")));
            moved += usize::from(before != after);
        }
        assert_eq!(used.len(), 20, "every node serves somebody");
        // two of ten nodes each: a fifth of the users knew the one that went
        assert!((50..150).contains(&moved), "{moved}");
    }

    #[test]
    fn a_fleet_that_serves_nobody_gives_an_empty_list() {
        let mut none = fleet(2);
        none.nodes.iter_mut().for_each(|n| n.serving = false);
        assert!(ask(&none, "alice").is_empty());
    }

    #[test]
    fn a_fleet_for_stun_alone_names_no_relay_and_needs_no_key() {
        let stun = Fleet { stun_only: true, ..fleet(1) };
        let nobody = KeyRing::default();
        let (servers, expires) =
            ice_servers(&stun, &nobody, "alice", Duration::from_secs(60), 1_000).unwrap();
        assert_eq!((servers.len(), expires), (1, 0));
        assert_eq!(servers[0].urls, ["stun:192.0.2.1:3478"]);
        assert_eq!((&servers[0].username, &servers[0].credential), (&None, &None));
        assert!(stun.to_json().contains("stunOnly") && !fleet(1).to_json().contains("stunOnly"));
    }

    #[test]
    fn an_ipv6_address_stands_in_brackets() {
        let mut six = fleet(1);
        six.nodes[0].addresses = vec!["2001:db8::1".parse().unwrap()];
        assert_eq!(ask(&six, "alice")[0].urls, ["stun:[2001:db8::1]:3478"]);
    }
}
