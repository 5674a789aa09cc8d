//! Ports that are held for a later request (RFC 8656, section 7.2). They are the whole server's: the
//! request that takes one may come to any worker. Looked at only where an allocation begins or ends.

use crate::{attributes::Family, quotas::Ticket};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The reservations of a server, shared by its workers.
#[derive(Debug, Default)]
pub struct Reservations {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    held: HashMap<[u8; 8], Reserved>,
    /// Ports that a worker took over from another and has done with.
    homecoming: Vec<Reserved>,
}

/// A reserved port. Its socket is opened by whoever takes it.
#[derive(Debug)]
pub(crate) struct Reserved {
    pub(crate) family: Family,
    pub(crate) port: u16,
    /// The worker whose share the port is of.
    pub(crate) home: u16,
    /// Whose quota it counts in; gone once the port has only to come home.
    pub(crate) ticket: Option<Ticket>,
}

impl Reservations {
    /// None yet.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    pub(crate) fn hold(&self, token: [u8; 8], reserved: Reserved) {
        self.state().held.insert(token, reserved);
    }

    /// Takes what `user` has reserved under `token`.
    pub(crate) fn take(&self, token: &[u8; 8], user: &str) -> Option<Reserved> {
        let mut state = self.state();
        let theirs = state.held.get(token)?.ticket.as_ref().is_some_and(|t| t.user() == user);
        if theirs { state.held.remove(token) } else { None }
    }

    /// Whether nobody has taken it yet, and it has not expired.
    pub(crate) fn holds(&self, token: &[u8; 8]) -> bool {
        self.state().held.contains_key(token)
    }

    /// Ends a reservation that nobody has taken.
    pub(crate) fn expire(&self, token: &[u8; 8]) -> Option<Reserved> {
        self.state().held.remove(token)
    }

    /// Sends a port back to the worker that it is of.
    pub(crate) fn send_home(&self, family: Family, port: u16, home: u16) {
        self.state().homecoming.push(Reserved { family, port, home, ticket: None });
    }

    /// The ports that have come home to this worker.
    pub(crate) fn come_home(&self, home: u16) -> Vec<(Family, u16)> {
        let mut state = self.state();
        let mut ports = Vec::new();
        state.homecoming.retain(|reserved| {
            if reserved.home == home {
                ports.push((reserved.family, reserved.port));
            }
            reserved.home != home
        });
        ports
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
