//! Flags, the configuration file, and the configuration that they resolve to.

use crate::{
    external,
    fleet_quota::{FleetQuota, Store, StoreError},
    listen,
};
use clap::{Args, ValueEnum};
use ipnet::IpNet;
use rtc_credentials::{Fleet, KeyRing, PortRange, Secret, Transport};
use rtc_service::{HumanDuration, log::LogFormat};
use rtc_turn_proto::{Limits, channel_data::Channels};
use serde::{Deserialize, Serialize};
use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    num::NonZeroU64,
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

/// The settings as given: each is a flag, an environment variable, and a key of the configuration
/// file.
#[derive(Args, Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Settings {
    /// Where clients connect: udp://, tcp://, tls:// or dtls://ADDRESS:PORT. Repeat for more
    #[arg(long, env = "RTC_TURN_LISTEN", value_delimiter = ',', value_name = "URL")]
    pub listen: Vec<Listen>,
    /// The address to relay from, and the one that peers see, if another. Once per family
    #[arg(long, env = "RTC_TURN_RELAY_ADDRESS", value_delimiter = ' ', value_name = "IP[,ADVERTISED]")]
    pub relay_address: Vec<RelayAddress>,
    /// The ports to relay from [default: 49152-65535]
    #[arg(long, env = "RTC_TURN_RELAY_PORTS", value_name = "MIN-MAX")]
    pub relay_ports: Option<Ports>,
    /// The realm of the credentials [default: the fleet file's, else "rtc"]
    #[arg(long, env = "RTC_TURN_REALM")]
    pub realm: Option<String>,
    /// A directory with one file per key, its name the key's id; changes apply within a second
    #[arg(long, env = "RTC_TURN_KEYS", value_name = "DIR")]
    pub keys: Option<PathBuf>,
    /// A single key, for trying out
    #[arg(long, env = "RTC_TURN_SECRET", conflicts_with = "keys", hide_env_values = true)]
    pub secret: Option<SecretText>,
    /// The certificate of tls:// and dtls:// listeners and its chain, as PEM; changes apply within a
    /// second
    #[arg(long, env = "RTC_TURN_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// The certificate's key, as PEM; for dtls:// an ECDSA key
    #[arg(long, env = "RTC_TURN_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// A range of peers to allow although it is private. Repeat for more
    #[arg(long, env = "RTC_TURN_ALLOW_PEER", value_delimiter = ',', value_name = "CIDR")]
    pub allow_peer: Vec<IpNet>,
    /// A range of peers to deny. Repeat for more
    #[arg(long, env = "RTC_TURN_DENY_PEER", value_delimiter = ',', value_name = "CIDR")]
    pub deny_peer: Vec<IpNet>,
    /// Allocations that one user may hold [default: no bound]
    #[arg(long, env = "RTC_TURN_USER_QUOTA", value_name = "N")]
    pub user_quota: Option<u32>,
    /// Allocations of all users together [default: as many as there are relay ports]
    #[arg(long, env = "RTC_TURN_TOTAL_QUOTA", value_name = "N")]
    pub total_quota: Option<u32>,
    /// Bytes a second that one allocation may relay in each direction; datagrams above are dropped [default:
    /// no bound]
    #[arg(long, env = "RTC_TURN_BANDWIDTH_QUOTA", value_name = "BYTES")]
    pub bandwidth_quota: Option<u64>,
    /// Allocations that one user may hold on all servers together that use the same --quota-store
    #[arg(long, env = "RTC_TURN_FLEET_USER_QUOTA", value_name = "N")]
    pub fleet_user_quota: Option<u32>,
    /// Where servers tell each other what users hold: redis[s]://[[USER]:PASSWORD@]HOST[:PORT][/DATABASE]
    #[arg(long, env = "RTC_TURN_QUOTA_STORE", value_name = "URL", hide_env_values = true)]
    pub quota_store: Option<SecretText>,
    /// A file that holds this URL, such as a mounted Secret; instead of --quota-store
    #[arg(long, env = "RTC_TURN_QUOTA_REDIS_URL_FILE", value_name = "FILE", conflicts_with = "quota_store")]
    pub quota_redis_url_file: Option<PathBuf>,
    /// The authorities that may sign the certificate of a rediss:// store, as PEM [default: the system's]
    #[arg(long, env = "RTC_TURN_QUOTA_REDIS_CA", value_name = "FILE")]
    pub quota_redis_ca: Option<PathBuf>,
    /// A certificate to show to a rediss:// store, as PEM
    #[arg(long, env = "RTC_TURN_QUOTA_REDIS_CERT", value_name = "FILE", requires = "quota_redis_key")]
    pub quota_redis_cert: Option<PathBuf>,
    /// That certificate's key, as PEM
    #[arg(long, env = "RTC_TURN_QUOTA_REDIS_KEY", value_name = "FILE", requires = "quota_redis_cert")]
    pub quota_redis_key: Option<PathBuf>,
    /// While the store is away: go on by this server's own counts, or refuse new allocations [default:
    /// open]
    #[arg(long, env = "RTC_TURN_QUOTA_FAIL", value_enum)]
    pub quota_fail: Option<QuotaFail>,
    /// Worker threads [default: one per core]
    #[arg(long, env = "RTC_TURN_WORKERS", value_name = "N")]
    pub workers: Option<u16>,
    /// Where health, metrics, status and drain are served
    #[arg(long, env = "RTC_TURN_ADMIN", value_name = "ADDRESS:PORT")]
    pub admin: Option<SocketAddr>,
    /// turn.json of the fleet; its relayed addresses are allowed as peers
    #[arg(long, env = "RTC_TURN_FLEET_FILE", value_name = "FILE")]
    pub fleet_file: Option<PathBuf>,
    /// This node's name in the fleet file: its addresses there are advertised
    #[arg(long, env = "RTC_TURN_NODE", requires = "fleet_file")]
    pub node: Option<String>,
    /// A STUN server that is asked, from the address to relay from, under which one this host is seen: that one is
    /// advertised where no other is given
    #[arg(long, env = "RTC_TURN_EXTERNAL_STUN", value_name = "HOST:PORT")]
    pub external_stun: Option<StunServer>,
    /// A server that takes new clients while this one drains. Repeat for more
    #[arg(long, env = "RTC_TURN_ALTERNATE_SERVER", value_delimiter = ',', value_name = "ADDRESS:PORT")]
    pub alternate_server: Vec<SocketAddr>,
    /// A second address of this host, of another IP and port than the first udp:// listener: with it,
    /// clients may learn how their NAT behaves (RFC 5780)
    #[arg(long, env = "RTC_TURN_ALTERNATE_ADDRESS", value_name = "ADDRESS:PORT")]
    pub alternate_address: Option<SocketAddr>,
    /// Load balancers that send the PROXY protocol to tcp:// and tls:// listeners: they must begin with
    /// its header, version 1 or 2, and nobody else is believed. Repeat for more
    #[arg(long, env = "RTC_TURN_PROXY_PROTOCOL", value_delimiter = ',', value_name = "CIDR")]
    pub proxy_protocol: Vec<IpNet>,
    /// Answer STUN Binding requests alone: no TURN, no keys, no relay ports
    #[arg(long, env = "RTC_TURN_STUN_ONLY")]
    pub stun_only: bool,
    /// Let no client take its allocation to another address (RFC 8016)
    #[arg(long, env = "RTC_TURN_FORBID_MOBILITY")]
    pub forbid_mobility: bool,
    /// Accept channel numbers 0x5000 to 0x7FFF too, which old clients and turnutils_uclient draw from
    #[arg(long, env = "RTC_TURN_RFC5766_CHANNELS")]
    pub rfc5766_channels: bool,
    /// How long calls may go on after SIGTERM [default: 1h]
    #[arg(long, env = "RTC_TURN_DRAIN_TIMEOUT", value_name = "DURATION")]
    pub drain_timeout: Option<HumanDuration>,
    /// How log lines are written [default: text]
    #[arg(long, env = "RTC_TURN_LOG_FORMAT", value_enum)]
    pub log_format: Option<LogFormat>,
}

