//! The files that may change while the server runs: settings, keys, certificate and fleet. Each is read
//! at the start, and a task follows it from there.

use crate::{
    certificate::Certificate,
    handle::Handle,
    reload,
    server::{Shared, StartError, until_stopped},
    settings::{Config, Keys},
    telemetry::Reloaded,
};
use rtc_credentials::{ADMIN_TOKEN_FILE, Fleet, KeyRing, RingError};
use rtc_service::{admin, watch};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{net::TcpListener, sync::watch::Receiver, time::sleep};

/// How often a certificate that expires soon is warned about.
const WARN: Duration = Duration::from_secs(6 * 3600);

/// What is followed.
#[derive(Debug, Default)]
pub(crate) struct Files {
    settings: Option<Receiver<watch::Files>>,
    keys: Option<Receiver<watch::Files>>,
    fleet: Option<Receiver<watch::Files>>,
    /// The certificate, and its key.
    tls: Option<(Receiver<watch::Files>, Receiver<watch::Files>)>,
}

/// What the files say at the start.
type Read = (Files, KeyRing, Option<Fleet>, Option<Arc<Certificate>>);

impl Files {
    pub(crate) fn read(config: &Config) -> Result<Read, StartError> {
        let mut files = Self::default();
        if let Some(file) = &config.file {
            let settings = watch::files(file.path.clone(), watch::INTERVAL);
            let error = |source| StartError::Settings { path: file.path.display().to_string(), source };
            files.settings = Some(settings.map_err(error)?);
        }
        let ring = match &config.keys {
            Keys::Ring(ring) => ring.clone(),
            Keys::Dir(path) => {
                let keys = watch::files(path.clone(), watch::INTERVAL)
                    .map_err(|source| StartError::KeysDir { path: path.display().to_string(), source })?;
                let ring = read_ring(&keys.borrow(), config.stun_only)?;
                files.keys = Some(keys);
                ring
            }
        };
        let fleet = files.read_fleet(config)?;
        let certificate = files.read_tls(config)?;
        Ok((files, ring, fleet, certificate))
    }

    fn read_tls(&mut self, config: &Config) -> Result<Option<Arc<Certificate>>, StartError> {
        let Some(files) = &config.tls else { return Ok(None) };
        let error = |path: &Path, reason| StartError::Tls { path: path.display().to_string(), reason };
        let follow = |path: &PathBuf| {
            watch::files(path.clone(), watch::INTERVAL).map_err(|e| error(path, e.to_string()))
        };
        let (certificate, key) = (follow(&files.certificate)?, follow(&files.key)?);
        let parsed = Certificate::read(&certificate.borrow(), &key.borrow(), config.dtls_handshake());
        self.tls = Some((certificate, key));
        parsed.map(Some).map_err(|reason| error(&files.certificate, reason))
    }

    fn read_fleet(&mut self, config: &Config) -> Result<Option<Fleet>, StartError> {
        let Some(source) = &config.fleet else { return Ok(None) };
        let error = |reason: String| StartError::Fleet { path: source.path.display().to_string(), reason };
        let files = watch::files(source.path.clone(), watch::INTERVAL).map_err(|e| error(e.to_string()))?;
        let fleet = reload::parse_fleet(&files.borrow()).map_err(error)?;
        self.fleet = Some(files);
        Ok(Some(fleet))
    }
}

/// The ring of a directory. For STUN alone, one that holds no more than the admin token will do.
fn read_ring(files: &watch::Files, stun_only: bool) -> Result<KeyRing, RingError> {
    match KeyRing::from_files(files) {
        Err(RingError::Empty(_)) if stun_only => Ok(KeyRing::default()),
        ring => ring,
    }
}

/// Follows the files, and serves the admin port, whose token is one of them.
pub(crate) fn spawn(shared: &Arc<Shared>, files: Files, admin: Option<TcpListener>) {
    let Files { settings, keys, fleet, tls } = files;
    if let Some(listener) = admin {
        let token = match &keys {
            Some(files) => admin::token_from(files.clone(), ADMIN_TOKEN_FILE),
            None => admin::open(),
        };
        let program: Arc<dyn admin::Program> = Arc::new(Handle::new(Arc::clone(shared)));
        until_stopped(shared, async move {
            if let Err(error) = admin::serve(listener, program, token).await {
                tracing::error!(%error, "the admin port failed");
            }
        });
    }
    if let Some(files) = settings {
        until_stopped(shared, follow_settings(Arc::clone(shared), files));
    }
    if let Some(files) = keys {
        until_stopped(shared, follow_keys(Arc::clone(shared), files));
    }
    if let Some((certificate, key)) = tls {
        until_stopped(shared, follow_tls(Arc::clone(shared), certificate, key));
        let this = Arc::clone(shared);
        until_stopped(shared, async move {
            loop {
                this.warn_of_expiry();
                sleep(WARN).await;
            }
        });
    }
    if let Some(files) = fleet {
        until_stopped(shared, follow_fleet(Arc::clone(shared), files));
    }
}

async fn follow_settings(this: Arc<Shared>, mut files: Receiver<watch::Files>) {
    let Some(file) = &this.config.file else { return };
    while files.changed().await.is_ok() {
        // an editor may be about to write the rest of it
        sleep(watch::INTERVAL).await;
        files.mark_unchanged();
        if let Err(error) = this.set_settings(file) {
            this.cannot_reload(Reloaded::Configuration, error);
        }
    }
}

async fn follow_keys(this: Arc<Shared>, mut files: Receiver<watch::Files>) {
    while files.changed().await.is_ok() {
        let ring = read_ring(&files.borrow_and_update(), this.config.stun_only);
        match ring {
            Ok(ring) => this.set_keys(ring),
            Err(error) => this.cannot_reload(Reloaded::Keys, error.to_string()),
        }
    }
}

async fn follow_fleet(this: Arc<Shared>, mut files: Receiver<watch::Files>) {
    while files.changed().await.is_ok() {
        let fleet = reload::parse_fleet(&files.borrow_and_update());
        match fleet {
            Ok(fleet) => this.set_fleet(fleet),
            Err(error) => this.cannot_reload(Reloaded::FleetFile, error),
        }
    }
}

async fn follow_tls(
    this: Arc<Shared>,
    mut certificate: Receiver<watch::Files>,
    mut key: Receiver<watch::Files>,
) {
    loop {
        tokio::select! {
            changed = certificate.changed() => if changed.is_err() { return },
            changed = key.changed() => if changed.is_err() { return },
        }
        // the other may be about to change too
        sleep(watch::INTERVAL).await;
        let dtls = this.config.dtls_handshake();
        let read = Certificate::read(&certificate.borrow_and_update(), &key.borrow_and_update(), dtls);
        match read {
            Ok(certificate) => this.set_certificate(certificate),
            Err(error) => this.cannot_reload(Reloaded::Certificate, error),
        }
    }
}
