//! Settings, keys and the fleet from files that change, and what follows for peers and relayed addresses.

use crate::{
    external::External,
    relay::Addresses,
    settings::{Config, FleetSource, RelayAddress, Settings, local_addresses, only_address},
    telemetry::PROBE_KEY,
};
use rtc_credentials::{Fleet, Key, KeyRing, KeyState, Secret};
use rtc_service::watch::Files;
use rtc_turn_proto::PeerPolicy;
use std::{net::IpAddr, sync::Arc};

/// The settings that take effect when the configuration file changes.
const LIVE: [&str; 7] = [
    "relay-address",
    "allow-peer",
    "deny-peer",
    "user-quota",
    "total-quota",
    "bandwidth-quota",
    "alternate-server",
];

/// Takes the values of those settings.
pub(crate) fn take_live(config: &mut Config, new: Config) {
    let Config { relay, allow, deny, limits, bandwidth, alternates, .. } = new;
    *config = Config { relay, allow, deny, limits, bandwidth, alternates, ..config.clone() };
}

/// The names of the settings that have changed and take effect after a restart.
pub(crate) fn need_restart(began: &Settings, now: &Settings) -> Vec<String> {
    let keys = |settings| match serde_json::to_value(settings) {
        Ok(serde_json::Value::Object(keys)) => keys,
        _ => serde_json::Map::new(),
    };
    let began = keys(began);
    let changed = keys(now).into_iter().filter(|(name, value)| began.get(name) != Some(value));
    changed.map(|(name, _)| name).filter(|name| !LIVE.contains(&name.as_str())).collect()
}

/// The ring that workers get: the cluster's keys, and one of this process for its readiness probe,
/// so that the probe needs nobody's key and no client can use the probe's.
pub(crate) fn with_probe_key(ring: &KeyRing, secret: &Secret) -> Arc<KeyRing> {
    let mut ring = ring.clone();
    if let Ok(id) = PROBE_KEY.parse() {
        ring.keys.push(Key {
            id,
            secret: secret.clone(),
            state: KeyState::Staged,
            since: 0,
            not_after: None,
        });
    }
    Arc::new(ring)
}

/// What the fleet file says, if it is sound.
pub(crate) fn parse_fleet(files: &Files) -> Result<Fleet, String> {
    let text = files.values().next().ok_or("it is not there")?;
    Fleet::from_json(text).map_err(|e| e.to_string())
}

/// This node's addresses in the fleet file.
fn of_node<'a>(config: &Config, fleet: Option<&'a Fleet>) -> &'a [IpAddr] {
    let node = config.fleet.as_ref().and_then(|source: &FleetSource| source.node.as_deref());
    let (Some(node), Some(fleet)) = (node, fleet) else { return &[] };
    fleet.nodes.iter().find(|n| n.node == node).map_or(&[], |n| &n.addresses)
}

/// Whether the fleet file names addresses of this node.
pub(crate) fn in_fleet(config: &Config, fleet: Option<&Fleet>) -> bool {
    !of_node(config, fleet).is_empty()
}

/// The addresses to relay from: this node's in the fleet file, or else as given, and as seen from outside. Empty
/// while the fleet file names none and none is given.
pub(crate) fn relay_addresses(config: &Config, fleet: Option<&Fleet>, seen: &External) -> Vec<RelayAddress> {
    let advertised = of_node(config, fleet);
    let local = local_addresses();
    let mut found: Vec<RelayAddress> = Vec::new();
    for &advertised in advertised {
        let same = |ip: &IpAddr| ip.is_ipv4() == advertised.is_ipv4();
        // an address that no interface has is a NAT's, which translates to the given or the only one
        let bound = match config.relay.iter().find(|r| same(&r.local)) {
            Some(given) => Some(given.local),
            None if local.contains(&advertised) || advertised.is_loopback() => Some(advertised),
            None => only_address().ok().map(|only| only.local).filter(same),
        };
        if let Some(local) = bound
            && !found.iter().any(|other| same(&other.local))
        {
            found.push(RelayAddress { local, advertised });
        }
    }
    if found.is_empty() { seen.advertise(&config.relay) } else { found }
}

/// Whom clients may reach.
pub(crate) fn peer_policy(config: &Config, fleet: Option<&Fleet>, addresses: &Addresses) -> Arc<PeerPolicy> {
    let nodes = fleet.iter().flat_map(|fleet| &fleet.nodes).flat_map(|node| node.addresses.iter().copied());
    let own = addresses.iter().flat_map(|a| [a.local, a.advertised]);
    Arc::new(PeerPolicy {
        allow: config.allow.clone(),
        deny: config.deny.clone(),
        fleet: nodes.chain(own).collect(),
        own: local_addresses().into_iter().collect(),
        relay_ports: config.relay_ports,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::Settings;

    fn config(relay: &[&str], node: &str) -> Config {
        let settings = Settings {
            secret: Some("north".parse().unwrap()),
            relay_address: relay.iter().map(|r| r.parse().unwrap()).collect(),
            ..Settings::default()
        };
        let mut config = settings.resolve().unwrap();
        config.fleet = Some(FleetSource { path: "turn.json".into(), node: Some(node.into()) });
        config
    }

    fn fleet() -> Fleet {
        Fleet::from_json(
            br#"{"revision":"1","realm":"r","listeners":[],"relayPorts":{"min":50000,"max":50099},"nodes":[
                {"node":"w1","addresses":["127.0.0.1"],"serving":true},
                {"node":"w2","addresses":["198.51.100.2"],"serving":false}]}"#,
        )
        .unwrap()
    }

    #[test]
    fn settings_that_need_a_restart_are_named_and_live_ones_exist() {
        let began = Settings { workers: Some(2), user_quota: Some(1), ..Settings::default() };
        let now = Settings { workers: Some(3), user_quota: Some(2), stun_only: true, ..Settings::default() };
        assert_eq!(need_restart(&began, &now), ["stun-only", "workers"]);
        assert!(need_restart(&began, &began).is_empty());
        let all = serde_json::to_value(began).unwrap();
        assert!(LIVE.iter().all(|name| all.get(name).is_some()), "{LIVE:?}");
    }

    #[test]
    fn a_node_relays_from_its_address_in_the_fleet() {
        let seen = External { addresses: vec!["198.51.100.9".parse().unwrap()], error: None };
        let found = relay_addresses(&config(&["127.0.0.9"], "w1"), Some(&fleet()), &seen);
        assert_eq!(found, ["127.0.0.9,127.0.0.1".parse().unwrap()], "bound to what was given");
        let found = relay_addresses(&config(&["127.0.0.9"], "w9"), Some(&fleet()), &seen);
        assert_eq!(found, ["127.0.0.9,198.51.100.9".parse().unwrap()], "not in the file");
    }

    #[test]
    fn every_node_of_the_fleet_is_a_peer_on_its_relay_ports() {
        let config = config(&["127.0.0.1"], "w1");
        let policy = peer_policy(&config, Some(&fleet()), &Addresses::new(&config.relay));
        assert!(policy.permits("198.51.100.2:50000".parse().unwrap()));
        assert!(!policy.permits("198.51.100.2:22".parse().unwrap()));
        assert!(policy.permits("127.0.0.1:50000".parse().unwrap()) == config.relay_ports.contains(50000));
    }
}
