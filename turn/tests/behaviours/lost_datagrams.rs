//! What the network says of datagrams that it lost reaches the client that sent them (RFC 8656, section
//! 11.5), and harms nothing else that uses the same relay socket.

use crate::common::{OK, TestClient, config, echo_peer, single, start};
use rtc_credentials::Transport;
use rtc_turn_proto::{attributes::Icmp, client::Answer};
use tokio::net::UdpSocket;

#[tokio::test]
async fn a_client_learns_that_nobody_listens_at_a_peers_port() {
    let server = start(config()).await;
    let echo = echo_peer().await;
    // held until it is known to nobody else
    let closed = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let nobody = closed.local_addr().unwrap();
    drop(closed);
    for transport in [Transport::Udp, Transport::Tcp] {
        let mut client = TestClient::connect(&server, transport, &single(), "alice").await;
        client.allocate().await;
        assert_eq!(client.ask(|c| c.create_permission(nobody)).await, OK);
        assert_eq!(client.ask(|c| c.channel_bind(0x4000, echo)).await, OK);
        for _ in 0..3 {
            let packet = client.client.send(nobody, b"anybody there?");
            client.send(&packet).await;
            let reply = client.receive().await;
            let port_unreachable = Icmp { kind: 3, code: 3, mtu: 0 };
            assert_eq!(client.client.read(&reply), Answer::Lost(nobody, port_unreachable), "{transport:?}");
        }
        // each error is told to the socket's next call too, which must not cost a datagram
        for n in 0..10u8 {
            let packet = client.client.send(nobody, b"anybody there?");
            client.send(&packet).await;
            let mut frame = Vec::new();
            rtc_turn_proto::channel_data::write(0x4000, &[n; 40], transport == Transport::Tcp, &mut frame);
            client.send(&frame).await;
            loop {
                let reply = client.receive().await;
                if let Some((0x4000, data)) = rtc_turn_proto::channel_data::parse(&reply) {
                    assert_eq!(data, [n; 40]);
                    break;
                }
                assert!(matches!(client.client.read(&reply), Answer::Lost(to, _) if to == nobody));
            }
        }
    }
}
