//! How a ring moves on, without ever signing what nobody verifies.
//!
//! A pure step: what the ring is, who has read which revision of it, and the time go in; the next
//! ring comes out. Every step raises the revision by one, and a key moves only when all that must
//! know it report that revision:
//!
//! ```text
//!            all TURN servers              all signers            not_after
//!            report the ring               report the ring        has passed
//!   Staged ──────────────────► Signing ─► Retiring ────────────► Retiring until ─────► gone
//!                                │  (the next key signs)          now + overlap + skew
//!                                └─ a new key is staged after `interval`, or on demand
//! ```
//!
//! So a credential is accepted, by every server, from when it is minted until it expires: its key
//! was known everywhere before it signed, and leaves only when the last signer has changed over and
//! the last credential that it could have signed is dead.

use crate::{Key, KeyId, KeyRing, KeyState, Secret, SecretError};
use std::time::Duration;

/// A ring holds at most so many keys; a rotation that would need one more waits for the oldest to
/// retire.
pub const MAX_ROTATING: usize = 4;

/// How a ring is to rotate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// How long a credential lives.
    pub ttl: Duration,
    /// How long a key signs.
    pub interval: Duration,
    /// How long a key verifies after the last signer has left it; not less than `ttl` counts.
    pub overlap: Duration,
    /// How far the clocks of operator, signaling and TURN may differ.
    pub skew: Duration,
}

impl Policy {
    /// The skew that clocks kept by NTP stay far below.
    pub const SKEW: Duration = Duration::from_secs(10);
}

/// Which revision has been read by those that must know it. `None` where nobody is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Acknowledged {
    /// The lowest revision that a serving TURN server reports.
    pub verifiers: Option<u64>,
    /// The lowest revision that a signaling pod reports.
    pub signers: Option<u64>,
}

/// What a step did, for events and logs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RotationEvent {
    /// A new key is on its way to the TURN servers.
    Staged(KeyId),
    /// New credentials are minted with this key from now on.
    Signing(KeyId),
    /// No credential is minted with this key any more; it verifies until that time (Unix seconds).
    Retiring(KeyId, u64),
    /// This key verifies nothing any more.
    Retired(KeyId),
    /// This key was taken out at once: credentials that it signed are refused from now on.
    Revoked(KeyId),
}

/// What the ring waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// For the next rotation, or a retiring key's end.
    Time,
    /// For a serving TURN server to report the ring's revision.
    Verifiers,
    /// For a signaling pod to report the ring's revision.
    Signers,
    /// For the oldest key to retire: the interval is shorter than the overlap allows.
    Room,
}

/// The outcome of [`advance`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The ring from now on; equal to the old one when `events` is empty.
    pub ring: KeyRing,
    /// What changed. Empty when nothing did.
    pub events: Vec<RotationEvent>,
    /// What the next change waits for.
    pub waiting: Waiting,
    /// When to look again at the latest, in Unix seconds, if time alone brings a change.
    pub next: Option<u64>,
}

/// Why a ring cannot move on.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RotateError {
    /// No random bytes for a new key.
    #[error(transparent)]
    Secret(#[from] SecretError),
}

/// Moves `ring` on by at most one revision at `now` (Unix seconds).
///
/// `rotate` asks for a rotation before its time; it is taken up when a key is staged, which the
/// events tell. An empty ring gets its first key, which signs at once: nobody serves yet.
///
/// # Errors
/// [`RotateError`] when the operating system gives no random bytes.
pub fn advance(
    ring: &KeyRing,
    policy: &Policy,
    acknowledged: Acknowledged,
    rotate: bool,
    now: u64,
) -> Result<Step, RotateError> {
    let mut keys = ring.keys.clone();
    let mut events = Vec::new();
    // Nobody at all counts as acknowledged: who starts later reads the ring as it is then.
    let all_read = |lowest: Option<u64>| lowest.is_none_or(|revision| revision >= ring.revision);
    let (verified, signed) = (all_read(acknowledged.verifiers), all_read(acknowledged.signers));

    retire(&mut keys, policy, verified, signed, now, &mut events);
    promote(&mut keys, verified, now, &mut events);
    stage(&mut keys, policy, rotate, now, &mut events)?;
    unstep_clock(&mut keys, policy, now);

    let changed = keys != ring.keys;
    let ring = KeyRing { revision: ring.revision + u64::from(changed), keys };
    let (waiting, next) = outlook(&ring, policy, changed, verified, signed, now);
    Ok(Step { ring, events, waiting, next })
}

/// Takes `id` out at once, for a key that has leaked. If it was signing, the staged key signs from
/// now on, or a new one: servers that have not read the ring yet refuse what it signs until they
/// have, and every credential of the revoked key is refused at its next new allocation.
///
/// `None` when the ring has no such key.
///
/// # Errors
/// [`RotateError`] when the operating system gives no random bytes.
pub fn revoke(ring: &KeyRing, id: &KeyId, now: u64) -> Result<Option<Step>, RotateError> {
    let Some(gone) = ring.get(id) else { return Ok(None) };
    let mut keys: Vec<Key> = ring.keys.iter().filter(|k| &k.id != id).cloned().collect();
    let mut events = vec![RotationEvent::Revoked(id.clone())];
    if gone.state == KeyState::Signing {
        if !keys.iter().any(|k| k.state == KeyState::Staged) {
            keys.push(new_key(&ring.keys, KeyState::Staged, now)?);
        }
        if let Some(next) = keys.iter_mut().find(|k| k.state == KeyState::Staged) {
            (next.state, next.since) = (KeyState::Signing, now);
            events.push(RotationEvent::Signing(next.id.clone()));
        }
    }
    let ring = KeyRing { revision: ring.revision + 1, keys };
    Ok(Some(Step { ring, events, waiting: Waiting::Verifiers, next: None }))
}

