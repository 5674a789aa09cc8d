//! The signaling endpoint, as a client meets it: a connection, a room, credentials, a round trip.

use super::{PATIENCE, report::Report};
use anyhow::{Context, bail};
use futures::{SinkExt, StreamExt};
use rtc_credentials::IceServer;
use rtc_service::{HumanDuration, clock::unix_now};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::{
    Connector, MaybeTlsStream, WebSocketStream,
    tungstenite::{
        Error, Message,
        client::IntoClientRequest,
        http::{StatusCode, header::AUTHORIZATION},
    },
};

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// As whom to ask.
pub(crate) struct Client<'a> {
    pub(crate) tls: &'a TlsConnector,
    pub(crate) token: Option<&'a str>,
    pub(crate) room: Option<&'a str>,
}

/// Joins a room, and returns the `iceServers` that it is handed.
pub(crate) async fn check(url: &str, client: &Client<'_>, report: &mut Report) -> Vec<IceServer> {
    let begun = Instant::now();
    let mut socket = match within(connect(url, client)).await {
        Ok(socket) => socket,
        Err(error) => {
            report.broken(url, "connect", format!("{error:#}"));
            return Vec::new();
        }
    };
    report.works(url, "connect", Some(begun.elapsed()), "WebSocket");
    let begun = Instant::now();
    let own = || format!("rtc-check-{}-{}", unix_now(), std::process::id());
    let room = client.room.map_or_else(own, str::to_owned);
    let joined = match within(ask(&mut socket, &json!({"type": "join", "room": room}), "joined")).await {
        Ok(joined) => joined,
        Err(error) => {
            report.broken(url, "join", format!("{error:#}"));
            return Vec::new();
        }
    };
    report.works(url, "join", Some(begun.elapsed()), format!("room {room}"));
    let begun = Instant::now();
    match within(ask(&mut socket, &json!({"type": "ping"}), "pong")).await {
        Ok(_) => report.works(url, "ping", Some(begun.elapsed()), "round trip"),
        Err(error) => report.broken(url, "ping", format!("{error:#}")),
    }
    if let Err(error) = within(ask(&mut socket, &json!({"type": "leave", "id": 1}), "ack")).await {
        report.broken(url, "leave", format!("{error:#}"));
    }
    let _ = socket.close(None).await;
    credentials(url, &joined, report)
}

fn credentials(url: &str, joined: &Value, report: &mut Report) -> Vec<IceServer> {
    let servers: Vec<IceServer> = match serde_json::from_value(joined["iceServers"].clone()) {
        Ok(servers) => servers,
        Err(error) => {
            report.broken(url, "iceServers", error);
            return Vec::new();
        }
    };
    let left = joined["expires"].as_u64().unwrap_or(0).saturating_sub(unix_now());
    let uris: usize = servers.iter().map(|server| server.urls.len()).sum();
    let left_text = HumanDuration(Duration::from_secs(left));
    match (uris, left) {
        (0, _) => report.broken(url, "iceServers", "none: no TURN node serves; see `kubectl get rtc`"),
        (_, 0) => report.broken(url, "iceServers", "the credential has expired: compare the servers' clocks"),
        _ => report.works(
            url,
            "iceServers",
            None,
            format!("{uris} URIs; the credential lives {left_text} more"),
        ),
    }
    servers
}

async fn connect(url: &str, client: &Client<'_>) -> anyhow::Result<Socket> {
    let base = url.trim_end_matches('/');
    let address = match base.split_once("://") {
        Some(("http" | "ws", host)) => format!("ws://{host}/v1/connect"),
        Some(("https" | "wss", host)) => format!("wss://{host}/v1/connect"),
        _ => bail!("--signaling is a URL, such as https://calls.example.com"),
    };
    let mut request = address.into_client_request()?;
    if let Some(token) = client.token {
        let value = format!("Bearer {token}").parse().context("--token-file holds no token")?;
        request.headers_mut().insert(AUTHORIZATION, value);
    }
    let connector = Connector::Rustls(client.tls.config().clone());
    let connected =
        tokio_tungstenite::connect_async_tls_with_config(request, None, true, Some(connector)).await;
    match connected {
        Ok((socket, _)) => Ok(socket),
        Err(Error::Http(response)) if response.status() == StatusCode::UNAUTHORIZED => {
            let why = response.body().as_deref().map(String::from_utf8_lossy).unwrap_or_default();
            bail!("{}; give a good one by --token-file", why.trim())
        }
        Err(error) => Err(error).context("no WebSocket there"),
    }
}

/// The next frame of that type, after `frame` was sent.
async fn ask(socket: &mut Socket, frame: &Value, answer: &str) -> anyhow::Result<Value> {
    socket.send(Message::text(frame.to_string())).await?;
    while let Some(message) = socket.next().await {
        let Message::Text(text) = message? else { continue };
        let frame: Value = serde_json::from_str(&text).context("a frame that is no JSON")?;
        match frame["type"].as_str() {
            Some("error") => bail!("{}", frame["message"].as_str().unwrap_or("an error without a message")),
            Some(kind) if kind == answer => return Ok(frame),
            _ => {}
        }
    }
    bail!("the server closed the connection")
}

async fn within<T>(step: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    timeout(PATIENCE, step).await.unwrap_or_else(|_| bail!("no answer within {} s", PATIENCE.as_secs()))
}
