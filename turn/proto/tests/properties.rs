//! For any sequence of packets and times: nothing panics, ports come back, quotas hold, and nothing is
//! relayed without a permission.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{Outcome, World, peer};
use proptest::prelude::*;
use rtc_turn_proto::{
    Flow, Limits, Method, attributes as attr, channel_data,
    client::{Answer, Client},
};
use std::{collections::HashMap, sync::Arc};

const FLOWS: u16 = 6;
const PEERS: [&str; 5] = ["8.8.8.8:9", "8.8.8.8:10", "1.1.1.1:9", "10.0.0.1:50003", "10.0.0.1:22"];
const QUOTA: u32 = 3;

#[derive(Clone, Debug)]
enum Step {
    Allocate { flow: u16, kind: u8 },
    Refresh { flow: u16, lifetime: u32 },
    Permit { flow: u16, peer: usize },
    Bind { flow: u16, peer: usize, number: u16 },
    Send { flow: u16, peer: usize },
    Channel { flow: u16, number: u16 },
    FromPeer { flow: u16, peer: usize },
    Lost { flow: u16, peer: usize, kind: u8 },
    AllocateTcp { flow: u16 },
    Connect { flow: u16, peer: usize },
    Connected { which: usize, opened: bool },
    PeerConnects { flow: u16, peer: usize },
    BindConnection { flow: u16, data: u16, which: usize },
    ConnectionEnds { which: usize },
    Rules { deny: bool },
    Gone { flow: u16 },
    Pass { seconds: u64 },
    Busy { port: u16 },
    Move { from: u16, to: u16, lifetime: u32, old_ticket: bool },
    Junk { flow: u16, bytes: Vec<u8> },
    Mangled { flow: u16, at: usize, byte: u8 },
}

fn step() -> impl Strategy<Value = Step> {
    let (f, p) = (0..FLOWS, 0..PEERS.len());
    prop_oneof![
        5 => (f.clone(), 0u8..7).prop_map(|(flow, kind)| Step::Allocate { flow, kind }),
        2 => (f.clone(), prop_oneof![Just(0), Just(600), Just(3600), any::<u32>()])
            .prop_map(|(flow, lifetime)| Step::Refresh { flow, lifetime }),
        3 => (f.clone(), p.clone()).prop_map(|(flow, peer)| Step::Permit { flow, peer }),
        3 => (f.clone(), p.clone(), 0x3FFFu16..0x4003)
            .prop_map(|(flow, peer, number)| Step::Bind { flow, peer, number }),
        4 => (f.clone(), p.clone()).prop_map(|(flow, peer)| Step::Send { flow, peer }),
        4 => (f.clone(), 0x4000u16..0x4003).prop_map(|(flow, number)| Step::Channel { flow, number }),
        4 => (f.clone(), p.clone()).prop_map(|(flow, peer)| Step::FromPeer { flow, peer }),
        2 => (f.clone(), p.clone(), 0u8..13).prop_map(|(flow, peer, kind)| Step::Lost { flow, peer, kind }),
        2 => f.clone().prop_map(|flow| Step::AllocateTcp { flow }),
        3 => (f.clone(), p.clone()).prop_map(|(flow, peer)| Step::Connect { flow, peer }),
        3 => (0usize..3, any::<bool>()).prop_map(|(which, opened)| Step::Connected { which, opened }),
        3 => (f.clone(), p).prop_map(|(flow, peer)| Step::PeerConnects { flow, peer }),
        3 => (f.clone(), FLOWS..FLOWS + 4, 0usize..8)
            .prop_map(|(flow, data, which)| Step::BindConnection { flow, data, which }),
        1 => (0usize..8).prop_map(|which| Step::ConnectionEnds { which }),
        1 => any::<bool>().prop_map(|deny| Step::Rules { deny }),
        1 => f.clone().prop_map(|flow| Step::Gone { flow }),
        2 => prop_oneof![Just(29u64), Just(299), Just(301), Just(601), 0u64..4000]
            .prop_map(|seconds| Step::Pass { seconds }),
        1 => (50_000u16..50_020).prop_map(|port| Step::Busy { port }),
        4 => (f.clone(), f.clone(), prop_oneof![8 => Just(600), 1 => Just(0)], prop_oneof![8 => Just(false), 1 => Just(true)])
            .prop_map(|(from, to, lifetime, old_ticket)| Step::Move { from, to, lifetime, old_ticket }),
        2 => (f.clone(), proptest::collection::vec(any::<u8>(), 0..60))
            .prop_map(|(flow, bytes)| Step::Junk { flow, bytes }),
        2 => (f, 0usize..120, any::<u8>()).prop_map(|(flow, at, byte)| Step::Mangled { flow, at, byte }),
    ]
}