/// A listening address, written as a URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Listen {
    /// UDP, TCP, TLS or DTLS.
    pub transport: Transport,
    /// Port 0 picks a free one.
    pub address: SocketAddr,
}

/// An address to relay from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RelayAddress {
    /// What relay sockets are bound to.
    pub local: IpAddr,
    /// What peers see: the same, unless a NAT translates it one to one.
    pub advertised: IpAddr,
}

/// Where a STUN server is, `HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct StunServer(String);

/// A range of ports as text, `MIN-MAX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Ports(pub PortRange);

/// A secret on the command line, never printed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecretText(String);

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretText(..)")
    }
}

impl FromStr for SecretText {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let how = "write udp://, tcp://, tls:// or dtls://ADDRESS:PORT, such as udp://0.0.0.0:3478";
        let (scheme, rest) =
            text.split_once("://").ok_or_else(|| format!("{text:?} is no listener: {how}"))?;
        let transport = match scheme {
            "udp" => Transport::Udp,
            "tcp" => Transport::Tcp,
            "tls" => Transport::Tls,
            "dtls" => Transport::Dtls,
            _ => return Err(format!("{text:?} has an unknown transport: {how}")),
        };
        let address = rest.parse().map_err(|_| format!("{rest:?} is no address with a port: {how}"))?;
        Ok(Self { transport, address })
    }
}

