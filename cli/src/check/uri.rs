//! `stun:` and `turn:` URIs (RFC 7064, RFC 7065).

use rtc_credentials::Transport;
use std::{fmt, str::FromStr};

/// A STUN or TURN server, and how it is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IceUri {
    text: String,
    /// Without brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) transport: Transport,
    /// `stun:` asks for an address alone.
    pub(crate) relays: bool,
}

impl FromStr for IceUri {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse(text).ok_or_else(|| {
            format!("{text:?} is no STUN or TURN URI; write turn:HOST[:PORT][?transport=udp|tcp], turns:… or stun:…")
        })
    }
}

fn parse(text: &str) -> Option<IceUri> {
    let (scheme, rest) = text.split_once(':')?;
    let (authority, query) = rest.split_once('?').unwrap_or((rest, ""));
    let tcp = match query {
        "" | "transport=udp" => false,
        "transport=tcp" => true,
        _ => return None,
    };
    let (relays, secure) = match scheme {
        "stun" => (false, false),
        "turn" => (true, false),
        "turns" => (true, true),
        "stuns" => (false, true),
        _ => return None,
    };
    // a secure scheme without a transport is TLS over TCP (RFC 7065, section 3.1)
    let transport = match (secure, tcp) {
        (false, false) => Transport::Udp,
        (false, true) => Transport::Tcp,
        (true, _) if query != "transport=udp" => Transport::Tls,
        (true, _) => Transport::Dtls,
    };
    let default = if secure { 5349 } else { 3478 };
    let (host, port) = match authority.strip_prefix('[') {
        Some(six) => {
            let (host, rest) = six.split_once(']')?;
            (host, rest.strip_prefix(':').map_or(Some(default), |port| port.parse().ok())?)
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (host, port.parse().ok()?),
            None => (authority, default),
        },
    };
    let host = host.to_owned();
    (!host.is_empty()).then(|| IceUri { text: text.to_owned(), host, port, transport, relays })
}

impl fmt::Display for IceUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_uri_names_host_port_and_transport() {
        for (text, host, port, transport, relays) in [
            ("stun:a.example", "a.example", 3478, Transport::Udp, false),
            ("turn:192.0.2.1:3479?transport=tcp", "192.0.2.1", 3479, Transport::Tcp, true),
            ("turn:[2001:db8::1]:3478?transport=udp", "2001:db8::1", 3478, Transport::Udp, true),
            ("turns:a.example", "a.example", 5349, Transport::Tls, true),
            ("turns:[::1]?transport=udp", "::1", 5349, Transport::Dtls, true),
        ] {
            let uri: IceUri = text.parse().unwrap();
            assert_eq!((&*uri.host, uri.port, uri.transport, uri.relays), (host, port, transport, relays));
            assert_eq!(uri.to_string(), text);
        }
        for bad in ["", "turn:", "turn:a:b", "http://a", "turn:a?transport=sctp", "turn:[::1"] {
            assert!(bad.parse::<IceUri>().unwrap_err().contains("turn:HOST"), "{bad}");
        }
    }
}
