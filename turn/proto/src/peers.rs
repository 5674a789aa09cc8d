//! Whom the relay may reach. One function canonicalises an address and then judges it, for
//! CreatePermission, ChannelBind, Send and every datagram alike.

use ipnet::IpNet;
use rtc_credentials::PortRange;
use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

/// Denied unless allowed, IPv4 (RFC 6890 and the metadata services of clouds).
const DENIED_V4: &[(Ipv4Addr, u8)] = &[
    (Ipv4Addr::new(0, 0, 0, 0), 8),
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    (Ipv4Addr::new(168, 63, 129, 16), 32),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 0, 0, 0), 24),
    (Ipv4Addr::new(192, 0, 2, 0), 24),
    (Ipv4Addr::new(192, 88, 99, 0), 24),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(198, 18, 0, 0), 15),
    (Ipv4Addr::new(198, 51, 100, 0), 24),
    (Ipv4Addr::new(203, 0, 113, 0), 24),
    (Ipv4Addr::new(224, 0, 0, 0), 3),
];

/// Denied unless allowed, IPv6 (RFC 6890), the first group by the meaning of what they embed.
const DENIED_V6: &[(Ipv6Addr, u8)] = &[
    // ::, ::1 and IPv4-compatible
    (Ipv6Addr::UNSPECIFIED, 96),
    // IPv4-mapped
    (Ipv6Addr::new(0, 0, 0, 0, 0, 0xFFFF, 0, 0), 96),
    // IPv4-translated (RFC 2765)
    (Ipv6Addr::new(0, 0, 0, 0, 0xFFFF, 0, 0, 0), 96),
    // NAT64 (RFC 6052, RFC 8215)
    (Ipv6Addr::new(0x64, 0xFF9B, 0, 0, 0, 0, 0, 0), 96),
    (Ipv6Addr::new(0x64, 0xFF9B, 1, 0, 0, 0, 0, 0), 48),
    // 6to4
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16),
    // Teredo and the rest of the IETF's protocol assignments
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23),
    // discard, documentation, segment routing
    (Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 0), 64),
    (Ipv6Addr::new(0x2001, 0xDB8, 0, 0, 0, 0, 0, 0), 32),
    (Ipv6Addr::new(0x3FFF, 0, 0, 0, 0, 0, 0, 0), 20),
    (Ipv6Addr::new(0x5F00, 0, 0, 0, 0, 0, 0, 0), 16),
    // unique local, link-local, site-local, multicast
    (Ipv6Addr::new(0xFC00, 0, 0, 0, 0, 0, 0, 0), 7),
    (Ipv6Addr::new(0xFE80, 0, 0, 0, 0, 0, 0, 0), 10),
    (Ipv6Addr::new(0xFEC0, 0, 0, 0, 0, 0, 0, 0), 10),
    (Ipv6Addr::new(0xFF00, 0, 0, 0, 0, 0, 0, 0), 8),
];

/// What may be said of an address whatever the port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every port but 0.
    Allowed,
    /// A host of the fleet: only its relay ports.
    RelayPortsOnly,
    /// None.
    Denied,
}

/// The rules. In order: what is denied by range stays denied; a host of the fleet is reached on its
/// relay ports alone, unless it is allowed by its very address (a /32 or /128); what is allowed by
/// range is allowed; then the built-in list is denied, and the rest of the internet allowed.
#[derive(Clone, Debug, Default)]
pub struct PeerPolicy {
    /// Ranges that are allowed although the built-in list denies them.
    pub allow: Vec<IpNet>,
    /// Ranges that are denied.
    pub deny: Vec<IpNet>,
    /// Addresses of the fleet's nodes, this one's included: the relayed addresses' hosts.
    pub fleet: HashSet<IpAddr>,
    /// Other addresses of this host. Denied as the fleet's other ports are.
    pub own: HashSet<IpAddr>,
    /// The ports that the fleet relays for.
    pub relay_ports: PortRange,
}

impl PeerPolicy {
    /// Whether a datagram may go to, or come from, `peer`.
    #[must_use]
    pub fn permits(&self, peer: SocketAddr) -> bool {
        match self.judge(peer.ip()) {
            Verdict::Allowed => peer.port() != 0,
            Verdict::RelayPortsOnly => self.relay_ports.contains(peer.port()),
            Verdict::Denied => false,
        }
    }