/// Sets the end of keys that nobody signs with any more, and drops those whose end has passed.
fn retire(
    keys: &mut Vec<Key>,
    policy: &Policy,
    verified: bool,
    signed: bool,
    now: u64,
    events: &mut Vec<RotationEvent>,
) {
    for key in keys.iter_mut().filter(|k| k.state == KeyState::Retiring && k.not_after.is_none()) {
        if verified && signed {
            let end = now + policy.overlap.max(policy.ttl).as_secs() + policy.skew.as_secs();
            key.not_after = Some(end);
            events.push(RotationEvent::Retiring(key.id.clone(), end));
        }
    }
    keys.retain(|key| {
        let stays = key.state != KeyState::Retiring || key.verifies_at(now);
        if !stays {
            events.push(RotationEvent::Retired(key.id.clone()));
        }
        stays
    });
}

/// Lets the staged key sign once every server verifies it.
fn promote(keys: &mut [Key], verified: bool, now: u64, events: &mut Vec<RotationEvent>) {
    let Some(staged) = keys.iter().position(|k| k.state == KeyState::Staged) else { return };
    let signing = keys.iter().position(|k| k.state == KeyState::Signing);
    if !verified && signing.is_some() {
        return;
    }
    if let Some(old) = signing {
        (keys[old].state, keys[old].since, keys[old].not_after) = (KeyState::Retiring, now, None);
    }
    (keys[staged].state, keys[staged].since) = (KeyState::Signing, now);
    events.push(RotationEvent::Signing(keys[staged].id.clone()));
}

/// Stages a new key when the signing one has done its time, or none is there.
fn stage(
    keys: &mut Vec<Key>,
    policy: &Policy,
    rotate: bool,
    now: u64,
    events: &mut Vec<RotationEvent>,
) -> Result<(), RotateError> {
    let Some(signing) = keys.iter().find(|k| k.state == KeyState::Signing) else {
        let first = new_key(keys, KeyState::Signing, now)?;
        events.push(RotationEvent::Signing(first.id.clone()));
        keys.push(first);
        return Ok(());
    };
    let due = rotate || now >= signing.since.saturating_add(policy.interval.as_secs());
    let free = keys.len() < MAX_ROTATING && keys.iter().all(|k| k.state != KeyState::Staged);
    if due && free {
        let key = new_key(keys, KeyState::Staged, now)?;
        events.push(RotationEvent::Staged(key.id.clone()));
        keys.push(key);
    }
    Ok(())
}

/// After the clock was set back, a key would sign until the old time comes again.
fn unstep_clock(keys: &mut [Key], policy: &Policy, now: u64) {
    for key in keys.iter_mut().filter(|k| k.since > now + policy.skew.as_secs()) {
        key.since = now;
        if let Some(end) = key.not_after {
            let longest = policy.overlap.max(policy.ttl).as_secs() + policy.skew.as_secs();
            key.not_after = Some(end.min(now + longest));
        }
    }
}

fn outlook(
    ring: &KeyRing,
    policy: &Policy,
    changed: bool,
    verified: bool,
    signed: bool,
    now: u64,
) -> (Waiting, Option<u64>) {
    let ends = ring.keys.iter().filter_map(|k| k.not_after).min();
    let due = ring.signing().map(|k| k.since.saturating_add(policy.interval.as_secs()));
    let staged = ring.keys.iter().any(|k| k.state == KeyState::Staged);
    let unended = ring.keys.iter().any(|k| k.state == KeyState::Retiring && k.not_after.is_none());
    if (staged || unended) && (changed || !verified) {
        return (Waiting::Verifiers, ends);
    }
    if unended && !signed {
        return (Waiting::Signers, ends);
    }
    if due.is_some_and(|at| at <= now) && ring.keys.len() >= MAX_ROTATING {
        return (Waiting::Room, ends);
    }
    (Waiting::Time, ends.into_iter().chain(due).min())
}

/// Names follow creation: `k-1`, `k-2`, …; a name is never used twice while any key lives.
fn new_key(keys: &[Key], state: KeyState, now: u64) -> Result<Key, RotateError> {
    let number = |k: &Key| k.id.as_str().strip_prefix("k-")?.split('-').next()?.parse::<u64>().ok();
    let next = keys.iter().filter_map(number).max().map_or(1, |n| n.saturating_add(1));
    let secret = Secret::generate()?;
    // `now` in the name tells a rebuilt ring's first key from the lost one's
    let id: KeyId = format!("k-{next}-{now}").parse().map_err(|_| SecretError::NotPrintable)?;
    Ok(Key { id, secret, state, since: now, not_after: None })
}

#[cfg(test)]
mod tests;
