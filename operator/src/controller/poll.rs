//! Asking pods on their admin ports.

use std::{net::IpAddr, time::Duration};

use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Request, body::Bytes, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, de::DeserializeOwned};

/// A pod that takes longer than this is treated as silent.
const TIMEOUT: Duration = Duration::from_secs(2);
/// The longest answer that is read, in bytes.
const LONGEST: usize = 1 << 20;

/// What `/status` of a TURN pod says, as far as the operator asks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TurnReport {
    /// The ring that it verifies by.
    pub ring: TurnRing,
    /// Allocations that live.
    pub allocations: i64,
    /// Whether it refuses new ones.
    pub draining: bool,
    /// The addresses that it tells peers; at most one a family.
    pub relay_addresses: Vec<IpAddr>,
    /// What its STUN server told of its node, if it asks one.
    pub external: Option<External>,
    /// The Redis by which quotas hold for the fleet, if it uses one.
    pub quota_store: Option<QuotaStore>,
}

/// How a TURN pod is seen from outside.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct External {
    /// At most one address of each family, as learnt last.
    pub addresses: Vec<IpAddr>,
    /// Why nothing could be learnt since.
    pub error: Option<String>,
}

/// The Redis by which TURN pods tell each other what users hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct QuotaStore {
    /// Whether it answers.
    pub up: bool,
}

/// The ring of a TURN pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct TurnRing {
    /// Its revision.
    pub revision: u64,
    /// The ids of the keys that verify.
    pub keys: Vec<String>,
}

/// What `/status` of a signaling pod says, as far as the operator asks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct SignalingReport {
    /// The ring that it signs by.
    pub ring: SignalingRing,
    /// The revision of `turn.json` that it hands out.
    pub fleet_revision: Option<String>,
    /// Clients that are connected.
    pub connections: i64,
}

/// The ring of a signaling pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct SignalingRing {
    /// Its revision.
    pub revision: u64,
}

/// Why a pod gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum PollError {
    /// It could not be reached.
    #[error("cannot reach it: {0}")]
    Connect(#[from] std::io::Error),
    /// The connection broke, or it does not speak HTTP.
    #[error("{0}")]
    Http(#[from] hyper::Error),
    /// It took too long.
    #[error("no answer within {}s", TIMEOUT.as_secs())]
    Timeout,
    /// It refused.
    #[error("it answered {0}")]
    Refused(hyper::StatusCode),
    /// The answer is too long or not what was expected.
    #[error("not understood: {0}")]
    Answer(String),
}

/// `GET /status`.
///
/// # Errors
/// [`PollError`]
pub async fn status<T: DeserializeOwned>(ip: IpAddr, port: u16, token: &str) -> Result<T, PollError> {
    ask(ip, port, token, "GET", "/status").await
}

/// `POST /drain`: to refuse what is new, and to end within `deadline` seconds.
///
/// # Errors
/// [`PollError`]
pub async fn drain(ip: IpAddr, port: u16, token: &str, deadline: u64) -> Result<TurnReport, PollError> {
    ask(ip, port, token, "POST", &format!("/drain?deadline={deadline}s")).await
}

async fn ask<T: DeserializeOwned>(
    ip: IpAddr,
    port: u16,
    token: &str,
    method: &str,
    path: &str,
) -> Result<T, PollError> {
    let exchange = async {
        let stream = tokio::net::TcpStream::connect((ip, port)).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "admin")
            .header(header::AUTHORIZATION, format!("Bearer {token}"))
            .body(Empty::<Bytes>::new())
            .map_err(|error| PollError::Answer(error.to_string()))?;
        let answer = async move {
            let response = sender.send_request(request).await?;
            if !response.status().is_success() {
                return Err(PollError::Refused(response.status()));
            }
            let body = Limited::new(response.into_body(), LONGEST).collect().await;
            let body = body.map_err(|error| PollError::Answer(error.to_string()))?.to_bytes();
            serde_json::from_slice(&body).map_err(|error| PollError::Answer(error.to_string()))
        };
        // The connection must be driven while the answer is awaited, and ends with it.
        tokio::select! {
            answer = answer => answer,
            ended = connection => Err(match ended {
                Err(error) => error.into(),
                Ok(()) => PollError::Answer("the connection ended before the answer".to_owned()),
            }),
        }
    };
    tokio::time::timeout(TIMEOUT, exchange).await.unwrap_or(Err(PollError::Timeout))
}