    /// What is said of `ip`. An IPv6 address that carries an IPv4 one is allowed only if both are.
    #[must_use]
    pub fn judge(&self, ip: IpAddr) -> Verdict {
        let outer = self.judge_plain(ip);
        let mut inner = embedded(ip).into_iter().flatten();
        if inner.all(|v4| self.judge_plain(IpAddr::V4(v4)) == Verdict::Allowed) {
            outer
        } else {
            Verdict::Denied
        }
    }

    fn judge_plain(&self, ip: IpAddr) -> Verdict {
        if self.deny.iter().any(|net| net.contains(&ip)) {
            return Verdict::Denied;
        }
        let named = self.allow.iter().any(|net| net.prefix_len() == net.max_prefix_len() && net.addr() == ip);
        if named {
            return Verdict::Allowed;
        }
        if self.fleet.contains(&ip) {
            return Verdict::RelayPortsOnly;
        }
        if self.own.contains(&ip) {
            return Verdict::Denied;
        }
        if self.allow.iter().any(|net| net.contains(&ip)) || !denied_by_default(ip) {
            return Verdict::Allowed;
        }
        Verdict::Denied
    }
}

fn denied_by_default(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => DENIED_V4.iter().any(|(net, length)| {
            let shift = 32 - u32::from(*length);
            u32::from(ip) >> shift == u32::from(*net) >> shift
        }),
        IpAddr::V6(ip) => DENIED_V6.iter().any(|(net, length)| {
            let shift = 128 - u32::from(*length);
            u128::from(ip) >> shift == u128::from(*net) >> shift
        }),
    }
}

