//! Mobility (RFC 8016): the tickets by which a client that has changed its address finds its allocation
//! again, and, for workers that share nothing else, which of them serves a client that has.

use crate::server::Flow;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicUsize, Ordering},
    },
};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// Bytes of the tag in front of a ticket, and of the state that is encrypted after it. As text they are the 32
/// characters that coturn's client has room for.
const TAG: usize = 12;
const STATE: usize = 12;

/// One server's tickets and clients that have moved: the same for all workers, as a client that changes
/// its address comes to any of them.
#[derive(Clone)]
pub struct Mobility {
    key: Zeroizing<[u8; 32]>,
    moved: Arc<Moved>,
}

impl fmt::Debug for Mobility {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mobility").field("moved", &self.moved).finish_non_exhaustive()
    }
}

/// Read where a datagram finds no allocation at its worker, while anybody has moved; written where
/// somebody moves, or an allocation that has moved ends.
#[derive(Debug, Default)]
struct Moved {
    count: AtomicUsize,
    workers: RwLock<HashMap<Flow, u16>>,
}

/// What a ticket names: an allocation, and which of the tickets of that allocation it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Named {
    /// The worker that holds the allocation.
    pub(crate) worker: u16,
    /// Of 24 bits: an allocation holds a port, and there are fewer.
    pub(crate) index: u32,
    /// Of 40 bits; tells the allocation from others that have its index.
    pub(crate) generation: u64,
    pub(crate) serial: u16,
}

impl Named {
    fn encode(&self) -> [u8; STATE] {
        let ([a, b], [_, c, d, e]) = (self.worker.to_be_bytes(), self.index.to_be_bytes());
        let ([_, _, _, f, g, h, i, j], [k, l]) = (self.generation.to_be_bytes(), self.serial.to_be_bytes());
        [a, b, c, d, e, f, g, h, i, j, k, l]
    }

    fn decode([a, b, c, d, e, f, g, h, i, j, k, l]: [u8; STATE]) -> Self {
        Self {
            worker: u16::from_be_bytes([a, b]),
            index: u32::from_be_bytes([0, c, d, e]),
            generation: u64::from_be_bytes([0, 0, 0, f, g, h, i, j]),
            serial: u16::from_be_bytes([k, l]),
        }
    }
}

impl Mobility {
    /// `key` is to be random, and nobody else's: tickets are encrypted and authenticated by it (RFC 8016,
    /// section 5). They are good for one run of a server, as its allocations are.
    #[must_use]
    pub fn new(key: [u8; 32]) -> Self {
        Self { key: Zeroizing::new(key), moved: Arc::default() }
    }

    /// A ticket: a synthetic IV that is the state's HMAC, and the state under the keystream that this gives. Text,
    /// since clients exist that keep it as such.
    pub(crate) fn seal(&self, named: &Named) -> Vec<u8> {
        let state = named.encode();
        let tag: [u8; TAG] = self.hash(b"tag", &state);
        let sealed = xor(state, self.hash(b"state", &tag));
        URL_SAFE_NO_PAD.encode([tag, sealed].concat()).into_bytes()
    }

    /// What a ticket of this server names.
    pub(crate) fn open(&self, ticket: &[u8]) -> Option<Named> {
        let mut raw = [0; TAG + STATE];
        let length = URL_SAFE_NO_PAD.decode_slice(ticket, &mut raw).ok().filter(|n| *n == raw.len());
        let (tag, sealed) = raw[..length?].split_first_chunk::<TAG>()?;
        let state = xor(sealed.try_into().ok()?, self.hash(b"state", tag));
        bool::from(self.hash::<TAG>(b"tag", &state).ct_eq(tag)).then(|| Named::decode(state))
    }

    /// The front of an HMAC, of at most 32 bytes.
    fn hash<const N: usize>(&self, what: &[u8], data: &[u8]) -> [u8; N] {
        let mut out = [0; N];
        if let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(self.key.as_ref()) {
            mac.update(what);
            mac.update(data);
            out.copy_from_slice(&mac.finalize().into_bytes()[..N]);
        }
        out
    }

    /// Whether nobody has moved, so that no look-up is worth its while.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.moved.count.load(Ordering::Relaxed) == 0
    }

    /// The worker that serves this flow of datagrams since its client has moved.
    #[must_use]
    pub fn worker_of(&self, flow: &Flow) -> Option<u16> {
        if self.is_empty() { None } else { self.moved.read().get(flow).copied() }
    }

    /// Has datagrams of this flow served by a worker. `false` when another worker has it.
    #[must_use]
    pub fn enter(&self, flow: &Flow, worker: u16) -> bool {
        let mut workers = self.moved.write();
        let entered = *workers.entry(*flow).or_insert(worker) == worker;
        self.moved.count.store(workers.len(), Ordering::Relaxed);
        entered
    }

    /// Has datagrams of this flow served where they come in again, if it is this worker's.
    pub fn leave(&self, flow: &Flow, worker: u16) {
        if self.worker_of(flow) == Some(worker) {
            let mut workers = self.moved.write();
            workers.remove(flow);
            if workers.is_empty() {
                workers.shrink_to_fit();
            }
            self.moved.count.store(workers.len(), Ordering::Relaxed);
        }
    }
}

fn xor<const N: usize>(a: [u8; N], b: [u8; N]) -> [u8; N] {
    std::array::from_fn(|i| a[i] ^ b[i])
}

impl Moved {
    fn read(&self) -> RwLockReadGuard<'_, HashMap<Flow, u16>> {
        self.workers.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<Flow, u16>> {
        self.workers.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::Transport;

    #[test]
    fn a_ticket_tells_its_server_and_nobody_else() {
        let named = Named { worker: 3, index: 70_000, generation: (1 << 40) - 1, serial: 9 };
        let mobility = Mobility::new([1; 32]);
        let ticket = mobility.seal(&named);
        assert_eq!((ticket.len(), mobility.open(&ticket)), (32, Some(named)));
        assert_eq!(mobility.clone().open(&ticket), Some(named), "workers share the key");
        assert_eq!(Mobility::new([3; 32]).open(&ticket), None);
        // nothing can be gleaned (RFC 8016, section 5)
        let next = mobility.seal(&Named { serial: 10, ..named });
        assert!(ticket.iter().zip(&next).filter(|(a, b)| a == b).count() < 8);
        for at in 0..ticket.len() {
            let mut forged = ticket.clone();
            forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
            assert_eq!(mobility.open(&forged), None, "character {at}");
            assert_eq!(mobility.open(&ticket[..at]), None, "{at} characters");
        }
        assert_eq!(mobility.open(&[&ticket[..], b"A"].concat()), None);
        assert!(!format!("{mobility:?}").contains("1, 1"), "the key is not printed");
    }

    #[test]
    fn a_flow_is_one_workers_until_that_lets_go_of_it() {
        let mobility = Mobility::new([1; 32]);
        let client = "192.0.2.1:9".parse().unwrap();
        let flow = Flow { transport: Transport::Udp, client, server: client, link: 0 };
        assert!(mobility.is_empty() && mobility.worker_of(&flow).is_none());
        assert!(mobility.enter(&flow, 1) && mobility.enter(&flow, 1));
        assert!(!mobility.enter(&flow, 2));
        mobility.leave(&flow, 2);
        assert_eq!(mobility.worker_of(&flow), Some(1));
        mobility.leave(&flow, 1);
        assert!(mobility.is_empty() && mobility.enter(&flow, 2));
    }
}
