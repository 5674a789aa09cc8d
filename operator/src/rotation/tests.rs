#![allow(clippy::unwrap_used)]
use std::collections::BTreeMap;

use proptest::prelude::*;
use rtc_operator_api::{Duration, spec::Rotation};

use super::*;

fn spec(ttl: u64, overlap: u64, interval: u64) -> Credentials {
    let seconds = Duration::from_secs;
    Credentials {
        ttl: seconds(ttl),
        rotation: Rotation { interval: seconds(interval), overlap: seconds(overlap) },
    }
}

fn store(next: &Next) -> Stored {
    let mut files = next.ring.to_files();
    files.insert(rtc_credentials::ADMIN_TOKEN_FILE.into(), next.token.clone().into_bytes());
    Stored { files: Some(files), rotated: next.rotated.clone() }
}

fn readers(revision: u64) -> Readers {
    Readers { verifiers: vec![("t".into(), revision)], signers: vec![("s".into(), revision)], highest: 0 }
}

fn signing(next: &Next) -> String {
    next.ring.signing().unwrap().id.to_string()
}

#[test]
fn the_first_key_signs_as_soon_as_it_is_made() {
    let spec = spec(10, 10, 20);
    let first = next(&Stored::default(), &Requests::default(), &Readers::default(), &spec, 100).unwrap();
    assert!(first.rebuilt.is_none());
    assert_eq!((first.ring.revision, first.ring.keys.len()), (1, 1));
    let again = next(&store(&first), &Requests::default(), &readers(1), &spec, 101).unwrap();
    assert_eq!((again.events.len(), again.ring, again.token), (0, first.ring.clone(), first.token.clone()));
}

#[test]
fn a_short_interval_turns_the_ring_without_any_hidden_minimum() {
    let spec = spec(10, 10, 20);
    let mut now = 1_000;
    let mut state = next(&Stored::default(), &Requests::default(), &Readers::default(), &spec, now).unwrap();
    let mut signed = vec![signing(&state)];
    while now < 1_100 {
        now += 1;
        state =
            next(&store(&state), &Requests::default(), &readers(state.ring.revision), &spec, now).unwrap();
        if signed.last() != Some(&signing(&state)) {
            signed.push(signing(&state));
        }
    }
    assert!(signed.len() >= 4, "{signed:?}");
    assert!(state.ring.keys.len() <= 3);
}

#[test]
fn a_late_pod_holds_the_new_key_back() {
    let spec = spec(10, 10, 20);
    let first = next(&Stored::default(), &Requests::default(), &Readers::default(), &spec, 100).unwrap();
    let staged = next(&store(&first), &Requests::default(), &readers(1), &spec, 120).unwrap();
    assert!(matches!(staged.events[..], [RotationEvent::Staged(_)]));
    let mut late = readers(2);
    late.verifiers.push(("late".into(), 1));
    let waits = next(&store(&staged), &Requests::default(), &late, &spec, 500).unwrap();
    assert_eq!((signing(&waits), waits.waiting), (signing(&first), Waiting::Verifiers));
    let goes = next(&store(&waits), &Requests::default(), &readers(2), &spec, 501).unwrap();
    assert_ne!(signing(&goes), signing(&first));
}

#[test]
fn plain_keys_become_the_first_of_a_ring() {
    let spec = spec(10, 10, 20);
    let files = [("coturn", "north-by-northwest"), ("a-older", "the-lady-vanishes")];
    let files = files.map(|(id, text)| (id.to_owned(), text.as_bytes().to_vec())).into();
    let stored = Stored { files: Some(files), rotated: None };
    let first = next(&stored, &Requests::default(), &Readers::default(), &spec, 100).unwrap();
    assert!(first.adopted && first.rebuilt.is_none());
    assert_eq!((signing(&first).as_str(), first.ring.keys.len()), ("coturn", 2));
    let read = readers(first.ring.revision);
    let second = next(&store(&first), &Requests::default(), &read, &spec, 101).unwrap();
    assert!(!second.adopted && signing(&second) == "coturn");
    // And they are replaced like any other.
    let staged = next(&store(&first), &Requests::default(), &read, &spec, 120).unwrap();
    assert!(staged.events.iter().any(|event| matches!(event, RotationEvent::Staged(_))));

    let short = [("coturn".to_owned(), b"short".to_vec())].into();
    let stored = Stored { files: Some(short), rotated: None };
    let refused = next(&stored, &Requests::default(), &Readers::default(), &spec, 100).unwrap();
    assert!(!refused.adopted && refused.rebuilt.unwrap().contains("coturn"));
}

