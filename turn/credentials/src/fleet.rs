//! Which TURN nodes there are, and where they listen: the file `turn.json`.
//!
//! The operator writes it, signaling pods hand out what it says, and TURN pods read from it which
//! private addresses are relayed addresses of this fleet, and so legitimate peers.

use serde::{Deserialize, Serialize};
use std::{fmt, net::IpAddr};

/// How a client reaches a TURN listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Transport {
    /// RFC 8656, `turn:…?transport=udp`.
    Udp,
    /// RFC 8656, `turn:…?transport=tcp`.
    Tcp,
    /// TLS over TCP, `turns:…?transport=tcp`.
    Tls,
    /// DTLS over UDP, `turns:…?transport=udp` (RFC 7350).
    Dtls,
}

/// A port that every node of the fleet listens on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FleetListener {
    /// The transport from the client to the server.
    pub transport: Transport,
    /// The port.
    pub port: u16,
}

/// An inclusive range of ports, `min-max` as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PortRange {
    /// The lowest port.
    pub min: u16,
    /// The highest port; not below `min`.
    pub max: u16,
}

impl PortRange {
    /// The range that RFC 8656, section 7.2 recommends: 49152 to 65535.
    pub const DYNAMIC: Self = Self { min: 49152, max: 65535 };

    /// Whether `port` lies in the range.
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        (self.min..=self.max).contains(&port)
    }

    /// How many ports there are.
    #[must_use]
    pub fn len(&self) -> usize {
        usize::from(self.max.saturating_sub(self.min)) + 1
    }

    /// Never: a range has at least one port.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        false
    }
}

impl Default for PortRange {
    fn default() -> Self {
        Self::DYNAMIC
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.min, self.max)
    }
}

impl std::str::FromStr for PortRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = || {
            let (min, max) = text.split_once('-')?;
            Some(Self { min: min.trim().parse().ok()?, max: max.trim().parse().ok()? })
        };
        match parse() {
            Some(range) if range.min <= range.max && range.min > 0 => Ok(range),
            _ => Err(format!("{text:?} is no range of ports: write MIN-MAX, such as 49152-65535")),
        }
    }
}

/// A node of the fleet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FleetNode {
    /// The Kubernetes node's name.
    pub node: String,
    /// What clients are told to connect to, and where relayed addresses are; at most one a family.
    pub addresses: Vec<IpAddr>,
    /// Whether new clients are sent there. A node that drains is not, and stays a legitimate peer.
    pub serving: bool,
}

/// `turn.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Fleet {
    /// Differs whenever the rest does, so that a pod can acknowledge what it has read.
    pub revision: String,
    /// The realm of the long-term credentials.
    pub realm: String,
    /// Where each node listens.
    pub listeners: Vec<FleetListener>,
    /// Where each node's relayed addresses are.
    pub relay_ports: PortRange,
    /// Whether the nodes answer STUN alone, so that clients are told of no relay and need no credential.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stun_only: bool,
    /// Every node that has an address, serving or not.
    pub nodes: Vec<FleetNode>,
}

/// The file is no fleet.
#[derive(Debug, thiserror::Error)]
#[error("turn.json: {0}")]
pub struct FleetError(String);

impl Fleet {
    /// Reads the content of `turn.json`.
    ///
    /// # Errors
    /// [`FleetError`] names the key and the line.
    pub fn from_json(text: &[u8]) -> Result<Self, FleetError> {
        serde_json::from_slice(text).map_err(|e| FleetError(e.to_string()))
    }

    /// The content of `turn.json`.
    #[must_use]
    pub fn to_json(&self) -> String {
        // a struct of strings and numbers always serialises
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Whether `address` belongs to a node of this fleet.
    #[must_use]
    pub fn has_address(&self, address: IpAddr) -> bool {
        self.nodes.iter().any(|n| n.addresses.contains(&address))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_fleet_reads_back_and_an_unknown_key_is_named() {
        let text = r#"{"revision":"a","realm":"calls.example.com","listeners":[{"transport":"UDP","port":3478}],
            "relayPorts":{"min":49152,"max":65535},"nodes":[{"node":"w1","addresses":["172.18.0.3","fd00::3"],"serving":true}]}"#;
        let fleet = Fleet::from_json(text.as_bytes()).unwrap();
        assert_eq!(Fleet::from_json(fleet.to_json().as_bytes()).unwrap(), fleet);
        assert!(fleet.has_address("fd00::3".parse().unwrap()));
        let error = Fleet::from_json(br#"{"revison":"a"}"#).unwrap_err().to_string();
        assert!(error.contains("revison"), "{error}");
    }

    #[test]
    fn a_port_range_is_inclusive_and_says_how_it_is_written() {
        let range: PortRange = "50000-50003".parse().unwrap();
        assert_eq!(range.len(), 4);
        assert!(range.contains(50003) && !range.contains(50004));
        for bad in ["", "1", "2-1", "0-5", "a-b", "1-70000"] {
            assert!(bad.parse::<PortRange>().unwrap_err().contains("MIN-MAX"), "{bad}");
        }
    }
}