impl FromStr for RelayAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (local, advertised) = text.split_once(',').unwrap_or((text, text));
        let parse = |ip: &str| {
            ip.trim()
                .parse::<IpAddr>()
                .ok()
                .filter(|ip| !ip.is_unspecified())
                .ok_or_else(|| format!("{ip:?} is no address to relay from: write IP or IP,ADVERTISED"))
        };
        let (local, advertised) = (parse(local)?, parse(advertised)?);
        if local.is_ipv4() != advertised.is_ipv4() {
            return Err(format!("{text:?} mixes IPv4 and IPv6: give --relay-address once per family"));
        }
        Ok(Self { local, advertised })
    }
}

impl FromStr for StunServer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let host = text.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok_and(|port| port > 0));
        match host {
            // an IPv6 address without brackets would lose its last part to the port
            Some((host, _)) if !host.is_empty() && (!host.contains(':') || host.starts_with('[')) => {
                Ok(Self(text.to_owned()))
            }
            _ => Err(format!("{text:?} is no STUN server: write HOST:PORT, such as stun.example.com:3478")),
        }
    }
}

impl FromStr for Ports {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(Self)
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", transport_name(self.transport), self.address)
    }
}

impl fmt::Display for RelayAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{}", self.local, self.advertised)
    }
}

impl fmt::Display for StunServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

macro_rules! as_text {
    ($($name:ident),*) => {$(
        impl TryFrom<String> for $name {
            type Error = String;

            fn try_from(text: String) -> Result<Self, String> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.to_string()
            }
        }
    )*};
}

as_text!(Listen, RelayAddress, StunServer, Ports);

/// A transport in lower case.
pub(crate) fn transport_name(transport: Transport) -> &'static str {
    match transport {
        Transport::Udp => "udp",
        Transport::Tcp => "tcp",
        Transport::Tls => "tls",
        Transport::Dtls => "dtls",
    }
}

/// Where the keys come from.
#[derive(Clone, Debug)]
pub enum Keys {
    /// A directory that is followed.
    Dir(PathBuf),
    /// These; changed by [`crate::Handle::set_keys`].
    Ring(KeyRing),
}

/// The files of a certificate, followed.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// The chain, the server's own certificate first, as PEM.
    pub certificate: PathBuf,
    /// Its private key, as PEM.
    pub key: PathBuf,
}

/// A STUN server that tells how this host is seen from outside.
#[derive(Clone, Debug)]
pub struct ExternalStun {
    /// `HOST:PORT`.
    pub server: String,
    /// How often it is asked while it answers.
    pub every: Duration,
}

/// The fleet file, followed.
#[derive(Clone, Debug)]
pub struct FleetSource {
    /// The file.
    pub path: PathBuf,
    /// This node's name in it.
    pub node: Option<String>,
}

/// What to do about new allocations while the fleet's counts are not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum QuotaFail {
    /// Go on by this server's own counts.
    #[default]
    Open,
    /// Refuse them.
    Closed,
}

/// The configuration file, followed.
#[derive(Clone, Debug)]
pub struct SettingsFile {
    /// The file.
    pub path: PathBuf,
    /// What flags and environment give, which wins over it.
    pub flags: Settings,
    /// Both together, as the server began with them.
    pub read: Settings,
}

