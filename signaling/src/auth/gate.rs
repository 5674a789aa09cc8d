//! Who is let in, for how long, and what each connection may do meanwhile.

use super::{Grant, Policy, TokenError, bearer};
use crate::{
    hub::Hub,
    outbox::{Out, Outbox},
};
use axum::http::{HeaderMap, Uri};
use rtc_service::clock::unix_now;
use rtc_signaling_proto::close;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, RwLock, Weak},
    time::Duration,
};

/// So many seconds before its token ends, a connection is told.
const NOTICE: u64 = 30;
/// How often it is looked for tokens that have ended.
const LOOK: Duration = Duration::from_millis(500);
/// What a connection is told whose token has ended.
const EXPIRED: Out = Out::Close(close::EXPIRED, "the token has expired; resume with a fresh one");

/// What one connection may do.
#[derive(Debug, Default)]
pub(crate) struct Pass(RwLock<Option<Arc<Grant>>>);

impl Pass {
    fn new(grant: Grant) -> Self {
        Self(RwLock::new(Some(Arc::new(grant))))
    }

    /// `None` where everybody may do everything.
    pub(crate) fn grant(&self) -> Option<Arc<Grant>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether it may enter the room (topic, peer) that a client calls so.
    pub(crate) fn admits(&self, name: &str) -> bool {
        self.grant().is_none_or(|grant| grant.admits(name))
    }

    /// Whether it may send.
    pub(crate) fn may_publish(&self) -> bool {
        self.grant().is_none_or(|grant| grant.publish)
    }
}

/// A connection whose token ends then, unless it has another one by now.
#[derive(Debug)]
struct Watched {
    pass: Weak<Pass>,
    outbox: Weak<Outbox>,
    expires: u64,
}

/// The gate of one replica.
#[derive(Debug)]
pub(crate) struct Gate {
    policy: Policy,
    hub: Arc<Hub>,
    /// What is to be done at which Unix second.
    calendar: Mutex<BTreeMap<u64, Vec<Watched>>>,
}

impl Gate {
    /// Must be called in a tokio runtime.
    pub(crate) fn start(policy: Policy, hub: Arc<Hub>) -> Arc<Self> {
        let gate = Arc::new(Self { policy, hub, calendar: Mutex::default() });
        if gate.is_guarded() {
            let gate = Arc::downgrade(&gate);
            tokio::spawn(async move {
                loop {
                    tokio::time::sleep(LOOK).await;
                    let Some(gate) = gate.upgrade() else { return };
                    gate.look(unix_now());
                }
            });
        }
        gate
    }

    /// Whether a token is asked for.
    pub(crate) fn is_guarded(&self) -> bool {
        matches!(self.policy, Policy::Jwt(_))
    }

    pub(crate) fn ready(&self) -> Result<(), String> {
        match &self.policy {
            Policy::Anonymous => Ok(()),
            Policy::Jwt(verifier) => verifier.ready(),
        }
    }

    /// Whether a request may begin a connection.
    pub(crate) async fn admit(&self, headers: &HeaderMap, uri: &Uri) -> Result<Arc<Pass>, TokenError> {
        let token = bearer::of_request(headers, uri);
        self.admit_token(token.as_deref()).await
    }

    /// Whether somebody with this token may begin a connection.
    pub(crate) async fn admit_token(&self, token: Option<&str>) -> Result<Arc<Pass>, TokenError> {
        match self.grant(token).await {
            Ok(Some(grant)) => Ok(Arc::new(Pass::new(grant))),
            Ok(None) => Ok(Arc::default()),
            Err(why) => {
                self.hub.metrics().refused("unauthorized");
                // never the token, nor whose it is
                tracing::debug!(%why, "a client was turned away");
                Err(why)
            }
        }
    }

    async fn grant(&self, token: Option<&str>) -> Result<Option<Grant>, TokenError> {
        let Policy::Jwt(verifier) = &self.policy else { return Ok(None) };
        let grant = verifier.verify(token.ok_or(TokenError::Missing)?).await?;
        if let Some(jti) = &grant.once {
            let left = Duration::from_secs(grant.expires.saturating_sub(unix_now()).max(1));
            match self.hub.store().once(&crate::random::hash(jti), left).await {
                Ok(true) => {}
                Ok(false) => return Err(TokenError::Used),
                Err(_) => return Err(TokenError::Unavailable),
            }
        }
        Ok(Some(grant))
    }

    /// From now on `outbox` is that of a connection with this pass, which ends with its token.
    pub(crate) fn watch(&self, pass: &Arc<Pass>, outbox: &Arc<Outbox>) {
        let Some(grant) = pass.grant() else { return };
        outbox.set_deaf(!grant.subscribe);
        let expires = grant.expires;
        let watched = Watched { pass: Arc::downgrade(pass), outbox: Arc::downgrade(outbox), expires };
        self.plan(notice(expires, unix_now()), watched);
    }

    /// A connection goes on with another token. The error leaves all as it was.
    pub(crate) async fn renew(
        &self,
        pass: &Arc<Pass>,
        outbox: &Arc<Outbox>,
        token: &str,
        room: Option<&str>,
    ) -> Result<u64, TokenError> {
        let (Some(fresh), Some(before)) = (self.grant(Some(token)).await?, pass.grant()) else {
            return Ok(0);
        };
        if fresh.subject != before.subject {
            return Err(TokenError::OtherSubject);
        }
        if room.is_some_and(|room| !fresh.admits(room)) {
            return Err(TokenError::OtherRoom);
        }
        let expires = fresh.expires;
        *pass.0.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(fresh));
        if expires == before.expires {
            outbox.set_deaf(!pass.grant().is_none_or(|grant| grant.subscribe));
        } else {
            self.watch(pass, outbox);
        }
        Ok(expires)
    }

    fn plan(&self, at: u64, watched: Watched) {
        self.calendar.lock().unwrap_or_else(PoisonError::into_inner).entry(at).or_default().push(watched);
    }

    fn look(&self, now: u64) {
        let due = {
            let mut calendar = self.calendar.lock().unwrap_or_else(PoisonError::into_inner);
            let later = calendar.split_off(&(now + 1));
            std::mem::replace(&mut *calendar, later)
        };
        for watched in due.into_values().flatten() {
            let (Some(pass), Some(outbox)) = (watched.pass.upgrade(), watched.outbox.upgrade()) else {
                continue;
            };
            let expires = watched.expires;
            if pass.grant().is_none_or(|grant| grant.expires != expires) {
                // it has a fresh one
                continue;
            }
            if expires <= now {
                outbox.push(EXPIRED);
            } else {
                outbox.push(Out::Expiring(expires));
                self.plan(expires, watched);
            }
        }
    }
}

/// When to tell that a token ends: in time, but not before half of the rest is over.
fn notice(expires: u64, now: u64) -> u64 {
    expires - NOTICE.min(expires.saturating_sub(now) / 2)
}
