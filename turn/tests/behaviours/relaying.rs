//! Data crosses the relay, over both transports and in both forms.

use crate::common::{OK, TestClient, address, config, echo_peer, metric, namespace, single, start, within};
use rtc_credentials::Transport;
use rtc_turn_proto::{Class, Method, TransactionId, Writer, attributes, channel_data, client::Answer};

#[tokio::test]
async fn each_transport_relays_by_send_and_by_channel() {
    let server = start(config()).await;
    let peer = echo_peer().await;
    for transport in [Transport::Udp, Transport::Tcp] {
        let mut client = TestClient::connect(&server, transport, &single(), "alice").await;
        client.allocate().await;
        assert_eq!(client.ask(|c| c.create_permission(peer)).await, OK);
        for length in [0, 1, 3, 1200, 9000] {
            let payload = vec![length as u8; length];
            assert_eq!(client.echo_by_send(peer, &payload).await, (peer, payload), "{transport:?}");
        }
        assert_eq!(client.ask(|c| c.channel_bind(0x4001, peer)).await, OK);
        for length in [0, 1, 3, 1200, 9000] {
            let payload = vec![length as u8; length];
            assert_eq!(client.echo_by_channel(0x4001, &payload).await, payload, "{transport:?}");
        }
    }
    for (name, least) in [("rtc_turn_packets_total", 20.0), ("rtc_turn_bytes_total", 40_000.0)] {
        for direction in ["to_peer", "to_client"] {
            let label = format!("direction=\"{direction}\"");
            loop {
                // published ten times a second
                if metric(&server, name, &label).await >= least {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
    }
}

#[tokio::test]
async fn a_train_of_datagrams_arrives_whole_and_in_order() {
    let server = start(config()).await;
    let peer = echo_peer().await;
    let mut client = TestClient::connect(&server, Transport::Udp, &single(), "alice").await;
    client.allocate().await;
    assert_eq!(client.ask(|c| c.channel_bind(0x4001, peer)).await, OK);
    for round in 0..50u8 {
        for n in 0..20u8 {
            let mut packet = Vec::new();
            // the last of a round is shorter, as in a frame of video
            let length = if n == 19 { 300 } else { 1000 };
            let payload = [vec![round, n], vec![7; length]].concat();
            channel_data::write(0x4001, &payload, false, &mut packet);
            client.send(&packet).await;
        }
        for n in 0..20u8 {
            let reply = client.receive().await;
            let (_, data) = channel_data::parse(&reply).unwrap();
            assert_eq!(data[..2], [round, n]);
            assert_eq!(data.len(), if n == 19 { 302 } else { 1002 });
        }
    }
}

#[tokio::test]
async fn two_clients_of_one_server_reach_each_other_through_their_relayed_addresses() {
    // the peers' address is private and allowed by no range: it is the fleet's own
    let server = start(rtc_turn::Config { allow: Vec::new(), ..config() }).await;
    let mut alice = TestClient::connect(&server, Transport::Udp, &single(), "alice").await;
    let mut bob = TestClient::connect(&server, Transport::Tcp, &single(), "bob").await;
    let (at_alice, at_bob) = (alice.allocate().await, bob.allocate().await);
    assert_eq!(alice.ask(|c| c.create_permission(at_bob)).await, OK);
    assert_eq!(bob.ask(|c| c.channel_bind(0x4000, at_alice)).await, OK);
    let hello = alice.client.send(at_bob, b"hello");
    alice.send(&hello).await;
    let reply = bob.receive().await;
    assert_eq!(channel_data::parse(&reply), Some((0x4000, &b"hello"[..])));
    // and over UDP, in whole trains
    let mut carol = TestClient::connect(&server, Transport::Udp, &single(), "carol").await;
    let at_carol = carol.allocate().await;
    assert_eq!(alice.ask(|c| c.channel_bind(0x4000, at_carol)).await, OK);
    assert_eq!(carol.ask(|c| c.create_permission(at_alice)).await, OK);
    for round in 0..20u8 {
        let sizes = [1000, 1000, 1000, 1000, 200, 1000, 1200, 1200, 0, 1];
        for (n, size) in sizes.into_iter().enumerate() {
            let mut packet = Vec::new();
            let payload = [vec![round, n as u8], vec![9; size]].concat();
            channel_data::write(0x4000, &payload, false, &mut packet);
            alice.send(&packet).await;
        }
        for (n, size) in sizes.into_iter().enumerate() {
            let reply = carol.receive().await;
            let Answer::Data(from, data) = carol.client.read(&reply) else { panic!() };
            assert_eq!((from, &data[..2], data.len()), (at_alice, &[round, n as u8][..], size + 2));
        }
    }
    let closed = address(&server, Transport::Udp);
    assert_eq!(alice.ask(|c| c.channel_bind(0x4001, closed)).await, Answer::Refused(403), "its listener");
}

#[tokio::test]
async fn many_clients_are_spread_over_the_workers_and_all_served() {
    let server = start(config()).await;
    let peer = echo_peer().await;
    let mut clients = Vec::new();
    let mut workers = std::collections::HashSet::new();
    for n in 0..100 {
        let transport = if n % 2 == 0 { Transport::Udp } else { Transport::Tcp };
        let mut client = TestClient::connect(&server, transport, &single(), &format!("user-{n}")).await;
        let relayed = client.allocate().await;
        assert_eq!(client.ask(|c| c.channel_bind(0x4000, peer)).await, OK);
        clients.push(client);
        // of the relay ports, every other pair is one worker's
        workers.insert((transport, relayed.port() / 2 % 2));
    }
    assert_eq!(workers.len(), 4, "both workers serve both transports");
    for (n, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.echo_by_channel(0x4000, &[n as u8; 50]).await, [n as u8; 50]);
    }
    crate::common::eventually("all allocations to be counted", || server.status()["allocations"] == 100)
        .await;
    // a closed connection ends its allocation, and a refresh to nothing a datagram's
    for mut client in clients {
        if matches!(client.link, crate::common::Link::Udp(_)) {
            assert!(matches!(client.ask(|c| c.refresh(0)).await, Answer::Success { .. }));
        }
    }
    crate::common::eventually("all allocations to end", || server.status()["allocations"] == 0).await;
}

/// RFC 8656, sections 11.2 and 14.
#[tokio::test]
async fn what_may_not_be_fragmented_goes_where_it_fits_and_nowhere_else() {
    if !namespace::enter("relaying::what_may_not_be_fragmented_goes_where_it_fits_and_nowhere_else") {
        return;
    }
    let mtu = ["link", "set", "dev", "lo", "mtu", "1500"];
    assert!(std::process::Command::new("ip").args(mtu).status().unwrap().success());
    let server = start(config()).await;
    let peer = echo_peer().await;
    let mut client = TestClient::connect(&server, Transport::Tcp, &single(), "alice").await;
    client.allocate().await;
    assert_eq!(client.ask(|c| c.create_permission(peer)).await, OK);
    let whole = |payload: &[u8]| {
        let mut packet = Vec::new();
        Writer::new(&mut packet, Class::Indication, Method::SEND, TransactionId([7; 12]))
            .xor_address(attributes::XOR_PEER_ADDRESS, peer)
            .raw(attributes::DONT_FRAGMENT, &[])
            .raw(attributes::DATA, payload);
        packet
    };
    let (short, long) = ([1; 1400], [2; 3000]);
    client.send(&whole(&long)).await;
    client.send(&whole(&short)).await;
    let reply = client.receive().await;
    assert_eq!(client.client.read(&reply), Answer::Data(peer, short.to_vec()), "and not the long one");
    within("the count", async {
        while metric(&server, "rtc_turn_drops_total", "send_failed").await != 1.0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(client.echo_by_send(peer, &long).await, (peer, long.to_vec()), "in fragments");
}
