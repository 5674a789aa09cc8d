//! The key ring of a cluster on this machine: a directory that looks like a mounted Secret, moved
//! on by the same state machine that the operator uses.

use rtc_credentials::{Acknowledged, KeyRing, Policy, RotationEvent, advance, rotate::RotateError};
use rtc_service::clock;
use std::{
    io,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    time::Duration,
};

/// How often the ring is looked at. The fastest rotation takes three looks.
const LOOK: Duration = Duration::from_millis(500);

/// The ring, and the directory that TURN and signaling read it from.
pub(crate) struct Keys {
    dir: PathBuf,
    policy: Policy,
    ring: KeyRing,
}

impl Keys {
    /// Makes the first key in `dir`, which only this user may read.
    pub(crate) fn create(dir: &Path, policy: Policy) -> anyhow::Result<Self> {
        std::fs::create_dir_all(dir)?;
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700))?;
        let mut keys = Self { dir: dir.to_owned(), policy, ring: KeyRing::default() };
        keys.step(Acknowledged::default())?;
        Ok(keys)
    }

    /// Rotates for ever; `acknowledged` asks the running servers which revision they have read.
    pub(crate) async fn rotate(mut self, acknowledged: impl Fn() -> Acknowledged) {
        loop {
            tokio::time::sleep(LOOK).await;
            if let Err(error) = self.step(acknowledged()) {
                tracing::error!(%error, "the key ring could not move on; trying again");
            }
        }
    }

    fn step(&mut self, acknowledged: Acknowledged) -> Result<(), StepError> {
        let step = advance(&self.ring, &self.policy, acknowledged, false, clock::unix_now())?;
        if step.ring == self.ring {
            return Ok(());
        }
        self.publish(&step.ring)?;
        self.ring = step.ring;
        for event in &step.events {
            match event {
                RotationEvent::Staged(id) => tracing::info!(key = %id, "a new key is staged"),
                RotationEvent::Signing(id) => {
                    tracing::info!(key = %id, "new credentials are signed with this key")
                }
                RotationEvent::Retiring(id, end) => {
                    tracing::info!(key = %id, until = end, "this key verifies until its last credential is dead");
                }
                RotationEvent::Retired(id) => tracing::info!(key = %id, "this key verifies nothing any more"),
                RotationEvent::Revoked(id) => tracing::warn!(key = %id, "this key was revoked"),
            }
        }
        Ok(())
    }

    /// Swaps the directory's content at once, as kubelet does: files in a directory of their own, and
    /// one link that is renamed over the old one.
    fn publish(&self, ring: &KeyRing) -> io::Result<()> {
        let version = format!("..{}", ring.revision);
        let home = self.dir.join(&version);
        std::fs::create_dir(&home)?;
        let files = ring.to_files();
        for (name, content) in &files {
            std::fs::write(home.join(name), content)?;
        }
        let next = self.dir.join("..next");
        symlink(&version, &next)?;
        std::fs::rename(&next, self.dir.join("..data"))?;
        for entry in std::fs::read_dir(&self.dir)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with("..") {
                if name != "..data" && name != version {
                    std::fs::remove_dir_all(entry.path())?;
                }
            } else if !files.contains_key(&name) {
                std::fs::remove_file(entry.path())?;
            }
        }
        for name in files.keys() {
            let link = self.dir.join(name);
            if std::fs::symlink_metadata(&link).is_err() {
                symlink(format!("..data/{name}"), link)?;
            }
        }
        Ok(())
    }
}

#[derive(Debug, thiserror::Error)]
enum StepError {
    #[error(transparent)]
    Rotate(#[from] RotateError),
    #[error("cannot write the key ring: {0}")]
    Write(#[from] io::Error),
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_ring_on_disk_is_whole_after_every_step() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("keys");
        let second = Duration::from_secs(1);
        let policy = Policy { ttl: second, interval: Duration::ZERO, overlap: second, skew: Duration::ZERO };
        let mut keys = Keys::create(&home, policy).unwrap();
        assert_eq!(KeyRing::load_dir(&home).unwrap(), keys.ring);
        for _ in 0..8 {
            keys.step(Acknowledged { verifiers: Some(keys.ring.revision), signers: None }).unwrap();
            assert_eq!(KeyRing::load_dir(&home).unwrap(), keys.ring);
        }
        assert!(keys.ring.revision >= 4);
        let mode = std::fs::metadata(&home).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0);
    }
}
