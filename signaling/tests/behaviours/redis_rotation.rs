//! TLS, users, and a URL that changes while rooms are in use.

use crate::support::{servers::free_port, *};
use rtc_signaling::store::redis::{Mode, TlsFiles};
use rustix::process::Signal;
use serde_json::json;
use tempfile::TempDir;

/// An authority, and what it has signed.
fn certificates(dir: &TempDir) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut ca = rcgen::CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    std::fs::write(dir.path().join("ca.pem"), ca.self_signed(&key).unwrap().pem()).unwrap();
    let issuer = rcgen::Issuer::new(ca, key);
    for name in ["server", "client"] {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        std::fs::write(
            dir.path().join(format!("{name}.pem")),
            params.signed_by(&key, &issuer).unwrap().pem(),
        )
        .unwrap();
        std::fs::write(dir.path().join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }
}

/// What a user of ours has to be allowed.
const USER: &[&str] = &["~rtc:*", "&rtc:*", "+@all", "-@admin", "-@dangerous", "+info"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rooms_are_kept_over_tls_by_a_user_with_few_rights() {
    let dir = TempDir::new().unwrap();
    certificates(&dir);
    let file = |name: &str| dir.path().join(name);
    let port = free_port();
    let words = [
        ("--tls-port", port.to_string()),
        ("--tls-cert-file", file("server.pem").display().to_string()),
        ("--tls-key-file", file("server.key").display().to_string()),
        ("--tls-ca-cert-file", file("ca.pem").display().to_string()),
        ("--tls-auth-clients", "yes".into()),
    ];
    let words: Vec<String> = words.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect();
    let redis = Redis::start_with(&words);
    redis.command(&[&["ACL", "SETUSER", "calls", "on", ">p@ss"], USER].concat()).await;
    let url = format!("rediss://calls:p%40ss@127.0.0.1:{port}");
    let with = |cert: bool| TlsFiles {
        ca: Some(file("ca.pem")),
        cert: cert.then(|| file("client.pem")),
        key: cert.then(|| file("client.key")),
    };
    let rooms = |tls| RedisRooms::configured(&url, Mode::Standalone, tls, RoomLimits::default()).unwrap();
    let backend = Backend::on(Shared::Redis(rooms(with(true))));
    let (a, b) = (backend.replica().await, backend.replica().await);
    let mut one = a.join("r").await;
    let mut two = b.join("r").await;
    one.expect("member-joined").await;
    two.signal(None, json!("sealed")).await;
    assert_eq!(one.expect("signal").await["data"], "sealed");

    // without a certificate of its own, or an authority that signed the server's, nobody gets in
    let nobody = TlsFiles::default();
    for tls in [with(false), nobody] {
        let c = Backend::on(Shared::Redis(rooms(tls))).replica().await;
        eventually("the reason is told", async || {
            c.server.ready().is_err_and(|why| why.to_lowercase().contains("cert"))
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_is_changed_without_a_restart_and_rooms_go_on() {
    let redis = Redis::start();
    redis.command(&[&["ACL", "SETUSER", "calls", "on", ">old"], USER].concat()).await;
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("url");
    let url = |password: &str| format!("redis://calls:{password}@127.0.0.1:{}\n", redis.port);
    std::fs::write(&file, url("old")).unwrap();
    let process = servers::Process::start(&["--redis-url-file", file.to_str().unwrap()]).await;
    let mut one = Client::connect(process.address).await;
    one.join("r").await;
    let mut two = Client::connect(process.address).await;
    two.join("r").await;
    one.expect("member-joined").await;
    // a wrong one first: what works goes on
    std::fs::write(&file, url("wrong")).unwrap();
    eventually("it was tried", async || redis.info("errorstats").await.contains("WRONGPASS")).await;
    one.signal(None, json!("before")).await;
    assert_eq!(two.expect("signal").await["data"], "before");
    assert!(process.ready().await.starts_with("HTTP/1.1 200"));

    redis.command(&["ACL", "SETUSER", "calls", ">new"]).await;
    let ids = async || {
        let list = redis.text(&["CLIENT", "LIST"]).await;
        let own = list.lines().filter(|line| line.contains(" user=calls "));
        own.map(|line| line.split(' ').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let before = ids().await;
    std::fs::write(&file, url("new")).unwrap();
    eventually("every connection is another", async || {
        let now = ids().await;
        now.len() >= 2 && now.iter().all(|id| !before.contains(id))
    })
    .await;
    redis.command(&["ACL", "SETUSER", "calls", "<old"]).await;
    // a connection that is lost now comes back with the new password
    redis.command(&["CLIENT", "KILL", "USER", "calls"]).await;
    eventually("ready", async || process.ready().await.starts_with("HTTP/1.1 200")).await;
    two.send(json!({"type": "signal", "id": 1, "data": "after"})).await;
    let mut seen = two.frame().await;
    while seen["type"] == "degraded" || seen["type"] == "recovered" {
        seen = two.frame().await;
    }
    assert_eq!(seen["type"], "ack");
    assert_eq!(one.until("signal").await["data"], "after");
    process.send(Signal::TERM);
}
