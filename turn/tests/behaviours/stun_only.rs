//! A server that tells clients their addresses, and relays nothing.

use crate::common::{
    Link, TestClient, address, admin, certificate::issue, dtls::DtlsClient, echo_peer, metric, single, start,
    within,
};
use rtc_credentials::Transport;
use rtc_turn::Settings;
use rtc_turn_proto::{
    Message,
    attributes::XorMappedAddress,
    channel_data,
    client::{Answer, Client},
};
use std::net::SocketAddr;

/// Without keys, and with no address to relay from.
fn settings() -> Settings {
    Settings {
        listen: ["udp", "tcp"].map(|scheme| format!("{scheme}://127.0.0.1:0").parse().unwrap()).into(),
        stun_only: true,
        workers: Some(2),
        admin: Some("127.0.0.1:0".parse().unwrap()),
        ..Settings::default()
    }
}

fn mapped(reply: &[u8]) -> SocketAddr {
    Message::parse(reply).unwrap().get::<XorMappedAddress>().unwrap().unwrap().0
}

#[tokio::test]
async fn binding_is_answered_and_turn_is_not_there() {
    let dir = tempfile::tempdir().unwrap();
    issue(dir.path());
    let (certificate, key) = (dir.path().join("tls.crt"), dir.path().join("tls.key"));
    let mut settings = Settings { tls_cert: Some(certificate), tls_key: Some(key), ..settings() };
    settings.listen.push("dtls://127.0.0.1:0".parse().unwrap());
    let server = start(settings.resolve().unwrap()).await;
    assert_eq!(admin(&server, "GET /readyz", None).await.0, 200);

    let dtls = within("the handshake", DtlsClient::connect(address(&server, Transport::Dtls))).await;
    let own = dtls.socket.local_addr().unwrap();
    let over_dtls = TestClient::over(Link::Dtls(Box::new(dtls)), &single(), "alice");
    let mut clients = vec![(over_dtls, own)];
    for transport in [Transport::Udp, Transport::Tcp] {
        let client = TestClient::connect(&server, transport, &single(), "alice").await;
        let own = match &client.link {
            Link::Udp(socket) => socket.local_addr(),
            Link::Tcp(stream, _) => stream.local_addr(),
            _ => unreachable!(),
        };
        clients.push((client, own.unwrap()));
    }
    let peer = echo_peer().await;
    for (client, own) in &mut clients {
        for _ in 0..2 {
            let packet = client.client.binding();
            client.send(&packet).await;
            // what went before was discarded: this is the first answer
            assert_eq!(mapped(&client.receive().await), *own);
            let allocate = client.client.allocate();
            client.send(&allocate).await;
            // malformed as well
            let mut malformed = client.client.allocate();
            malformed[3] = 4;
            malformed.truncate(24);
            malformed[22] = 9;
            client.send(&malformed).await;
            let send = client.client.send(peer, b"to nobody");
            client.send(&send).await;
            let mut data = Vec::new();
            channel_data::write(0x4000, b"four", false, &mut data);
            client.send(&data).await;
        }
        let packet = client.client.binding();
        client.send(&packet).await;
        assert_eq!(mapped(&client.receive().await), *own);
    }
    within("the count", async {
        while metric(&server, "rtc_turn_drops_total", "unexpected").await < 12.0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(metric(&server, "rtc_turn_errors_total", "").await, 0.0);
    assert_eq!(metric(&server, "rtc_turn_allocations_created_total", "").await, 0.0);
}

#[tokio::test]
async fn a_drain_has_nothing_to_wait_for() {
    let server = start(settings().resolve().unwrap()).await;
    let mut client = TestClient::connect(&server, Transport::Udp, &single(), "alice").await;
    assert!(matches!(client.ask(Client::binding).await, Answer::Success { .. }));
    server.drain(std::time::Duration::from_secs(600));
    within("the end", server.stopped()).await.unwrap();
}

#[tokio::test]
async fn a_directory_may_hold_the_admin_token_alone() {
    let keys = tempfile::tempdir().unwrap();
    std::fs::write(keys.path().join(".admin-token"), "north-by-northwest").unwrap();
    let with_keys = Settings { keys: Some(keys.path().to_owned()), ..settings() };
    let server = start(with_keys.resolve().unwrap()).await;
    assert_eq!(admin(&server, "GET /readyz", None).await.0, 200);
    assert_eq!(admin(&server, "GET /status", None).await.0, 401);
    assert_eq!(admin(&server, "GET /status", Some("north-by-northwest")).await.0, 200);
    // Whoever relays needs keys.
    let relays = Settings { keys: Some(keys.path().to_owned()), stun_only: false, ..settings() };
    let relays = Settings { relay_address: vec!["127.0.0.1".parse().unwrap()], ..relays };
    assert!(rtc_turn::Server::start(relays.resolve().unwrap()).await.is_err());
}
