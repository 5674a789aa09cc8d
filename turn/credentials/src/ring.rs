//! All keys at one revision, and their form as a directory of files.
//!
//! A ring is a Kubernetes Secret mounted as a directory, or a directory that a person made:
//!
//! ```text
//! k-7            the secret, base64url text; the file's name is the key's id
//! k-8
//! .ring.json     {"revision": 15, "signing": "k-8", "keys": [{"id": "k-7", "state": "Retiring",
//!                "since": 1789990000, "notAfter": 1790000000}, …]}
//! .admin-token   the bearer token of the admin ports (not read here)
//! ```
//!
//! Names that start with a dot are no keys; that passes over the `..data` links of a mounted Secret
//! as well. `.ring.json` may be missing: then every file verifies, the last by name signs, and the
//! revision is 0.

use crate::{Key, KeyId, KeyState, Secret, SecretError};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

/// The file of a ring's directory that says what state each key is in.
pub const RING_FILE: &str = ".ring.json";
/// The file of a ring's directory that holds the bearer token of the admin ports.
pub const ADMIN_TOKEN_FILE: &str = ".admin-token";
/// The most keys that a ring may have. A server tries them all for an unknown user.
pub const MAX_KEYS: usize = 16;

/// Why a directory is no ring.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// The directory or a file in it could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// What could not be read.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is no key.
    #[error("no key in {}: put one file there for each key, its name the key's id", .0.display())]
    Empty(PathBuf),
    /// There are more than [`MAX_KEYS`] keys.
    #[error("{} keys: a ring has at most {max}; remove the retired ones", .0, max = MAX_KEYS)]
    TooMany(usize),
    /// A file holds no secret.
    #[error("key {id}: {source}")]
    Secret {
        /// The file's name.
        id: String,
        /// What is wrong with its text.
        source: SecretError,
    },
    /// `.ring.json` is not as described in [the module](self).
    #[error(".ring.json: {0}")]
    State(String),
}

