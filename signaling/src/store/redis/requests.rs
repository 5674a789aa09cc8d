//! Requests of the sessions of a room that have a connection here, so that most new ones are known to be new without
//! Redis. What may be one that came before is looked up there.
//!
//! No IO.

use super::known::push;
use rtc_signaling_proto::MemberId;
use std::hash::{DefaultHasher, Hash, Hasher};

/// Requests of a session that are told from new ones here.
const REQUESTS: usize = 1024;

/// What tells the word of a request from others.
pub(super) fn request(word: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    word.hash(&mut hasher);
    hasher.finish()
}

/// What a function told of the requests of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// Nothing.
    Untold,
    /// The session begins, so there are none.
    None,
    /// These are all, as [`request`] tells them apart.
    These(Vec<u64>),
}

/// Of each session all requests, as [`request`] tells them apart; `None` when there may be others.
#[derive(Debug, Default)]
pub(super) struct Requests(Vec<(MemberId, Option<Vec<u64>>)>);

impl Requests {
    /// Takes in what a function told of a member's session. `crowded`: something else was under way, and may have come after
    /// that.
    pub(super) fn know(&mut self, member: MemberId, asked: Asked, crowded: bool) {
        let requests = match asked {
            Asked::None => Vec::new(),
            Asked::These(requests) if !crowded => requests,
            Asked::These(_) | Asked::Untold => return,
        };
        self.end(&member);
        push(&mut self.0, (member, Some(requests)));
    }

    /// Whether it would help to be told all of a session.
    pub(super) fn lacks(&self, member: &MemberId) -> bool {
        !self.0.iter().any(|(known, requests)| known == member && requests.is_some())
    }

    /// Whether one comes for the first time; it is known from now on. What a session asks for comes by its
    /// connection, which is here, unless [something of it was heard](Self::doubt).
    pub(super) fn is_first(&mut self, member: &MemberId, word: &str) -> bool {
        let known = self.0.iter_mut().find(|(known, _)| known == member);
        let Some((_, Some(known))) = known else { return false };
        let request = request(word);
        if known.contains(&request) {
            return false;
        }
        if known.len() >= REQUESTS {
            known.remove(0);
        }
        known.push(request);
        true
    }

    /// A session asked for something by another way than its connection.
    pub(super) fn doubt(&mut self, member: &MemberId) {
        if let Some((_, requests)) = self.0.iter_mut().find(|(known, _)| known == member) {
            *requests = None;
        }
    }

    /// Any session may have.
    pub(super) fn doubt_all(&mut self) {
        self.0.iter_mut().for_each(|(_, requests)| *requests = None);
    }

    /// A session has no connection here any more.
    pub(super) fn end(&mut self, member: &MemberId) {
        self.0.retain(|(known, _)| known != member);
        if self.0.is_empty() {
            self.0 = Vec::new();
        }
    }
}
