//! A network between browsers and a server that does to them what networks do: it breaks, it forbids
//! WebSockets, it keeps streams back.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What a network does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weather {
    /// Nothing gets through, and nobody is told.
    pub cut: bool,
    /// Whoever asks for a WebSocket is refused (RFC 6455, section 4.2.2 allows any status but 101).
    pub refuses_websockets: bool,
    /// Event streams never arrive, as behind a proxy that waits for their end.
    pub keeps_streams: bool,
}

/// A way to one server. Dropping it ends it.
pub struct Network {
    address: SocketAddr,
    weather: watch::Sender<Weather>,
    task: JoinHandle<()>,
}

impl Network {
    /// A way to the server at `url` (`http://127.0.0.1:8080`), in fair weather.
    ///
    /// # Errors
    /// When there is no free port.
    pub async fn to(url: &str) -> Result<Self> {
        let parsed = url::Url::parse(url).with_context(|| format!("{url} is no URL"))?;
        let target = parsed.socket_addrs(|| None)?.first().copied().context("no address")?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let weather = watch::Sender::new(Weather::default());
        let observed = weather.clone();
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let weather = observed.subscribe();
                tokio::spawn(async move {
                    if let Ok(server) = TcpStream::connect(target).await {
                        Connection::new(client, server, weather).run().await;
                    }
                });
            }
        });
        Ok(Self { address, weather, task })
    }

    /// The server as it is seen through this network.
    #[must_use]
    pub fn url(&self) -> String {
        // not 127.0.0.1: a page may use the camera there too, and it is another origin than the server's own
        format!("http://localhost:{}", self.address.port())
    }

    /// The same, as an address.
    #[must_use]
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Changes the weather, for open connections too.
    pub fn set(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Connection {
    client: OwnedReadHalf,
    to_client: OwnedWriteHalf,
    server: OwnedReadHalf,
    to_server: OwnedWriteHalf,
    weather: watch::Receiver<Weather>,
}

impl Connection {
    fn new(client: TcpStream, server: TcpStream, weather: watch::Receiver<Weather>) -> Self {
        let (client, to_client) = client.into_split();
        let (server, to_server) = server.into_split();
        Self { client, to_client, server, to_server, weather }
    }

    /// Until either side ends.
    async fn run(mut self) {
        let streams = Arc::new(watch::Sender::new(false));
        let streaming = streams.subscribe();
        let mut weather = self.weather.clone();
        let up = async {
            let mut buffer = vec![0; 64 << 10];
            loop {
                let read = self.client.read(&mut buffer).await?;
                if read == 0 {
                    return std::io::Result::Ok(());
                }
                clear(&mut weather).await;
                let request = String::from_utf8_lossy(&buffer[..read]).to_ascii_lowercase();
                let is_websocket = request.starts_with("get ") && request.contains("upgrade: websocket");
                if weather.borrow().refuses_websockets && is_websocket {
                    // the server sees a connection that ends
                    return Err(std::io::ErrorKind::ConnectionRefused.into());
                }
                streams.send_replace(request.starts_with("get /v1/events"));
                self.to_server.write_all(&buffer[..read]).await?;
            }
        };
        let mut weather = self.weather.clone();
        let down = async {
            let mut buffer = vec![0; 64 << 10];
            loop {
                let read = self.server.read(&mut buffer).await?;
                if read == 0 {
                    return std::io::Result::Ok(());
                }
                clear(&mut weather).await;
                if weather.borrow().keeps_streams && *streaming.borrow() {
                    continue;
                }
                self.to_client.write_all(&buffer[..read]).await?;
            }
        };
        // whoever ends takes the other side along
        let _ = tokio::select! { done = up => done, done = down => done };
    }
}

/// Waits while nothing gets through.
async fn clear(weather: &mut watch::Receiver<Weather>) {
    // the sender outlives every test that looks at it
    let _ = weather.wait_for(|weather| !weather.cut).await;
}
