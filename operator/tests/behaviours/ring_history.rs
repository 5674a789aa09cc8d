//! Every version of a key ring that there has been, and whether each followed from the one before.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use futures::StreamExt;
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api,
    runtime::{WatchStreamExt, watcher, watcher::Event},
};
use rtc_credentials::{KeyRing, KeyState};
use tokio::task::JoinHandle;

use crate::world::World;

type Files = BTreeMap<String, Vec<u8>>;

/// Watches the Secret of `calls` from before there is one.
pub(crate) struct RingHistory {
    seen: Arc<Mutex<Vec<Option<Files>>>>,
    task: JoinHandle<()>,
}

impl Drop for RingHistory {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl RingHistory {
    pub(crate) fn record(world: &World) -> Self {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let secrets: Api<Secret> = world.api();
        let config = watcher::Config::default().fields("metadata.name=calls-keys");
        let into = seen.clone();
        let task = tokio::spawn(async move {
            let stream = watcher(secrets, config).default_backoff();
            futures::pin_mut!(stream);
            while let Some(event) = stream.next().await {
                let files = match event {
                    Ok(Event::Apply(secret) | Event::InitApply(secret)) => {
                        let data = secret.data.unwrap_or_default();
                        Some(data.into_iter().map(|(name, text)| (name, text.0)).collect())
                    }
                    Ok(Event::Delete(_)) => None,
                    _ => continue,
                };
                into.lock().unwrap().push(files);
            }
        });
        Self { seen, task }
    }

    /// No key was lost, skipped, changed or used before it was staged, and no revision was left out. Says how many
    /// there were.
    pub(crate) fn check(&self) -> usize {
        let seen = self.seen.lock().unwrap().clone();
        let mut rings: Vec<KeyRing> = Vec::new();
        for files in &seen {
            let files = files.as_ref().expect("the Secret was deleted");
            // One that is not filled yet holds no ring.
            if files.is_empty() && rings.is_empty() {
                continue;
            }
            let ring = KeyRing::from_files(files).unwrap();
            if let Some(before) = rings.last() {
                follows(before, &ring);
            }
            if rings.last() != Some(&ring) {
                rings.push(ring);
            }
        }
        rings.len()
    }
}

fn follows(before: &KeyRing, after: &KeyRing) {
    if before == after {
        return;
    }
    let story = format!("{before:?}\n-> {after:?}");
    assert_eq!(after.revision, before.revision + 1, "{story}");
    for key in &before.keys {
        match after.get(&key.id) {
            Some(now) => {
                assert!(now.secret.expose() == key.secret.expose(), "another secret: {story}");
                assert!(rank(now.state) >= rank(key.state), "backwards: {story}");
            }
            None => assert!(
                key.state == KeyState::Retiring
                    && key.not_after.is_some_and(|end| end <= rtc_service::clock::unix_now()),
                "lost: {story}"
            ),
        }
    }
    let (old, new) = (before.signing().unwrap(), after.signing().unwrap());
    assert!(
        old.id == new.id || before.get(&new.id).is_some_and(|key| key.state == KeyState::Staged),
        "skipped: {story}"
    );
}

fn rank(state: KeyState) -> u8 {
    match state {
        KeyState::Staged => 0,
        KeyState::Signing => 1,
        KeyState::Retiring => 2,
    }
}
