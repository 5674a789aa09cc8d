//! Where Redis is, as it is configured.

use percent_encoding::percent_decode_str;
use redis::{
    Client, ConnectionAddr, IntoConnectionInfo, ProtocolVersion, RedisConnectionInfo, TlsCertificates,
};
use serde::{Deserialize, Serialize};
use std::{fmt, io, path::PathBuf};

const PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;

/// How Redis is run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// One server, or one address that always leads to the master
    #[default]
    Standalone,
    /// A master and its replicas, watched by Sentinels
    Sentinel,
    /// Redis Cluster, 7.0 or later
    Cluster,
}

/// Why Redis cannot be used as configured.
#[derive(Debug, thiserror::Error)]
pub enum UrlError {
    /// The URL is none of this mode.
    #[error("{0} is no URL of Redis in this mode; write {form}", form = form(*.1))]
    Url(String, Mode),
    /// A file for TLS.
    #[error("cannot read {}: {source}; correct --redis-ca, --redis-cert and --redis-key", path.display())]
    TlsFile {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Half of a client certificate.
    #[error("--redis-cert and --redis-key go together")]
    HalfCertificate,
    /// Files for TLS, and no TLS.
    #[error("--redis-ca, --redis-cert and --redis-key are for a rediss:// URL")]
    NoTls,
    /// What the files hold.
    #[error("the files of --redis-ca, --redis-cert and --redis-key cannot be used: {0}")]
    Certificates(String),
}

fn form(mode: Mode) -> &'static str {
    match mode {
        Mode::Standalone => "redis[s]://[[USER]:PASSWORD@]HOST[:PORT][/DATABASE]",
        Mode::Sentinel => {
            "redis[s]://[[USER]:PASSWORD@]SENTINEL[:PORT][,SENTINEL[:PORT]]…/SERVICE[/DATABASE]"
        }
        Mode::Cluster => "redis[s]://[[USER]:PASSWORD@]HOST[:PORT][,HOST[:PORT]]…",
    }
}

/// The files of `rediss://`. Read anew for each connection, so that a renewed certificate needs no restart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// The authorities (PEM) that may sign the server's certificate, instead of those of the system.
    pub ca: Option<PathBuf>,
    /// A client certificate (PEM), and those that lead to its authority.
    pub cert: Option<PathBuf>,
    /// Its key (PEM).
    pub key: Option<PathBuf>,
}

/// A host and a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Address {
    pub(super) host: String,
    pub(super) port: u16,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

/// Where Redis is, and as whom to go there.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) mode: Mode,
    /// The server, the Sentinels, or some nodes of the Cluster.
    pub(super) hosts: Vec<Address>,
    /// What Sentinels call the master.
    pub(super) service: String,
    database: i64,
    username: Option<String>,
    password: Option<String>,
    tls: Option<TlsFiles>,
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // the rest has the password
        write!(f, "Target({:?} at {:?})", self.mode, self.hosts)
    }
}

impl Target {
    /// Nothing is connected to, and no file is read.
    pub(super) fn parse(url: &str, mode: Mode, files: &TlsFiles) -> Result<Self, UrlError> {
        // what is shown must not have the password
        let shown = || {
            let shown = url.rsplit('@').next().unwrap_or_default();
            UrlError::Url(format!("{shown:?}"), mode)
        };
        let (scheme, rest) = url.split_once("://").ok_or_else(shown)?;
        let tls = match scheme {
            "redis" if *files != TlsFiles::default() => return Err(UrlError::NoTls),
            "redis" => None,
            "rediss" if files.cert.is_some() != files.key.is_some() => {
                return Err(UrlError::HalfCertificate);
            }
            "rediss" => Some(files.clone()),
            _ => return Err(shown()),
        };
        let (user, rest) = rest.rsplit_once('@').map_or((None, rest), |(user, rest)| (Some(user), rest));
        let (username, password) = match user.map(|user| user.split_once(':').unwrap_or((user, ""))) {
            None => (None, None),
            Some((username, password)) => (
                decoded(username).ok_or_else(shown)?,
                Some(decoded(password).ok_or_else(shown)?.unwrap_or_default()),
            ),
        };
        let (hosts, path) = rest.split_once('/').unwrap_or((rest, ""));
        let default = if mode == Mode::Sentinel { SENTINEL_PORT } else { PORT };
        let hosts: Option<Vec<_>> = hosts.split(',').map(|host| address(host, default)).collect();
        let hosts = hosts.ok_or_else(shown)?;
        let (service, database) = match mode {
            Mode::Sentinel => path.split_once('/').unwrap_or((path, "")),
            _ => ("", path),
        };
        let database = if database.is_empty() { 0 } else { database.parse().map_err(|_| shown())? };
        let fits = match mode {
            Mode::Standalone => hosts.len() == 1,
            Mode::Sentinel => !service.is_empty(),
            Mode::Cluster => database == 0,
        };
        if !fits || database < 0 {
            return Err(shown());
        }
        Ok(Self { mode, hosts, service: service.to_owned(), database, username, password, tls })
    }

    /// A client of a server that has data.
    pub(super) fn client(&self, address: &Address, protocol: ProtocolVersion) -> Result<Client, String> {
        let mut login = RedisConnectionInfo::default().set_db(self.database).set_protocol(protocol);
        if let Some(username) = &self.username {
            login = login.set_username(username);
        }
        if let Some(password) = &self.password {
            login = login.set_password(password);
        }
        self.client_as(address, login)
    }

