//! Under which addresses clients reach a node: pure.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;
use rtc_operator_api::spec::{AddressFamily, AddressSource, Addresses};

/// What a node's addresses are, or why it has none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolved {
    /// At most one address of each family, from the first source that has any.
    Found(Vec<IpAddr>),
    /// None, and what to do about it.
    Missing(String),
}

/// Looks for addresses in the order of the spec.
#[must_use]
pub fn resolve(node: &Node, spec: &Addresses) -> Resolved {
    for source in &spec.order {
        let found = match source {
            AddressSource::Annotation => match annotated(node, &spec.annotation_key) {
                Ok(found) => found,
                // Someone meant something by it; falling through would hide the mistake.
                Err(reason) => return Resolved::Missing(reason),
            },
            AddressSource::NodeExternalIp => of_type(node, "ExternalIP"),
            AddressSource::NodeInternalIp => of_type(node, "InternalIP"),
            AddressSource::Stun => Vec::new(),
        };
        let picked = pick(&found, &spec.families);
        if !picked.is_empty() {
            return Resolved::Found(picked);
        }
    }
    Resolved::Missing(format!(
        "no {} address among {}; annotate the node with {}=ADDRESS",
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
        Resolved::Found(addresses.iter().map(|a| a.parse().unwrap()).collect())
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