/// What a server runs with.
#[derive(Clone, Debug)]
pub struct Config {
    /// At least one.
    pub listen: Vec<Listen>,
    /// At most one per family. Empty waits for the fleet file to name this node's.
    pub relay: Vec<RelayAddress>,
    /// The ports to relay from.
    pub relay_ports: PortRange,
    /// The realm.
    pub realm: String,
    /// The keys.
    pub keys: Keys,
    /// For TLS and DTLS listeners, which need it.
    pub tls: Option<TlsFiles>,
    /// How long a client may take to begin TLS or DTLS, and a load balancer to say who the client is.
    pub handshake_timeout: Duration,
    /// Clients per worker that may be beginning over a stream, and as many over DTLS; further ones are
    /// closed at once, or not answered.
    pub max_handshakes: usize,
    /// Peers that are allowed although they are private.
    pub allow: Vec<IpNet>,
    /// Peers that are denied.
    pub deny: Vec<IpNet>,
    /// Quotas.
    pub limits: Limits,
    /// Bytes a second that an allocation may relay in each direction.
    pub bandwidth: Option<NonZeroU64>,
    /// Quotas over all servers.
    pub fleet_quota: Option<FleetQuota>,
    /// At least one.
    pub workers: u16,
    /// The admin port, if it is to be served.
    pub admin: Option<SocketAddr>,
    /// The fleet file, if there is one.
    pub fleet: Option<FleetSource>,
    /// Who tells how this host is seen from outside.
    pub external_stun: Option<ExternalStun>,
    /// Who takes new clients while this server drains.
    pub alternates: Vec<SocketAddr>,
    /// The second address, of the first UDP listener's family (RFC 5780). Port 0 picks a free one.
    pub alternate_address: Option<SocketAddr>,
    /// The channel numbers that clients may bind.
    pub channels: Channels,
    /// Load balancers, whose connections begin with a PROXY header.
    pub proxy_protocol: Vec<IpNet>,
    /// Whether clients may take their allocations to other addresses (RFC 8016).
    pub mobility: bool,
    /// Whether Binding requests are all that is answered.
    pub stun_only: bool,
    /// How long calls may go on after SIGTERM.
    pub drain_timeout: Duration,
    /// The configuration file, if there is one.
    pub file: Option<SettingsFile>,
}

/// Why the settings make no configuration. Each says what to give instead.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// No keys.
    #[error(
        "no keys: give --keys DIR with a file per key, or --secret S for trying out; --stun-only needs none"
    )]
    NoKeys,
    /// The secret is unusable.
    #[error("--secret: {0}")]
    Secret(rtc_credentials::SecretError),
    /// A TLS or DTLS listener without a certificate.
    #[error("{0} needs a certificate: give --tls-cert FILE and --tls-key FILE")]
    NoCertificate(Listen),
    /// The fleet file is unusable.
    #[error("--fleet-file {path}: {reason}")]
    Fleet {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// There is not exactly one address to relay from.
    #[error(
        "this machine has {found} addresses that could be relayed from ({list}): choose with --relay-address"
    )]
    RelayAddress {
        /// How many.
        found: usize,
        /// Which.
        list: String,
    },
    /// Two relay addresses of one family.
    #[error(
        "two relay addresses of one family: give --relay-address at most once for IPv4 and once for IPv6"
    )]
    TwoRelayAddresses,
    /// A quota over all servers without a store.
    #[error("--fleet-user-quota needs a Redis: give --quota-store URL or --quota-redis-url-file FILE")]
    NoQuotaStore,
    /// The store is unusable.
    #[error(transparent)]
    QuotaStore(#[from] StoreError),
    /// A listener's port would be relayed from.
    #[error(
        "port {0} is in the relay ports too: choose another port with --listen or other ports with --relay-ports"
    )]
    PortInRange(u16),
    /// The alternate address makes no pair with a listener's.
    #[error(
        "--alternate-address {0} needs a first udp:// listener whose IP is given, of the same family, and differs, as does its port"
    )]
    AlternateAddress(SocketAddr),
}

