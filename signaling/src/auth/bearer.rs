//! Where in a request its token is.
//!
//! | where | for whom |
//! | --- | --- |
//! | `Authorization: Bearer TOKEN` (RFC 6750, section 2.1) | programs |
//! | subprotocol `rtc.bearer.TOKEN`, best beside `rtc.v1` | browsers, whose WebSockets have no headers of their own |
//! | `?access_token=TOKEN` (RFC 6750, section 2.3) | clients that know of nothing but a URL |

use axum::{
    extract::{Query, ws::WebSocketUpgrade},
    http::{HeaderMap, Uri, header},
};
use serde::Deserialize;

/// The protocol as such, which is answered; so the token need not be.
const PROTOCOL: &str = "rtc.v1";
const TOKEN_PROTOCOL: &str = "rtc.bearer.";

#[derive(Deserialize)]
struct Asked {
    access_token: Option<String>,
}

/// The token of a request.
pub(crate) fn of_request(headers: &HeaderMap, uri: &Uri) -> Option<String> {
    of_header(headers).map(str::to_owned).or_else(|| of_protocols(headers).map(str::to_owned)).or_else(|| {
        Query::<Asked>::try_from_uri(uri)
            .ok()
            .and_then(|asked| asked.0.access_token)
            .filter(|token| !token.is_empty())
    })
}

/// The token of the header alone.
pub(crate) fn of_header(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn of_protocols(headers: &HeaderMap) -> Option<&str> {
    let values = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter();
    let mut protocols = values.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    protocols.find_map(|protocol| protocol.trim().strip_prefix(TOKEN_PROTOCOL))
}

/// Answers one of the subprotocols that are ours: browsers end a connection that answers none of those
/// they asked for.
pub(crate) fn answer_protocol(mut upgrade: WebSocketUpgrade) -> WebSocketUpgrade {
    let of = |wanted: &dyn Fn(&str) -> bool| {
        let mut asked = upgrade.requested_protocols();
        asked.find(|protocol| protocol.to_str().is_ok_and(wanted)).cloned()
    };
    let chosen =
        of(&|protocol| protocol == PROTOCOL).or_else(|| of(&|protocol| protocol.starts_with(TOKEN_PROTOCOL)));
    if let Some(chosen) = chosen {
        upgrade.set_selected_protocol(chosen);
    }
    upgrade
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_token_is_found_in_the_header_then_the_subprotocol_then_the_query() {
        let mut headers = HeaderMap::new();
        let uri: Uri = "/v1/connect?x=1&access_token=q%2Dq".parse().unwrap();
        let plain: Uri = "/v1/connect?access_token=".parse().unwrap();
        assert_eq!(of_request(&headers, &plain), None);
        assert_eq!(of_request(&headers, &uri).as_deref(), Some("q-q"));
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, "rtc.v1, rtc.bearer.p.p".parse().unwrap());
        assert_eq!(of_request(&headers, &uri).as_deref(), Some("p.p"));
        headers.insert(header::AUTHORIZATION, "Basic dTpw".parse().unwrap());
        assert_eq!(of_request(&headers, &uri).as_deref(), Some("p.p"));
        headers.insert(header::AUTHORIZATION, "bearer h".parse().unwrap());
        assert_eq!(of_request(&headers, &uri).as_deref(), Some("h"));
    }
}
