//! The `iceServers` that members are given: from the fleet's file and the key ring, or from fixed URIs.
//!
//! Files are followed, so that a rotated key or a drained node reaches new members within a second. A file
//! that cannot be understood leaves what was read before in force.

use rtc_credentials::{Fleet, IceServer, KeyRing, ice::with_uris, ice_servers};
use rtc_service::watch::{self, Files};
use serde_json::{Value, json};
use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

/// Where members' `iceServers` come from.
pub trait IceSource: fmt::Debug + Send + Sync + 'static {
    /// What to give `user` (a session) at `now` (Unix seconds), and when it expires (0 if it does not).
    ///
    /// # Errors
    /// Why there are no credentials, for the operator.
    fn ice_servers(&self, user: &str, now: u64) -> Result<(Vec<IceServer>, u64), String>;

    /// `ring` and `fleetRevision` of `/status`.
    fn status(&self) -> Value;
}

/// Why an [`Ice`] could not be made.
#[derive(Debug, thiserror::Error)]
pub enum IceError {
    /// A file cannot be read.
    #[error("cannot read {}: {source}; correct {flag}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// The flag that names it.
        flag: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The keys are no ring.
    #[error("{}: {reason}; correct the files there, or --keys", path.display())]
    Keys {
        /// The directory.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The file is no fleet.
    #[error("{}: {reason}; correct the file, or --turn-file", path.display())]
    Fleet {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// TURN without keys.
    #[error("TURN servers need credentials: give the directory of the keys with --keys")]
    NoKeys,
    /// Not an ICE URI.
    #[error("{0:?} is no STUN or TURN URI; write turn:HOST[:PORT][?transport=udp|tcp], turns:… or stun:…")]
    Uri(String),
    /// Both.
    #[error("give --turn or --turn-file, not both")]
    Both,
}

#[derive(Debug, Default)]
struct State {
    ring: Option<KeyRing>,
    fleet: Option<Fleet>,
}

/// [`IceSource`] of the server's flags.
#[derive(Debug)]
pub struct Ice {
    state: Arc<RwLock<State>>,
    stun: Vec<String>,
    turn: Vec<String>,
    ttl: Duration,
}

impl Ice {
    /// From URIs or a fleet's file, and the directory of the keys. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// [`IceError`].
    pub fn new(
        uris: &[String],
        fleet: Option<&Path>,
        keys: Option<&Path>,
        ttl: Duration,
    ) -> Result<Self, IceError> {
        let mut state = State::default();
        let (mut stun, mut turn) = (Vec::new(), Vec::new());
        for uri in uris {
            match uri.split_once(':') {
                Some(("stun" | "stuns", host)) if !host.is_empty() => stun.push(uri.clone()),
                Some(("turn" | "turns", host)) if !host.is_empty() => turn.push(uri.clone()),
                _ => return Err(IceError::Uri(uri.clone())),
            }
        }
        if fleet.is_some() && !uris.is_empty() {
            return Err(IceError::Both);
        }
        if keys.is_none() && (fleet.is_some() || !turn.is_empty()) {
            return Err(IceError::NoKeys);
        }
        let follow = |path: &Path, flag| {
            watch::files(path.to_owned(), watch::INTERVAL).map_err(|source| IceError::Read {
                path: path.to_owned(),
                flag,
                source,
            })
        };
        let mut keys_seen = keys.map(|path| follow(path, "--keys").map(|seen| (path, seen))).transpose()?;
        let mut fleet_seen =
            fleet.map(|path| follow(path, "--turn-file").map(|seen| (path, seen))).transpose()?;
        if let Some((path, seen)) = &mut keys_seen {
            let ring = read_ring(&seen.borrow_and_update());
            state.ring = Some(ring.map_err(|reason| IceError::Keys { path: path.to_owned(), reason })?);
        }
        if let Some((path, seen)) = &mut fleet_seen {
            let fleet = read_fleet(&seen.borrow_and_update());
            state.fleet = Some(fleet.map_err(|reason| IceError::Fleet { path: path.to_owned(), reason })?);
        }
        let state = Arc::new(RwLock::new(state));
        if let Some((_, seen)) = keys_seen {
            apply(seen, state.clone(), |state, files| {
                let ring = read_ring(files)?;
                tracing::info!(revision = ring.revision, "the key ring has changed");
                state.ring = Some(ring);
                Ok(())
            });
        }
        if let Some((_, seen)) = fleet_seen {
            apply(seen, state.clone(), |state, files| {
                let fleet = read_fleet(files)?;
                tracing::info!(revision = fleet.revision, "the TURN fleet has changed");
                state.fleet = Some(fleet);
                Ok(())
            });
        }
        Ok(Self { state, stun, turn, ttl })
    }
}

fn apply(
    mut seen: tokio::sync::watch::Receiver<Files>,
    state: Arc<RwLock<State>>,
    change: impl Fn(&mut State, &Files) -> Result<(), String> + Send + 'static,
) {
    let state = Arc::downgrade(&state);
    tokio::spawn(async move {
        while seen.changed().await.is_ok() {
            let Some(state) = state.upgrade() else { return };
            let files = seen.borrow_and_update().clone();
            let mut state = state.write().unwrap_or_else(PoisonError::into_inner);
            if let Err(reason) = change(&mut state, &files) {
                tracing::warn!(reason, "cannot use what was read; keeping what was read before");
            }
        }
    });
}

fn read_ring(files: &Files) -> Result<KeyRing, String> {
    KeyRing::from_files(files).map_err(|e| e.to_string())
}

fn read_fleet(files: &Files) -> Result<Fleet, String> {
    let text = files.values().next().ok_or("the file is empty")?;
    Fleet::from_json(text).map_err(|e| e.to_string())
}

impl IceSource for Ice {
    fn ice_servers(&self, user: &str, now: u64) -> Result<(Vec<IceServer>, u64), String> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let given = match (&state.ring, &state.fleet) {
            (Some(ring), Some(fleet)) => ice_servers(fleet, ring, user, self.ttl, now),
            (Some(ring), None) if !self.turn.is_empty() => {
                with_uris(self.stun.clone(), self.turn.clone(), ring, user, self.ttl, now)
            }
            _ if self.stun.is_empty() => return Ok((Vec::new(), 0)),
            _ => {
                let stun = IceServer { urls: self.stun.clone(), username: None, credential: None };
                return Ok((vec![stun], 0));
            }
        };
        given.map_err(|e| e.to_string())
    }

    fn status(&self) -> Value {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let ring = state.ring.as_ref().map(|ring| {
            json!({"revision": ring.revision, "signing": ring.signing().map(|key| key.id.to_string())})
        });
        json!({"ring": ring, "fleetRevision": state.fleet.as_ref().map(|fleet| &fleet.revision)})
    }
}

/// No STUN and no TURN: for members on one network.
#[derive(Debug)]
pub struct NoIce;

impl IceSource for NoIce {
    fn ice_servers(&self, _: &str, _: u64) -> Result<(Vec<IceServer>, u64), String> {
        Ok((Vec::new(), 0))
    }

    fn status(&self) -> Value {
        json!({"ring": null, "fleetRevision": null})
    }
}
