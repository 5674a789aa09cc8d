//! The native protocol over a WebSocket.
//!
//! One task a connection, which does everything by polling: it writes while it waits for the rooms, and
//! notices a full outbox while a write is stuck. It owns no channel, and no buffer while idle but the
//! socket's.

use crate::{
    dialect::native::{Answer, Native, Place},
    guests::{Guest, TOO_FAST},
    hub::Attachment,
    metrics::OpenConnection,
    outbox::{Out, Outbox},
};
use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket};
use futures::{Sink, Stream, future::BoxFuture};
use rtc_signaling_proto::{Command, Session, Step, client::Code, close, server::ServerFrame};
use std::{
    collections::VecDeque,
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::time::{Instant, Sleep};

/// After so long without a word, a client is asked whether it is there.
const QUIET: Duration = Duration::from_secs(25);
/// After so long without a word, its connection is closed.
const IDLE: Duration = Duration::from_secs(60);
/// How long a closed connection may take to read what is left.
const LINGER: Duration = Duration::from_secs(10);

struct Connection {
    guest: Guest,
    join_timeout: Duration,
    /// Since when it is in no room.
    outside: Instant,
    socket: WebSocket,
    native: Arc<Native>,
    counted: OpenConnection,
    session: Session,
    outbox: Arc<Outbox>,
    at: Option<Attachment>,
    replies: VecDeque<Message>,
    under_way: Option<BoxFuture<'static, Answer>>,
    start: Instant,
    heard: Instant,
    pinged: bool,
    dirty: bool,
    closing: bool,
    timer: Pin<Box<Sleep>>,
}

enum Event {
    Lost,
    Frame(Message),
    Done(Answer),
    Timer,
}

/// Serves one client until it is gone. The future is small: most of them wait.
pub(crate) fn serve(
    socket: WebSocket,
    native: Native,
    guest: Guest,
    join_timeout: Duration,
) -> impl Future<Output = ()> + Send + 'static {
    let now = Instant::now();
    Box::new(Connection {
        guest,
        join_timeout,
        outside: now,
        socket,
        session: Session::new(native.limits),
        outbox: Outbox::new(native.limits.queue_bytes),
        counted: native.hub.metrics().connection("native"),
        native: Arc::new(native),
        at: None,
        replies: VecDeque::new(),
        under_way: None,
        start: now,
        heard: now,
        pinged: false,
        dirty: false,
        closing: false,
        timer: Box::pin(tokio::time::sleep(QUIET.min(join_timeout))),
    })
    .serve()
}

impl Connection {
    async fn serve(mut self: Box<Self>) {
        self.run().await;
        // apart, so that what ends it takes no place from the beginning on
        Box::pin(self.end()).await;
    }

    async fn end(mut self: Box<Self>) {
        // What was asked for may still work; only then is it known what has to be given back.
        if let Some(under_way) = self.under_way.take()
            && let Place::Entered(at) = under_way.await.place
        {
            self.at = Some(at);
        }
        let Self { native, at, socket, guest, counted, .. } = *self;
        drop((socket, guest, counted));
        if let Some(at) = at {
            native.hub.detach(&at).await;
        }
    }

