//! What is malformed, oversized or broken harms nobody else, and is counted.

use crate::common::{
    Link, OK, TestClient, address, config, echo_peer, flood_a_slow_client, metric, single, start, within,
};
use rtc_credentials::Transport;
use rtc_turn_proto::{Message, attributes::Error, client::Answer};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
};

#[tokio::test]
async fn malformed_datagrams_get_400_or_nothing_and_a_call_goes_on() {
    let server = start(config()).await;
    let peer = echo_peer().await;
    let mut call = TestClient::connect(&server, Transport::Udp, &single(), "alice").await;
    call.allocate().await;
    assert_eq!(call.ask(|c| c.channel_bind(0x4000, peer)).await, OK);

    let stranger = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    stranger.connect(address(&server, Transport::Udp)).await.unwrap();
    let silent: [&[u8]; 6] =
        [b"", b"\x00", b"\x80\x00\x00\x00", &[0x40, 0, 0, 9, 1], &[0xFF; 2000], &[0; 20]];
    for packet in silent {
        stranger.send(packet).await.unwrap();
        assert_eq!(call.echo_by_channel(0x4000, b"on").await, b"on");
    }
    // an attribute that overruns its message
    let mut packet = call.client.binding();
    packet.extend_from_slice(&[0, 0x0D, 0, 40, 0, 0, 0, 0]);
    packet[3] = 8;
    stranger.send(&packet).await.unwrap();
    let mut reply = [0; 100];
    // the silent ones had no answer, so the first answer is this one's
    let length = within("an answer", stranger.recv(&mut reply)).await.unwrap();
    let message = Message::parse(&reply[..length]).unwrap();
    assert_eq!(message.get::<Error>().unwrap(), Some(Error(400)));
    within("the count of drops", async {
        while metric(&server, "rtc_turn_drops_total", "malformed").await < 7.0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_broken_stream_is_closed_and_others_go_on() {
    let server = start(config()).await;
    let peer = echo_peer().await;
    let mut call = TestClient::connect(&server, Transport::Tcp, &single(), "alice").await;
    call.allocate().await;
    assert_eq!(call.ask(|c| c.channel_bind(0x4000, peer)).await, OK);
    for garbage in [&b"SSH-2.0-hello\r\n"[..], &[0x16, 3, 1, 2, 0, 1], &[0, 1, 0, 0, 9, 9, 9, 9]] {
        let mut stranger = TcpStream::connect(address(&server, Transport::Tcp)).await.unwrap();
        stranger.write_all(garbage).await.unwrap();
        // a reset is as good an end as any
        let read = within("the server to hang up", stranger.read(&mut [0; 10])).await;
        assert_eq!(read.unwrap_or(0), 0);
        assert_eq!(call.echo_by_channel(0x4000, b"on").await, b"on");
    }
}

#[tokio::test]
async fn a_stranger_on_a_stream_makes_the_server_hold_a_request_and_no_more() {
    let server = start(config()).await;
    let mut call = TestClient::connect(&server, Transport::Tcp, &single(), "alice").await;
    call.allocate().await;
    // the start of a Send indication of 60,000 bytes
    let mut start = vec![0, 0x16, 0xEA, 0x60, 0x21, 0x12, 0xA4, 0x42];
    start.resize(5_000, 0);
    let mut stranger = TcpStream::connect(address(&server, Transport::Tcp)).await.unwrap();
    stranger.write_all(&start).await.unwrap();
    let read = within("the server to hang up", stranger.read(&mut [0; 10])).await;
    assert_eq!(read.unwrap_or(0), 0);
    // who has an allocation may send that much
    let peer = echo_peer().await;
    assert_eq!(call.ask(|c| c.channel_bind(0x4000, peer)).await, OK);
    let long = vec![7; 9_000];
    assert_eq!(call.echo_by_channel(0x4000, &long).await, long);
}

#[tokio::test]
async fn a_client_that_does_not_read_loses_its_own_data_only() {
    let server = start(config()).await;
    let mut slow = TestClient::connect(&server, Transport::Tcp, &single(), "slow").await;
    let mut call = TestClient::connect(&server, Transport::Tcp, &single(), "alice").await;
    flood_a_slow_client(&server, &mut slow, &mut call).await;
}

#[tokio::test]
async fn private_peers_are_refused_over_the_wire() {
    let server = start(rtc_turn::Config { allow: Vec::new(), ..config() }).await;
    let mut client = TestClient::connect(&server, Transport::Udp, &single(), "alice").await;
    client.allocate().await;
    for peer in ["127.0.0.2:80", "0.0.0.0:80", "10.0.0.1:80", "169.254.169.254:80", "192.168.0.1:80"] {
        let peer = peer.parse().unwrap();
        assert_eq!(client.ask(|c| c.create_permission(peer)).await, Answer::Refused(403), "{peer}");
    }
    assert!(matches!(client.link, Link::Udp(_)));
}
