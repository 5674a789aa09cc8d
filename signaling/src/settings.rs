//! Flags, environment and configuration file of `rtc-signaling`.

use crate::{
    arrival::HARD_FRAME_LIMIT,
    auth::{Policy, Rules, Verifier, VerifierError},
    guests::AddressLimits,
    ice::{Ice, IceError},
    server::{DRAIN_TIMEOUT, JOIN_TIMEOUT, Server},
    store::{
        Shared,
        memory::MemoryRooms,
        redis::{Mode, RedisRooms, TlsFiles, UrlError},
    },
    tls::{Tls, TlsError},
    webhooks::{WebhookError, Webhooks},
};
use clap::{Args, ValueEnum};
use ipnet::IpNet;
use rtc_service::{HumanDuration, log::LogFormat, watch};
use rtc_signaling_proto::{Limits, ops::RoomLimits};
use serde::{Deserialize, Serialize};
use std::{io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

/// How the signaling server is set up. Every flag is an environment variable (`RTC_SIGNALING_LISTEN`) and a
/// key of the configuration file (`listen`) too.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Settings {
    /// Where to listen for clients; may be repeated [default: 0.0.0.0:8080]
    #[arg(long, env = "RTC_SIGNALING_LISTEN", value_delimiter = ',')]
    pub listen: Vec<SocketAddr>,
    /// Speak TLS on every listener with this certificate, a PEM file with its chain, which is followed
    #[arg(long, env = "RTC_SIGNALING_TLS_CERT")]
    pub tls_cert: Option<PathBuf>,
    /// The certificate's private key, a PEM file
    #[arg(long, env = "RTC_SIGNALING_TLS_KEY")]
    pub tls_key: Option<PathBuf>,
    /// Where rooms are kept: `memory`, for one process, or redis://[[USER]:PASSWORD@]HOST[:PORT][/DATABASE],
    /// rediss:// with TLS; see also --redis-mode [default: memory]
    #[arg(long, env = "RTC_SIGNALING_STORE", hide_env_values = true)]
    pub store: Option<StoreUrl>,
    /// A file that holds the URL of Redis, such as a mounted Secret; instead of --store. When it changes, its
    /// new content holds
    #[arg(long, env = "RTC_SIGNALING_REDIS_URL_FILE", conflicts_with = "store")]
    pub redis_url_file: Option<PathBuf>,
    /// How Redis is run. With `sentinel` the URL is redis://[[USER]:PASSWORD@]SENTINEL[:PORT],…/SERVICE, with
    /// `cluster` redis://[[USER]:PASSWORD@]HOST[:PORT],… [default: standalone]
    #[arg(long, env = "RTC_SIGNALING_REDIS_MODE", value_enum)]
    pub redis_mode: Option<Mode>,
    /// The authorities (PEM) that may sign the certificate of a rediss:// server [default: the system's]
    #[arg(long, env = "RTC_SIGNALING_REDIS_CA")]
    pub redis_ca: Option<PathBuf>,
    /// The certificate (PEM) to show to a rediss:// server
    #[arg(long, env = "RTC_SIGNALING_REDIS_CERT")]
    pub redis_cert: Option<PathBuf>,
    /// The key (PEM) of --redis-cert
    #[arg(long, env = "RTC_SIGNALING_REDIS_KEY")]
    pub redis_key: Option<PathBuf>,
    /// The directory of the keys that sign TURN credentials: a file a key
    #[arg(long, env = "RTC_SIGNALING_KEYS")]
    pub keys: Option<PathBuf>,
    /// A STUN or TURN server to tell clients of, as a URI; may be repeated
    #[arg(long, env = "RTC_SIGNALING_TURN", value_delimiter = ',')]
    pub turn: Vec<String>,
    /// The file that lists the nodes of a TURN fleet (turn.json); instead of --turn
    #[arg(long, env = "RTC_SIGNALING_TURN_FILE")]
    pub turn_file: Option<PathBuf>,
    /// How long TURN credentials are valid [default: 1h]
    #[arg(long, env = "RTC_SIGNALING_CREDENTIAL_TTL")]
    pub credential_ttl: Option<HumanDuration>,
    /// Where to serve health, metrics and status [default: 127.0.0.1:9642]
    #[arg(long, env = "RTC_SIGNALING_ADMIN")]
    pub admin: Option<SocketAddr>,
    /// Who may connect [default: anonymous]
    #[arg(long, env = "RTC_SIGNALING_AUTH")]
    pub auth: Option<Auth>,
    /// With `--auth jwt`: the keys that tokens are signed with, as a file or a directory of files: an HMAC
    /// secret, a public key in PEM, or a JWK set
    #[arg(long, env = "RTC_SIGNALING_JWT_KEYS")]
    pub jwt_keys: Option<PathBuf>,
    /// With `--auth jwt`: where the issuer publishes its keys as a JWK set; instead of --jwt-keys
    #[arg(long, env = "RTC_SIGNALING_JWT_JWKS_URL")]
    pub jwt_jwks_url: Option<String>,
    /// The `iss` that tokens must have [default: any]
    #[arg(long, env = "RTC_SIGNALING_JWT_ISSUER")]
    pub jwt_issuer: Option<String>,
    /// What must be among the `aud` of tokens [default: none, and tokens with an `aud` are refused]
    #[arg(long, env = "RTC_SIGNALING_JWT_AUDIENCE")]
    pub jwt_audience: Option<String>,
    /// Where to POST who comes to rooms and who goes, as Standard Webhooks; the same on every replica
    #[arg(long, env = "RTC_SIGNALING_WEBHOOK_URL", hide_env_values = true)]
    pub webhook_url: Option<String>,
    /// The file with the secret that signs these requests, which is followed: `whsec_` and base64, or text;
    /// while it is replaced, the old one and the new one, each on a line
    #[arg(long, env = "RTC_SIGNALING_WEBHOOK_SECRET_FILE")]
    pub webhook_secret_file: Option<PathBuf>,
    /// The origin of a page that may connect, such as https://calls.example.com, or `*`; may be repeated
    /// [default: *]
    #[arg(long, env = "RTC_SIGNALING_ALLOWED_ORIGIN", value_delimiter = ',')]
    pub allowed_origin: Vec<String>,
    /// The most members of a room; 0 for no limit [default: 0]
    #[arg(long, env = "RTC_SIGNALING_MAX_ROOM_MEMBERS")]
    pub max_room_members: Option<u32>,
    /// The most rooms with members on this replica; 0 for no limit. Who resumes is let in beyond it [default: 0]
    #[arg(long, env = "RTC_SIGNALING_MAX_ROOMS")]
    pub max_rooms: Option<u32>,
    /// The longest frame of a client, in bytes, up to 1048576 [default: 65536]
    #[arg(long, env = "RTC_SIGNALING_MAX_FRAME_BYTES")]
    pub max_frame_bytes: Option<usize>,
    /// Frames of one client a second, on average; a burst may have twice as many [default: 100]
    #[arg(long, env = "RTC_SIGNALING_MESSAGES_PER_SECOND")]
    pub messages_per_second: Option<u32>,
    /// Bytes that may wait for one client, before its connection is closed as resumable [default: 1048576]
    #[arg(long, env = "RTC_SIGNALING_MAX_QUEUE_BYTES")]
    pub max_queue_bytes: Option<usize>,
    /// The most connections of one client address (an IPv6 /64) to this replica; 0 for any number
    /// [default: 500]
    #[arg(long, env = "RTC_SIGNALING_CONNECTIONS_PER_ADDRESS")]
    pub connections_per_address: Option<u32>,
    /// The most rooms that clients of one address enter a second, on average; 0 for any number
    /// [default: 50]
    #[arg(long, env = "RTC_SIGNALING_JOINS_PER_ADDRESS")]
    pub joins_per_address: Option<u32>,
    /// A network whose hosts are believed when they name a client in X-Forwarded-For, such as 10.0.0.0/8;
    /// may be repeated. Those who name nobody are not bounded [default: every private network]
    #[arg(long, env = "RTC_SIGNALING_TRUSTED_PROXY", value_delimiter = ',')]
    pub trusted_proxy: Vec<IpNet>,
    /// How long a connection may be in no room [default: 60s]
    #[arg(long, env = "RTC_SIGNALING_JOIN_TIMEOUT")]
    pub join_timeout: Option<HumanDuration>,
    /// How long a drain takes at most [default: 60s]
    #[arg(long, env = "RTC_SIGNALING_DRAIN_TIMEOUT")]
    pub drain_timeout: Option<HumanDuration>,
    /// How log lines are written [default: text]
    #[arg(long, env = "RTC_SIGNALING_LOG_FORMAT", value_enum)]
    pub log_format: Option<LogFormat>,
    /// What this replica is called in status and leases [default: the host's name]
    #[arg(long, env = "RTC_SIGNALING_NAME")]
    pub name: Option<String>,
}

