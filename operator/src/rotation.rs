//! The key ring's next state, from what is in the Secret and from who has read it: pure.
//!
//! The steps themselves are [`rtc_credentials::advance`], which `rtc up` takes too; here is what a cluster adds: a
//! ring that was lost or broken, requests by annotation, and pods that are late.

use rtc_credentials::{
    Acknowledged, Key, KeyId, KeyRing, KeyState, Policy, RotationEvent, Secret, SecretError, Waiting,
    advance,
    rotate::{RotateError, revoke},
};
use rtc_operator_api::spec::Credentials;

/// What the Secret holds.
#[derive(Clone, Debug, Default)]
pub struct Stored {
    /// Its files; `None` when there is no Secret.
    pub files: Option<std::collections::BTreeMap<String, Vec<u8>>>,
    /// The request to rotate that was taken up last.
    pub rotated: Option<String>,
}

/// What people ask for by annotation.
#[derive(Clone, Debug, Default)]
pub struct Requests {
    /// A new value asks for a rotation.
    pub rotate: Option<String>,
    /// The id of a key that has leaked.
    pub revoke: Option<String>,
}

/// Who has read which revision.
#[derive(Clone, Debug, Default)]
pub struct Readers {
    /// Serving TURN pods and the revision that each reports; 0 for one that does not answer.
    pub verifiers: Vec<(String, u64)>,
    /// Running signaling pods, likewise.
    pub signers: Vec<(String, u64)>,
    /// The highest revision that there has been, as far as is known without the Secret: with it, its token is
    /// lost too, so that pods cannot be asked.
    pub highest: u64,
}

/// The ring from now on.
#[derive(Clone, Debug)]
pub struct Next {
    /// The ring.
    pub ring: KeyRing,
    /// The bearer token of the admin ports.
    pub token: String,
    /// The request to rotate that was taken up last.
    pub rotated: Option<String>,
    /// What changed.
    pub events: Vec<RotationEvent>,
    /// Why the ring had to be made anew, if it had to.
    pub rebuilt: Option<String>,
    /// Whether its keys are somebody else's, who is no ring yet.
    pub adopted: bool,
    /// What the next change waits for.
    pub waiting: Waiting,
    /// When to look again, in Unix seconds.
    pub next: Option<u64>,
}

/// How the spec's credentials rotate.
#[must_use]
pub fn policy(spec: &Credentials) -> Policy {
    Policy {
        ttl: spec.ttl.into(),
        interval: spec.rotation.interval.into(),
        overlap: spec.rotation.overlap.into(),
        skew: Policy::SKEW,
    }
}

/// Moves the ring on by at most one revision.
///
/// # Errors
/// [`RotateError`] when the operating system gives no random bytes.
pub fn next(
    stored: &Stored,
    requests: &Requests,
    readers: &Readers,
    spec: &Credentials,
    now: u64,
) -> Result<Next, RotateError> {
    let nobody = readers.verifiers.is_empty() && readers.signers.is_empty() && readers.highest == 0;
    let first = stored.files.is_none() && nobody;
    let (ring, mut rebuilt) = restore(stored.files.as_ref(), readers, now);
    if first {
        rebuilt = None;
    }
    let adopted = stored.files.as_ref().is_some_and(|files| !files.contains_key(rtc_credentials::RING_FILE));
    let adopted = adopted && rebuilt.is_none();
    let token = match stored.files.as_ref().and_then(token) {
        Some(token) => token,
        None => text(&Secret::generate()?)?,
    };
    let mut rotated = stored.rotated.clone();
    // A ring that is made now is as fresh as any request could ask for.
    if stored.files.is_none() {
        rotated.clone_from(&requests.rotate);
    }
    let leaked = requests.revoke.as_deref().and_then(|id| id.parse::<KeyId>().ok());
    let revoked = leaked.map(|id| revoke(&ring, &id, now)).transpose()?.flatten();
    let wanted = requests.rotate.is_some() && requests.rotate != rotated;
    let step = match revoked {
        Some(step) => step,
        None => advance(&ring, &policy(spec), acknowledged(readers), wanted, now)?,
    };
    if wanted && step.events.iter().any(|event| matches!(event, RotationEvent::Staged(_))) {
        rotated.clone_from(&requests.rotate);
    }
    Ok(Next {
        ring: step.ring,
        token,
        rotated,
        events: step.events,
        rebuilt,
        adopted,
        waiting: step.waiting,
        next: step.next,
    })
}