    async fn run(&mut self) {
        loop {
            match poll_fn(|context| self.poll(context)).await {
                Event::Lost => return,
                Event::Timer => {
                    if self.closing || !self.still_there() {
                        return;
                    }
                }
                Event::Frame(message) => {
                    self.heard = Instant::now();
                    self.pinged = false;
                    self.frame(message);
                }
                Event::Done(answer) => {
                    self.under_way = None;
                    match answer.place {
                        Place::Same => {}
                        Place::Entered(at) => {
                            self.session.entered();
                            self.at = Some(at);
                        }
                        Place::Left => {
                            self.session.left();
                            self.at = None;
                            self.outside = Instant::now();
                            self.timer.as_mut().reset(self.outside + self.join_timeout.min(QUIET));
                            self.outbox.clear_parcels();
                        }
                    }
                    self.replies.extend(answer.replies.into_iter().map(Message::Text));
                }
            }
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Event> {
        if self.poll_write(context).is_err() {
            return Poll::Ready(Event::Lost);
        }
        if let Some(under_way) = &mut self.under_way {
            if let Poll::Ready(answer) = under_way.as_mut().poll(context) {
                return Poll::Ready(Event::Done(answer));
            }
        } else if self.replies.is_empty() || self.closing {
            // A client that does not read its answers is not heard.
            match Pin::new(&mut self.socket).poll_next(context) {
                Poll::Ready(Some(Ok(message))) => return Poll::Ready(Event::Frame(message)),
                Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(Event::Lost),
                Poll::Pending => {}
            }
        }
        self.timer.as_mut().poll(context).map(|()| Event::Timer)
    }

    fn poll_write(&mut self, context: &mut Context<'_>) -> Result<(), axum::Error> {
        loop {
            match Pin::new(&mut self.socket).poll_ready(context) {
                Poll::Ready(ready) => ready?,
                Poll::Pending => {
                    if !self.closing && self.outbox.poll_closed(context) {
                        self.close_within(LINGER);
                    }
                    return Ok(());
                }
            }
            match self.next(context) {
                Some(message) => {
                    Pin::new(&mut self.socket).start_send(message)?;
                    self.dirty = true;
                }
                None if self.dirty => {
                    self.dirty = match Pin::new(&mut self.socket).poll_flush(context) {
                        Poll::Ready(flushed) => flushed.map(|()| false)?,
                        Poll::Pending => return Ok(()),
                    };
                }
                None => return Ok(()),
            }
        }
    }

    fn next(&mut self, context: &Context<'_>) -> Option<Message> {
        if let Some(message) = self.replies.pop_front() {
            return Some(message);
        }
        // What the room says must not overtake the answer that says where the client stands in it.
        if self.at.is_none() && self.under_way.is_some() {
            return None;
        }
        loop {
            let Poll::Ready(out) = self.outbox.poll_pop(context) else { return None };
            if let Out::Close(code, reason) = out {
                self.close_within(LINGER);
                return Some(close_message(code, reason));
            }
            if let Some(text) = self.native.frame(&out, self.at.as_ref()) {
                return Some(Message::Text(text));
            }
        }
    }

    fn close_within(&mut self, time: Duration) {
        if !self.closing {
            self.closing = true;
            if self.outbox.is_slow() {
                self.native.hub.metrics().slow_readers.inc();
            }
            self.timer.as_mut().reset(Instant::now() + time);
        }
    }

    /// Asks a quiet client for a sign; false when it has been asked and gave none.
    fn still_there(&mut self) -> bool {
        let quiet = self.heard.elapsed();
        let outside = if self.at.is_some() || self.under_way.is_some() {
            Duration::ZERO
        } else {
            self.outside.elapsed()
        };
        if outside >= self.join_timeout {
            self.native.hub.metrics().refused("never_joined");
            let why = "no room was entered in time; connect again when there is one";
            self.outbox.push(Out::Close(close::IDLE, why));
        } else if quiet >= IDLE {
            self.outbox.push(Out::Close(close::IDLE, "nothing was heard of this client; resume"));
        } else if quiet >= QUIET && !self.pinged {
            self.pinged = true;
            self.replies.push_back(Message::Ping(Default::default()));
        }
        let next = if quiet >= IDLE {
            LINGER
        } else if quiet >= QUIET {
            IDLE - quiet
        } else {
            QUIET - quiet
        };
        let next = match self.join_timeout.saturating_sub(outside) {
            Duration::ZERO => LINGER,
            left => next.min(left),
        };
        self.timer.as_mut().reset(Instant::now() + next);
        true
    }

    fn frame(&mut self, message: Message) {
        if self.closing {
            return;
        }
        let now = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        let step = match message {
            Message::Text(text) => self.session.text(&text, now),
            Message::Binary(_) => self.session.binary(now),
            // Its answer is queued by the library, and needs a flush.
            Message::Ping(_) | Message::Close(_) => {
                self.dirty = true;
                return;
            }
            Message::Pong(_) => return,
        };
        match step {
            Step::Reply(text) => self.replies.push_back(Message::Text(text.into())),
            Step::Close(text, code, reason) => {
                self.replies.push_back(Message::Text(text.into()));
                self.outbox.push(Out::Close(code, reason));
            }
            Step::Do(Command::Join { id, .. }) if !self.guest.may_join() => {
                let error = ServerFrame::error(id.as_ref(), Code::RateLimited, TOO_FAST);
                self.replies.push_back(Message::Text(error.into()));
            }
            Step::Do(command) => {
                let (native, at, outbox) = (self.native.clone(), self.at.clone(), self.outbox.clone());
                self.under_way = Some(native.execute(command, at, outbox));
            }
        }
    }
}

fn close_message(code: u16, reason: &'static str) -> Message {
    Message::Close(Some(CloseFrame { code, reason: Utf8Bytes::from_static(reason) }))
}
