//! What is drawn at random: ids, secrets, delays.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use rtc_signaling_proto::{MemberId, ReplicaId};
use sha2::{Digest, Sha256};
use std::time::Duration;
use uuid::Uuid;

fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    // Without randomness no secret is one. It fails only on kernels before 3.17 without /dev/urandom.
    if let Err(error) = getrandom::fill(&mut bytes) {
        tracing::error!(%error, "the operating system gives no random numbers");
        std::process::abort();
    }
    bytes
}

/// A member's id: 12 random bytes. Not secret, but not to be met twice.
#[must_use]
pub(crate) fn member() -> MemberId {
    name("m-")
}

/// This life of a replica named `name`.
#[must_use]
pub(crate) fn replica(name: &str) -> ReplicaId {
    let legal = |c: &char| c.is_ascii_alphanumeric() || "._-".contains(*c);
    let kept: String = name.chars().filter(legal).take(63).collect();
    self::name(&format!("{kept}-"))
}

fn name<T: std::str::FromStr>(prefix: &str) -> T {
    let text = format!("{prefix}{}", BASE64_URL_SAFE_NO_PAD.encode(bytes::<12>()));
    match text.parse() {
        Ok(name) => name,
        // base64url is within every name's alphabet
        Err(_) => unreachable!("{prefix} makes no name"),
    }
}

/// The proof of a session: 18 random bytes.
#[must_use]
pub(crate) fn secret() -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes::<18>())
}

/// An id of a connection that nobody can guess, for transports that name it in each request.
#[must_use]
pub(crate) fn connection() -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes::<15>())
}

/// A UUID of version 4 (RFC 9562, section 5.4).
#[must_use]
pub(crate) fn uuid() -> Uuid {
    uuid::Builder::from_random_bytes(bytes()).into_uuid()
}

/// A member whose id is a UUID.
#[must_use]
pub(crate) fn uuid_member() -> MemberId {
    match uuid().to_string().parse() {
        Ok(member) => member,
        // hexadecimal digits and hyphens are within a member's alphabet
        Err(_) => unreachable!("a UUID is no member"),
    }
}

/// What is stored of a secret.
#[must_use]
pub(crate) fn hash(secret: &str) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(&Sha256::digest(secret)[..18])
}

/// What is stored of a session's secret: of one that belongs to a token's subject, none but that subject
/// knows it.
#[must_use]
pub(crate) fn hash_for(secret: &str, subject: Option<&str>) -> String {
    // no secret has a control character
    subject.map_or_else(|| hash(secret), |subject| hash(&format!("{secret}\n{subject}")))
}

/// Between half of `around` and one and a half.
#[must_use]
pub(crate) fn jitter(around: Duration) -> Duration {
    around.mul_f64(0.5 + up_to(1000) as f64 / 1000.0)
}

/// A number below `end`; 0 for 0.
#[must_use]
pub(crate) fn up_to(end: u64) -> u64 {
    u64::from_le_bytes(bytes()) % end.max(1)
}
