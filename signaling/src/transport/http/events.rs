//! `GET /v1/events`: what the room says, as server-sent events (HTML, section 9.2).
//!
//! A task a stream takes from its outbox and waits for its client, a chunk at a time; so it knows how long
//! that takes.

use super::{Asking, closed, hinted, refused, too_often};
use crate::{
    arrival::Arrival,
    dialect::native::{Back, Native},
    hub::Attachment,
    outbox::{Out, Outbox},
    server::HangUp,
    store::StoreError,
    trace,
};
use axum::{
    Extension,
    body::{Body, Bytes},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use futures::stream;
use rtc_signaling_proto::ResumeToken;
use std::{future::poll_fn, sync::Arc, task::Poll, time::Duration};
use tokio::sync::{mpsc, oneshot};
use tracing::Instrument;

/// A quiet stream says so, for proxies that close what is silent.
const BEAT: Duration = Duration::from_secs(15);
/// How long a client may take to read one chunk.
const IDLE: Duration = Duration::from_secs(60);
/// How long a stream that is closed may take to be read.
const LINGER: Duration = Duration::from_secs(10);
/// A chunk is not made much longer than this.
const CHUNK: usize = 64 << 10;

pub(super) async fn serve(arrival: Arrival, hang_up: Option<Extension<HangUp>>, asking: Asking) -> Response {
    let Arrival { server, guest, pass, span } = arrival;
    let Asking { token: Some(token), after, .. } = asking else { return super::nobody() };
    if !server.paces().may_ask(&token.member) {
        return too_often();
    }
    let native = server.native(pass);
    let counted = native.hub.metrics().connection("native");
    let (chunks, body) = mpsc::channel(1);
    let (begin, begun) = oneshot::channel();
    let carrying = async move {
        let outbox = Outbox::new(native.limits.queue_bytes);
        let hang_up = hang_up.map(|Extension(hang_up)| hang_up).unwrap_or_default();
        Events { native, outbox, chunks, hang_up }.run(&token, after, begin).await;
        drop((guest, counted));
    };
    tokio::spawn(carrying.instrument(span));
    let response = match begun.await {
        Ok(Ok(())) => {
            let headers = [
                (header::CONTENT_TYPE, "text/event-stream"),
                // nginx would keep the events until it has enough of them
                (header::HeaderName::from_static("x-accel-buffering"), "no"),
            ];
            let chunks = stream::unfold(body, async |mut body| {
                let chunk: Bytes = body.recv().await?;
                Some((Ok::<_, std::convert::Infallible>(chunk), body))
            });
            (headers, Body::from_stream(chunks)).into_response()
        }
        Ok(Err(error)) => refused(&error),
        Err(_) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    };
    hinted(response, server.is_draining())
}

struct Events {
    native: Native,
    outbox: Arc<Outbox>,
    chunks: mpsc::Sender<Bytes>,
    hang_up: HangUp,
}

impl Events {
    async fn run(
        self,
        token: &ResumeToken,
        after: (u64, u64),
        begin: oneshot::Sender<Result<(), StoreError>>,
    ) {
        let resuming = self.native.resume(None, token, after.0, after.1, self.outbox.clone());
        let resumed = trace::told(trace::request("native", Some("events"), None), resuming).await;
        let Back { at, replies, position, .. } = match resumed {
            Ok(back) => back,
            Err(error) => return drop(begin.send(Err(error))),
        };
        if begin.send(Ok(())).is_ok() {
            let mut chunk = String::new();
            for reply in &replies {
                event(&mut chunk, None, reply);
            }
            // only all of them together reach to there
            chunk.push_str(&format!("id: {}.{}\n\n", position.0, position.1));
            self.carry(&at, chunk).await;
        }
        if self.outbox.is_slow() {
            self.native.hub.metrics().slow_readers.inc();
        }
        self.native.hub.detach(&at).await;
    }

    /// Returns when the stream is over.
    async fn carry(&self, at: &Attachment, first: String) {
        let (mut chunk, mut over) = (first, false);
        loop {
            if !self.send(chunk).await || over {
                return;
            }
            chunk = String::new();
            tokio::select! {
                out = self.outbox.next() => over = self.write(&out, at, &mut chunk),
                () = tokio::time::sleep(BEAT) => chunk.push_str(":\n\n"),
                () = self.chunks.closed() => return,
            }
            while !over
                && chunk.len() < CHUNK
                && let Some(out) = self.outbox.pop()
            {
                over = self.write(&out, at, &mut chunk);
            }
        }
    }

    /// Returns whether nothing follows.
    fn write(&self, out: &Out, at: &Attachment, chunk: &mut String) -> bool {
        match out {
            Out::Close(code, reason) => {
                event(chunk, None, &closed(*code, reason));
                return true;
            }
            Out::Parcel(parcel) if parcel.seq > 0 => {
                event(chunk, Some((parcel.epoch, parcel.seq)), &parcel.frame);
            }
            Out::Resync { view, seq } => {
                if let Some(frame) = self.native.frame(out, Some(at)) {
                    event(chunk, Some((view.epoch, *seq)), &frame);
                }
            }
            out => {
                if let Some(frame) = self.native.frame(out, Some(at)) {
                    event(chunk, None, &frame);
                }
            }
        }
        false
    }

    /// Waits for the client; false when it is gone, or was hung up on since it does not read.
    async fn send(&self, chunk: String) -> bool {
        let closing = async {
            poll_fn(|context| match self.outbox.poll_closed(context) {
                true => Poll::Ready(()),
                false => Poll::Pending,
            })
            .await;
            tokio::time::sleep(LINGER).await;
        };
        tokio::select! {
            sent = self.chunks.send(chunk.into()) => return sent.is_ok(),
            () = closing => {}
            () = tokio::time::sleep(IDLE) => {}
        }
        self.hang_up.0.notify_one();
        false
    }
}

/// Writes an event. A client that connects again names the id of the last one that it got.
fn event(chunk: &mut String, id: Option<(u64, u64)>, frame: &str) {
    if let Some((epoch, seq)) = id {
        chunk.push_str(&format!("id: {epoch}.{seq}\n"));
    }
    // what a client sent may be JSON with line breaks in it, which would end the event
    for line in frame.split(['\n', '\r']) {
        chunk.push_str("data: ");
        chunk.push_str(line);
        chunk.push('\n');
    }
    chunk.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn whatever_a_frame_has_in_it_is_one_event(frame in "[a-z\r\n:{} ]{0,40}") {
            let mut chunk = String::new();
            event(&mut chunk, Some((3, 4)), &frame);
            let (event, rest) = chunk.split_once("\n\n").unwrap_or_default();
            prop_assert_eq!(rest, "");
            let mut lines = event.lines();
            prop_assert_eq!(lines.next(), Some("id: 3.4"));
            let data: Vec<_> = lines.filter_map(|line| line.strip_prefix("data: ")).collect();
            prop_assert_eq!(data.join("\n"), frame.replace('\r', "\n"));
        }
    }
}