/// The ring as it is stored, for when nothing shall change.
#[must_use]
pub fn as_it_is(stored: &Stored) -> Next {
    let files = stored.files.as_ref();
    Next {
        ring: files.and_then(|files| KeyRing::from_files(files).ok()).unwrap_or_default(),
        token: files.and_then(token).unwrap_or_default(),
        rotated: stored.rotated.clone(),
        events: Vec::new(),
        rebuilt: None,
        adopted: false,
        waiting: Waiting::Time,
        next: None,
    }
}

/// The lowest revisions that are reported.
#[must_use]
pub fn acknowledged(readers: &Readers) -> Acknowledged {
    let lowest = |list: &[(String, u64)]| list.iter().map(|(_, revision)| *revision).min();
    Acknowledged { verifiers: lowest(&readers.verifiers), signers: lowest(&readers.signers) }
}

/// The ring as stored, or what can be saved of it. Its revision never goes back behind what pods report, or they
/// would seem to have read what they have not.
fn restore(
    files: Option<&std::collections::BTreeMap<String, Vec<u8>>>,
    readers: &Readers,
    now: u64,
) -> (KeyRing, Option<String>) {
    let reported = readers.verifiers.iter().chain(&readers.signers).map(|(_, revision)| *revision);
    let seen = reported.max().unwrap_or(0).max(readers.highest);
    let Some(files) = files else {
        let lost = "the Secret with the key ring was deleted".to_owned();
        return (KeyRing { revision: seen, keys: Vec::new() }, Some(lost));
    };
    match KeyRing::from_files(files) {
        // Nothing but the operator raises the revision; one that went back was put back by hand.
        Ok(ring) if ring.revision >= seen && ring.revision > 0 => (ring, None),
        Ok(mut ring) => {
            let reason = format!("its revision went back from {seen} to {}", ring.revision);
            // Plain keys, which nobody has had as a ring: the last one by its name goes on to sign.
            let reason = Some(reason).filter(|_| seen > 0 || files.contains_key(rtc_credentials::RING_FILE));
            ring.revision = seen + 1;
            for key in ring.keys.iter_mut().filter(|key| key.since == 0) {
                key.since = now;
            }
            (ring, reason)
        }
        Err(error) => (salvage(files, seen, now), Some(error.to_string())),
    }
}

/// Keeps every key that can still be read, since live credentials were signed by one of them. All of them only
/// verify: which one signed is not known for sure, and a new one signs.
fn salvage(files: &std::collections::BTreeMap<String, Vec<u8>>, seen: u64, now: u64) -> KeyRing {
    let keys = files
        .iter()
        .filter(|(name, _)| !name.starts_with('.'))
        .filter_map(|(name, content)| {
            let id: KeyId = name.parse().ok()?;
            let secret = Secret::from_text(std::str::from_utf8(content).ok()?).ok()?;
            Some(Key { id, secret, state: KeyState::Retiring, since: now, not_after: None })
        })
        .take(rtc_credentials::rotate::MAX_ROTATING - 1)
        .collect();
    KeyRing { revision: seen, keys }
}

fn token(files: &std::collections::BTreeMap<String, Vec<u8>>) -> Option<String> {
    let text = std::str::from_utf8(files.get(rtc_credentials::ADMIN_TOKEN_FILE)?).ok()?.trim();
    (text.len() >= Secret::MIN_LEN).then(|| text.to_owned())
}

fn text(secret: &Secret) -> Result<String, SecretError> {
    std::str::from_utf8(secret.expose()).map(str::to_owned).map_err(|_| SecretError::NotPrintable)
}

#[cfg(test)]
mod tests;
