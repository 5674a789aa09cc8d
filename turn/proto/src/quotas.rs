//! How many relayed addresses a user, and the whole server, may hold. Shared by the workers, and
//! taken only where an allocation begins or ends, never on a packet's way.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The bounds. Each way to hold a relayed address counts: allocations, the second address of a dual
/// allocation, reservations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// For one user; `None` is without bound.
    pub per_user: Option<u32>,
    /// For all users; `None` leaves it to the relay ports.
    pub total: Option<u32>,
}

/// What users hold on other servers of the fleet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Elsewhere {
    /// There are no others, or it does not matter.
    #[default]
    Nothing,
    /// It matters.
    Known {
        /// What one user may hold on all servers together.
        max: u32,
        /// The users that hold much; who is not named holds nothing.
        held: HashMap<Box<str>, u32>,
    },
    /// It matters and is not known: nobody gets any more.
    Unknown,
}

impl Elsewhere {
    fn permits(&self, user: &str, held: u32) -> bool {
        match self {
            Self::Nothing => true,
            Self::Known { max, held: others } => {
                held.saturating_add(others.get(user).copied().unwrap_or(0)) < *max
            }
            Self::Unknown => false,
        }
    }
}

/// The counts, one for a server.
#[derive(Debug, Default)]
pub struct Quotas {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    limits: Limits,
    total: u32,
    users: HashMap<Arc<str>, u32>,
    elsewhere: Elsewhere,
    /// Whose counts have changed; `None` while nobody asks.
    changed: Option<HashSet<Arc<str>>>,
}

impl Quotas {
    /// No counts yet.
    #[must_use]
    pub fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(State { limits, ..State::default() }) })
    }

    /// Changes the bounds; what is held already stays.
    pub fn set_limits(&self, limits: Limits) {
        self.state().limits = limits;
    }

    /// Takes what is held on other servers; what is held here already stays.
    pub fn set_elsewhere(&self, elsewhere: Elsewhere) {
        self.state().elsewhere = elsewhere;
    }

    /// What users hold: `all` of them, or those whose count has changed since the last call, who may
    /// hold nothing any more. The first call has to be for all.
    #[must_use]
    pub fn counts(&self, all: bool) -> Vec<(Arc<str>, u32)> {
        let mut state = self.state();
        let changed = state.changed.replace(HashSet::new()).unwrap_or_default();
        if all {
            return state.users.iter().map(|(user, held)| (Arc::clone(user), *held)).collect();
        }
        let held = |user: &Arc<str>| state.users.get(user).copied().unwrap_or(0);
        changed.into_iter().map(|user| (Arc::clone(&user), held(&user))).collect()
    }

    /// How many relayed addresses are held.
    #[must_use]
    pub fn total(&self) -> u32 {
        self.state().total
    }

    /// The `count` users that hold most, the greatest first.
    #[must_use]
    pub fn top(&self, count: usize) -> Vec<(Arc<str>, u32)> {
        let mut users: Vec<_> = self.state().users.iter().map(|(user, n)| (Arc::clone(user), *n)).collect();
        users.sort_unstable_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        users.truncate(count);
        users
    }

    /// Takes one for `user`, until the ticket is dropped. `None` at a bound.
    #[must_use]
    pub(crate) fn take(self: &Arc<Self>, user: &str) -> Option<Ticket> {
        let mut state = self.state();
        let State { limits, total, users, elsewhere, changed } = &mut *state;
        let (name, held) = match users.get_key_value(user) {
            Some((name, held)) => (Arc::clone(name), *held),
            None => (Arc::from(user), 0),
        };
        if limits.total.is_some_and(|max| *total >= max) || limits.per_user.is_some_and(|max| held >= max) {
            return None;
        }
        if !elsewhere.permits(user, held) {
            return None;
        }
        *total += 1;
        if let Some(changed) = changed {
            changed.insert(Arc::clone(&name));
        }
        users.insert(Arc::clone(&name), held + 1);
        drop(state);
        Some(Ticket { quotas: Arc::clone(self), user: name })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One relayed address of a user's quota.
#[derive(Debug)]
pub(crate) struct Ticket {
    quotas: Arc<Quotas>,
    user: Arc<str>,
}

impl Ticket {
    /// Whose it is.
    pub(crate) fn user(&self) -> &str {
        &self.user
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut state = self.quotas.state();
        state.total = state.total.saturating_sub(1);
        if let Some(changed) = &mut state.changed {
            changed.insert(Arc::clone(&self.user));
        }
        if let Some(held) = state.users.get_mut(&self.user) {
            *held -= 1;
            if *held == 0 {
                state.users.remove(&self.user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn both_bounds_hold_and_a_dropped_ticket_comes_back() {
        let quotas = Quotas::new(Limits { per_user: Some(2), total: Some(3) });
        let a = quotas.take("a").unwrap();
        let _a2 = quotas.take("a").unwrap();
        assert!(quotas.take("a").is_none());
        let _b = quotas.take("b").unwrap();
        assert!(quotas.take("b").is_none(), "the total");
        drop(a);
        assert_eq!(quotas.total(), 2);
        assert_eq!(quotas.top(1), [("a".into(), 1)]);
        assert!(quotas.take("a").is_some());
    }

    #[test]
    fn what_others_hold_counts_for_a_users_bound_over_all_servers() {
        let quotas = Quotas::new(Limits::default());
        let others = |n| Elsewhere::Known { max: 3, held: [("a".into(), n)].into() };
        quotas.set_elsewhere(others(2));
        let first = quotas.take("a").unwrap();
        assert!(quotas.take("a").is_none());
        assert!(quotas.take("b").is_some(), "who is not named holds nothing");
        quotas.set_elsewhere(others(0));
        assert!(quotas.take("a").is_some());
        quotas.set_elsewhere(Elsewhere::Unknown);
        assert!(quotas.take("b").is_none());
        drop(first);
        assert_eq!(quotas.total(), 0);
    }

    #[test]
    fn changes_are_told_once() {
        let quotas = Quotas::new(Limits::default());
        let a = quotas.take("a").unwrap();
        assert_eq!(quotas.counts(true), [("a".into(), 1)]);
        assert!(quotas.counts(false).is_empty());
        let _second = quotas.take("a").unwrap();
        assert_eq!(quotas.counts(false), [("a".into(), 2)]);
        drop(quotas.take("b"));
        assert_eq!(quotas.counts(false), [("b".into(), 0)]);
        drop(a);
        assert_eq!(quotas.counts(true), [("a".into(), 1)]);
        assert!(quotas.counts(false).is_empty(), "all were told");
    }

    #[test]
    fn users_that_hold_nothing_are_forgotten() {
        let quotas = Quotas::new(Limits::default());
        drop(quotas.take("a"));
        assert!(quotas.top(9).is_empty());
    }
}
