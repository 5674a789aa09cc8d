//! Who asks, and from where on.

use axum::{
    extract::{FromRequestParts, Query},
    http::{HeaderMap, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use percent_encoding::percent_decode;
use rtc_signaling_proto::{ResumeToken, client::Code, server::ServerFrame};
use serde::Deserialize;
use std::time::Duration;

/// A poll without news ends after so long: before proxies lose patience, and soon enough for a client to
/// notice that its server is gone.
const WAIT: Duration = Duration::from_secs(25);

/// Of which session a request is.
#[derive(Debug)]
pub(super) struct Asking {
    /// Nobody's yet, if `None`.
    pub(super) token: Option<ResumeToken>,
    /// The last entry that arrived: epoch and seq.
    pub(super) after: (u64, u64),
    /// How long to wait for something to say.
    pub(super) wait: Duration,
}

/// What a request says of itself is not what it should be.
#[derive(Debug)]
pub(super) struct Misasked(&'static str);

#[derive(Debug, Default, Deserialize)]
struct InQuery {
    session: Option<String>,
    after: Option<String>,
    wait: Option<u64>,
}

impl Asking {
    fn read(headers: &HeaderMap, query: InQuery) -> Result<Self, &'static str> {
        let in_header =
            headers.get("rtc-session").map(|value| percent_decode(value.as_bytes()).decode_utf8());
        let token = match in_header {
            Some(Ok(token)) => Some(token.into_owned()),
            Some(Err(_)) => return Err("the header Rtc-Session is no percent-encoded UTF-8"),
            None => query.session,
        };
        let token = token.map(|token| token.parse()).transpose();
        let token = token.map_err(|_| "this is no token of a session; show `resume` of `joined`")?;
        // an `EventSource` that connects again knows better than the address that it began with
        let after = headers.get("last-event-id").and_then(|value| value.to_str().ok());
        let after = match after.or(query.after.as_deref()) {
            Some(after) => position(after).ok_or("the last entry is written as EPOCH.SEQ")?,
            None => (0, 0),
        };
        let wait = query.wait.map_or(WAIT, |seconds| Duration::from_secs(seconds).min(WAIT));
        Ok(Self { token, after, wait })
    }
}

fn position(text: &str) -> Option<(u64, u64)> {
    let (epoch, seq) = text.split_once('.')?;
    Some((epoch.parse().ok()?, seq.parse().ok()?))
}

impl<S: Sync> FromRequestParts<S> for Asking {
    type Rejection = Misasked;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Misasked> {
        let query = Query::<InQuery>::try_from_uri(&parts.uri);
        let query = query.map_err(|_| Misasked("the query may have `session`, `after` and `wait`"))?.0;
        Self::read(&parts.headers, query).map_err(Misasked)
    }
}

impl IntoResponse for Misasked {
    fn into_response(self) -> Response {
        let frame = ServerFrame::error(None, Code::BadFrame, self.0);
        let headers = [(header::CONTENT_TYPE, "application/json")];
        (StatusCode::BAD_REQUEST, headers, format!("[{frame}]")).into_response()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use proptest::prelude::*;

    fn read(header: Option<&str>, query: InQuery) -> Result<Asking, &'static str> {
        let mut headers = HeaderMap::new();
        if let Some(header) = header {
            headers.insert("rtc-session", header.parse().unwrap());
        }
        Asking::read(&headers, query)
    }

    #[test]
    fn a_session_is_named_by_the_header_or_else_by_the_query() {
        let query =
            || InQuery { session: Some("m-2~t~b".into()), after: Some("7.9".into()), wait: Some(900) };
        let asking = read(Some("m-1~s~Z%C3%BCrich%20%2F%202"), query()).unwrap();
        assert_eq!(asking.token.unwrap().room.as_str(), "Zürich / 2");
        assert_eq!((asking.after, asking.wait), ((7, 9), WAIT));
        assert_eq!(read(None, query()).unwrap().token.unwrap().member.as_str(), "m-2");
        assert!(read(None, InQuery::default()).unwrap().token.is_none());
        for bad in ["m-1", "%ff", ""] {
            assert!(read(Some(bad), InQuery::default()).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_position_is_two_numbers_and_nothing_else(epoch: u64, seq: u64, noise in "[0-9.x ]{0,9}") {
            prop_assert_eq!(position(&format!("{epoch}.{seq}")), Some((epoch, seq)));
            if let Some((epoch, seq)) = position(&noise) {
                prop_assert_eq!(noise.matches('.').count(), 1);
                let parts: Vec<u64> = noise.split('.').map(|part| part.parse().unwrap()).collect();
                prop_assert_eq!(parts, vec![epoch, seq]);
            }
        }
    }
}