/// The content of the one file.
fn text(files: &watch::Files) -> String {
    files
        .values()
        .next()
        .map(|content| String::from_utf8_lossy(content).trim().to_owned())
        .unwrap_or_default()
}

/// Where rooms are kept. Shown without a password.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StoreUrl(String);

impl std::str::FromStr for StoreUrl {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

impl std::fmt::Debug for StoreUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0.split(':').next().unwrap_or_default())
    }
}

/// Who may connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Auth {
    /// Anybody
    Anonymous,
    /// Who has a token, into the rooms that it names
    Jwt,
}

/// Why the server cannot be set up so.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// See [`IceError`].
    #[error(transparent)]
    Ice(#[from] IceError),
    /// See [`UrlError`].
    #[error(transparent)]
    Redis(#[from] UrlError),
    /// Neither memory nor Redis.
    #[error("--store is `memory` or a redis:// URL")]
    Store,
    /// The file with the URL.
    #[error("cannot read {}: {source}; correct --redis-url-file", path.display())]
    UrlFile {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// See [`VerifierError`].
    #[error(transparent)]
    Verifier(#[from] VerifierError),
    /// See [`TlsError`].
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// One without the other.
    #[error("--tls-cert and --tls-key belong together")]
    TlsPair,
    /// See [`WebhookError`].
    #[error(transparent)]
    Webhook(#[from] WebhookError),
    /// One without the other.
    #[error("--webhook-url and --webhook-secret-file belong together")]
    WebhookPair,
    /// Tokens without keys, or with two kinds.
    #[error("--auth jwt needs --jwt-keys or --jwt-jwks-url, and not both")]
    JwtKeys,
    /// Keys that nothing is checked with.
    #[error(
        "--jwt-keys, --jwt-jwks-url, --jwt-issuer and --jwt-audience are of no effect without --auth jwt"
    )]
    NoJwt,
    /// Frames that nothing reads.
    #[error("--max-frame-bytes is 1 to {HARD_FRAME_LIMIT}")]
    FrameBytes,
    /// Nobody could say anything.
    #[error("--messages-per-second has to be more than zero")]
    Rate,
    /// One frame would close the connection of whoever it is for.
    #[error("--max-queue-bytes has to be at least twice --max-frame-bytes")]
    QueueBytes,
    /// Credentials that are never valid.
    #[error("--credential-ttl has to be longer than zero")]
    Ttl,
}

impl Settings {
    /// Where to listen for clients.
    #[must_use]
    pub fn listeners(&self) -> Vec<SocketAddr> {
        if self.listen.is_empty() { vec![([0, 0, 0, 0], 8080).into()] } else { self.listen.clone() }
    }

    /// Where to serve the admin port.
    #[must_use]
    pub fn admin(&self) -> SocketAddr {
        self.admin.unwrap_or_else(|| ([127, 0, 0, 1], 9642).into())
    }

    /// How long a drain takes at most.
    #[must_use]
    pub fn drain_timeout(&self) -> Duration {
        self.drain_timeout.map_or(DRAIN_TIMEOUT, Duration::from)
    }

    /// The rooms. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// [`SettingsError`].
    pub fn rooms(&self) -> Result<Shared, SettingsError> {
        let limits = RoomLimits::default();
        if let Some(path) = &self.redis_url_file {
            let failed = |source| SettingsError::UrlFile { path: path.clone(), source };
            let mut files = watch::files(path.clone(), watch::INTERVAL).map_err(failed)?;
            let url = text(&files.borrow_and_update());
            let rooms = self.redis(&url, limits)?;
            let kept = rooms.clone();
            tokio::spawn(async move {
                while files.changed().await.is_ok() {
                    let url = text(&files.borrow_and_update());
                    if let Err(error) = kept.retarget(&url) {
                        tracing::warn!(%error, "the new URL of Redis is not used");
                    }
                }
            });
            return Ok(Shared::Redis(rooms));
        }
        match self.store.as_ref().map(|url| url.0.as_str()) {
            None | Some("memory") => Ok(Shared::Memory(MemoryRooms::new(limits))),
            Some(url) if url.starts_with("redis") => Ok(Shared::Redis(self.redis(url, limits)?)),
            Some(_) => Err(SettingsError::Store),
        }
    }

    fn redis(&self, url: &str, limits: RoomLimits) -> Result<RedisRooms, UrlError> {
        let (ca, cert, key) = (self.redis_ca.clone(), self.redis_cert.clone(), self.redis_key.clone());
        let mode = self.redis_mode.unwrap_or_default();
        RedisRooms::configured(url, mode, TlsFiles { ca, cert, key }, limits)
    }

    /// The source of `iceServers`. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// [`SettingsError`].
    pub fn ice(&self) -> Result<Ice, SettingsError> {
        let ttl = self.credential_ttl.map_or(Duration::from_secs(3600), Duration::from);
        if ttl.is_zero() {
            return Err(SettingsError::Ttl);
        }
        Ok(Ice::new(&self.turn, self.turn_file.as_deref(), self.keys.as_deref(), ttl)?)
    }

    /// Who may connect. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// [`SettingsError`].
    pub fn policy(&self) -> Result<Policy, SettingsError> {
        let rules = Rules {
            issuer: self.jwt_issuer.clone(),
            audience: self.jwt_audience.clone(),
            ..Rules::default()
        };
        let says_more = self.jwt_issuer.is_some() || self.jwt_audience.is_some();
        let verifier = match (self.auth.unwrap_or(Auth::Anonymous), &self.jwt_keys, &self.jwt_jwks_url) {
            (Auth::Anonymous, None, None) if !says_more => return Ok(Policy::Anonymous),
            (Auth::Anonymous, ..) => return Err(SettingsError::NoJwt),
            (Auth::Jwt, Some(keys), None) => Verifier::from_files(keys, rules)?,
            (Auth::Jwt, None, Some(url)) => Verifier::from_url(url, rules)?,
            (Auth::Jwt, ..) => return Err(SettingsError::JwtKeys),
        };
        Ok(Policy::Jwt(Arc::new(verifier)))
    }

    /// What one client may ask for.
    ///
    /// # Errors
    /// [`SettingsError`].
    pub fn limits(&self) -> Result<Limits, SettingsError> {
        let default = Limits::default();
        let limits = Limits {
            frame_bytes: self.max_frame_bytes.unwrap_or(default.frame_bytes),
            messages_per_second: self.messages_per_second.unwrap_or(default.messages_per_second),
            queue_bytes: self.max_queue_bytes.unwrap_or(default.queue_bytes),
            ..default
        };
        if !(1..=HARD_FRAME_LIMIT).contains(&limits.frame_bytes) {
            return Err(SettingsError::FrameBytes);
        }
        if limits.messages_per_second == 0 {
            return Err(SettingsError::Rate);
        }
        if limits.queue_bytes / 2 < limits.frame_bytes {
            return Err(SettingsError::QueueBytes);
        }
        Ok(limits)
    }

    /// What the clients of one address may hold and do.
    #[must_use]
    pub fn address_limits(&self) -> AddressLimits {
        let default = AddressLimits::default();
        AddressLimits {
            connections: self.connections_per_address.unwrap_or(default.connections),
            joins_per_second: self.joins_per_address.unwrap_or(default.joins_per_second),
            proxies: if self.trusted_proxy.is_empty() { default.proxies } else { self.trusted_proxy.clone() },
        }
    }

    /// Starts a replica. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// [`SettingsError`].
    pub fn start(&self) -> Result<Arc<Server>, SettingsError> {
        let host = || std::env::var("HOSTNAME").unwrap_or_else(|_| "signaling".into());
        let mut builder = Server::builder(self.rooms()?, Arc::new(self.ice()?));
        builder = match (&self.tls_cert, &self.tls_key) {
            (Some(certificate), Some(key)) => builder.tls(Tls::from_files(certificate, key)?),
            (None, None) => builder,
            _ => return Err(SettingsError::TlsPair),
        };
        builder = match (&self.webhook_url, &self.webhook_secret_file) {
            (Some(url), Some(secret)) => builder.webhooks(Webhooks::new(url, secret)?),
            (None, None) => builder,
            _ => return Err(SettingsError::WebhookPair),
        };
        Ok(builder
            .name(&self.name.clone().unwrap_or_else(host))
            .limits(self.limits()?)
            .max_room_members(self.max_room_members.unwrap_or(0))
            .max_rooms(self.max_rooms.unwrap_or(0))
            .auth(self.policy()?)
            .allowed_origins(self.allowed_origin.clone())
            .address_limits(self.address_limits())
            .join_timeout(self.join_timeout.map_or(JOIN_TIMEOUT, Duration::from))
            .start())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn limits_that_let_nobody_speak_are_refused_and_name_their_flag() {
        let refused = |change: &dyn Fn(&mut Settings)| {
            let mut settings = Settings::default();
            change(&mut settings);
            settings.limits().unwrap_err().to_string()
        };
        assert_eq!(Settings::default().limits().unwrap(), Limits::default());
        assert!(refused(&|s| s.max_frame_bytes = Some(0)).contains("--max-frame-bytes"));
        assert!(refused(&|s| s.max_frame_bytes = Some(HARD_FRAME_LIMIT + 1)).contains("--max-frame-bytes"));
        assert!(refused(&|s| s.messages_per_second = Some(0)).contains("--messages-per-second"));
        assert!(refused(&|s| s.max_queue_bytes = Some(1000)).contains("--max-queue-bytes"));
        let all = Settings {
            max_frame_bytes: Some(1000),
            messages_per_second: Some(7),
            max_queue_bytes: Some(2000),
            ..Settings::default()
        };
        let Limits { frame_bytes, messages_per_second, queue_bytes, .. } = all.limits().unwrap();
        assert_eq!((frame_bytes, messages_per_second, queue_bytes), (1000, 7, 2000));
    }
}
