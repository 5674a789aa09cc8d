//! `POST /v1/messages`: what a client says, and what answers it.

use super::{Asking, array, closed, hinted, pace::Paces};
use crate::{
    arrival::Arrival,
    dialect::native::{Native, Place, store_error},
    guests::{Guest, TOO_FAST},
    hub::Attachment,
    outbox::Outbox,
};
use axum::{extract::ws::Utf8Bytes, http::StatusCode, response::Response};
use rtc_signaling_proto::{Command, ResumeToken, Session, Step, client::Code, server::ServerFrame};
use serde_json::value::RawValue;
use std::sync::Arc;
use tokio::sync::oneshot;
use tracing::Instrument;

pub(super) async fn serve(arrival: Arrival, asking: Asking, body: String) -> Response {
    let Arrival { server, guest, pass, span } = arrival;
    let (native, paces) = (server.native(pass), server.paces().clone());
    let (answer, answered) = oneshot::channel();
    // to its end, also when the client is gone: what was asked for may have been done
    let reading = async move {
        let mut batch = Batch::new(native, paces, guest, asking.token);
        let status = batch.read(&body).await;
        let Batch { native, answers, entered, .. } = batch;
        // whom nobody hears is nobody
        let _ = answer.send((status, answers));
        if let Some(at) = entered {
            // its stream or its poll resumes it, perhaps elsewhere
            native.hub.detach(&at).await;
        }
    };
    tokio::spawn(reading.instrument(span));
    let (status, answers) = answered.await.unwrap_or((StatusCode::SERVICE_UNAVAILABLE, Vec::new()));
    hinted(array(status, &answers), server.is_draining())
}

/// The frames of one request.
struct Batch {
    native: Native,
    paces: Arc<Paces>,
    guest: Guest,
    token: Option<ResumeToken>,
    /// Until it has shown that it is of a session.
    stranger: Session,
    at: Option<Attachment>,
    /// What it entered by this request.
    entered: Option<Attachment>,
    answers: Vec<Utf8Bytes>,
    over: bool,
}

impl Batch {
    fn new(native: Native, paces: Arc<Paces>, guest: Guest, token: Option<ResumeToken>) -> Self {
        let stranger = paces.stranger();
        let (at, entered, answers) = (None, None, Vec::new());
        Self { native, paces, guest, token, stranger, at, entered, answers, over: false }
    }

    async fn read(&mut self, body: &str) -> StatusCode {
        let frames = match body.trim_start().starts_with('[') {
            true => serde_json::from_str::<Vec<&RawValue>>(body),
            false => serde_json::from_str::<&RawValue>(body).map(|frame| vec![frame]),
        };
        let frames = match frames {
            Ok(frames) => frames,
            Err(error) => {
                let how = format!("write one JSON object, or an array of them: {error}");
                self.answers.push(ServerFrame::error(None, Code::BadJson, &how).into());
                return StatusCode::BAD_REQUEST;
            }
        };
        let mut status = StatusCode::OK;
        if let Some(token) = &self.token {
            match self.native.writer(token).await {
                Ok(at) => self.at = Some(at),
                Err(error) => {
                    status = super::status(&error);
                    self.answers.push(store_error(None, &error).into());
                    self.over = true;
                }
            }
        }
        for frame in frames {
            if self.over {
                break;
            }
            self.frame(frame.get()).await;
        }
        status
    }

    async fn frame(&mut self, text: &str) {
        let step = match &self.at {
            Some(at) => self.paces.frame(&at.member, text),
            None => self.stranger.text(text, self.paces.now()),
        };
        let command = match step {
            Step::Reply(text) => return self.answers.push(text.into()),
            Step::Close(text, code, reason) => {
                self.over = true;
                return self.answers.extend([text.into(), closed(code, reason).into()]);
            }
            Step::Do(command) => command,
        };
        match &command {
            Command::Join { id, .. } if !self.guest.may_join() => {
                let error = ServerFrame::error(id.as_ref(), Code::RateLimited, TOO_FAST);
                return self.answers.push(error.into());
            }
            Command::Resume { id, .. } => {
                let how = "a session goes on by GET /v1/events or GET /v1/poll";
                let error = ServerFrame::error(id.as_ref(), Code::BadFrame, how);
                return self.answers.push(error.into());
            }
            Command::Auth { id, .. } => {
                let how = "each request shows a token of its own; begin the stream again with a fresh one";
                let error = ServerFrame::error(id.as_ref(), Code::BadFrame, how);
                return self.answers.push(error.into());
            }
            _ => {}
        }
        // what comes to it until the session is resumed is in the log
        let outbox = Outbox::new(self.native.limits.queue_bytes);
        let answer = Arc::new(self.native.clone()).execute(command, self.at.clone(), outbox).await;
        self.answers.extend(answer.replies);
        match answer.place {
            Place::Same => {}
            Place::Entered(at) => {
                self.at = Some(at.clone());
                self.entered = Some(at);
            }
            Place::Left => (self.at, self.entered, self.over) = (None, None, true),
        }
    }
}
