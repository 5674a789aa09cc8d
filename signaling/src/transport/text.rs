//! Text frames over a WebSocket, for dialects whose clients await no answer to each frame.

use crate::{
    metrics::Metrics,
    outbox::{Out, Outbox},
    trace,
};
use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket};
use rtc_signaling_proto::{Limits, close, limits::Bucket};
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;

/// After so long without a word, a client is asked whether it is there.
const QUIET: Duration = Duration::from_secs(25);
/// After so long without a word, its connection is closed.
const IDLE: Duration = Duration::from_secs(60);
/// How long one frame may take to be written.
const WRITE: Duration = Duration::from_secs(10);
/// How long a closed connection may take to say so.
const LINGER: Duration = Duration::from_secs(2);
/// Who sends too fast is heard so much later.
const PAUSE: Duration = Duration::from_millis(20);

/// One client of a dialect.
pub(crate) trait Talk: Send {
    /// A frame came; what it is answered goes to the outbox.
    fn hear(&mut self, text: &str) -> impl Future<Output = ()> + Send;

    /// The frames for something from the outbox; none when this dialect has no word for it.
    fn words(&mut self, out: &Out) -> Vec<Utf8Bytes>;

    /// Whether it has entered a room.
    fn is_in(&self) -> bool;

    /// When [`Self::wake`] has something to do.
    fn due(&self) -> Option<Instant> {
        None
    }

    /// Does what is due.
    fn wake(&mut self) -> impl Future<Output = ()> + Send {
        async {}
    }

    /// Gives its places up, if it has not yet: nothing is sent to it any more.
    fn leave(&mut self) -> impl Future<Output = ()> + Send;

    /// The connection is gone, and has left.
    fn end(self)
    where
        Self: Sized,
    {
    }
}

/// What a connection has besides its dialect.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) dialect: &'static str,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) limits: Limits,
    /// A connection that is in no room for so long is closed.
    pub(crate) join_timeout: Duration,
    pub(crate) metrics: Arc<Metrics>,
}

/// Serves one client until it is gone.
pub(crate) async fn serve<T: Talk>(socket: WebSocket, mut talk: T, line: Line) {
    let (now, rate) = (Instant::now(), line.limits.messages_per_second);
    let rate = Bucket::new(rate, rate.saturating_mul(2));
    let connection = Connection {
        socket,
        line,
        rate,
        start: now,
        heard: now,
        pinged: false,
        outside: Some(now),
        go_at: None,
    };
    connection.run(&mut talk).await;
    talk.leave().await;
    talk.end();
}

struct Connection {
    socket: WebSocket,
    line: Line,
    rate: Bucket,
    start: Instant,
    heard: Instant,
    pinged: bool,
    /// Since when it is in no room.
    outside: Option<Instant>,
    /// When it is sent elsewhere.
    go_at: Option<Instant>,
}

impl Connection {
    async fn run<T: Talk>(mut self, talk: &mut T) {
        loop {
            if talk.is_in() {
                self.outside = None;
            } else {
                self.outside.get_or_insert_with(Instant::now);
            }
            let next = self.next(talk);
            tokio::select! {
                received = self.socket.recv() => {
                    let Some(Ok(message)) = received else { return };
                    (self.heard, self.pinged) = (Instant::now(), false);
                    match message {
                        Message::Text(text) => self.hear(talk, &text).await,
                        Message::Binary(_) => self.close(1003, "send JSON in text frames"),
                        Message::Ping(_) | Message::Pong(_) => {}
                        Message::Close(_) => return,
                    }
                }
                out = self.line.outbox.next() => {
                    if !self.say(talk, &out).await {
                        return;
                    }
                }
                () = tokio::time::sleep_until(next) => {
                    if !self.look(talk).await {
                        return;
                    }
                }
            }
        }
    }

    async fn hear<T: Talk>(&mut self, talk: &mut T, text: &str) {
        if text.len() > self.line.limits.frame_bytes {
            return self.close(close::TOO_BIG, "this message is too long");
        }
        let start = self.start;
        let now = || u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
        while !self.rate.take(now()) {
            tokio::time::sleep(PAUSE).await;
        }
        trace::told(trace::request(self.line.dialect, None, None), talk.hear(text)).await;
    }

    fn close(&self, code: u16, reason: &'static str) {
        self.line.outbox.push(Out::Close(code, reason));
    }

    /// Returns false when nothing more can be said.
    async fn say<T: Talk>(&mut self, talk: &mut T, out: &Out) -> bool {
        match out {
            Out::Close(code, reason) => {
                if self.line.outbox.is_slow() {
                    self.line.metrics.slow_readers.inc();
                }
                // before anybody sends to it in vain
                talk.leave().await;
                let frame = CloseFrame { code: *code, reason: Utf8Bytes::from_static(reason) };
                let _ = tokio::time::timeout(WRITE, self.socket.send(Message::Close(Some(frame)))).await;
                let rest = async { while let Some(Ok(_)) = self.socket.recv().await {} };
                let _ = tokio::time::timeout(LINGER, rest).await;
                return false;
            }
            Out::Goaway(in_ms) => self.go_at = Some(Instant::now() + Duration::from_millis(*in_ms)),
            out => {
                for text in talk.words(out) {
                    let written = self.socket.send(Message::Text(text));
                    if !matches!(tokio::time::timeout(WRITE, written).await, Ok(Ok(()))) {
                        return false;
                    }
                }
            }
        }
        true
    }

    fn next(&self, talk: &impl Talk) -> Instant {
        let heard = self.heard + if self.pinged { IDLE } else { QUIET };
        let outside = self.outside.map(|since| since + self.line.join_timeout);
        [outside, self.go_at, talk.due()].into_iter().flatten().fold(heard, Instant::min)
    }

    /// Does what the time asks for; false when the client cannot be reached.
    async fn look<T: Talk>(&mut self, talk: &mut T) -> bool {
        let now = Instant::now();
        if talk.due().is_some_and(|due| due <= now) {
            talk.wake().await;
        }
        if self.go_at.is_some_and(|at| at <= now) {
            self.go_at = None;
            talk.leave().await;
            self.close(close::RESTART, "this server restarts; connect again");
        } else if self.outside.is_some_and(|since| since + self.line.join_timeout <= now) {
            self.outside = Some(now);
            self.line.metrics.refused("never_joined");
            self.close(close::IDLE, "no room was entered in time; connect again when there is one");
        } else if self.heard + IDLE <= now {
            self.heard = now;
            self.close(close::IDLE, "nothing was heard of this client; connect again");
        } else if self.heard + QUIET <= now && !self.pinged {
            self.pinged = true;
            let ping = self.socket.send(Message::Ping(Default::default()));
            return matches!(tokio::time::timeout(WRITE, ping).await, Ok(Ok(())));
        }
        true
    }
}
