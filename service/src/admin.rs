//! The admin port: what an operator, a kubelet and a Prometheus ask of a program.
//!
//! | path | what | who |
//! | --- | --- | --- |
//! | `GET /healthz` | 200 while the program runs | anybody |
//! | `GET /readyz` | 200, or 503 with the reason as text | anybody |
//! | `GET /metrics` | OpenMetrics text | anybody |
//! | `GET /status` | JSON | bearer token, if there is one |
//! | `POST /drain?deadline=60s` | 202; the program refuses what is new and ends when nothing is left | bearer token, if there is one |

use crate::{HumanDuration, metrics};
use axum::{
    Router,
    extract::{Query, Request, State},
    http::{StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::Deserialize;
use std::{io, sync::Arc, time::Duration};
use subtle::ConstantTimeEq;
use tokio::{net::TcpListener, sync::watch};

/// What a program tells on its admin port.
pub trait Program: Send + Sync + 'static {
    /// Whether traffic should be sent here.
    ///
    /// # Errors
    /// The reason why not, for a person.
    fn ready(&self) -> Result<(), String>;

    /// What `/status` answers. Never a secret.
    fn status(&self) -> serde_json::Value;

    /// What `/metrics` answers: see [`metrics::text`].
    fn metrics(&self) -> String;

    /// Refuses what is new, lets what is there end, and stops when nothing is left or after
    /// `deadline`. A second call may shorten the deadline.
    fn drain(&self, deadline: Option<Duration>);
}

/// The bearer token of an admin port, which may change while it serves; `None` asks for none.
pub type Token = watch::Receiver<Option<String>>;

/// No token: for an admin port on loopback.
#[must_use]
pub fn open() -> Token {
    watch::channel(None).1
}

/// The token that a ring's directory holds in `.admin-token`, followed.
#[must_use]
pub fn token_from(mut files: watch::Receiver<crate::watch::Files>, name: &'static str) -> Token {
    let pick = move |files: &crate::watch::Files| {
        let text = std::str::from_utf8(files.get(name)?).ok()?.trim();
        (!text.is_empty()).then(|| text.to_owned())
    };
    let (sender, receiver) = watch::channel(pick(&files.borrow_and_update()));
    tokio::spawn(async move {
        while files.changed().await.is_ok() {
            let now = pick(&files.borrow_and_update());
            if sender.send(now).is_err() {
                return;
            }
        }
    });
    receiver
}

/// The routes of the admin port, for a program that serves them itself.
pub fn router(program: Arc<dyn Program>, token: Token) -> Router {
    let guarded = Router::new()
        .route("/status", get(|State(p): State<Arc<dyn Program>>| async move { axum::Json(p.status()) }))
        .route("/drain", post(drain))
        .route_layer(middleware::from_fn_with_state(token, authorize));
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route(
            "/metrics",
            get(|State(p): State<Arc<dyn Program>>| async move {
                ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], p.metrics())
            }),
        )
        .merge(guarded)
        .with_state(program)
}

/// Serves the admin port until the task is dropped.
///
/// # Errors
/// When the listener fails for good.
pub async fn serve(listener: TcpListener, program: Arc<dyn Program>, token: Token) -> io::Result<()> {
    axum::serve(listener, router(program, token)).await
}

async fn readyz(State(program): State<Arc<dyn Program>>) -> Response {
    match program.ready() {
        Ok(()) => "ok\n".into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DrainQuery {
    deadline: Option<HumanDuration>,
}

async fn drain(State(program): State<Arc<dyn Program>>, Query(query): Query<DrainQuery>) -> Response {
    program.drain(query.deadline.map(Duration::from));
    (StatusCode::ACCEPTED, axum::Json(program.status())).into_response()
}

async fn authorize(State(token): State<Token>, request: Request, next: Next) -> Response {
    if allows(token.borrow().as_deref(), &request) {
        return next.run(request).await;
    }
    let how = "send `Authorization: Bearer TOKEN` with the token of .admin-token in the keys' directory\n";
    (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Bearer")], how).into_response()
}

fn allows(token: Option<&str>, request: &Request) -> bool {
    let given = || request.headers().get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ");
    match (token, given()) {
        (None, _) => true,
        (Some(token), Some(given)) => token.as_bytes().ct_eq(given.as_bytes()).into(),
        (Some(_), None) => false,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::sync::Mutex;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[derive(Default)]
    struct Fake {
        drained: Mutex<Option<Option<Duration>>>,
    }

    impl Program for Fake {
        fn ready(&self) -> Result<(), String> {
            match *self.drained.lock().unwrap() {
                None => Ok(()),
                Some(_) => Err("draining".into()),
            }
        }
        fn status(&self) -> serde_json::Value {
            serde_json::json!({"program": "fake"})
        }
        fn metrics(&self) -> String {
            "# EOF\n".into()
        }
        fn drain(&self, deadline: Option<Duration>) {
            *self.drained.lock().unwrap() = Some(deadline);
        }
    }

    async fn ask(address: std::net::SocketAddr, request: &str, token: Option<&str>) -> (u16, String) {
        let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
        let token = token.map(|t| format!("Authorization: Bearer {t}\r\n")).unwrap_or_default();
        let text = format!("{request} HTTP/1.1\r\nHost: a\r\n{token}Connection: close\r\n\r\n");
        socket.write_all(text.as_bytes()).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        (answer[9..12].parse().unwrap(), answer)
    }

    #[tokio::test]
    async fn status_and_drain_ask_for_the_token_and_the_probes_do_not() {
        let program = Arc::new(Fake::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, token) = watch::channel(Some("right".to_owned()));
        tokio::spawn(serve(listener, program.clone(), token));

        assert_eq!(ask(address, "GET /healthz", None).await.0, 200);
        assert_eq!(ask(address, "GET /readyz", None).await.0, 200);
        assert_eq!(ask(address, "GET /metrics", None).await.0, 200);
        let (code, answer) = ask(address, "GET /status", None).await;
        assert_eq!(code, 401);
        assert!(answer.contains(".admin-token") && !answer.contains("right"));
        assert_eq!(ask(address, "GET /status", Some("wrong")).await.0, 401);
        assert_eq!(ask(address, "POST /drain", None).await.0, 401);
        assert_eq!(*program.drained.lock().unwrap(), None);
        assert_eq!(ask(address, "GET /status", Some("right")).await.0, 200);

        sender.send(Some("rotated".into())).unwrap();
        assert_eq!(ask(address, "POST /drain", Some("right")).await.0, 401);
        assert_eq!(ask(address, "POST /drain?deadline=soon", Some("rotated")).await.0, 400);
        assert_eq!(ask(address, "POST /drain?deadline=1m", Some("rotated")).await.0, 202);
        assert_eq!(*program.drained.lock().unwrap(), Some(Some(Duration::from_secs(60))));
        let (code, answer) = ask(address, "GET /readyz", None).await;
        assert_eq!(code, 503);
        assert!(answer.contains("draining"));
    }
}
