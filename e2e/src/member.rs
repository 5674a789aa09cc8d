//! Members of a room who speak the native protocol to whichever signaling pod is ready, come back when a connection
//! ends, and remember what they were told.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::{SinkExt, StreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Api, ListParams, Portforwarder};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, client_async};

/// The port of signaling pods.
const PORT: u16 = 8080;
/// How often a member says something.
const EVERY: Duration = Duration::from_millis(250);

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// How a cluster's signaling pods are reached.
#[derive(Clone)]
pub struct Door {
    /// The pods of the namespace.
    pub pods: Api<Pod>,
    /// What selects those of signaling.
    pub labels: String,
    /// For pods that speak TLS, under the name `localhost`.
    pub tls: Option<TlsConnector>,
}

impl Door {
    /// The signaling pods that are ready and not about to end.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn ready(&self) -> Result<Vec<String>> {
        let pods = self.pods.list(&ListParams::default().labels(&self.labels)).await?;
        let ready = |pod: &Pod| {
            let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
            pod.metadata.deletion_timestamp.is_none()
                && conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True")
        };
        Ok(pods.iter().filter(|pod| ready(pod)).map(ResourceExt::name_any).collect())
    }

    /// A connection to one of them: another for each `number`.
    ///
    /// # Errors
    /// When none is ready, or the one does not answer.
    pub async fn open(&self, number: usize) -> Result<Connection> {
        let ready = self.ready().await?;
        let pod = ready.get(number % ready.len().max(1)).context("no signaling pod is ready")?;
        let mut forwarder = self.pods.portforward(pod, &[PORT]).await?;
        let stream = forwarder.take_stream(PORT).context("the port was not forwarded")?;
        let stream: Box<dyn Stream> = match &self.tls {
            None => Box::new(stream),
            Some(tls) => Box::new(tls.connect("localhost".try_into()?, stream).await?),
        };
        let (socket, _) = client_async("ws://localhost/v1/connect", stream).await?;
        Ok(Connection { socket, _forwarder: forwarder })
    }
}

/// An open connection.
pub struct Connection {
    socket: WebSocketStream<Box<dyn Stream>>,
    // the stream is its
    _forwarder: Portforwarder,
}

impl Connection {
    /// Sends one frame.
    ///
    /// # Errors
    /// When the connection is over.
    pub async fn send(&mut self, frame: Value) -> Result<()> {
        Ok(self.socket.send(Message::text(frame.to_string())).await?)
    }

    /// The next frame; `None` when the server has closed.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn next(&mut self) -> Result<Option<Value>> {
        while let Some(frame) = self.socket.next().await {
            match frame? {
                Message::Text(text) => return Ok(Some(serde_json::from_str(&text)?)),
                Message::Close(_) => return Ok(None),
                _ => {}
            }
        }
        Ok(None)
    }

    /// The next frame of a type.
    ///
    /// # Errors
    /// When the server closes before.
    pub async fn until(&mut self, kind: &str) -> Result<Value> {
        while let Some(frame) = self.next().await? {
            if frame["type"] == kind {
                return Ok(frame);
            }
        }
        bail!("the server closed before it said {kind}")
    }
}

/// What a member was told.
#[derive(Debug, Default)]
pub struct Told {
    /// That somebody left.
    pub left: AtomicUsize,
    /// That its seat is gone.
    pub forgotten: AtomicUsize,
    /// That it had resumed.
    pub resumed: AtomicUsize,
    /// What others said.
    pub heard: AtomicUsize,
}

/// A member of a room, until it is dropped.
pub struct Member {
    /// What it was told so far.
    pub told: Arc<Told>,
    task: JoinHandle<()>,
}

impl Member {
    /// Joins a room by one of the pods: another for each `number`.
    ///
    /// # Errors
    /// When it cannot.
    pub async fn join(door: &Door, number: usize, room: &str) -> Result<Self> {
        let mut connection = door.open(number).await?;
        connection.send(json!({"type": "join", "room": room})).await?;
        let seat = connection.until("joined").await?;
        let told = Arc::new(Told::default());
        let life = Life { door: door.clone(), number, seat, told: told.clone() };
        Ok(Self { told, task: tokio::spawn(life.live(connection)) })
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Life {
    door: Door,
    number: usize,
    /// The last word on what to resume with: `resume`, `epoch` and `seq`.
    seat: Value,
    told: Arc<Told>,
}

impl Life {
    async fn live(mut self, mut connection: Connection) {
        loop {
            // a connection that breaks is what this is about
            let _ = self.talk(&mut connection).await;
            connection = loop {
                self.number += 1;
                match self.resume().await {
                    Ok(connection) => break connection,
                    Err(_) => tokio::time::sleep(EVERY).await,
                }
            };
        }
    }

    async fn resume(&self) -> Result<Connection> {
        let mut connection = self.door.open(self.number).await?;
        let seat = &self.seat;
        let frame =
            json!({"type": "resume", "resume": seat["resume"], "epoch": seat["epoch"], "seq": seat["seq"]});
        connection.send(frame).await?;
        Ok(connection)
    }

    /// Until the server closes, or asks to go elsewhere.
    async fn talk(&mut self, connection: &mut Connection) -> Result<()> {
        let mut tick = tokio::time::interval(EVERY);
        loop {
            let frame = tokio::select! {
                frame = connection.next() => frame?,
                _ = tick.tick() => {
                    connection.send(json!({"type": "signal", "data": "hello"})).await?;
                    continue;
                }
            };
            let Some(frame) = frame else { return Ok(()) };
            match frame["type"].as_str().unwrap_or_default() {
                "resumed" | "resync" => count(&self.told.resumed),
                "signal" => count(&self.told.heard),
                "member-left" => count(&self.told.left),
                "error" if frame["code"] == "unknown_session" => count(&self.told.forgotten),
                "goaway" => {
                    let pause = frame["reconnectInMs"].as_u64().unwrap_or_default();
                    tokio::time::sleep(Duration::from_millis(pause)).await;
                    return Ok(());
                }
                _ => {}
            }
            for field in ["epoch", "seq"] {
                if frame[field].is_number() {
                    self.seat[field] = frame[field].clone();
                }
            }
        }
    }
}

fn count(counter: &AtomicUsize) {
    counter.fetch_add(1, Relaxed);
}
