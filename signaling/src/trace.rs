//! A span for each request of a client: who asked for what and where, and what came of it after how long.
//!
//! `RTC_LOG=info,rtc_signaling::request=debug` shows a line for each, and all that is logged meanwhile carries its
//! fields. A request that nobody looks at costs a load and a comparison. What was said is in no span, nor any token.
//!
//! Who comes through a gateway that traces ([Trace Context](https://www.w3.org/TR/trace-context/)) keeps that trace's
//! id for as long as the connection lasts.

use rtc_signaling_proto::{MemberId, RequestId, RoomName};
use std::time::Instant;
use tracing::{Instrument, Level, Span, field::Empty};

use axum::http::HeaderMap;
use futures::future::BoxFuture;

/// What `RTC_LOG` calls it.
const TARGET: &str = "rtc_signaling::request";

/// Around all of a connection that belongs to somebody's trace.
pub(crate) fn connection(headers: &HeaderMap) -> Span {
    if !tracing::enabled!(target: TARGET, Level::DEBUG) {
        return Span::none();
    }
    match trace_id(headers) {
        Some(trace_id) => tracing::debug_span!(target: TARGET, "connection", trace_id),
        None => Span::none(),
    }
}

/// Of `traceparent`: `VERSION-TRACE-PARENT-FLAGS` in lower-case hexadecimal, of which later versions may have more
/// (section 3.2.2). A trace of zeros is none.
fn trace_id(headers: &HeaderMap) -> Option<&str> {
    let mut parts = headers.get("traceparent")?.to_str().ok()?.split('-');
    let mut part = |length: usize| {
        let is_hex = |part: &str| part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        parts.next().filter(|part| part.len() == length && is_hex(part))
    };
    let (version, trace, _, _) = (part(2)?, part(32)?, part(16)?, part(2)?);
    (version != "ff" && trace.bytes().any(|b| b != b'0')).then_some(trace)
}

/// One request. What is not known yet is told by [`kind`], [`place`] and [`outcome`], while it is dealt with.
pub(crate) fn request(dialect: &'static str, kind: Option<&'static str>, id: Option<&RequestId>) -> Span {
    let id = id.map(tracing::field::display);
    tracing::debug_span!(
        target: TARGET, "request", dialect, kind, id, room = Empty, session = Empty, outcome = Empty
    )
}

/// Deals with a request, and logs that it has been. Boxed, since a future that waits for another in two places has it twice.
pub(crate) fn told<'a, T>(request: Span, work: impl Future<Output = T> + Send + 'a) -> BoxFuture<'a, T> {
    if request.is_disabled() {
        return Box::pin(work);
    }
    let begun = Instant::now();
    let work = async move {
        let done = work.await;
        let took_us = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        tracing::debug!(target: TARGET, took_us, "done");
        done
    };
    Box::pin(work.instrument(request))
}

/// What the request that is dealt with asks for.
pub(crate) fn kind(kind: &'static str) {
    Span::current().record("kind", kind);
}

/// In which room the request that is dealt with is, and of which session.
pub(crate) fn place(room: &RoomName, session: Option<&MemberId>) {
    let span = Span::current();
    if span.is_disabled() {
        return;
    }
    span.record("room", room.as_str());
    if let Some(session) = session {
        span.record("session", session.as_str());
    }
}

/// Why the request that is dealt with is refused: a stable word.
pub(crate) fn outcome(word: &str) {
    Span::current().record("outcome", word);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_trace_is_known_by_its_header_or_not_at_all() {
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        let of = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("traceparent", text.parse().unwrap());
            trace_id(&headers).map(str::to_owned)
        };
        assert_eq!(of(&format!("00-{trace}-00f067aa0ba902b7-01")).unwrap(), trace);
        assert_eq!(of(&format!("cc-{trace}-00f067aa0ba902b7-01-more")).unwrap(), trace);
        for bad in [
            "",
            trace,
            &format!("ff-{trace}-00f067aa0ba902b7-01"),
            &format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)),
            &format!("00-{}-00f067aa0ba902b7-01", trace.to_uppercase()),
            &format!("00-{trace}\"-00f067aa0ba902b7-01"),
            &format!("00-{trace}-00f067aa0ba902b7"),
        ] {
            assert_eq!(of(bad), None, "{bad}");
        }
        assert_eq!(trace_id(&HeaderMap::new()), None);
    }
}
