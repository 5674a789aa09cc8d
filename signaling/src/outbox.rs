//! What waits for one client: bounded in bytes, without a channel or task of its own.

use crate::parcel::Parcel;
use axum::extract::ws::Utf8Bytes;
use futures::task::AtomicWaker;
use rtc_signaling_proto::{Kind, ops::View};
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

/// Something to tell a client, before a dialect has put it into its words.
#[derive(Clone, Debug)]
pub enum Out {
    /// An entry of its room's log.
    Parcel(Arc<Parcel>),
    /// A frame that is ready.
    Text(Utf8Bytes),
    /// The log was lost; the room is now so, and the log goes on after `seq`.
    Resync {
        /// The room.
        view: Arc<View>,
        /// From where on entries follow.
        seq: u64,
    },
    /// The store cannot be reached since this Unix second.
    Degraded(u64),
    /// The store is back.
    Recovered,
    /// The connection's token expires at this Unix second.
    Expiring(u64),
    /// This replica will end; reconnect after so many milliseconds.
    Goaway(u64),
    /// Nothing follows; close with this code and reason.
    Close(u16, &'static str),
}

impl Out {
    fn bytes(&self) -> usize {
        match self {
            Self::Parcel(parcel) => parcel.frame.len(),
            Self::Text(text) => text.len(),
            Self::Resync { view, .. } => view.members.iter().map(|m| m.profile.as_str().len() + 32).sum(),
            _ => 32,
        }
    }
}

#[derive(Debug, Default)]
struct Queue {
    items: VecDeque<Out>,
    bytes: usize,
    closed: bool,
    slow: bool,
    /// Signals of others are not for it.
    deaf: bool,
}

/// The queue of one client.
#[derive(Debug)]
pub struct Outbox {
    queue: Mutex<Queue>,
    waker: AtomicWaker,
    limit: usize,
}

/// What a client is told whose outbox ran over.
const SLOW: Out =
    Out::Close(rtc_signaling_proto::close::SLOW, "this connection reads too slowly; resume on a new one");

impl Outbox {
    /// An empty one that closes when more than `limit` bytes wait.
    #[must_use]
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { queue: Mutex::default(), waker: AtomicWaker::new(), limit })
    }

    /// Appends. When it is over its limit, what waits is dropped for a close that tells the client to
    /// resume: it then gets all of it from the log. Returns false when it is closed.
    pub fn push(&self, out: Out) -> bool {
        let mut queue = self.lock();
        if queue.closed {
            return false;
        }
        if queue.deaf && matches!(&out, Out::Parcel(parcel) if parcel.kind == Kind::Signal) {
            return true;
        }
        queue.bytes += out.bytes();
        let last = matches!(out, Out::Close(..));
        if queue.bytes > self.limit && !last {
            queue.items = VecDeque::from([SLOW]);
            queue.bytes = 0;
            (queue.closed, queue.slow) = (true, true);
        } else {
            queue.items.push_back(out);
            queue.closed = last;
        }
        let open = !queue.closed;
        drop(queue);
        self.waker.wake();
        open
    }

    /// Takes the next item; wakes the task when there is one.
    pub fn poll_pop(&self, context: &Context<'_>) -> Poll<Out> {
        self.waker.register(context.waker());
        self.pop().map_or(Poll::Pending, Poll::Ready)
    }

    /// Waits for the next item.
    pub async fn next(&self) -> Out {
        std::future::poll_fn(|context| self.poll_pop(context)).await
    }

    /// Takes the next item, if any.
    pub fn pop(&self) -> Option<Out> {
        let mut queue = self.lock();
        let out = queue.items.pop_front()?;
        queue.bytes = queue.bytes.saturating_sub(out.bytes());
        if queue.items.is_empty() {
            // an idle client holds no buffer
            queue.items = VecDeque::new();
        }
        Some(out)
    }

    /// Forgets what waits of a room that its client has left.
    pub fn clear_parcels(&self) {
        let mut queue = self.lock();
        queue.items.retain(|out| !matches!(out, Out::Parcel(_) | Out::Resync { .. }));
        queue.bytes = queue.items.iter().map(Out::bytes).sum();
    }

    /// Whether a close waits or was taken; wakes the task when that changes.
    pub fn poll_closed(&self, context: &Context<'_>) -> bool {
        self.waker.register(context.waker());
        self.lock().closed
    }

    /// Whether it ran over its limit.
    #[must_use]
    pub fn is_slow(&self) -> bool {
        self.lock().slow
    }

    /// Whether signals of others are kept from its client; they are not at first.
    pub fn set_deaf(&self, deaf: bool) {
        self.lock().deaf = deaf;
    }

    /// See [`Self::set_deaf`].
    #[must_use]
    pub fn is_deaf(&self) -> bool {
        self.lock().deaf
    }

    /// Bytes that wait.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.lock().bytes
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    #[test]
    fn an_outbox_over_its_limit_holds_only_the_close() {
        let outbox = Outbox::new(100);
        assert!(outbox.push(Out::Text("x".repeat(60).into())));
        assert!(outbox.push(Out::Text("x".repeat(40).into())));
        assert!(!outbox.push(Out::Text("x".into())));
        assert!(!outbox.push(Out::Text("more".into())));
        assert!(matches!(outbox.pop(), Some(Out::Close(4002, _))));
        assert!(outbox.pop().is_none());
    }

    #[test]
    fn what_was_taken_makes_room() {
        let outbox = Outbox::new(100);
        for _ in 0..50 {
            assert!(outbox.push(Out::Text("x".repeat(90).into())));
            assert!(outbox.pop().is_some());
        }
        assert_eq!(outbox.bytes(), 0);
    }
}
