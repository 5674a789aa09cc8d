//! The one port in front of all signaling replicas: each connection goes to the next replica, as a
//! Kubernetes Service would do it.

use rtc_signaling::Server;
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// How long a client may take for its TLS handshake.
const PATIENCE: Duration = Duration::from_secs(10);

/// Serves `listener` with `replicas` in turn, until the task is dropped.
pub(crate) async fn serve(listener: TcpListener, replicas: Vec<Arc<Server>>, tls: Option<TlsAcceptor>) {
    for replica in replicas.iter().cycle() {
        let (socket, client) = accept(&listener).await;
        tokio::spawn(connection(socket, client, replica.clone(), tls.clone()));
    }
}

async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(error) => {
                // out of file descriptors, most likely: give others time to close theirs
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection(socket: TcpStream, client: SocketAddr, replica: Arc<Server>, tls: Option<TlsAcceptor>) {
    // small frames must not wait for an acknowledgement (Nagle's algorithm costs 40 ms)
    let _ = socket.set_nodelay(true);
    let Some(tls) = tls else { return replica.serve_connection(socket, client).await };
    match tokio::time::timeout(PATIENCE, tls.accept(socket)).await {
        Ok(Ok(stream)) => replica.serve_connection(stream, client).await,
        Ok(Err(error)) => tracing::debug!(%client, %error, "TLS handshake failed"),
        Err(_) => tracing::debug!(%client, "TLS handshake timed out"),
    }
}
