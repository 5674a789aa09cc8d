//! The codelab, played by unmodified clients of Socket.IO 2 and 4 on two replicas.

use crate::support::*;
use std::{path::Path, sync::OnceLock};

/// The clients, installed once.
pub(crate) fn clients() -> &'static Path {
    static CLIENTS: OnceLock<std::path::PathBuf> = OnceLock::new();
    let packages = ["sio2@npm:socket.io-client@2.5.0", "sio4@npm:socket.io-client@4.8.1"];
    CLIENTS.get_or_init(|| node::install("socketio-clients", &packages))
}

async fn play(a: &Replica, b: &Replica, versions: [&str; 2], transports: &str) {
    let [url_a, url_b] = [a, b].map(|replica| format!("http://{}", replica.address));
    let arguments = [url_a, url_b, versions[0].into(), versions[1].into(), transports.into()];
    node::play("socketio_clients/codelab.cjs", clients(), &arguments).await;
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