impl Config {
    /// How long a DTLS handshake may take, where DTLS is served.
    pub(crate) fn dtls_handshake(&self) -> Option<Duration> {
        let served = self.listen.iter().any(|l| l.transport == Transport::Dtls);
        served.then_some(self.handshake_timeout)
    }
}

impl Settings {
    /// What these settings mean on this machine.
    ///
    /// # Errors
    /// [`SettingsError`] says what to give instead.
    pub fn resolve(self) -> Result<Config, SettingsError> {
        let keys = match (self.keys, self.secret) {
            (Some(dir), _) => Keys::Dir(dir),
            (None, Some(SecretText(text))) => {
                // a short secret is the user's choice here: it is for trying out
                Keys::Ring(KeyRing::single(Secret::new(text.into_bytes())))
            }
            (None, None) if self.stun_only => Keys::Ring(KeyRing::default()),
            (None, None) => return Err(SettingsError::NoKeys),
        };
        let fleet = self.fleet_file.map(|path| FleetSource { path, node: self.node });
        let known = fleet.as_ref().map(read_fleet).transpose()?;
        let relay_ports = match (self.relay_ports, &known) {
            (Some(Ports(ports)), _) => ports,
            (None, Some(fleet)) => fleet.relay_ports,
            (None, None) => PortRange::DYNAMIC,
        };
        let listen = if self.listen.is_empty() {
            let any = SocketAddr::from(([0, 0, 0, 0], 3478));
            [Transport::Udp, Transport::Tcp].map(|transport| Listen { transport, address: any }).to_vec()
        } else {
            self.listen
        };
        let mut ports =
            listen.iter().map(|l| &l.address).chain(&self.alternate_address).map(SocketAddr::port);
        if let Some(port) = ports.find(|port| relay_ports.contains(*port) && !self.stun_only) {
            return Err(SettingsError::PortInRange(port));
        }
        if let Some(second) = self.alternate_address
            && !listen::pairs(&listen, second)
        {
            return Err(SettingsError::AlternateAddress(second));
        }
        let tls = match (self.tls_cert, self.tls_key) {
            (Some(certificate), Some(key)) => Some(TlsFiles { certificate, key }),
            _ => None,
        };
        let secure = |l: &&Listen| matches!(l.transport, Transport::Tls | Transport::Dtls);
        if let (Some(listen), None) = (listen.iter().find(secure), &tls) {
            return Err(SettingsError::NoCertificate(*listen));
        }
        let waits_for_fleet = fleet.as_ref().is_some_and(|fleet| fleet.node.is_some());
        let relay = match &self.relay_address[..] {
            [] if waits_for_fleet || self.stun_only => Vec::new(),
            [] => vec![only_address()?],
            [a, b] if a.local.is_ipv4() == b.local.is_ipv4() => return Err(SettingsError::TwoRelayAddresses),
            [_] | [_, _] => self.relay_address,
            _ => return Err(SettingsError::TwoRelayAddresses),
        };
        let is_named = self.quota_store.is_some() || self.quota_redis_url_file.is_some();
        let store = Store {
            url: self.quota_store.map(|SecretText(url)| url).unwrap_or_default(),
            url_file: self.quota_redis_url_file,
            ca: self.quota_redis_ca,
            cert: self.quota_redis_cert,
            key: self.quota_redis_key,
        };
        let fleet_quota = match self.fleet_user_quota.filter(|max| *max > 0) {
            Some(max) if is_named => Some(FleetQuota::new(store, max, self.quota_fail.unwrap_or_default())?),
            Some(_) => return Err(SettingsError::NoQuotaStore),
            None => None,
        };
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
        Ok(Config {
            listen,
            relay,
            relay_ports,
            realm: self.realm.or_else(|| known.map(|f| f.realm)).unwrap_or_else(|| "rtc".into()),
            keys,
            tls,
            handshake_timeout: Duration::from_secs(10),
            max_handshakes: 2048,
            allow: self.allow_peer,
            deny: self.deny_peer,
            limits: Limits { per_user: self.user_quota, total: self.total_quota },
            bandwidth: self.bandwidth_quota.and_then(NonZeroU64::new),
            fleet_quota,
            workers: self.workers.unwrap_or(u16::try_from(cores).unwrap_or(u16::MAX)).max(1),
            admin: self.admin,
            fleet,
            external_stun: self
                .external_stun
                .map(|StunServer(server)| ExternalStun { server, every: external::AGAIN }),
            alternates: self.alternate_server,
            alternate_address: self.alternate_address,
            channels: if self.rfc5766_channels { Channels::Rfc5766 } else { Channels::Rfc8656 },
            proxy_protocol: self.proxy_protocol,
            mobility: !self.forbid_mobility,
            stun_only: self.stun_only,
            drain_timeout: self.drain_timeout.map_or(Duration::from_secs(3600), Duration::from),
            file: None,
        })
    }
}

