//! The codelab, played by unmodified clients of Socket.IO 2 and 4 on two replicas.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;
use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};
use support::*;

/// The clients, installed once.
fn clients() -> &'static Path {
    static CLIENTS: OnceLock<PathBuf> = OnceLock::new();
    CLIENTS.get_or_init(|| {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("socketio-clients");
        let there = |name: &str| dir.join("node_modules").join(name).join("package.json").exists();
        if !there("sio2") || !there("sio4") {
            std::fs::create_dir_all(&dir).unwrap();
            std::fs::write(dir.join("package.json"), "{\"private\": true}").unwrap();
            let packages = ["sio2@npm:socket.io-client@2.5.0", "sio4@npm:socket.io-client@4.8.1"];
            let install = Command::new("npm")
                .args(["install", "--no-audit", "--no-fund", "--loglevel", "error"])
                .args(packages)
                .current_dir(&dir)
                .output();
            let install = install.expect("npm is not installed; on Debian: apt-get install npm");
            assert!(install.status.success(), "{}", String::from_utf8_lossy(&install.stderr));
        }
        dir
    })
}

async fn play(a: &Replica, b: &Replica, versions: [&str; 2], transports: &str) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/socketio_clients/codelab.cjs");
    let [url_a, url_b] = [a, b].map(|replica| format!("http://{}", replica.address));
    let mut node = Command::new("node");
    node.arg(script)
        .args([&url_a, &url_b])
        .args(versions)
        .arg(transports)
        .env("NODE_PATH", clients().join("node_modules"));
    let output = tokio::task::spawn_blocking(move || node.output()).await.unwrap();
    let output = output.expect("node is not installed; on Debian: apt-get install nodejs");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{versions:?} over {transports}: {complaint}");
}

on_each_store! {
    async fn clients_of_versions_2_and_4_meet_over_every_transport(backend: Backend) {
        for transports in ["websocket", "polling", "polling,websocket"] {
            let (a, b) = (backend.replica().await, backend.replica().await);
            play(&a, &b, ["2", "4"], transports).await;
            eventually("every session has ended", async || a.server.connections() + b.server.connections() == 0).await;
        }
        let (a, b) = (backend.replica().await, backend.replica().await);
        play(&a, &b, ["4", "2"], "polling,websocket").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_polling_client_may_meet_another_replica_with_each_request() {
    let backend = Backend::memory();
    let table = rtc_signaling::dialect::socketio::Table::default();
    let (a, b) = (
        Replica::start(backend.builder().polling(table.clone())).await,
        Replica::start(backend.builder().polling(table)).await,
    );
    // one port, whose connections go to the replicas in turn
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (one, two) = (a.server.clone(), b.server.clone());
    tokio::spawn(async move {
        for turn in 0_usize.. {
            let (socket, peer) = listener.accept().await.unwrap();
            let server = [&one, &two][turn % 2].clone();
            tokio::spawn(async move { server.serve_connection(socket, peer).await });
        }
    });
    let front = Replica { address, ..a.clone() };
    play(&front, &front, ["2", "4"], "polling").await;
    eventually("every session has ended", async || a.server.connections() + b.server.connections() == 0)
        .await;
    play(&front, &front, ["4", "2"], "polling,websocket").await;
}
