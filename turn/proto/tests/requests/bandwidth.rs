//! What an allocation may relay in a second.

use super::{OK, flow, peer};
use crate::common::{Outcome, World};
use rtc_turn_proto::{Drop, channel_data, client::Client};
use std::{net::SocketAddr, num::NonZeroU64, time::Duration};

const PEER: &str = "8.8.8.8:9";
const RATE: u64 = 100_000;
const BYTES: usize = 1000;
/// A second's worth.
const BURST: usize = RATE as usize / BYTES;

fn world() -> (World, Client, SocketAddr) {
    let mut world = World::new();
    world.server.set_bandwidth(world.now, NonZeroU64::new(RATE));
    let mut client = world.client("alice");
    let relayed = world.allocate(&flow(1), &mut client);
    assert_eq!(world.ask(&flow(1), &mut client, |c| c.create_permission(peer(PEER))), OK);
    assert_eq!(world.ask(&flow(1), &mut client, |c| c.channel_bind(0x4000, peer("8.8.4.4:9"))), OK);
    (world, client, relayed)
}

fn by_channel(world: &mut World) -> bool {
    let mut packet = Vec::new();
    channel_data::write(0x4000, &[7; BYTES], false, &mut packet);
    matches!(world.send(&flow(1), &packet), Outcome::Relayed { .. })
}

fn by_send(world: &mut World, client: &mut Client) -> bool {
    let packet = client.send(peer(PEER), &[7; BYTES]);
    matches!(world.send(&flow(1), &packet), Outcome::Relayed { .. })
}

#[test]
fn what_is_above_the_quota_is_dropped_by_whatever_way_it_comes() {
    let (mut world, mut client, relayed) = world();
    let sent = (0..2 * BURST).filter(|n| {
        if n.is_multiple_of(2) { by_channel(&mut world) } else { by_send(&mut world, &mut client) }
    });
    assert_eq!(sent.count(), BURST, "both ways share a bucket");
    let from = |n: usize| peer(if n.is_multiple_of(2) { PEER } else { "8.8.4.4:9" });
    let heard = (0..2 * BURST).filter(|n| world.datagram(relayed, from(*n), &[7; BYTES]).is_some()).count();
    assert_eq!(heard, BURST, "the other direction has its own");
    assert_eq!(world.server.counters().drops_of(Drop::BandwidthQuota), 2 * BURST as u64);
    let counters = world.server.counters();
    let bytes = (counters.to_peers[0].bytes, counters.to_clients[0].bytes);
    assert_eq!(bytes, (RATE, RATE), "what is dropped is not counted as relayed");

    let mut other = world.client("alice");
    world.allocate(&flow(2), &mut other);
    assert_eq!(world.ask(&flow(2), &mut other, |c| c.create_permission(peer(PEER))), OK);
    let packet = other.send(peer(PEER), &[7; BYTES]);
    assert!(
        matches!(world.send(&flow(2), &packet), Outcome::Relayed { .. }),
        "another allocation has its own"
    );

    world.now.instant += Duration::from_millis(100);
    assert_eq!((0..BURST).filter(|_| by_channel(&mut world)).count(), BURST / 10);
}

#[test]
fn a_train_is_charged_for_each_of_its_datagrams() {
    let (mut world, _, relayed) = world();
    let relay = world.open.values().find(|open| open.port == relayed.port()).unwrap().relay;
    let train = 2 * BURST;
    let route = world.server.route_from_peer(world.now, relay, peer(PEER), train as u64).unwrap();
    let mut out = Vec::new();
    let passed = (0..train).filter(|_| world.server.encode_to_client(&route, &[7; BYTES], &mut out)).count();
    assert_eq!(passed, BURST);
}

#[test]
fn a_new_quota_holds_for_live_allocations_and_none_is_without_bound() {
    let (mut world, _, _) = world();
    world.server.set_bandwidth(world.now, None);
    assert!((0..5 * BURST).all(|_| by_channel(&mut world)));
    world.server.set_bandwidth(world.now, NonZeroU64::new(2 * RATE));
    assert_eq!((0..5 * BURST).filter(|_| by_channel(&mut world)).count(), 2 * BURST);
    world.server.set_bandwidth(world.now, NonZeroU64::new(2 * RATE));
    assert!(!by_channel(&mut world), "the same quota again gives nothing");
}
