#![allow(clippy::unwrap_used)]

use super::*;
use proptest::prelude::*;

const POLICY: Policy = Policy {
    ttl: Duration::from_secs(60),
    interval: Duration::from_secs(600),
    overlap: Duration::from_secs(120),
    skew: Duration::from_secs(10),
};

fn all(revision: u64) -> Acknowledged {
    Acknowledged { verifiers: Some(revision), signers: Some(revision) }
}

fn step(ring: &KeyRing, acknowledged: Acknowledged, now: u64) -> Step {
    advance(ring, &POLICY, acknowledged, false, now).unwrap()
}

fn states(ring: &KeyRing) -> Vec<KeyState> {
    ring.keys.iter().map(|k| k.state).collect()
}

#[test]
fn a_rotation_goes_through_every_state_and_waits_for_each_acknowledgement() {
    use KeyState::{Retiring, Signing, Staged};
    let first = step(&KeyRing::default(), Acknowledged::default(), 1_000);
    assert_eq!((first.ring.revision, states(&first.ring)), (1, vec![Signing]));
    assert_eq!((first.waiting, first.next), (Waiting::Time, Some(1_600)));

    let idle = step(&first.ring, all(1), 1_599);
    assert_eq!((idle.events.len(), &idle.ring), (0, &first.ring));

    let staged = step(&first.ring, all(1), 1_600);
    assert_eq!((staged.ring.revision, states(&staged.ring)), (2, vec![Signing, Staged]));
    let late = step(&staged.ring, Acknowledged { verifiers: Some(1), signers: Some(2) }, 9_000);
    assert_eq!((late.events.len(), late.waiting), (0, Waiting::Verifiers));

    let signing = step(&staged.ring, Acknowledged { verifiers: Some(2), signers: Some(1) }, 1_610);
    assert_eq!((signing.ring.revision, states(&signing.ring)), (3, vec![Retiring, Signing]));
    assert_eq!(signing.ring.keys[0].not_after, None);
    let late = step(&signing.ring, Acknowledged { verifiers: Some(3), signers: Some(2) }, 1_700);
    assert_eq!((late.events.len(), late.waiting), (0, Waiting::Signers));

    let ending = step(&signing.ring, all(3), 1_700);
    assert_eq!(ending.ring.keys[0].not_after, Some(1_700 + 120 + 10));
    assert_eq!(ending.next, Some(1_830));
    assert_eq!(step(&ending.ring, all(4), 1_829).events, []);
    let gone = step(&ending.ring, all(4), 1_830);
    assert_eq!(states(&gone.ring), [Signing]);
    assert!(matches!(gone.events[..], [RotationEvent::Retired(_)]));
}

#[test]
fn a_rotation_on_demand_does_not_wait_for_the_interval() {
    let first = step(&KeyRing::default(), Acknowledged::default(), 0).ring;
    let staged = advance(&first, &POLICY, all(1), true, 1).unwrap();
    assert!(matches!(staged.events[..], [RotationEvent::Staged(_)]));
}

#[test]
fn revoking_the_signing_key_lets_another_sign_at_once() {
    let first = step(&KeyRing::default(), Acknowledged::default(), 0).ring;
    let id = first.keys[0].id.clone();
    let step = revoke(&first, &id, 5).unwrap().unwrap();
    assert!(step.ring.get(&id).is_none());
    assert!(step.ring.signing().is_some());
    assert_eq!(step.ring.revision, 2);
    assert_eq!(revoke(&first, &"k-99".parse().unwrap(), 5).unwrap(), None);
}

#[test]
fn a_clock_set_back_delays_a_rotation_by_no_more_than_the_interval() {
    let first = step(&KeyRing::default(), Acknowledged::default(), 1_000_000).ring;
    let back = step(&first, all(1), 500);
    assert_eq!(back.ring.signing().unwrap().since, 500);
    assert!(matches!(step(&back.ring, all(2), 1_100).events[..], [RotationEvent::Staged(_)]));
}

/// One TURN server, one signer, each of which may read the ring late.
#[derive(Clone, Debug)]
enum Happens {
    Wait(u64),
    VerifierReads,
    SignerReads,
    RotateNow,
    Mint,
}

fn happens() -> impl Strategy<Value = Happens> {
    prop_oneof![
        3 => (1u64..400).prop_map(Happens::Wait),
        4 => Just(Happens::VerifierReads),
        4 => Just(Happens::SignerReads),
        1 => Just(Happens::RotateNow),
        4 => Just(Happens::Mint),
    ]
}

proptest! {
    #[test]
    fn whatever_is_minted_is_verified_until_it_expires(story in prop::collection::vec(happens(), 1..300)) {
        let mut now = 1_000_000;
        let mut ring = step(&KeyRing::default(), Acknowledged::default(), now).ring;
        let (mut verifier, mut signer) = (ring.clone(), ring.clone());
        let mut minted: Vec<crate::Credential> = Vec::new();
        for event in story {
            let mut rotate = false;
            match event {
                Happens::Wait(seconds) => now += seconds,
                Happens::VerifierReads => verifier = ring.clone(),
                Happens::SignerReads => signer = ring.clone(),
                Happens::RotateNow => rotate = true,
                Happens::Mint => minted.push(crate::mint(&signer, "alice", POLICY.ttl, now).unwrap()),
            }
            let seen = Acknowledged { verifiers: Some(verifier.revision), signers: Some(signer.revision) };
            let next = advance(&ring, &POLICY, seen, rotate, now).unwrap();
            prop_assert!(next.ring.revision - ring.revision <= 1);
            prop_assert_eq!(next.events.is_empty() && next.ring.revision != ring.revision, false);
            prop_assert_eq!(next.ring.keys.iter().filter(|k| k.state == KeyState::Signing).count(), 1);
            prop_assert!(next.ring.keys.len() <= MAX_ROTATING);
            ring = next.ring;
            minted.retain(|c| c.expires > now);
            for credential in &minted {
                let known = verifier.verifying(now).any(|k| k.id == credential.key);
                prop_assert!(known, "{credential:?} at {now} under {verifier:?}");
            }
        }
    }

    #[test]
    fn with_prompt_readers_every_rotation_completes(times in prop::collection::vec(1u64..700, 1..200)) {
        let mut now = 0;
        let mut ring = KeyRing::default();
        let mut signed = 0;
        for seconds in times {
            now += seconds;
            loop {
                let next = advance(&ring, &POLICY, all(ring.revision), false, now).unwrap();
                signed += next.events.iter().filter(|e| matches!(e, RotationEvent::Signing(_))).count() as u64;
                if next.ring == ring { break }
                ring = next.ring;
            }
            let signing = ring.signing().unwrap();
            prop_assert!(now < signing.since + POLICY.interval.as_secs());
            prop_assert!(ring.keys.len() <= 2, "{:?}", ring);
        }
        prop_assert!(signed >= 1);
    }
}
