//! Who may connect, and what they may do.
//!
//! A page of another origin can open a WebSocket with the visitor's cookies, so origins are checked where
//! a connection begins. Who the visitor is, is not asked ([`Policy::Anonymous`]), or told by a signed token
//! ([`Policy::Jwt`]): what it permits is a [`Grant`].

pub(crate) mod bearer;
mod claims;
pub(crate) mod gate;
mod jwks;
mod keys;
mod mint;
mod ring;
mod verify;

pub use claims::{Grant, Permission};
pub use keys::KeyError;
pub use mint::Mint;
pub use verify::{LEEWAY, Rules, TokenError, Verifier, VerifierError};

use axum::http::{HeaderMap, header};
use std::sync::Arc;

/// Who may connect.
#[derive(Clone, Debug)]
pub enum Policy {
    /// Anybody.
    Anonymous,
    /// Who has a token that this accepts, into the rooms that it names.
    Jwt(Arc<Verifier>),
}

/// Which pages may connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origins(Vec<String>);

impl Origins {
    /// `*` among them, or none at all, allows every page. Others are compared as browsers send them:
    /// `https://calls.example.com`.
    #[must_use]
    pub fn new(allowed: Vec<String>) -> Self {
        if allowed.iter().any(|origin| origin == "*") { Self(Vec::new()) } else { Self(allowed) }
    }

    /// Whether a request may begin a connection. Programs that are no browsers send no origin; they could
    /// send any, so they are let in.
    #[must_use]
    pub fn admits(&self, headers: &HeaderMap) -> bool {
        let Some(origin) = headers.get(header::ORIGIN) else { return true };
        self.0.is_empty()
            || self.0.iter().any(|allowed| origin.as_bytes().eq_ignore_ascii_case(allowed.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_listed_origins_are_admitted_unless_all_are() {
        let mut headers = HeaderMap::new();
        let some = Origins::new(vec!["https://a.example".into()]);
        assert!(some.admits(&headers));
        headers.insert(header::ORIGIN, "https://a.example".parse().unwrap());
        assert!(some.admits(&headers));
        headers.insert(header::ORIGIN, "https://a.example.evil".parse().unwrap());
        assert!(!some.admits(&headers));
        assert!(Origins::new(vec!["https://a.example".into(), "*".into()]).admits(&headers));
        assert!(Origins::new(vec![]).admits(&headers));
    }
}
