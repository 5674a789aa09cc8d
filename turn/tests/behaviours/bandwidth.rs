//! What an allocation may relay in a second, by the kernel, by the short-cut, and over a stream.

use crate::common::{OK, TestClient, config, metric, single, start, within};
use rtc_credentials::Transport;
use rtc_turn::{Config, Handle};
use rtc_turn_proto::channel_data;
use std::{num::NonZeroU64, time::Instant};
use tokio::net::UdpSocket;

const RATE: u64 = 100_000;
const PAYLOAD: usize = 1000;

async fn server() -> Handle {
    start(Config { bandwidth: NonZeroU64::new(RATE), ..config() }).await
}

/// Sends until some is dropped, and sees that no more was relayed than may be.
async fn flood(server: &Handle, direction: &str, mut send: impl AsyncFnMut()) {
    let since = Instant::now();
    let relayed = || metric(server, "rtc_turn_bytes_total", direction);
    within("the quota to be used up", async {
        // workers tell what they count at different moments
        while metric(server, "rtc_turn_drops_total", "bandwidth_quota").await == 0.0
            || relayed().await < RATE as f64 * 0.5
        {
            for _ in 0..20 {
                send().await;
            }
        }
    })
    .await;
    let relayed = relayed().await;
    let most = RATE as f64 * (1.0 + since.elapsed().as_secs_f64());
    assert!(relayed <= most, "{relayed} of at most {most}");
}

fn packet() -> Vec<u8> {
    let mut packet = Vec::new();
    channel_data::write(0x4000, &[7; PAYLOAD], false, &mut packet);
    packet
}

#[tokio::test]
async fn a_flood_to_a_peer_is_cut_to_the_quota() {
    for transport in [Transport::Udp, Transport::Tcp] {
        let server = server().await;
        let peer = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let mut client = TestClient::connect(&server, transport, &single(), "alice").await;
        client.allocate().await;
        let at = peer.local_addr().unwrap();
        assert_eq!(client.ask(|c| c.channel_bind(0x4000, at)).await, OK);
        flood(&server, "to_peer", async || client.send(&packet()).await).await;
    }
}

#[tokio::test]
async fn a_flood_from_a_peer_is_cut_to_the_quota() {
    let server = server().await;
    let peer = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut client = TestClient::connect(&server, Transport::Udp, &single(), "alice").await;
    let relayed = client.allocate().await;
    let at = peer.local_addr().unwrap();
    assert_eq!(client.ask(|c| c.channel_bind(0x4000, at)).await, OK);
    flood(&server, "to_client", async || {
        peer.send_to(&[7; PAYLOAD], relayed).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_flood_from_client_to_client_is_cut_to_the_quota() {
    let server = server().await;
    let mut bob = TestClient::connect(&server, Transport::Udp, &single(), "bob").await;
    let to = bob.allocate().await;
    let mut alice = TestClient::connect(&server, Transport::Udp, &single(), "alice").await;
    let from = alice.allocate().await;
    assert_eq!(alice.ask(|c| c.channel_bind(0x4000, to)).await, OK);
    assert_eq!(bob.ask(|c| c.create_permission(from)).await, OK);
    flood(&server, "to_peer", async || alice.send(&packet()).await).await;
    assert!(metric(&server, "rtc_turn_short_cuts_total", "").await > 0.0);
}
