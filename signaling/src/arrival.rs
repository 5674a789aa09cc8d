//! The first moment of a connection: whether it may begin, and with which buffers.

use crate::{
    auth::{TokenError, bearer, gate::Pass},
    guests::{Guest, TooMany},
    server::{Replica, Server},
    trace,
};
use axum::{
    extract::{FromRequestParts, ws::WebSocketUpgrade},
    http::{StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use std::sync::Arc;
use tracing::Span;

/// A longer message ends the connection; what is over the limit in `joined` but not over this is answered.
pub(crate) const HARD_FRAME_LIMIT: usize = 1 << 20;

/// A client that may connect. The server is for the handler; a connection that keeps it keeps it alive.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) server: Arc<Server>,
    pub(crate) guest: Guest,
    /// What its connection may do.
    pub(crate) pass: Arc<Pass>,
    /// Around all that it does.
    pub(crate) span: Span,
}

/// Why a client may not connect.
#[derive(Debug)]
pub(crate) enum TurnedAway {
    Ended(StatusCode),
    Origin,
    TooMany(TooMany),
    Token(TokenError),
}

impl FromRequestParts<Replica> for Arrival {
    type Rejection = TurnedAway;

    async fn from_request_parts(parts: &mut Parts, replica: &Replica) -> Result<Self, TurnedAway> {
        let server = replica.get().map_err(TurnedAway::Ended)?;
        if !server.origins().admits(&parts.headers) {
            return Err(TurnedAway::Origin);
        }
        let guest = server.guests().admit(&parts.extensions, &parts.headers).map_err(TurnedAway::TooMany)?;
        let pass = server.gate().admit(&parts.headers, &parts.uri).await.map_err(TurnedAway::Token)?;
        let span = trace::connection(&parts.headers);
        Ok(Self { server, guest, pass, span })
    }
}

impl IntoResponse for TurnedAway {
    fn into_response(self) -> Response {
        match self {
            Self::Ended(status) => status.into_response(),
            Self::Origin => {
                let how = "pages of this origin may not connect; the operator allows them with \
                    --allowed-origin\n";
                (StatusCode::FORBIDDEN, how).into_response()
            }
            Self::Token(why) => unauthorized(&why),
            Self::TooMany(why) => (StatusCode::TOO_MANY_REQUESTS, format!("{why}\n")).into_response(),
        }
    }
}

/// An answer that asks for a token (RFC 6750, section 3).
pub(crate) fn unauthorized(why: &TokenError) -> Response {
    let challenge = match why {
        TokenError::Unavailable => {
            return (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response();
        }
        TokenError::Missing => "Bearer",
        _ => "Bearer error=\"invalid_token\"",
    };
    (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, challenge)], format!("{why}\n")).into_response()
}

/// Small buffers, as most connections are idle; and one of the subprotocols that were asked for.
pub(crate) fn sized(upgrade: WebSocketUpgrade) -> WebSocketUpgrade {
    bearer::answer_protocol(upgrade)
        // a candidate fits; a longer message is read in parts
        .read_buffer_size(1 << 9)
        .write_buffer_size(8 << 10)
        .max_message_size(HARD_FRAME_LIMIT)
        .max_frame_size(HARD_FRAME_LIMIT)
}