/// Every other flow is a stream, as TCP allocations need.
fn flow(n: u16) -> Flow {
    if n.is_multiple_of(2) { common::flow(n) } else { common::stream(n) }
}

/// What an allocation's client was told: until when it may exchange with an address, and over which channel.
#[derive(Default)]
struct Known {
    permitted: HashMap<std::net::IpAddr, u64>,
    channels: HashMap<u16, (std::net::SocketAddr, u64)>,
}

fn allocate(c: &mut Client, kind: u8) -> Vec<u8> {
    c.request(Method::ALLOCATE, |w| {
        w.raw(attr::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
        match kind {
            1 => w.raw(attr::EVEN_PORT, &[0x80]),
            2 => w.raw(attr::EVEN_PORT, &[0]),
            3 => w.raw(attr::ADDITIONAL_ADDRESS_FAMILY, &[2, 0, 0, 0]),
            4 => w.raw(attr::REQUESTED_ADDRESS_FAMILY, &[2, 0, 0, 0]),
            5 | 6 => w.raw(attr::MOBILITY_TICKET, &[]),
            _ => w,
        };
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_sequence_keeps_the_promises(steps in proptest::collection::vec(step(), 1..80)) {
        let mut world = World::with(Limits { per_user: Some(QUOTA), total: Some(8) }, |_| {});
        let mut clients: Vec<Client> = (0..FLOWS).map(|n| world.client(if n < 4 { "a" } else { "b" })).collect();
        // by allocation, and which allocation is a flow's: one that moves may have two
        let mut known: Vec<Known> = (0..FLOWS).map(|_| Known::default()).collect();
        let mut whose: Vec<usize> = (0..usize::from(FLOWS)).collect();
        let mut old_tickets: Vec<Option<Vec<u8>>> = vec![None; usize::from(FLOWS)];
        let mut relayed: Vec<Option<std::net::SocketAddr>> = vec![None; usize::from(FLOWS)];
        let mut denied = false;
        for step in steps {
            let now = world.now.unix;
            match step {
                Step::Allocate { flow: n, kind } => {
                    let i = usize::from(n);
                    // usernames expire; a fresh one is what a client would fetch
                    let fresh = world.client(if n < 4 { "a" } else { "b" });
                    let mut client = fresh;
                    if let Answer::Success { relayed: at, .. } = world.ask(&flow(n), &mut client, |c| allocate(c, kind)) {
                        whose[i] = known.len();
                        known.push(Known::default());
                        relayed[i] = at;
                        clients[i] = client;
                    }
                }
                Step::Refresh { flow: n, lifetime } => {
                    let i = usize::from(n);
                    world.ask(&flow(n), &mut clients[i], |c| c.refresh(lifetime));
                }
                Step::Permit { flow: n, peer: p } => {
                    let i = usize::from(n);
                    let target = peer(PEERS[p]);
                    if let Answer::Success { .. } = world.ask(&flow(n), &mut clients[i], |c| c.create_permission(target)) {
                        known[whose[i]].permitted.insert(target.ip(), now + 300);
                    }
                }
                Step::Bind { flow: n, peer: p, number } => {
                    let i = usize::from(n);
                    let target = peer(PEERS[p]);
                    if let Answer::Success { .. } = world.ask(&flow(n), &mut clients[i], |c| c.channel_bind(number, target)) {
                        prop_assert_ne!(target, peer("10.0.0.1:22"));
                        known[whose[i]].permitted.insert(target.ip(), now + 300);
                        known[whose[i]].channels.insert(number, (target, now + 600));
                    }
                }
                Step::Send { flow: n, peer: p } => {
                    let i = usize::from(n);
                    let target = peer(PEERS[p]);
                    let packet = clients[i].send(target, b"x");
                    if let Outcome::Relayed { peer: to, .. } = world.send(&flow(n), &packet) {
                        prop_assert_eq!(to, target);
                        prop_assert_ne!(target, peer("10.0.0.1:22"));
                        prop_assert!(known[whose[i]].permitted.get(&target.ip()).is_some_and(|end| *end > now));
                    }
                }
                Step::Channel { flow: n, number } => {
                    let mut packet = Vec::new();
                    channel_data::write(number, b"x", false, &mut packet);
                    if let Outcome::Relayed { peer: to, .. } = world.send(&flow(n), &packet) {
                        let bound = known[whose[usize::from(n)]].channels.get(&number);
                        prop_assert!(bound.is_some_and(|(target, end)| *target == to && *end > now));
                    }
                }
                Step::FromPeer { flow: n, peer: p } => {
                    let i = usize::from(n);
                    let from = peer(PEERS[p]);
                    if let Some(at) = relayed[i].filter(std::net::SocketAddr::is_ipv4)
                        && world.datagram(at, from, b"x").is_some() {
                        // the port may be another flow's by now, so any flow's permission counts
                        prop_assert!(known.iter().any(|k| k.permitted.get(&from.ip()).is_some_and(|end| *end > now)));
                        prop_assert_ne!(from, peer("10.0.0.1:22"));
                    }
                }
                Step::Lost { flow: n, peer: p, kind } => {
                    let from = peer(PEERS[p]);
                    let port = relayed[usize::from(n)].map(|at| at.port());
                    let relay = world.open.values().find(|open| Some(open.port) == port).map(|open| open.relay);
                    let icmp = attr::Icmp { kind, code: 0, mtu: 0 };
                    if let Some(relay) = relay
                        && world.server.icmp_from_peer(world.now, relay, from, icmp, &mut Vec::new()).is_some() {
                        prop_assert!(known.iter().any(|k| k.permitted.get(&from.ip()).is_some_and(|end| *end > now)));
                    }
                }
                Step::AllocateTcp { flow: n } => {
                    let i = usize::from(n);
                    let mut client = world.client(if n < 4 { "a" } else { "b" });
                    if let Answer::Success { relayed: at, .. } = world.ask(&flow(n), &mut client, Client::allocate_tcp) {
                        whose[i] = known.len();
                        known.push(Known::default());
                        relayed[i] = at;
                        clients[i] = client;
                    }
                }
                Step::Connect { flow: n, peer: p } => {
                    let target = peer(PEERS[p]);
                    let outcome = world.begin(&flow(n), &mut clients[usize::from(n)], |c| c.connect(target));
                    if let Outcome::Connect { peer: to, .. } = outcome {
                        prop_assert_eq!(to, target);
                        prop_assert_ne!(to, peer("10.0.0.1:22"));
                        prop_assert!(!denied || to.ip() != peer(PEERS[0]).ip());
                    }
                }
                Step::Connected { which, opened } => {
                    if let Some(id) = world.connecting.iter().nth(which).copied() {
                        let noticed = world.notices.len();
                        let wanted = world.connected(id, opened);
                        prop_assert!(!wanted || opened && world.notices.len() == noticed + 1);
                    }
                }
                Step::PeerConnects { flow: n, peer: p } => {
                    let from = peer(PEERS[p]);
                    if let Some(at) = relayed[usize::from(n)] && world.peer_connects(at, from).is_some() {
                        prop_assert!(known.iter().any(|k| k.permitted.get(&from.ip()).is_some_and(|end| *end > now)));
                        prop_assert_ne!(from, peer("10.0.0.1:22"));
                    }
                }
                Step::BindConnection { flow: n, data, which } => {
                    if let Some(id) = world.connections.iter().nth(which).copied() {
                        let client = &mut clients[usize::from(n)];
                        if let Outcome::Bound { connection, .. } = world.begin(&flow(data), client, |c| c.connection_bind(id)) {
                            prop_assert_eq!(connection, id);
                            let again = world.begin(&flow(data), client, |c| c.connection_bind(id));
                            prop_assert!(matches!(again, Outcome::Reply(_)), "bound twice");
                        }
                    }
                }
                Step::ConnectionEnds { which } => {
                    if let Some(id) = world.connections.iter().nth(which).copied() {
                        world.connection_ends(id);
                    }
                }
                Step::Move { from, to, lifetime, old_ticket } => {
                    let (from, i) = (usize::from(from), usize::from(to));
                    let mut client = clients[from].clone();
                    let shown = client.ticket.clone();
                    if old_ticket {
                        client.ticket.clone_from(&old_tickets[from]);
                    }
                    let before = (world.open.len(), world.quotas.total(), world.server.counters().live);
                    let answer = world.ask(&flow(to), &mut client, |c| c.move_here(lifetime));
                    let after = (world.open.len(), world.quotas.total(), world.server.counters().live);
                    if let Answer::Success { .. } = answer {
                        prop_assert!(!old_ticket || client.ticket == shown || old_tickets[from] == shown);
                        prop_assert!(lifetime == 0 || before == after, "a move takes nothing and gives nothing back");
                        whose[i] = whose[from];
                        relayed[i] = relayed[from];
                        old_tickets[i] = shown;
                        clients[i] = client;
                    } else {
                        prop_assert_eq!(before, after);
                    }
                }
                Step::Rules { deny } => {
                    denied = deny;
                    let mut rules = common::policy();
                    if deny {
                        rules.deny.push("8.8.8.8/32".parse().unwrap());
                        known.iter_mut().for_each(|k| {
                            k.permitted.remove(&peer(PEERS[0]).ip());
                            k.channels.retain(|_, (to, _)| to.ip() != peer(PEERS[0]).ip());
                        });
                    }
                    world.server.set_peers(Arc::new(rules));
                    world.pass(0);
                }
                Step::Gone { flow: n } => {
                    world.server.client_gone(&flow(n));
                    world.pass(0);
                }
                Step::Pass { seconds } => world.pass(seconds),
                Step::Busy { port } => {
                    if !world.busy.remove(&port) {
                        world.busy.insert(port);
                    }
                }
                Step::Junk { flow: n, bytes } => {
                    let relayed = matches!(world.send(&flow(n), &bytes), Outcome::Relayed { .. });
                    prop_assert!(!relayed || bytes[0] == 0x40);
                }
                Step::Mangled { flow: n, at, byte } => {
                    let mut packet = allocate(&mut clients[usize::from(n)], 3);
                    let before = (world.server.open_relays(), packet.clone());
                    let at = at % packet.len();
                    packet[at] = byte;
                    world.send(&flow(n), &packet);
                    prop_assert!(world.server.open_relays() == before.0 || packet == before.1
                        || at < 20 && packet[2..4] == before.1[2..4], "a forged request opened a socket");
                }
            }
            for (user, held) in world.quotas.top(9) {
                prop_assert!(held <= QUOTA, "{} holds {}", user, held);
            }
            prop_assert!(world.quotas.total() <= 8);
            prop_assert!(world.quotas.total() as usize >= world.open.len(), "each open socket counts");
        }
        world.pass(4000);
        prop_assert_eq!(world.open.len(), 0, "every port came back");
        prop_assert_eq!(world.connections.len(), 0, "every connection ended");
        prop_assert!(world.mobility.is_some_and(|mobility| mobility.is_empty()), "nobody is elsewhere");
        prop_assert_eq!((world.quotas.total(), world.server.counters().live), (0, 0));
        prop_assert_eq!(world.server.poll_timeout(), None);
    }
}
