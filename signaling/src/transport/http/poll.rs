//! `GET /v1/poll`: what the room says, a request at a time.

use super::{Asking, array, closed, hinted, refused, too_often};
use crate::{
    arrival::Arrival,
    dialect::native::{Back, Native},
    outbox::{Out, Outbox},
    store::StoreError,
    trace,
};
use axum::{
    extract::ws::Utf8Bytes,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use rtc_signaling_proto::{ResumeToken, server::ServerFrame};
use std::{sync::Arc, time::Duration};
use tokio::{sync::oneshot, time::Instant};
use tracing::Instrument;

pub(super) async fn serve(arrival: Arrival, asking: Asking) -> Response {
    let Arrival { server, guest, pass, span } = arrival;
    let Asking { token: Some(token), after, wait } = asking else { return super::nobody() };
    if !server.paces().may_ask(&token.member) {
        return too_often().into_response();
    }
    let native = server.native(pass);
    let counted = native.hub.metrics().connection("native");
    let (answer, answered) = oneshot::channel();
    let polling = async move {
        let outbox = Outbox::new(native.limits.queue_bytes);
        let poll = Poll { native, outbox };
        poll.run(&token, after, wait, answer).await;
        drop((guest, counted));
    };
    tokio::spawn(polling.instrument(span));
    let response = match answered.await {
        Ok(Ok(frames)) => array(StatusCode::OK, &frames),
        Ok(Err(error)) => refused(&error),
        Err(_) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    };
    hinted(response, server.is_draining())
}

type Answer = oneshot::Sender<Result<Vec<Utf8Bytes>, StoreError>>;

struct Poll {
    native: Native,
    outbox: Arc<Outbox>,
}

impl Poll {
    async fn run(&self, token: &ResumeToken, after: (u64, u64), wait: Duration, mut answer: Answer) {
        let resuming = self.native.resume(None, token, after.0, after.1, self.outbox.clone());
        let resumed = trace::told(trace::request("native", Some("poll"), None), resuming).await;
        let Back { at, mut replies, resumed, .. } = match resumed {
            Ok(back) => back,
            Err(error) => return drop(answer.send(Err(error))),
        };
        let mut end = Instant::now() + wait;
        let mut over = false;
        // the first reply says only that the session goes on
        while resumed && replies.len() == 1 && !over {
            tokio::select! {
                out = self.outbox.next() => match out {
                    // the next poll finds another replica
                    Out::Goaway(in_ms) => end = end.min(Instant::now() + Duration::from_millis(in_ms)),
                    out => over = self.take(&out, &at, &mut replies),
                },
                () = tokio::time::sleep_until(end) => break,
                () = answer.closed() => break,
            }
        }
        let position = self.native.hub.let_go(&at);
        while let (false, Some(out)) = (over, self.outbox.pop()) {
            over = self.take(&out, &at, &mut replies);
        }
        if let (false, Some((epoch, seq))) = (over, position) {
            replies.push(ServerFrame::Position { epoch, seq }.to_text().into());
        }
        // a client that is gone asks for them again
        let _ = answer.send(Ok(replies));
        if position.is_some() {
            self.native.hub.detach_stored(&at).await;
        }
    }

    /// Returns whether nothing follows.
    fn take(&self, out: &Out, at: &crate::hub::Attachment, replies: &mut Vec<Utf8Bytes>) -> bool {
        match out {
            Out::Close(code, reason) => {
                replies.push(closed(*code, reason).into());
                true
            }
            Out::Goaway(_) => false,
            out => {
                replies.extend(self.native.frame(out, Some(at)));
                false
            }
        }
    }
}