/// The IPv4 addresses that an IPv6 one makes a packet go to.
fn embedded(ip: IpAddr) -> [Option<Ipv4Addr>; 2] {
    let IpAddr::V6(ip) = ip else { return [None, None] };
    let s = ip.segments();
    let v4 = |high: u16, low: u16| Some(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)));
    match s {
        // loopback carries none (RFC 4291, section 2.5.3)
        [0, 0, 0, 0, 0, 0, 0, 1] => [None, None],
        [0, 0, 0, 0, 0, 0 | 0xFFFF, a, b] | [0, 0, 0, 0, 0xFFFF, 0, a, b] => [v4(a, b), None],
        [0x64, 0xFF9B, 0, 0, 0, 0, a, b] | [0x64, 0xFF9B, 1, _, _, _, a, b] => [v4(a, b), None],
        [0x2002, a, b, ..] => [v4(a, b), None],
        // Teredo: the server, and the client with its bits inverted (RFC 4380, section 4)
        [0x2001, 0, a, b, _, _, c, d] => [v4(a, b), v4(!c, !d)],
        // ISATAP (RFC 5214, section 6.1)
        [_, _, _, _, 0 | 0x200, 0x5EFE, a, b] => [v4(a, b), None],
        _ => [None, None],
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn policy(allow: &[&str], deny: &[&str]) -> PeerPolicy {
        PeerPolicy {
            allow: allow.iter().map(|n| n.parse().unwrap()).collect(),
            deny: deny.iter().map(|n| n.parse().unwrap()).collect(),
            fleet: ["10.1.0.1".parse().unwrap(), "127.0.0.1".parse().unwrap()].into(),
            own: ["8.8.4.4".parse().unwrap()].into(),
            relay_ports: PortRange { min: 50_000, max: 50_099 },
        }
    }

    fn permits(policy: &PeerPolicy, peer: &str) -> bool {
        policy.permits(peer.parse().unwrap())
    }

    #[test]
    fn each_past_hole_is_closed_by_default() {
        let policy = policy(&[], &[]);
        for peer in [
            "0.0.0.0:80",
            "0.1.2.3:80",
            "10.0.0.1:80",
            "100.64.0.1:80",
            "100.100.100.200:80",
            "127.0.0.2:80",
            "168.63.129.16:80",
            "169.254.169.254:80",
            "172.16.0.1:80",
            "172.31.255.255:80",
            "192.168.1.1:80",
            "198.18.0.1:80",
            "224.0.0.1:80",
            "255.255.255.255:80",
            "[::]:80",
            "[::1]:80",
            "[::7f00:1]:80",
            "[::ffff:127.0.0.1]:80",
            "[::ffff:8.8.8.8]:80",
            "[::ffff:0:127.0.0.1]:80",
            "[64:ff9b::7f00:1]:80",
            "[64:ff9b::808:808]:80",
            "[64:ff9b:1::a00:1]:80",
            "[2002:7f00:1::]:80",
            "[2002:808:808::1]:80",
            "[2001:0:808:808::80ff:fffe]:80",
            "[2a00::5efe:10.0.0.1]:80",
            "[fd00:ec2::254]:80",
            "[fe80::1]:80",
            "[ff02::1]:80",
            "8.8.4.4:80",
            "8.8.8.8:0",
        ] {
            assert!(!permits(&policy, peer), "{peer}");
        }
        for peer in ["8.8.8.8:1", "172.15.0.1:80", "172.32.0.1:80", "[2a00:1450::1]:443", "223.255.255.1:9"] {
            assert!(permits(&policy, peer), "{peer}");
        }
    }

    #[test]
    fn a_host_of_the_fleet_is_reached_on_its_relay_ports_alone() {
        for allow in [&[][..], &["10.0.0.0/8", "127.0.0.0/8"]] {
            let policy = policy(allow, &[]);
            assert!(permits(&policy, "10.1.0.1:50000"));
            assert!(permits(&policy, "127.0.0.1:50099"));
            assert!(!permits(&policy, "10.1.0.1:10250"), "a wide range opens no other port: {allow:?}");
            assert!(!permits(&policy, "127.0.0.1:50100"));
            assert!(!permits(&policy, "[::ffff:127.0.0.1]:50000"));
        }
        assert!(permits(&policy(&["127.0.0.1/32"], &[]), "127.0.0.1:7"), "named, it is open");
        assert!(permits(&policy(&["::1/128"], &[]), "[::1]:7"));
        let mut on_loopback = policy(&["::/0"], &[]);
        on_loopback.fleet.insert("::1".parse().unwrap());
        assert!(permits(&on_loopback, "[::1]:50000"));
        assert!(!permits(&on_loopback, "[::1]:7") && !permits(&on_loopback, "[::]:50000"));
    }

    #[test]
    fn deny_beats_allow_and_allow_beats_the_list() {
        let policy = policy(&["10.0.0.0/8", "64:ff9b::/96"], &["10.9.0.0/16", "8.8.8.0/24"]);
        assert!(permits(&policy, "10.8.0.1:80"));
        assert!(!permits(&policy, "10.9.0.1:80"));
        assert!(!permits(&policy, "8.8.8.8:80"));
        assert!(permits(&policy, "[64:ff9b::101:101]:80"));
        assert!(permits(&policy, "[64:ff9b::10.8.0.1]:80"));
        assert!(!permits(&policy, "[64:ff9b::10.9.0.1]:80"), "what is carried is judged too");
        assert!(!permits(&policy, "[64:ff9b::127.0.0.1]:50000"), "the fleet is not reached in disguise");
    }

    proptest! {
        #[test]
        fn no_disguise_of_loopback_or_private_is_ever_permitted(low in any::<u32>(), port in 1u16..) {
            // allowing each carrier opens none of the addresses it carries
            let policy = policy(&["::/0"], &[]);
            let v4 = Ipv4Addr::from(0x7F00_0000 | (low & 0x00FF_FFFF));
            let [a, b, c, d] = v4.octets();
            let (hi, lo) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
            for ip in [
                v4.to_ipv6_mapped(),
                Ipv6Addr::new(0, 0, 0, 0, 0, 0, hi, lo),
                Ipv6Addr::new(0x64, 0xFF9B, 0, 0, 0, 0, hi, lo),
                Ipv6Addr::new(0x2002, hi, lo, 0, 0, 0, 0, 1),
                Ipv6Addr::new(0x2001, 0, 0x0808, 0x0808, 0, 0, !hi, !lo),
            ] {
                prop_assert!(!policy.permits(SocketAddr::new(ip.into(), port)), "{}", ip);
            }
        }
    }
}
