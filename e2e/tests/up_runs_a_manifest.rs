//! `rtc up` runs a manifest on one machine: what a person meets in the first minute.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{net::SocketAddr, path::Path, process::Stdio, time::Duration};

use futures::{SinkExt, StreamExt};
use rtc_e2e::{turn_client, up, up::Up};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, tungstenite::Message};

const PATIENCE: Duration = Duration::from_secs(30);

type Socket = WebSocketStream<MaybeTlsStream<tokio::net::TcpStream>>;

/// Joins a room and returns the connection with what it was told.
async fn join(replica: &str, room: &str) -> (Socket, Value) {
    join_by(replica, "", room).await
}

/// The same with a query.
async fn join_by(replica: &str, query: &str, room: &str) -> (Socket, Value) {
    let url = format!("{}/v1/connect{query}", replica.replacen("http", "ws", 1));
    let (mut socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
    say(&mut socket, &json!({"type": "join", "room": room})).await;
    let joined = hear(&mut socket, "joined").await;
    (socket, joined)
}

async fn say(socket: &mut Socket, frame: &Value) {
    socket.send(Message::text(frame.to_string())).await.unwrap();
}

/// The next frame of that type.
async fn hear(socket: &mut Socket, kind: &str) -> Value {
    let listen = async {
        loop {
            let message = socket.next().await.expect("the server closed the connection").unwrap();
            let Message::Text(text) = message else { continue };
            let frame: Value = serde_json::from_str(&text).unwrap();
            if frame["type"] == kind {
                return frame;
            }
        }
    };
    tokio::time::timeout(PATIENCE, listen).await.unwrap_or_else(|_| panic!("no `{kind}`"))
}

/// Username, password and the UDP address of the TURN server that `iceServers` name.
fn credential(frame: &Value) -> (String, String, SocketAddr) {
    let server = frame["iceServers"].as_array().unwrap().iter().find(|s| s["credential"].is_string());
    let server = server.expect("no TURN server among the iceServers");
    let urls = server["urls"].as_array().unwrap().iter().map(|url| url.as_str().unwrap());
    let udp = urls.filter_map(|url| url.strip_prefix("turn:")?.strip_suffix("?transport=udp")).next();
    let text = |key: &str| server[key].as_str().unwrap().to_owned();
    (text("username"), text("credential"), udp.unwrap().parse().unwrap())
}

fn example(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples").join(name)
}

fn manifest(folder: &tempfile::TempDir, spec: &str) -> std::path::PathBuf {
    let file = folder.path().join("manifest.yaml");
    let head = "apiVersion: rtc-operator.dev/v1alpha1\nkind: RtcCluster\nmetadata: {name: calls}\n";
    std::fs::write(&file, format!("{head}{spec}")).unwrap();
    file
}

/// A GET without a library, as the admin port is plain HTTP on loopback.
async fn get(url: &str) -> String {
    let address = url.strip_prefix("http://").unwrap();
    let (host, path) = address.split_once('/').unwrap();
    let mut socket = tokio::net::TcpStream::connect(host).await.unwrap();
    let request = format!("GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn two_members_meet_on_two_replicas_with_credentials_that_turn_takes() {
    let up = Up::start("examples/quickstart.yaml").await.unwrap();
    assert_eq!(up.ready.signaling.len(), 2);
    let (mut alice, told) = join(&up.ready.signaling[0], "meet").await;
    let (mut bob, joined) = join(&up.ready.signaling[1], "meet").await;
    assert_eq!(joined["members"][0]["id"], told["session"]);
    say(&mut bob, &json!({"type": "signal", "to": told["session"], "data": {"sdp": "offer"}})).await;
    let offer = hear(&mut alice, "signal").await;
    assert_eq!((&offer["from"], &offer["data"]["sdp"]), (&joined["session"], &json!("offer")));

    let ((alice_name, password, server), (bob_name, ..)) = (credential(&told), credential(&joined));
    assert_ne!(alice_name, bob_name, "each member has a credential of its own");
    assert!(turn_client::allocate(server, &alice_name, &password).await.unwrap().is_ok());
    let wrong = turn_client::allocate(server, &alice_name, "wrong").await.unwrap();
    assert_eq!(wrong.err(), Some(turn_client::Refused(401)));

    assert!(get(&format!("{}/", up.ready.demo)).await.contains("<html"));
    assert!(get(&format!("{}/readyz", up.ready.admin.turn)).await.starts_with("HTTP/1.1 200"));
    for replica in &up.ready.admin.signaling {
        assert!(get(&format!("{replica}/readyz")).await.starts_with("HTTP/1.1 200"));
    }
    assert!(up.interrupt().await.unwrap().success(), "Ctrl-C drains and exits 0");
}

#[tokio::test]
async fn the_key_rotates_as_the_manifest_says_and_a_retired_key_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let spec = "spec: {credentials: {ttl: 1s, rotation: {interval: 4s, overlap: 1s}}}\n";
    let flags = ["--port", "0", "--turn-port", "0"];
    let up = Up::start_with(&manifest(&folder, spec), &flags).await.unwrap();
    let (mut alice, told) = join(&up.ready.signaling[0], "rotate").await;
    let (name, password, server) = credential(&told);
    let mut live =
        turn_client::allocate(server, &name, &password).await.unwrap().expect("a fresh credential");

    let signing = |status: String| {
        let body = status.split_once("\r\n\r\n").unwrap().1;
        let body: Value = serde_json::from_str(body).unwrap();
        body["ring"]["signing"].as_str().unwrap().to_owned()
    };
    let status = format!("{}/status", up.ready.admin.signaling[0]);
    let first = signing(get(&status).await);
    let gone = async {
        loop {
            let turn = get(&format!("{}/status", up.ready.admin.turn)).await;
            if signing(get(&status).await) != first && !turn.contains(&format!("\"{first}\"")) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("the first key never left the ring");

    assert_eq!(live.refresh(600).await.unwrap(), Ok(()), "a live allocation outlives its key");
    let again = turn_client::allocate(server, &name, &password).await.unwrap();
    assert_eq!(again.err(), Some(turn_client::Refused(401)));
    say(&mut alice, &json!({"type": "ice"})).await;
    let (name, password, server) = credential(&hear(&mut alice, "ice").await);
    assert!(turn_client::allocate(server, &name, &password).await.unwrap().is_ok());
}

#[tokio::test]
async fn rooms_may_live_in_a_real_redis() {
    let folder = tempfile::tempdir().unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let _redis = tokio::process::Command::new("redis-server")
        .args(["--port", &port, "--bind", "127.0.0.1", "--save", "", "--dir"])
        .arg(folder.path())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("redis-server is not on PATH: `apt-get install redis-server`");
    let url = format!("redis://127.0.0.1:{port}");
    let up =
        Up::start_with(&example("quickstart.yaml"), &["--port", "0", "--turn-port", "0", "--redis", &url])
            .await
            .unwrap();
    let (mut alice, _) = join(&up.ready.signaling[0], "redis").await;
    let (_bob, joined) = join(&up.ready.signaling[1], "redis").await;
    assert_eq!(hear(&mut alice, "member-joined").await["member"]["id"], joined["session"]);
    let status = get(&format!("{}/status", up.ready.admin.signaling[0])).await;
    assert!(status.contains(r#""kind":"redis""#), "{status}");
}

#[tokio::test]
async fn rtc_check_finds_what_works_and_exits_1_for_what_does_not() {
    let up = Up::start("examples/quickstart.yaml").await.unwrap();
    let (sound, report) = up::check(&["--signaling", &up.ready.demo]).await.unwrap();
    let steps = report["steps"].as_array().unwrap();
    let worked = |step: &str| steps.iter().filter(|s| s["step"] == step && s["ok"] == true).count();
    assert!(sound, "{report:#}");
    assert_eq!((worked("join"), worked("allocate"), worked("relay")), (1, 2, 2), "{report:#}");

    // nobody listens on this port
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let uri = format!("turn:{nobody}?transport=tcp");
    let (sound, report) = up::check(&["--signaling", &up.ready.demo, "--turn", &uri]).await.unwrap();
    let broken = report["steps"].as_array().unwrap().iter().find(|step| step["ok"] == false).unwrap();
    assert!(!sound && broken["target"] == uri.as_str() && broken["step"] == "connect", "{report:#}");
}

const GUARDED: &str =
    "spec: {signaling: {auth: {mode: JWT, jwt: {secretRef: {name: jwt, key: secret}, audience: calls}}}}\n";

#[tokio::test]
async fn tokens_are_asked_for_as_the_manifest_says_and_the_page_is_given_some() {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "a secret of this test, long enough to be one").unwrap();
    let secret = secret.to_str().unwrap();
    let flags = ["--port", "0", "--turn-port", "0", "--jwt-keys", secret];
    let up = Up::start_with(&manifest(&folder, GUARDED), &flags).await.unwrap();
    let body = |answer: String| answer.split_once("\r\n\r\n").unwrap().1.to_owned();
    let token = body(get(&format!("{}/token?room=meet&user=u-1", up.ready.demo)).await);
    let (mut alice, _) = join_by(&up.ready.signaling[0], &format!("?access_token={token}"), "meet").await;
    let flags = "--user bob --room m* --audience calls --api rooms:list".split(' ');
    let flags: Vec<_> = ["--secret-file", secret].into_iter().chain(flags).collect();
    let own = up::token(&flags).await.unwrap();
    let (_bob, joined) = join_by(&up.ready.signaling[1], &format!("?access_token={own}"), "meet").await;
    assert_eq!(joined["members"][0]["user"], "guest-u-1");
    assert_eq!(hear(&mut alice, "member-joined").await["member"]["user"], "bob");

    // a probe is a client like others
    let (sound, report) = up::check(&["--signaling", &up.ready.demo]).await.unwrap();
    assert!(!sound && report.to_string().contains("--token-file"), "{report:#}");
    let file = folder.path().join("token");
    std::fs::write(&file, own).unwrap();
    let probe = ["--signaling", &up.ready.demo, "--room", "mine", "--token-file", file.to_str().unwrap()];
    let (sound, report) = up::check(&probe).await.unwrap();
    assert!(sound, "{report:#}");
}

#[tokio::test]
async fn without_a_secret_the_page_has_tokens_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let up = Up::start_with(&manifest(&folder, GUARDED), &["--port", "0", "--turn-port", "0"]).await.unwrap();
    let answer = get(&format!("{}/token?room=meet", up.ready.demo)).await;
    let token = answer.split_once("\r\n\r\n").unwrap().1;
    let (mut alice, joined) =
        join_by(&up.ready.signaling[0], &format!("?access_token={token}"), "meet").await;
    assert!(credential(&joined).0.contains("guest-"), "TURN counts by the token's subject");
    say(&mut alice, &json!({"type": "leave", "id": 1})).await;
    hear(&mut alice, "ack").await;
}

#[tokio::test]
async fn on_a_network_the_page_is_served_over_https_at_this_machines_own_address() {
    let flags = ["--port", "0", "--turn-port", "0", "--lan"];
    let up = Up::start_with(&example("quickstart.yaml"), &flags).await.unwrap();
    let address: SocketAddr = up.ready.demo.strip_prefix("https://").unwrap().parse().unwrap();
    assert!(!address.ip().is_loopback());
    assert!(up.ready.turn.iter().all(|uri| uri.starts_with(&format!("turn:{}:", address.ip()))));

    let mut tls = tokio::process::Command::new("openssl")
        .args(["s_client", "-quiet", "-connect", &address.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("openssl is not on PATH: `apt-get install openssl`");
    let request = format!("GET /r/phone HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    tls.stdin.as_mut().unwrap().write_all(request.as_bytes()).await.unwrap();
    let mut page = String::new();
    let read = tls.stdout.as_mut().unwrap().read_to_string(&mut page);
    tokio::time::timeout(PATIENCE, read).await.expect("no page over TLS").unwrap();
    assert!(page.starts_with("HTTP/1.1 200") && page.contains("<html"), "{page}");
}

#[tokio::test]
async fn a_port_in_use_says_which_and_by_what_flag_to_change_it() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let said =
        up::refused(&example("quickstart.yaml"), &["--port", &port, "--turn-port", "0"]).await.unwrap();
    assert!(said.contains(&port) && said.contains("--port"), "{said}");

    let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let said =
        up::refused(&example("quickstart.yaml"), &["--port", "0", "--turn-port", &port]).await.unwrap();
    assert!(said.contains(&port) && said.contains("--turn-port"), "{said}");
}

#[tokio::test]
async fn a_bad_manifest_names_the_path_and_what_to_write() {
    let folder = tempfile::tempdir().unwrap();
    for (spec, path, hint) in [
        ("spec: {signalling: {replicas: 2}}\n", "spec", "signaling"),
        ("spec: {signaling: {replicas: two}}\n", "spec.signaling.replicas", "i32"),
        ("spec: {credentials: {ttl: 3h}}\n", "spec.credentials", "overlap"),
        ("spec: {turn: {relayPorts: {min: 60000, max: 50000}}}\n", "spec.turn.relayPorts", "max"),
        ("spec: [\n", "manifest.yaml", "YAML"),
    ] {
        let said = up::refused(&manifest(&folder, spec), &[]).await.unwrap();
        assert!(said.contains(path) && said.contains(hint), "{spec} -> {said}");
    }
    let said = up::refused(Path::new("nowhere.yaml"), &[]).await.unwrap();
    assert!(said.contains("nowhere.yaml"), "{said}");
}
