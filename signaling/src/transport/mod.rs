//! How frames travel.
//!
//! | transport | what a client asks for | what it is for |
//! | --- | --- | --- |
//! | [`websocket`] | `GET /v1/connect` | whoever can |
//! | `http` | `GET /v1/events` (server-sent events), `POST /v1/messages` | networks that break WebSockets |
//! | `http` | `GET /v1/poll` (long polling), `POST /v1/messages` | networks that break streams too |
//!
//! A session may change from any to any: each shows the same resume token.

pub(crate) mod http;
pub(crate) mod text;
pub mod websocket;