fn read_fleet(source: &FleetSource) -> Result<Fleet, SettingsError> {
    let error = |reason: String| SettingsError::Fleet { path: source.path.clone(), reason };
    let text = std::fs::read(&source.path).map_err(|e| error(e.to_string()))?;
    Fleet::from_json(&text).map_err(|e| error(e.to_string()))
}

/// This machine's addresses, loopback and link-local ones left out.
pub(crate) fn local_addresses() -> Vec<IpAddr> {
    let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
    let mut addresses: Vec<_> = interfaces
        .iter()
        .filter(|i| !i.is_loopback() && !i.is_link_local())
        .map(if_addrs::Interface::ip)
        .collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

/// The one address that this machine has, of IPv4 if there is one.
pub(crate) fn only_address() -> Result<RelayAddress, SettingsError> {
    let all = local_addresses();
    let v4: Vec<_> = all.iter().copied().filter(IpAddr::is_ipv4).collect();
    let candidates = if v4.is_empty() { all } else { v4 };
    match candidates[..] {
        [ip] => Ok(RelayAddress { local: ip, advertised: ip }),
        _ => {
            let list: Vec<_> = candidates.iter().map(IpAddr::to_string).collect();
            Err(SettingsError::RelayAddress { found: candidates.len(), list: list.join(", ") })
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn listeners_that_are_not_served_say_which_are() {
        for good in ["udp://[::]:3478", "dtls://0.0.0.0:5349"] {
            assert_eq!(good.parse::<Listen>().unwrap().to_string(), good);
        }
        for bad in ["tls://0.0.0.0", "0.0.0.0:3478", "udp://host", "sctp://0.0.0.0:1"] {
            assert!(bad.parse::<Listen>().unwrap_err().contains("udp://"), "{bad}");
        }
    }

    #[test]
    fn a_relay_address_may_be_advertised_as_another_of_its_family() {
        let address: RelayAddress = "10.0.0.1,198.51.100.1".parse().unwrap();
        assert_eq!(address.advertised, IpAddr::from([198, 51, 100, 1]));
        for bad in ["0.0.0.0", "10.0.0.1,::1", "x", ""] {
            assert!(bad.parse::<RelayAddress>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_stun_server_has_a_host_and_a_port() {
        for good in ["stun.example.com:3478", "192.0.2.1:3478", "[2001:db8::1]:3478"] {
            assert_eq!(good.parse::<StunServer>().unwrap().to_string(), good);
        }
        for bad in ["stun.example.com", "2001:db8::1:3478", ":3478", "a:0", "a:b"] {
            assert!(bad.parse::<StunServer>().unwrap_err().contains("stun.example.com:3478"), "{bad}");
        }
    }

    #[test]
    fn settings_without_keys_and_with_clashing_ports_are_refused() {
        assert!(matches!(Settings::default().resolve(), Err(SettingsError::NoKeys)));
        let settings = Settings {
            secret: Some("north".parse().unwrap()),
            listen: vec!["udp://127.0.0.1:50000".parse().unwrap()],
            ..Settings::default()
        };
        assert!(!format!("{settings:?}").contains("north"));
        assert!(matches!(settings.resolve(), Err(SettingsError::PortInRange(50000))));
        for url in ["tls://127.0.0.1:5349", "dtls://127.0.0.1:5349"] {
            let settings = Settings {
                secret: Some("north".parse().unwrap()),
                listen: vec![url.parse().unwrap()],
                ..Settings::default()
            };
            let error = settings.resolve().unwrap_err().to_string();
            assert!(error.contains(url) && error.contains("--tls-cert"), "{error}");
        }
    }
}
