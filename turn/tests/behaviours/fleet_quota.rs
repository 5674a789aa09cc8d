//! What a user may hold on all servers together: two servers and a Redis.

use crate::common::{TestClient, certificate::issue_with, config, eventually, metric, single, start, within};
use rtc_credentials::Transport;
use rtc_turn::{
    Config, Handle,
    fleet_quota::{FleetQuota, Store},
    settings::QuotaFail,
};
use rtc_turn_proto::client::{Answer, Client};
use std::{
    io::ErrorKind,
    process::{Child, Command, Stdio},
    time::Duration,
};

/// Soon enough for a test, and longer than two periods.
const LEASE: Duration = Duration::from_secs(2);

/// A Redis of this test's own.
struct Redis {
    child: Child,
    port: u16,
}

impl Redis {
    fn start() -> Self {
        loop {
            let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            // another may have taken the port meanwhile
            if let Some(redis) = Self::on(port) {
                return redis;
            }
        }
    }

    fn on(port: u16) -> Option<Self> {
        Self::with(port, &["--port", &port.to_string()])
    }

    /// Over TLS alone, with the certificate in `dir`.
    fn secured(port: u16, dir: &std::path::Path, password: &str) -> Option<Self> {
        let file = |name: &str| dir.join(name).display().to_string();
        let (port_text, certificate, key) = (port.to_string(), file("tls.crt"), file("tls.key"));
        let files =
            ["--tls-cert-file", &certificate, "--tls-key-file", &key, "--tls-ca-cert-file", &certificate];
        let doors =
            ["--port", "0", "--tls-port", &port_text, "--tls-auth-clients", "no", "--requirepass", password];
        Self::with(port, &[&doors[..], &files[..]].concat())
    }

    fn with(port: u16, arguments: &[&str]) -> Option<Self> {
        let started = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let child = match started {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                panic!("redis-server is not installed; on Debian: apt-get install redis-server")
            }
            started => started.unwrap(),
        };
        let mut redis = Self { child, port };
        let end = std::time::Instant::now() + Duration::from_secs(20);
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            if redis.child.try_wait().unwrap().is_some() {
                return None;
            }
            assert!(std::time::Instant::now() < end, "redis-server does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        Some(redis)
    }

    fn stop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn config(&self, max: u32, fail: QuotaFail) -> Config {
        let url = format!("redis://127.0.0.1:{}", self.port);
        self.config_by(Store { url, ..Store::default() }, max, fail)
    }

