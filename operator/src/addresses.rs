//! Under which addresses clients reach a node: pure.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;
use rtc_operator_api::spec::{AddressFamily, AddressSource, Addresses};

/// What a node's addresses are, or why it has none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolved {
    /// At most one address of each family, from the first source that has any; and why STUN, which comes before it,
    /// told none, or tells none any more.
    Found(Vec<IpAddr>, Option<String>),
    /// Not known yet: its TURN pod is being asked.
    Waiting,
    /// None, and what to do about it.
    Missing(String),
}

/// What a TURN pod says that its STUN server told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stun<'a> {
    /// It asks none.
    NotAsked,
    /// It has not said yet. What clients were told of the node until now.
    Waiting(&'a [IpAddr]),
    /// What was learnt last, and why nothing could be learnt since.
    Told(&'a [IpAddr], Option<&'a str>),
}

/// Looks for addresses in the order of the spec.
#[must_use]
pub fn resolve(node: &Node, spec: &Addresses, stun: Stun<'_>) -> Resolved {
    let failed = match stun {
        Stun::Told(_, error) => error.map(|error| format!("STUN: {error}")),
        Stun::NotAsked | Stun::Waiting(_) => None,
    };
    let mut asked = false;
    for source in &spec.order {
        let found = match (source, stun) {
            (AddressSource::Annotation, _) => match annotated(node, &spec.annotation_key) {
                Ok(found) => found,
                // Someone meant something by it; falling through would hide the mistake.
                Err(reason) => return Resolved::Missing(reason),
            },
            (AddressSource::NodeExternalIp, _) => of_type(node, "ExternalIP"),
            (AddressSource::NodeInternalIp, _) => of_type(node, "InternalIP"),
            (AddressSource::Stun, Stun::NotAsked) => Vec::new(),
            // The next source may be a private address, and clients would be told it for a moment.
            (AddressSource::Stun, Stun::Waiting([])) => return Resolved::Waiting,
            (AddressSource::Stun, Stun::Waiting(before)) => before.to_vec(),
            (AddressSource::Stun, Stun::Told(told, _)) => {
                asked = true;
                told.to_vec()
            }
        };
        let picked = pick(&found, &spec.families);
        if !picked.is_empty() {
            return Resolved::Found(picked, failed.filter(|_| asked));
        }
    }
    let why = failed.map(|failed| format!("; {failed}")).unwrap_or_default();
    Resolved::Missing(format!(
        "no {} address among {}{why}; annotate the node with {}=ADDRESS",
        spec.families.iter().map(|family| format!("{family:?}")).collect::<Vec<_>>().join(" or "),
        spec.order.iter().map(|source| name(*source)).collect::<Vec<_>>().join(", "),
        spec.annotation_key
    ))
}

fn name(source: AddressSource) -> &'static str {
    match source {
        AddressSource::Annotation => "Annotation",
        AddressSource::NodeExternalIp => "NodeExternalIP",
        AddressSource::Stun => "STUN",
        AddressSource::NodeInternalIp => "NodeInternalIP",
    }
}

fn annotated(node: &Node, key: &str) -> Result<Vec<IpAddr>, String> {
    let Some(text) = node.annotations().get(key) else { return Ok(Vec::new()) };
    text.split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .map(|part| {
            part.parse()
                .map_err(|_| format!("the node's annotation {key} has `{part}`, which is not an IP address"))
        })
        .collect()
}

fn of_type(node: &Node, kind: &str) -> Vec<IpAddr> {
    let addresses = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
    addresses
        .filter(|address| address.type_ == kind)
        .filter_map(|address| address.address.parse().ok())
        .collect()
}

