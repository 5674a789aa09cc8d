//! What one worker has for another: datagrams from its clients to the other's, and of clients that the other
//! serves. A bounded queue per worker, a parcel per batch, and one wake-up however many parcels wait.

use crate::{tcp::Connection, worker::Association};
use mio::Waker;
use rtc_turn_proto::{Flow, RelayId};
use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
};

/// Parcels that may wait for one worker.
const MAX_PARCELS: usize = 1024;
/// Connections and associations that may wait for one worker.
const MAX_ARRIVALS: usize = 1024;
/// Bytes that may wait for one worker, as a socket's receive buffer bounds them.
const MAX_BYTES: usize = 4 << 20;

/// What a datagram is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Label {
    /// Data for one of this server's relayed addresses, and from which.
    Peer { relay: RelayId, to: SocketAddr, from: SocketAddr },
    /// As a client sent it, that came to another worker's socket of the listener that is the flow's link; and the
    /// address that it came to, where that has to be named.
    Client { flow: Flow, to: Option<IpAddr> },
}

/// A client that another worker is to serve from now on.
#[derive(Debug)]
pub(crate) enum Arrival {
    Stream(Box<Connection>),
    /// And its messages that have not been handled.
    Association(Box<Association>, Vec<Vec<u8>>),
}

/// Datagrams for one worker.
#[derive(Debug, Default)]
pub(crate) struct Parcel {
    contents: Vec<u8>,
    /// Each with the end of its datagram in the contents.
    labels: Vec<(Label, usize)>,
}

impl Parcel {
    pub(crate) fn letters(&self) -> impl Iterator<Item = (Label, &[u8])> {
        let mut start = 0;
        self.labels
            .iter()
            .map(move |&(label, end)| (label, &self.contents[std::mem::replace(&mut start, end)..end]))
    }

    fn bytes(&self) -> usize {
        self.contents.len() + size_of_val(&self.labels[..])
    }
}

#[derive(Debug)]
struct Door {
    queue: SyncSender<Parcel>,
    /// Bytes in the queue.
    held: AtomicUsize,
    /// Whether its worker has been woken, and has not looked since.
    woken: AtomicBool,
    waker: OnceLock<Arc<Waker>>,
    /// Clients that its worker is to serve.
    arrivals: Mutex<VecDeque<Arrival>>,
}

/// All workers' queues.
#[derive(Debug)]
pub(crate) struct Doors(Vec<Door>);

impl Doors {
    /// Queues for as many workers, and their other ends in order.
    pub(crate) fn new(workers: u16) -> (Arc<Self>, Vec<Receiver<Parcel>>) {
        let (doors, queues) = (0..workers)
            .map(|_| {
                let (queue, parcels) = sync_channel(MAX_PARCELS);
                let (held, woken) = (AtomicUsize::new(0), AtomicBool::new(false));
                let (waker, arrivals) = (OnceLock::new(), Mutex::default());
                (Door { queue, held, woken, waker, arrivals }, parcels)
            })
            .unzip();
        (Arc::new(Self(doors)), queues)
    }
}

/// A worker's end: what it sends, and what it is sent.
#[derive(Debug)]
pub(crate) struct Post {
    doors: Arc<Doors>,
    own: usize,
    queue: Receiver<Parcel>,
    /// What the batch at hand has for each worker.
    parcels: Vec<Parcel>,
}

impl Post {
    pub(crate) fn new(doors: Arc<Doors>, worker: u16, queue: Receiver<Parcel>, waker: Arc<Waker>) -> Self {
        let own = usize::from(worker);
        if let Some(door) = doors.0.get(own) {
            // it is set once: a worker has one post
            let _ = door.waker.set(waker);
        }
        let parcels = doors.0.iter().map(|_| Parcel::default()).collect();
        Self { doors, own, queue, parcels }
    }

    pub(crate) fn push(&mut self, worker: u16, label: Label, datagram: &[u8]) {
        if let Some(parcel) = self.parcels.get_mut(usize::from(worker)) {
            parcel.contents.extend_from_slice(datagram);
            parcel.labels.push((label, parcel.contents.len()));
        }
    }

    /// Sends what was pushed. Returns how many datagrams found a queue full.
    pub(crate) fn flush(&mut self) -> u64 {
        let mut refused = 0;
        for (parcel, door) in self.parcels.iter_mut().zip(&self.doors.0) {
            if !parcel.labels.is_empty() {
                let parcel = std::mem::take(parcel);
                refused += door.take(parcel);
            }
        }
        refused
    }