    /// A client of a Sentinel, which may or may not have the same users.
    pub(super) fn sentinel(&self, address: &Address, with_password: bool) -> Result<Client, String> {
        let mut login = RedisConnectionInfo::default();
        if with_password {
            if let Some(username) = &self.username {
                login = login.set_username(username);
            }
            if let Some(password) = &self.password {
                login = login.set_password(password);
            }
        }
        self.client_as(address, login)
    }

    pub(super) fn has_password(&self) -> bool {
        self.password.is_some()
    }

    fn client_as(&self, address: &Address, login: RedisConnectionInfo) -> Result<Client, String> {
        let Address { host, port } = address.clone();
        let tcp = match self.tls {
            None => ConnectionAddr::Tcp(host, port),
            Some(_) => ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None },
        };
        let info = tcp.into_connection_info().map_err(|e| e.to_string())?.set_redis_settings(login);
        match self.certificates().map_err(|e| e.to_string())? {
            None => Client::open(info),
            Some(certificates) => Client::build_with_tls(info, certificates),
        }
        .map_err(|e| UrlError::Certificates(e.to_string()).to_string())
    }

    fn certificates(&self) -> Result<Option<TlsCertificates>, UrlError> {
        let read = |path: &PathBuf| {
            std::fs::read(path).map_err(|source| UrlError::TlsFile { path: path.clone(), source })
        };
        let Some(files) = &self.tls else { return Ok(None) };
        let client_tls = match (&files.cert, &files.key) {
            (Some(cert), Some(key)) => {
                Some(redis::ClientTlsConfig { client_cert: read(cert)?, client_key: read(key)? })
            }
            _ => None,
        };
        let root_cert = files.ca.as_ref().map(read).transpose()?;
        Ok(Some(TlsCertificates { client_tls, root_cert }))
    }

    /// Whether what files hold can be used, so that a mistake is found at start.
    pub(super) fn check(&self) -> Result<(), UrlError> {
        self.certificates()?;
        self.client(&self.hosts[0], ProtocolVersion::RESP2).map(drop).map_err(UrlError::Certificates)
    }
}

/// `None` for no UTF-8; inside, `None` for nothing.
fn decoded(text: &str) -> Option<Option<String>> {
    let text = percent_decode_str(text).decode_utf8().ok()?;
    Some((!text.is_empty()).then(|| text.into_owned()))
}

fn address(text: &str, default: u16) -> Option<Address> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            (host, if port.is_empty() { None } else { Some(port.strip_prefix(':')?) })
        }
        None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    let legal = !host.is_empty() && !host.contains(|c: char| c.is_whitespace() || "[]@/".contains(c));
    let port = port.map_or(Some(default), |port| port.parse().ok());
    legal.then_some(Address { host: host.to_owned(), port: port? })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn parse(url: &str, mode: Mode) -> Result<Target, UrlError> {
        Target::parse(url, mode, &TlsFiles::default())
    }

    #[test]
    fn a_url_says_where_redis_is_and_as_whom_to_go_there() {
        let plain = parse("redis://10.0.0.1", Mode::Standalone).unwrap();
        assert_eq!((plain.hosts[0].port, plain.database, plain.password), (6379, 0, None));
        let full = parse("rediss://u:p%40s@[::1]:7/3", Mode::Standalone).unwrap();
        assert_eq!((full.username.as_deref(), full.password.as_deref()), (Some("u"), Some("p@s")));
        assert_eq!((full.hosts[0].to_string(), full.database), ("[::1]:7".into(), 3));
        let sentinel = parse("redis://:pw@a,b:1/calls/2", Mode::Sentinel).unwrap();
        assert_eq!((sentinel.hosts[0].port, sentinel.hosts[1].port), (26379, 1));
        assert_eq!((sentinel.service.as_str(), sentinel.database, sentinel.username), ("calls", 2, None));
        assert_eq!(parse("redis://a,b:1,c", Mode::Cluster).unwrap().hosts.len(), 3);
    }

    #[test]
    fn what_does_not_fit_the_mode_is_refused_without_telling_the_password() {
        for (url, mode) in [
            ("http://a", Mode::Standalone),
            ("redis://u:hunter2@a,b", Mode::Standalone),
            ("redis://u:hunter2@a/x", Mode::Standalone),
            ("redis://u:hunter2@a:26379", Mode::Sentinel),
            ("redis://u:hunter2@a/1", Mode::Cluster),
            ("redis://u:hunter2@a:99999", Mode::Cluster),
            ("redis://u:hunter2@", Mode::Cluster),
        ] {
            let error = parse(url, mode).unwrap_err().to_string();
            assert!(error.contains("write redis[s]://") && !error.contains("hunter2"), "{error}");
        }
        let half = TlsFiles { cert: Some("c.pem".into()), ..TlsFiles::default() };
        assert!(matches!(
            Target::parse("rediss://a", Mode::Standalone, &half),
            Err(UrlError::HalfCertificate)
        ));
        assert!(matches!(Target::parse("redis://a", Mode::Standalone, &half), Err(UrlError::NoTls)));
    }

    proptest! {
        #[test]
        fn whatever_is_written_is_read_or_refused(
            url in "(redis|rediss)?(://)?[a-z%@:/,0-9\\[\\]é]{0,30}",
            mode in prop_oneof![Just(Mode::Standalone), Just(Mode::Sentinel), Just(Mode::Cluster)],
        ) {
            if let Ok(target) = parse(&url, mode) {
                prop_assert!(!target.hosts.is_empty());
                prop_assert!(target.hosts.iter().all(|a| !a.host.is_empty()));
            }
        }
    }
}