/// The first of each family that is wanted, in the order of the spec.
fn pick(found: &[IpAddr], families: &[AddressFamily]) -> Vec<IpAddr> {
    let of = |family: &AddressFamily| {
        found.iter().copied().find(|address| match family {
            AddressFamily::IPv4 => address.is_ipv4(),
            AddressFamily::IPv6 => address.is_ipv6(),
        })
    };
    families.iter().filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    fn node(annotations: serde_json::Value, addresses: &[(&str, &str)]) -> Node {
        let addresses: Vec<_> = addresses.iter().map(|(t, a)| json!({"type": t, "address": a})).collect();
        serde_json::from_value(json!({
            "metadata": {"name": "w1", "annotations": annotations},
            "status": {"addresses": addresses}
        }))
        .unwrap()
    }

    fn found(addresses: &[&str]) -> Resolved {
        Resolved::Found(ips(addresses), None)
    }

    fn ips(addresses: &[&str]) -> Vec<IpAddr> {
        addresses.iter().map(|a| a.parse().unwrap()).collect()
    }

    /// As where nobody is asked.
    fn resolve(node: &Node, spec: &Addresses) -> Resolved {
        super::resolve(node, spec, Stun::NotAsked)
    }

    #[test]
    fn what_stun_tells_comes_in_its_turn() {
        let (seen, inside) = (ips(&["203.0.113.1", "2001:db8::1"]), [("InternalIP", "10.0.0.1")]);
        let order = |order: &[AddressSource]| Addresses { order: order.to_vec(), ..Addresses::default() };
        let node = |annotations| node(annotations, &inside);
        let told = Stun::Told(&seen, None);
        let default = Addresses::default();
        assert_eq!(super::resolve(&node(json!({})), &default, told), found(&["203.0.113.1", "2001:db8::1"]));
        let annotated = node(json!({"rtc-operator.dev/address": "198.51.100.7"}));
        assert_eq!(super::resolve(&annotated, &default, told), found(&["198.51.100.7"]));
        let last = order(&[AddressSource::NodeInternalIp, AddressSource::Stun]);
        assert_eq!(super::resolve(&node(json!({})), &last, told), found(&["10.0.0.1"]));
        // Silence since the last answer is told, and changes nothing.
        let since = Stun::Told(&seen[..1], Some("no answer"));
        let stale = Resolved::Found(ips(&["203.0.113.1"]), Some("STUN: no answer".into()));
        assert_eq!(super::resolve(&node(json!({})), &default, since), stale);
    }

    #[test]
    fn while_stun_has_not_answered_nobody_is_told_a_private_address() {
        let (node, spec) = (node(json!({}), &[("InternalIP", "10.0.0.1")]), Addresses::default());
        let resolve = |spec: &Addresses, stun| super::resolve(&node, spec, stun);
        assert_eq!(resolve(&spec, Stun::Waiting(&[])), Resolved::Waiting);
        let before = ips(&["203.0.113.1"]);
        assert_eq!(resolve(&spec, Stun::Waiting(&before)), found(&["203.0.113.1"]));
        // Who was asked and cannot tell is passed over, which is said.
        let silence = Stun::Told(&[], Some("no answer from 192.0.2.1:3478"));
        let why = "STUN: no answer from 192.0.2.1:3478".to_owned();
        assert_eq!(resolve(&spec, silence), Resolved::Found(ips(&["10.0.0.1"]), Some(why)));
        let order = vec![AddressSource::Annotation, AddressSource::Stun];
        let Resolved::Missing(reason) = resolve(&Addresses { order, ..spec }, silence) else {
            unreachable!()
        };
        assert!(reason.contains("no answer from 192.0.2.1:3478; annotate the node with"), "{reason}");
    }

    #[test]
    fn the_first_source_that_has_an_address_wins() {
        let both = [("InternalIP", "10.0.0.1"), ("Hostname", "w1"), ("ExternalIP", "203.0.113.1")];
        let spec = Addresses::default();
        assert_eq!(resolve(&node(json!({}), &both), &spec), found(&["203.0.113.1"]));
        let annotated = json!({"rtc-operator.dev/address": "198.51.100.7"});
        assert_eq!(resolve(&node(annotated, &both), &spec), found(&["198.51.100.7"]));
        let inside = Addresses { order: vec![AddressSource::NodeInternalIp], ..Addresses::default() };
        assert_eq!(resolve(&node(json!({}), &both), &inside), found(&["10.0.0.1"]));
    }

    #[test]
    fn a_node_has_an_address_of_each_family_that_is_wanted() {
        let all = [("InternalIP", "10.0.0.1"), ("InternalIP", "2001:db8::1"), ("InternalIP", "2001:db8::2")];
        let node = node(json!({}), &all);
        assert_eq!(resolve(&node, &Addresses::default()), found(&["10.0.0.1", "2001:db8::1"]));
        let only = |family| Addresses { families: vec![family], ..Addresses::default() };
        assert_eq!(resolve(&node, &only(AddressFamily::IPv4)), found(&["10.0.0.1"]));
        assert_eq!(resolve(&node, &only(AddressFamily::IPv6)), found(&["2001:db8::1"]));
    }

    #[test]
    fn a_mistake_in_the_annotation_is_named_rather_than_passed_over() {
        let node = node(json!({"rtc-operator.dev/address": "w1.example.com"}), &[("InternalIP", "10.0.0.1")]);
        let Resolved::Missing(reason) = resolve(&node, &Addresses::default()) else { unreachable!() };
        assert!(reason.contains("`w1.example.com`, which is not an IP address"), "{reason}");
    }

    #[test]
    fn a_node_without_an_address_says_what_to_annotate() {
        let Resolved::Missing(reason) = resolve(&node(json!({}), &[]), &Addresses::default()) else {
            unreachable!()
        };
        assert!(reason.contains("rtc-operator.dev/address=ADDRESS"), "{reason}");
    }
}