#[test]
fn a_request_to_rotate_is_taken_up_once() {
    let spec = spec(3600, 7200, 86400);
    let first = next(&Stored::default(), &Requests::default(), &Readers::default(), &spec, 100).unwrap();
    let asked = Requests { rotate: Some("now".into()), revoke: None };
    let staged = next(&store(&first), &asked, &readers(1), &spec, 101).unwrap();
    assert!(matches!(staged.events[..], [RotationEvent::Staged(_)]));
    let signs = next(&store(&staged), &asked, &readers(2), &spec, 102).unwrap();
    assert!(matches!(signs.events[..], [RotationEvent::Signing(_)]));
    let rest = next(&store(&signs), &asked, &readers(3), &spec, 103).unwrap();
    assert!(matches!(rest.events[..], [RotationEvent::Retiring(..)]));
    assert!(next(&store(&rest), &asked, &readers(4), &spec, 104).unwrap().events.is_empty());
}

#[test]
fn a_leaked_key_is_gone_at_once() {
    let spec = spec(3600, 7200, 86400);
    let first = next(&Stored::default(), &Requests::default(), &Readers::default(), &spec, 100).unwrap();
    let leaked = Requests { rotate: None, revoke: Some(signing(&first)) };
    let after = next(&store(&first), &leaked, &readers(1), &spec, 101).unwrap();
    assert_eq!(after.ring.keys.len(), 1);
    assert_ne!(signing(&after), signing(&first));
    assert!(next(&store(&after), &leaked, &readers(2), &spec, 102).unwrap().events.is_empty());
}

#[test]
fn a_deleted_secret_is_made_anew_above_what_pods_have_read() {
    let spec = spec(3600, 7200, 86400);
    let rebuilt = next(&Stored::default(), &Requests::default(), &readers(7), &spec, 100).unwrap();
    assert_eq!(rebuilt.ring.revision, 8);
    assert!(rebuilt.rebuilt.unwrap().contains("deleted"));
    // Its token is gone with it, so that no pod answers.
    let silent = Readers { highest: 7, ..readers(0) };
    assert_eq!(next(&Stored::default(), &Requests::default(), &silent, &spec, 100).unwrap().ring.revision, 8);
}

#[test]
fn of_a_broken_secret_every_readable_key_still_verifies() {
    let spec = spec(3600, 7200, 86400);
    let first = next(&Stored::default(), &Requests::default(), &Readers::default(), &spec, 100).unwrap();
    let mut broken = store(&first);
    let files: &mut BTreeMap<_, _> = broken.files.as_mut().unwrap();
    files.insert(rtc_credentials::RING_FILE.into(), b"{".to_vec());
    let saved = next(&broken, &Requests::default(), &readers(1), &spec, 101).unwrap();
    assert!(saved.rebuilt.is_some());
    assert!(saved.ring.keys.iter().any(|key| key.id.to_string() == signing(&first)));
    assert_ne!(signing(&saved), signing(&first));
    assert!(saved.ring.revision > 1);
}

proptest! {
    /// Everything is kept in the Secret alone, so each step is as after a restart. Pods read late, at random, and
    /// the clock steps. Whatever happens: exactly one key signs; it is one that every serving pod has read, but
    /// for the first; the ring stays small; and a key that signed stays until each signer has left it.
    #[test]
    fn never_signs_what_a_serving_pod_does_not_verify(
        script in prop::collection::vec((0usize..4, -3_000i64..30, any::<bool>()), 1..120)
    ) {
        let spec = spec(10, 10, 20);
        let mut now: u64 = 1_000_000;
        let mut state = next(&Stored::default(), &Requests::default(), &Readers::default(), &spec, now).unwrap();
        // Pods 0 and 1 verify, 2 and 3 sign; each has read some ring.
        let mut read = vec![state.ring.clone(); 4];
        for (who, step, ask) in script {
            // Mostly forward, sometimes a jump back.
            now = now.saturating_add_signed(if step < -2_900 { step } else { step.rem_euclid(30) });
            read[who] = state.ring.clone();
            let readers = Readers {
                verifiers: vec![("a".into(), read[0].revision), ("b".into(), read[1].revision)],
                signers: vec![("c".into(), read[2].revision), ("d".into(), read[3].revision)],
                highest: state.ring.revision,
            };
            let requests = Requests { rotate: ask.then(|| now.to_string()), revoke: None };
            let before = state.ring.clone();
            state = next(&store(&state), &requests, &readers, &spec, now).unwrap();
            prop_assert!(state.ring.revision - before.revision <= 1);
            prop_assert_eq!(state.ring.keys.iter().filter(|key| key.state == KeyState::Signing).count(), 1);
            prop_assert!(state.ring.keys.len() <= rtc_credentials::rotate::MAX_ROTATING);
            let signing = &state.ring.signing().unwrap().id;
            for verifier in &read[..2] {
                prop_assert!(verifier.get(signing).is_some(), "signs {signing}, which a pod has not read");
            }
            for signer in &read[2..] {
                let theirs = &signer.signing().unwrap().id;
                let gone_at_last = state.ring.get(theirs).is_none();
                prop_assert!(!gone_at_last, "{theirs} is gone while a pod still signs by it");
            }
        }
    }
}