    /// Has another worker serve this client. `false`, and the client is left, when too many wait there.
    pub(crate) fn hand_over(&self, worker: u16, client: Arrival) -> bool {
        let Some(door) = self.doors.0.get(usize::from(worker)) else { return false };
        let mut arrivals = door.arrivals.lock().unwrap_or_else(PoisonError::into_inner);
        if arrivals.len() >= MAX_ARRIVALS {
            return false;
        }
        arrivals.push_back(client);
        drop(arrivals);
        door.wake();
        true
    }

    /// The next client that this worker is to serve.
    pub(crate) fn arrived(&self) -> Option<Arrival> {
        self.doors.0.get(self.own)?.arrivals.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    /// To be called before the queue is looked at: what comes after it wakes the worker again.
    pub(crate) fn look(&self) {
        if let Some(door) = self.doors.0.get(self.own) {
            door.woken.store(false, Ordering::SeqCst);
        }
    }

    /// The next parcel that waits.
    pub(crate) fn receive(&self) -> Option<Parcel> {
        let parcel = self.queue.try_recv().ok()?;
        if let Some(door) = self.doors.0.get(self.own) {
            door.held.fetch_sub(parcel.bytes(), Ordering::Relaxed);
        }
        Some(parcel)
    }
}

impl Door {
    /// Returns how many datagrams there was no room for.
    fn take(&self, parcel: Parcel) -> u64 {
        let (bytes, count) = (parcel.bytes(), parcel.labels.len() as u64);
        let held = self.held.fetch_add(bytes, Ordering::Relaxed);
        if held + bytes > MAX_BYTES || self.queue.try_send(parcel).is_err() {
            self.held.fetch_sub(bytes, Ordering::Relaxed);
            return count;
        }
        self.wake();
        0
    }

    fn wake(&self) {
        if !self.woken.swap(true, Ordering::SeqCst)
            && let Some(waker) = self.waker.get()
        {
            // it fails only when the worker is gone, and its queue with it
            let _ = waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use mio::{Events, Poll, Token};
    use std::time::Duration;

    fn posts(polls: &[Poll]) -> Vec<Post> {
        let (doors, queues) = Doors::new(polls.len() as u16);
        let posts = polls.iter().zip(queues).enumerate().map(|(worker, (poll, queue))| {
            let waker = Arc::new(Waker::new(poll.registry(), Token(0)).unwrap());
            Post::new(Arc::clone(&doors), worker as u16, queue, waker)
        });
        posts.collect()
    }

    fn label(relay: u32) -> Label {
        Label::Peer {
            relay: RelayId(relay),
            to: "192.0.2.1:50000".parse().unwrap(),
            from: "192.0.2.1:50002".parse().unwrap(),
        }
    }

    #[test]
    fn letters_arrive_in_order_and_wake_their_worker_once() {
        let mut polls = [Poll::new().unwrap(), Poll::new().unwrap()];
        let mut posts = posts(&polls);
        let mut events = Events::with_capacity(8);
        for round in 0..3 {
            for n in 0..3u32 {
                posts[0].push(1, label(n), &vec![n as u8; n as usize]);
                assert_eq!(posts[0].flush(), 0);
            }
            polls[1].poll(&mut events, Some(Duration::from_secs(5))).unwrap();
            assert_eq!(events.iter().count(), 1, "round {round}");
            posts[1].look();
            for n in 0..3u32 {
                let parcel = posts[1].receive().unwrap();
                assert_eq!(
                    parcel.letters().collect::<Vec<_>>(),
                    [(label(n), &vec![n as u8; n as usize][..])]
                );
            }
            assert!(posts[1].receive().is_none() && posts[0].receive().is_none());
        }
        polls[0].poll(&mut events, Some(Duration::ZERO)).unwrap();
        assert!(events.is_empty(), "nothing was for the sender");
    }

    #[test]
    fn a_worker_that_does_not_look_holds_a_bounded_number_of_bytes() {
        let polls = [Poll::new().unwrap(), Poll::new().unwrap()];
        let mut posts = posts(&polls);
        let datagram = vec![0; 60_000];
        let mut sent = 0;
        let refused = loop {
            for _ in 0..3 {
                posts[0].push(1, label(0), &datagram);
            }
            match posts[0].flush() {
                0 => sent += 3,
                refused => break refused,
            }
        };
        assert_eq!(refused, 3);
        assert!(sent * datagram.len() <= MAX_BYTES && (sent + 4) * datagram.len() > MAX_BYTES);
        let received = std::iter::from_fn(|| posts[1].receive()).map(|p| p.letters().count());
        assert_eq!(received.sum::<usize>(), sent);
        posts[0].push(1, label(0), &datagram);
        assert_eq!(posts[0].flush(), 0, "there is room again");
    }
}