/// The keys of a cluster at one revision. At most one of them signs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyRing {
    /// Rises by one with every change, so that a pod can acknowledge what it has read.
    pub revision: u64,
    /// Oldest first.
    pub keys: Vec<Key>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RingState {
    revision: u64,
    #[serde(default)]
    signing: Option<KeyId>,
    keys: Vec<KeyStateEntry>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct KeyStateEntry {
    id: KeyId,
    state: KeyState,
    #[serde(default)]
    since: u64,
    #[serde(default)]
    not_after: Option<u64>,
}

impl KeyRing {
    /// A ring of one key named `static`, for `--secret`.
    #[must_use]
    pub fn single(secret: Secret) -> Self {
        // the name is within KeyId's rules
        let id = "static".parse().ok();
        let keys = id.map(|id| Key { id, secret, state: KeyState::Signing, since: 0, not_after: None });
        Self { revision: 0, keys: keys.into_iter().collect() }
    }

    /// Reads a ring's directory.
    ///
    /// # Errors
    /// See [`RingError`]. A key that `.ring.json` names and that has no file is an error too: a
    /// half-written directory is never taken for a ring with fewer keys.
    pub fn load_dir(dir: &Path) -> Result<Self, RingError> {
        let read = |path: &Path| {
            std::fs::read(path).map_err(|source| RingError::Read { path: path.to_owned(), source })
        };
        // a mounted Secret is read at one version: the links beside `..data` are swapped one by one
        let version = std::fs::canonicalize(dir.join("..data"));
        let dir = version.as_deref().unwrap_or(dir);
        let list = || -> io::Result<Vec<String>> {
            let mut names = Vec::new();
            for entry in std::fs::read_dir(dir)? {
                let entry = entry?;
                // metadata() follows links: a mounted Secret's files are links
                if let Ok(name) = entry.file_name().into_string()
                    && std::fs::metadata(entry.path())?.is_file()
                {
                    names.push(name);
                }
            }
            Ok(names)
        };
        let names = list().map_err(|source| RingError::Read { path: dir.to_owned(), source })?;
        let mut files = BTreeMap::new();
        for name in names.into_iter().filter(|n| !n.starts_with('.') || n == RING_FILE) {
            let content = read(&dir.join(&name))?;
            files.insert(name, content);
        }
        match Self::from_files(&files) {
            Err(RingError::Empty(_)) => Err(RingError::Empty(dir.to_owned())),
            other => other,
        }
    }

    /// The ring that these files (name -> content) form; the inverse of [`KeyRing::to_files`].
    ///
    /// # Errors
    /// See [`RingError`].
    pub fn from_files(files: &BTreeMap<String, Vec<u8>>) -> Result<Self, RingError> {
        let mut secrets = BTreeMap::new();
        for (name, content) in files.iter().filter(|(name, _)| !name.starts_with('.')) {
            let text = std::str::from_utf8(content).unwrap_or_default();
            let secret =
                Secret::from_text(text).map_err(|source| RingError::Secret { id: name.clone(), source })?;
            let id: KeyId = name.parse().map_err(|e| RingError::State(format!("{e}")))?;
            secrets.insert(id, secret);
        }
        let ring = match files.get(RING_FILE) {
            Some(text) => Self::with_state(text, secrets)?,
            None => Self::all_verify(secrets),
        };
        match ring.keys.len() {
            0 => Err(RingError::Empty(PathBuf::new())),
            n if n > MAX_KEYS => Err(RingError::TooMany(n)),
            _ => Ok(ring),
        }
    }

    fn with_state(text: &[u8], mut secrets: BTreeMap<KeyId, Secret>) -> Result<Self, RingError> {
        let state: RingState = serde_json::from_slice(text).map_err(|e| RingError::State(e.to_string()))?;
        let mut keys = Vec::with_capacity(state.keys.len());
        for KeyStateEntry { id, state, since, not_after } in state.keys {
            let Some(secret) = secrets.remove(&id) else {
                return Err(RingError::State(format!("names the key {id}, which has no file")));
            };
            keys.push(Key { id, secret, state, since, not_after });
        }
        let signing: Vec<_> = keys.iter().filter(|k| k.state == KeyState::Signing).collect();
        let named = state.signing.as_ref();
        if signing.len() > 1 || signing.first().map(|k| &k.id) != named {
            return Err(RingError::State("`signing` and the one key with state Signing differ".into()));
        }
        Ok(Self { revision: state.revision, keys })
    }

    fn all_verify(secrets: BTreeMap<KeyId, Secret>) -> Self {
        let last = secrets.len().saturating_sub(1);
        let keys = secrets.into_iter().enumerate().map(|(i, (id, secret))| Key {
            id,
            secret,
            state: if i == last { KeyState::Signing } else { KeyState::Retiring },
            since: 0,
            not_after: None,
        });
        Self { revision: 0, keys: keys.collect() }
    }

    /// The files of the ring's directory, name -> content; the inverse of [`KeyRing::from_files`].
    #[must_use]
    pub fn to_files(&self) -> BTreeMap<String, Vec<u8>> {
        let state = RingState {
            revision: self.revision,
            signing: self.signing().map(|k| k.id.clone()),
            keys: self
                .keys
                .iter()
                .map(|k| KeyStateEntry {
                    id: k.id.clone(),
                    state: k.state,
                    since: k.since,
                    not_after: k.not_after,
                })
                .collect(),
        };
        let mut files: BTreeMap<String, Vec<u8>> =
            self.keys.iter().map(|k| (k.id.to_string(), k.secret.expose().to_vec())).collect();
        // a struct of strings and numbers always serialises
        files.insert(RING_FILE.to_owned(), serde_json::to_vec(&state).unwrap_or_default());
        files
    }

    /// The key that new credentials are minted with.
    #[must_use]
    pub fn signing(&self) -> Option<&Key> {
        self.keys.iter().find(|k| k.state == KeyState::Signing)
    }

    /// The keys that verify at `now` (Unix seconds), the signing one first, as most credentials are
    /// its own.
    pub fn verifying(&self, now: u64) -> impl Iterator<Item = &Key> {
        let (signing, others): (Vec<_>, Vec<_>) =
            self.keys.iter().rev().partition(|k| k.state == KeyState::Signing);
        signing.into_iter().chain(others).filter(move |k| k.verifies_at(now))
    }

    /// The key of that name.
    #[must_use]
    pub fn get(&self, id: &KeyId) -> Option<&Key> {
        self.keys.iter().find(|k| &k.id == id)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn key(id: &str, state: KeyState, not_after: Option<u64>) -> Key {
        Key { id: id.parse().unwrap(), secret: Secret::generate().unwrap(), state, since: 3, not_after }
    }

    fn ring() -> KeyRing {
        KeyRing {
            revision: 15,
            keys: vec![
                key("k-7", KeyState::Retiring, Some(100)),
                key("k-8", KeyState::Signing, None),
                key("k-9", KeyState::Staged, None),
            ],
        }
    }

    #[test]
    fn a_ring_reads_back_from_a_mounted_directory() {
        let dir = tempfile::tempdir().unwrap();
        // as kubelet lays a Secret out: ..data -> ..1, file -> ..data/file
        let real = dir.path().join("..1");
        std::fs::create_dir(&real).unwrap();
        std::os::unix::fs::symlink("..1", dir.path().join("..data")).unwrap();
        for (name, content) in ring().to_files().into_iter().chain([(".admin-token".into(), b"t".to_vec())]) {
            std::fs::write(real.join(&name), content).unwrap();
            std::os::unix::fs::symlink(format!("..data/{name}"), dir.path().join(&name)).unwrap();
        }
        let read = KeyRing::load_dir(dir.path()).unwrap();
        assert_eq!(read.revision, 15);
        assert_eq!(read.signing().unwrap().id.as_str(), "k-8");
        let ids = |now| read.verifying(now).map(|k| k.id.to_string()).collect::<Vec<_>>();
        assert_eq!(ids(99), ["k-8", "k-9", "k-7"]);
        assert_eq!(ids(100), ["k-8", "k-9"]);
    }

    #[test]
    fn without_a_state_file_all_verify_and_the_last_by_name_signs() {
        let mut files = ring().to_files();
        files.remove(RING_FILE);
        let ring = KeyRing::from_files(&files).unwrap();
        assert_eq!((ring.revision, ring.keys.len()), (0, 3));
        assert_eq!(ring.signing().unwrap().id.as_str(), "k-9");
    }

    #[test]
    fn a_half_written_ring_is_an_error_that_names_the_key() {
        let mut files = ring().to_files();
        files.remove("k-7");
        let error = KeyRing::from_files(&files).unwrap_err().to_string();
        assert!(error.contains("k-7"), "{error}");
        let mut files = ring().to_files();
        files.insert("k-8".into(), b"short".to_vec());
        let error = KeyRing::from_files(&files).unwrap_err().to_string();
        assert!(error.contains("k-8") && error.contains("at least 16"), "{error}");
    }

    #[test]
    fn a_missing_or_empty_directory_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let error = KeyRing::load_dir(dir.path()).unwrap_err().to_string();
        assert!(error.contains("one file there for each key"), "{error}");
        let error = KeyRing::load_dir(&dir.path().join("none")).unwrap_err().to_string();
        assert!(error.contains("none"), "{error}");
    }

    #[test]
    fn two_signing_keys_are_refused() {
        let mut two = ring();
        two.keys[2].state = KeyState::Signing;
        assert!(matches!(KeyRing::from_files(&two.to_files()), Err(RingError::State(_))));
    }
}
