//! A local port that leads to one pod at a time.
//!
//! A browser keeps one address while the pods behind it come and go, as behind
//! a Service; unlike a Service, the test says which pod it is. Pages from
//! `http://localhost` are a secure context, so they may open cameras.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Pod;
use kube::api::Api;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// A listening port on loopback. Dropping it closes the port and its connections.
pub struct Forward {
    address: SocketAddr,
    pod: watch::Sender<String>,
    task: JoinHandle<()>,
}

impl Forward {
    /// Opens a port that leads to `port` of `pod`.
    ///
    /// # Errors
    /// When no local port can be had.
    pub async fn open(pods: Api<Pod>, pod: &str, port: u16) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("no port on loopback")?;
        let address = listener.local_addr()?;
        let (sender, receiver) = watch::channel(pod.to_owned());
        let task = tokio::spawn(accept(listener, pods, receiver, port));
        Ok(Self { address, pod: sender, task })
    }

    /// The address as a browser takes it, without a path: `http://localhost:PORT`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://localhost:{}", self.address.port())
    }

    /// Leads to another pod from now on. Connections to the former pod are cut,
    /// as they are when a pod is gone.
    pub fn lead_to(&self, pod: &str) {
        self.pod.send_replace(pod.to_owned());
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, pods: Api<Pod>, pod: watch::Receiver<String>, port: u16) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((connection, _)) => {
                    connections.spawn(carry(connection, pods.clone(), pod.clone(), port));
                }
                Err(error) => eprintln!("forward: cannot accept: {error}"),
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Carries one connection until an end closes it or its pod is no longer the one.
async fn carry(mut connection: TcpStream, pods: Api<Pod>, mut pod: watch::Receiver<String>, port: u16) {
    let name = pod.borrow_and_update().clone();
    let carry = async {
        let mut forwarder = pods.portforward(&name, &[port]).await?;
        let mut stream = forwarder.take_stream(port).context("the port was not forwarded")?;
        // browsers and pods both reset connections as they please
        let _ = copy_bidirectional(&mut connection, &mut stream).await;
        Ok::<_, anyhow::Error>(())
    };
    tokio::select! {
        outcome = carry => if let Err(error) = outcome {
            eprintln!("forward: {name}:{port}: {error:#}");
        },
        _ = pod.changed() => {}
    }
}