    fn config_by(&self, store: Store, max: u32, fail: QuotaFail) -> Config {
        let mut quota = FleetQuota::new(store, max, fail).unwrap();
        quota.lease = LEASE;
        Config { fleet_quota: Some(quota), ..config() }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn server(redis: &Redis, fail: QuotaFail) -> Handle {
    let server = start(redis.config(3, fail)).await;
    store_is(&server, true).await;
    server
}

async fn store_is(server: &Handle, up: bool) {
    eventually("the store", || server.status()["quotaStore"]["up"] == up).await;
}

async fn connect(server: &Handle) -> TestClient {
    TestClient::connect(server, Transport::Udp, &single(), "alice").await
}

async fn holding(server: &Handle, count: usize) -> Vec<TestClient> {
    let mut held = Vec::new();
    for _ in 0..count {
        let mut client = connect(server).await;
        client.allocate().await;
        held.push(client);
    }
    held
}

/// Waits until another allocation is refused, and gives back what is not.
async fn refuses(server: &Handle) {
    within("a refusal", async {
        loop {
            let mut client = connect(server).await;
            match client.ask(Client::allocate).await {
                Answer::Refused(486) => return,
                Answer::Success { .. } => client.ask(|c| c.refresh(0)).await,
                answer => panic!("{answer:?}"),
            };
        }
    })
    .await;
}

/// Waits until another allocation is made.
async fn accepts(server: &Handle) -> TestClient {
    within("an allocation", async {
        loop {
            let mut client = connect(server).await;
            match client.ask(Client::allocate).await {
                Answer::Success { .. } => return client,
                Answer::Refused(486) => {}
                answer => panic!("{answer:?}"),
            }
        }
    })
    .await
}

#[tokio::test]
async fn what_a_user_holds_on_one_server_counts_on_another() {
    let redis = Redis::start();
    let (a, b) = (server(&redis, QuotaFail::Open).await, server(&redis, QuotaFail::Open).await);
    let mut held = holding(&a, 3).await;
    refuses(&a).await;
    refuses(&b).await;
    let mut other = TestClient::connect(&b, Transport::Udp, &single(), "bob").await;
    other.allocate().await;

    // what is given back on one is free on the other
    held.pop().unwrap().ask(|c| c.refresh(0)).await;
    let _client = accepts(&b).await;
    refuses(&a).await;
    assert_eq!(metric(&a, "rtc_turn_quota_store_up", "").await, 1.0);
}

#[tokio::test]
async fn what_a_server_held_that_crashed_counts_no_more() {
    let redis = Redis::start();
    let b = server(&redis, QuotaFail::Open).await;
    // nothing tells of this server once its runtime is gone
    let crashing =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let config = redis.config(3, QuotaFail::Open);
    let held = crashing.spawn(async move {
        let a = start(config).await;
        store_is(&a, true).await;
        holding(&a, 3).await
    });
    let held = held.await.unwrap();
    refuses(&b).await;
    crashing.shutdown_background();
    let _client = accepts(&b).await;
    drop(held);
}

#[tokio::test]
async fn over_tls_a_password_changes_without_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    issue_with(dir.path(), |params| {
        params.subject_alt_names.push(rcgen::SanType::IpAddress([127, 0, 0, 1].into()));
    });
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut redis = Redis::secured(port, dir.path(), "old").expect("the port is taken");
    let url_file = dir.path().join("url");
    let write = |password: &str| {
        std::fs::write(&url_file, format!("rediss://:{password}@127.0.0.1:{port}\n")).unwrap();
    };
    write("old");
    let trusted =
        Store { url_file: Some(url_file.clone()), ca: Some(dir.path().join("tls.crt")), ..Store::default() };
    let stranger = Store { ca: None, ..trusted.clone() };
    let server = start(redis.config_by(trusted, 3, QuotaFail::Open)).await;
    store_is(&server, true).await;
    let stranger = start(redis.config_by(stranger, 3, QuotaFail::Open)).await;

    redis.stop();
    store_is(&server, false).await;
    let _redis = Redis::secured(port, dir.path(), "new").expect("the port is taken");
    write("new");
    store_is(&server, true).await;
    // who does not know the authority never got in
    assert_eq!(stranger.status()["quotaStore"]["up"], false);
}

#[tokio::test]
async fn while_the_store_is_away_open_goes_on_alone_and_closed_refuses() {
    let mut redis = Redis::start();
    let (open, closed) = (server(&redis, QuotaFail::Open).await, server(&redis, QuotaFail::Closed).await);
    let _held = holding(&closed, 3).await;
    refuses(&open).await;
    redis.stop();
    store_is(&open, false).await;
    // its own count is all that it knows
    let mut alone = Vec::new();
    for _ in 0..3 {
        alone.push(accepts(&open).await);
    }
    refuses(&open).await;
    let mut bob = TestClient::connect(&closed, Transport::Udp, &single(), "bob").await;
    within("bob's refusal", async {
        while bob.ask(Client::allocate).await != Answer::Refused(486) {
            bob.ask(|c| c.refresh(0)).await;
        }
    })
    .await;

    // one that has lost everything is told again
    let _redis = Redis::on(redis.port).expect("the port is taken");
    store_is(&closed, true).await;
    bob.allocate().await;
    store_is(&open, true).await;
    for client in &mut alone {
        client.ask(|c| c.refresh(0)).await;
    }
    refuses(&open).await;
}
