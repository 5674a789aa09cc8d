//! Long-term credentials (RFC 8489, section 9.2.4) whose usernames and passwords are time-limited:
//! whoever knows a key of the ring can check them without a look-up.

use super::{Flow, Now, Server};
use crate::{
    ErrorCode, LongTermKey, Message, PasswordAlgorithm, attributes,
    integrity::{self, Protection},
};
use rtc_credentials::KeyId;
use sha2::{Digest, Sha256};

/// PASSWORD-ALGORITHMS as the server offers it, best first (RFC 8489, section 14.11).
pub(super) const ALGORITHMS: [u8; 8] = [0, 2, 0, 0, 0, 1, 0, 0];

/// The longest username, in bytes (RFC 8489, section 14.3: fewer than 509).
const MAX_USERNAME: usize = 508;

/// Who sent a request.
#[derive(Debug)]
pub(super) struct Authenticated {
    pub(super) username: Box<str>,
    /// What quotas count: the part of the username after the expiry.
    pub(super) user: Box<str>,
    pub(super) key: LongTermKey,
    pub(super) algorithm: PasswordAlgorithm,
    /// Whether responses are protected by SHA-256.
    pub(super) sha256: bool,
    /// The ring's key that signed it; `None` when the allocation's own key verified it.
    pub(super) signed_by: Option<KeyId>,
}

/// Why a request is not authentic: 400, or a challenge of 401 or 438.
pub(super) type Refusal = ErrorCode;

impl Server {
    /// Checks in the order of RFC 8489, section 9.2.4. A request of an allocation is verified with
    /// the allocation's own key when it bears its username.
    pub(super) fn authenticate(
        &self,
        now: Now,
        flow: &Flow,
        message: &Message<'_>,
        allocation: Option<usize>,
    ) -> Result<Authenticated, Refusal> {
        let protection = integrity::protection(message).ok_or(ErrorCode::Unauthenticated)?;
        let username = message.raw(attributes::USERNAME);
        let userhash = message.raw(attributes::USERHASH);
        let (Some(_), Some(nonce)) = (message.raw(attributes::REALM), message.raw(attributes::NONCE)) else {
            return Err(ErrorCode::BadRequest);
        };
        if username.is_none() && userhash.is_none() {
            return Err(ErrorCode::BadRequest);
        }
        let (algorithm, sha256) = chosen_algorithm(message)?;
        let own = allocation.and_then(|index| self.allocations.get(index)).filter(|own| match username {
            Some(name) => own.username.as_bytes() == name,
            None => userhash == Some(&self.userhash(&own.username)[..]),
        });
        let found = match own {
            Some(own) if own.algorithm == algorithm && integrity::verify(message, own.key.expose()) => {
                let user = rtc_credentials::parse_username(&own.username).map_or("", |(_, user)| user);
                Some(Authenticated {
                    username: own.username.clone(),
                    user: user.into(),
                    key: own.key.clone(),
                    algorithm,
                    sha256,
                    signed_by: None,
                })
            }
            _ => username.and_then(|name| self.verify_by_ring(now, message, name, algorithm, sha256)),
        };
        let found = found.ok_or(ErrorCode::Unauthenticated)?;
        if !self.config.nonces.accepts(nonce, flow.client, now.unix) {
            return Err(ErrorCode::StaleNonce);
        }
        debug_assert!(sha256 || protection == Protection::Sha1 || message.sha256_at.is_some());
        Ok(found)
    }

    /// Tries the keys of the ring, the signing one first. An expired username is nobody's.
    fn verify_by_ring(
        &self,
        now: Now,
        message: &Message<'_>,
        username: &[u8],
        algorithm: PasswordAlgorithm,
        sha256: bool,
    ) -> Option<Authenticated> {
        let username = std::str::from_utf8(username).ok().filter(|name| name.len() <= MAX_USERNAME)?;
        let (expires, user) = rtc_credentials::parse_username(username).ok()?;
        if expires <= now.unix {
            return None;
        }
        self.keys.verifying(now.unix).find_map(|key| {
            let password = rtc_credentials::password(&key.secret, username);
            let long_term = LongTermKey::new(
                algorithm,
                username.as_bytes(),
                self.config.realm.as_bytes(),
                password.as_bytes(),
            );
            integrity::verify(message, long_term.expose()).then(|| Authenticated {
                username: username.into(),
                user: user.into(),
                key: long_term,
                algorithm,
                sha256,
                signed_by: Some(key.id.clone()),
            })
        })
    }

    /// USERHASH (RFC 8489, section 14.4).
    fn userhash(&self, username: &str) -> [u8; 32] {
        let parts = [username.as_bytes(), b":", self.config.realm.as_bytes()];
        parts.iter().fold(Sha256::new(), |hash, part| hash.chain_update(part)).finalize().into()
    }
}

/// The algorithm of the password, and whether the response is to be protected by SHA-256.
///
/// The client sends back what it was offered, so that nobody between can take the better one out of
/// the offer (RFC 8489, section 9.2.4).
fn chosen_algorithm(message: &Message<'_>) -> Result<(PasswordAlgorithm, bool), Refusal> {
    match (message.raw(attributes::PASSWORD_ALGORITHMS), message.raw(attributes::PASSWORD_ALGORITHM)) {
        (None, None) => Ok((PasswordAlgorithm::Md5, false)),
        (Some(offered), Some(chosen)) if offered == ALGORITHMS => match chosen {
            [0, 2, 0, 0] => Ok((PasswordAlgorithm::Sha256, true)),
            [0, 1, 0, 0] => Ok((PasswordAlgorithm::Md5, true)),
            _ => Err(ErrorCode::BadRequest),
        },
        _ => Err(ErrorCode::BadRequest),
    }
}
