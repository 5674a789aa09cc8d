//! What a spec must fulfil beyond its types: each rule once as CEL, which the API server runs, and once in Rust,
//! for `rtc up` and for the operator, which may meet resources that were written before a rule existed.

use std::fmt;

use serde_json::Value;

use crate::{
    RtcClusterSpec,
    spec::{AuthMode, Listener},
};

/// A rule of the schema.
pub struct Rule {
    /// The object that the rule is about, as a path from the root of the resource.
    pub path: &'static str,
    /// The rule as the API server runs it; `self` is the object at `path`.
    pub cel: &'static str,
    /// What to write instead.
    pub message: &'static str,
    holds: fn(&RtcClusterSpec) -> bool,
}

/// Something in a spec that breaks a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Where, such as `spec.turn.relayPorts`.
    pub path: String,
    /// What to write instead.
    pub message: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

/// Everything that is wrong with a spec; nothing when it is valid.
#[must_use]
pub fn validate(spec: &RtcClusterSpec) -> Vec<Violation> {
    let rules = RULES
        .iter()
        .filter(|rule| !(rule.holds)(spec))
        .map(|rule| Violation { path: rule.path.to_owned(), message: rule.message.to_owned() });
    bounds(spec).into_iter().chain(rules).collect()
}

/// A rule that compares with the resource as it was, so that only the API server can run it.
pub const REALM_RULE: (&str, &str) = (
    "self.spec.turn.realm == oldSelf.spec.turn.realm || !has(self.status) || !has(self.status.turn) || \
     self.status.turn.allocations == 0",
    "spec.turn.realm cannot change while allocations live: they were authenticated by the old one; wait until \
     status.turn.allocations is 0, or create another RtcCluster with the new realm",
);

/// The rule of the name, which becomes part of the names of Services and of labels' values.
pub const NAME_RULE: (&str, &str) = (
    "self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$') && size(self.metadata.name) <= 50",
    "metadata.name must be at most 50 lower-case letters, digits and dashes, beginning with a letter; write for \
     example calls",
);

/// What is wrong with a name, if anything.
#[must_use]
pub fn validate_name(name: &str) -> Option<Violation> {
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    let fits = name.bytes().next().is_some_and(|c| c.is_ascii_lowercase())
        && name.bytes().all(inner)
        && !name.ends_with('-')
        && name.len() <= 50;
    (!fits).then(|| Violation {
        path: "metadata.name".to_owned(),
        message: NAME_RULE.1.trim_start_matches("metadata.name ").to_owned(),
    })
}

/// All rules.
pub const RULES: &[Rule] = &[
    Rule {
        path: "spec.credentials",
        cel: "duration(self.ttl) >= duration('1s')",
        message: "ttl must be 1s or more; 1h suits most",
        holds: |spec| spec.credentials.ttl.as_secs() >= 1,
    },
    Rule {
        path: "spec.credentials",
        cel: "duration(self.rotation.overlap) >= duration(self.ttl)",
        message: "rotation.overlap must be at least ttl, or credentials die before they expire; raise overlap or lower ttl",
        holds: |spec| spec.credentials.rotation.overlap >= spec.credentials.ttl,
    },
    Rule {
        path: "spec.credentials",
        cel: "duration(self.rotation.interval) > duration(self.rotation.overlap)",
        message: "rotation.interval must be longer than rotation.overlap, or old keys pile up; raise interval or lower overlap",
        holds: |spec| spec.credentials.rotation.interval > spec.credentials.rotation.overlap,
    },
    Rule {
        path: "spec.turn.relayPorts",
        cel: "self.min <= self.max",
        message: "min must not be above max; write for example {min: 49152, max: 65535}",
        holds: |spec| spec.turn.relay_ports.min <= spec.turn.relay_ports.max,
    },
    Rule {
        path: "spec.turn",
        cel: "self.listeners.all(a, self.listeners.exists_one(b, a.name == b.name))",
        message: "two listeners have the same name; give each its own",
        holds: |spec| unique(&spec.turn.listeners, |listener| listener.name.clone()),
    },
    Rule {
        path: "spec.turn",
        cel: "self.listeners.all(a, self.listeners.exists_one(b, a.port == b.port && \
              (a.transport in ['UDP', 'DTLS']) == (b.transport in ['UDP', 'DTLS'])))",
        message: "two listeners share a port: UDP and DTLS need different ports, and so do TCP and TLS; write for \
                  example 3478 for UDP and TCP, 5349 for DTLS and TLS",
        holds: |spec| unique(&spec.turn.listeners, |listener| (listener.port, listener.transport.over_udp())),
    },
    Rule {
        path: "spec.turn",
        cel: "self.listeners.all(l, l.port < self.relayPorts.min || l.port > self.relayPorts.max)",
        message: "a listener's port is inside relayPorts; move the port out of the range or narrow the range",
        holds: |spec| {
            let relay = spec.turn.relay_ports;
            spec.turn.listeners.iter().all(|listener| listener.port < relay.min || listener.port > relay.max)
        },
    },
    Rule {
        path: "spec.turn",
        cel: "self.listeners.all(l, l.transport in ['UDP', 'TCP'] || has(l.tls))",
        message: "a listener with transport TLS or DTLS needs a certificate; write tls: {secretRef: {name: SECRET}}",
        holds: |spec| spec.turn.listeners.iter().all(|l| !l.transport.needs_tls() || l.tls.is_some()),
    },
    Rule {
        path: "spec.turn",
        cel: "self.listeners.all(l, l.transport in ['TLS', 'DTLS'] || !has(l.tls))",
        message: "a listener with transport UDP or TCP is not encrypted; remove its tls, or write transport: DTLS for \
                  UDP and transport: TLS for TCP",
        holds: |spec| spec.turn.listeners.iter().all(|l| l.transport.needs_tls() || l.tls.is_none()),
    },
    Rule {
        path: "spec.turn",
        cel: "self.listeners.all(a, self.listeners.all(b, !has(a.tls) || !has(b.tls) || \
              a.tls.secretRef.name == b.tls.secretRef.name))",
        message: "listeners name different certificates, and a TURN pod has one; name the same Secret in every tls, \
                  with a certificate for all of their names",
        holds: |spec| {
            let mut named = spec.turn.listeners.iter().filter_map(|l| l.tls.as_ref());
            let first = named.next();
            named.all(|tls| Some(tls) == first)
        },
    },
    Rule {
        path: "spec.signaling.auth",
        cel: "!has(self.jwt) || !has(self.jwt.jwksURL) || self.jwt.jwksURL.startsWith('https://') || \
              self.jwt.jwksURL.startsWith('http://')",
        message: "jwt.jwksURL is no URL; write for example https://issuer.example.com/.well-known/jwks.json",
        holds: |spec| {
            let url = spec.signaling.auth.jwt.as_ref().and_then(|jwt| jwt.jwks_url.as_ref());
            url.is_none_or(|url| url.starts_with("https://") || url.starts_with("http://"))
        },
    },
    Rule {
        path: "spec.turn",
        cel: "self.mode != 'STUNOnly' || self.listeners.exists(l, l.transport == 'UDP')",
        message: "mode STUNOnly needs a listener with transport UDP, as stun: URIs are for UDP; write for example \
                  {name: udp, transport: UDP, port: 3478}",
        holds: |spec| {
            spec.turn.relays()
                || spec.turn.listeners.iter().any(|l| l.transport == crate::spec::Transport::Udp)
        },
    },
    Rule {
        path: "spec.turn.addresses",
        cel: "self.families.all(a, self.families.exists_one(b, a == b))",
        message: "families names one twice; write for example [IPv4, IPv6]",
        holds: |spec| {
            let families = &spec.turn.addresses.families;
            families.iter().enumerate().all(|(i, family)| !families[..i].contains(family))
        },
    },
    Rule {
        path: "spec.turn.addresses",
        cel: "!has(self.stunServer) || \
              self.stunServer.matches('^([^]:/@ []+|[[][0-9a-fA-F:.]+[]]):[0-9]+$')",
        message: "stunServer is no host and port; write for example stun.example.com:3478",
        holds: |spec| spec.turn.addresses.stun_server.as_deref().is_none_or(is_host_and_port),
    },
    Rule {
        path: "spec.turn.addresses",
        cel: "!has(self.stunServer) || self.order.exists(source, source == 'STUN')",
        message: "stunServer is never asked, as order does not name STUN; write for example order: [Annotation, \
                  NodeExternalIP, STUN], or leave stunServer out",
        holds: |spec| {
            let addresses = &spec.turn.addresses;
            addresses.stun_server.is_none() || addresses.asked().is_some()
        },
    },
    Rule {
        path: "spec.signaling.webhook",
        cel: "self.url.matches('^https://[^/?#@ ]+([/?#][^ ]*)?$') || \
              self.url.matches('^http://[a-z0-9-]+[.][a-z0-9-]+[.]svc([.][a-z0-9.-]+)?(:[0-9]+)?([/?#][^ ]*)?$')",
        message: "url must be https://, without a user, as who comes and goes could be read on the way; or http:// to a \
                  Service of this cluster, such as http://backend.calls.svc/hooks",
        holds: |spec| spec.signaling.webhook.as_ref().is_none_or(|webhook| is_webhook(&webhook.url)),
    },
    Rule {
        path: "spec",
        // The default of the spec itself is checked before those of its fields are put in.
        cel: "self.?turn.?quotas.?fleetAllocationsPerUser.orValue(0) == 0 || \
              self.?redis.?external.?mode.orValue('Standalone') == 'Standalone'",
        message: "turn.quotas.fleetAllocationsPerUser needs one Redis that all TURN pods reach by one address; write \
                  redis.external.mode: Standalone or leave redis.external out, or use turn.quotas.allocationsPerUser",
        holds: |spec| {
            let external = spec.redis.external.as_ref();
            spec.turn.quotas.fleet_allocations_per_user == 0
                || external.is_none_or(|external| external.mode == crate::spec::RedisMode::Standalone)
        },
    },
    Rule {
        path: "spec.signaling",
        // The schema has put the default in by now, so that it alone cannot be told from silence.
        cel: "!has(self.autoscaling) || self.replicas == 2",
        message: "replicas and autoscaling exclude each other; leave replicas out and set autoscaling.minReplicas",
        holds: |spec| {
            spec.signaling.autoscaling.is_none() || spec.signaling.replicas == crate::spec::DEFAULT_REPLICAS
        },
    },
    Rule {
        path: "spec.signaling",
        cel: "!has(self.autoscaling) || self.autoscaling.minReplicas <= self.autoscaling.maxReplicas",
        message: "autoscaling.minReplicas must not be above autoscaling.maxReplicas; lower the one or raise the other",
        holds: |spec| spec.signaling.autoscaling.as_ref().is_none_or(|a| a.min_replicas <= a.max_replicas),
    },
    Rule {
        path: "spec.signaling",
        cel: "!has(self.autoscaling) || \
              has(self.autoscaling.targetConnectionsPerPod) != has(self.autoscaling.targetCPUUtilization)",
        message: "autoscaling needs one target; set either targetConnectionsPerPod or targetCPUUtilization",
        holds: |spec| {
            spec.signaling
                .autoscaling
                .as_ref()
                .is_none_or(|a| a.target_connections_per_pod.is_some() != a.target_cpu_utilization.is_some())
        },
    },
    Rule {
        path: "spec.signaling.auth",
        cel: "self.mode != 'JWT' || has(self.jwt)",
        message: "mode JWT needs jwt; write for example jwt: {secretRef: {name: SECRET, key: KEY}}",
        holds: |spec| spec.signaling.auth.mode != AuthMode::Jwt || spec.signaling.auth.jwt.is_some(),
    },
    Rule {
        path: "spec.signaling.auth",
        cel: "!has(self.jwt) || has(self.jwt.secretRef) != has(self.jwt.jwksURL)",
        message: "jwt needs one source of keys; set either jwt.secretRef or jwt.jwksURL",
        holds: |spec| {
            spec.signaling
                .auth
                .jwt
                .as_ref()
                .is_none_or(|jwt| jwt.secret_ref.is_some() != jwt.jwks_url.is_some())
        },
    },
    Rule {
        path: "spec.signaling",
        cel: "!has(self.route) || has(self.route.gateway) != has(self.route.ingress)",
        message: "route needs one kind; set either route.gateway or route.ingress",
        holds: |spec| {
            spec.signaling
                .route
                .as_ref()
                .is_none_or(|route| route.gateway.is_some() != route.ingress.is_some())
        },
    },
    Rule {
        path: "spec.redis",
        cel: "!has(self.managed) || !has(self.external)",
        message: "managed and external exclude each other; remove managed to use your own Redis",
        holds: |spec| spec.redis.managed.is_none() || spec.redis.external.is_none(),
    },
];

/// `host:port`, with an IPv6 address in brackets.
fn is_host_and_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let name = !host.is_empty() && !host.contains(['[', ']', ':', '/', '@', ' ']);
    let v6 = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let v6 = v6.is_some_and(|v6| {
        !v6.is_empty() && v6.bytes().all(|c| c.is_ascii_hexdigit() || matches!(c, b':' | b'.'))
    });
    (name || v6) && !port.is_empty() && port.bytes().all(|c| c.is_ascii_digit())
}

/// `https://` without a user, or `http://` to a Service of the cluster.
fn is_webhook(url: &str) -> bool {
    let authority = |rest: &str| rest.split(['/', '?', '#']).next().unwrap_or_default().to_owned();
    if url.contains(' ') {
        return false;
    }
    if let Some(rest) = url.strip_prefix("https://") {
        let authority = authority(rest);
        return !authority.is_empty() && !authority.contains('@');
    }
    let Some(rest) = url.strip_prefix("http://") else { return false };
    let authority = authority(rest);
    let (host, port) = authority.split_once(':').unwrap_or((&authority, "80"));
    let label = |part: &str| {
        !part.is_empty() && part.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-')
    };
    let parts: Vec<_> = host.split('.').collect();
    let digits = !port.is_empty() && port.bytes().all(|c| c.is_ascii_digit());
    digits && parts.len() >= 3 && parts[2] == "svc" && parts.into_iter().all(label)
}

fn unique<K: PartialEq>(listeners: &[Listener], key: impl Fn(&Listener) -> K) -> bool {
    listeners.iter().enumerate().all(|(i, a)| listeners[..i].iter().all(|b| key(a) != key(b)))
}

/// What the schema itself bounds: numbers, lengths and names.
fn bounds(spec: &RtcClusterSpec) -> Vec<Violation> {
    let mut found = Vec::new();
    if let Ok(value) = serde_json::to_value(spec) {
        check(&crate::crd::spec_schema(), &value, "spec", &mut found);
    }
    for listener in &spec.turn.listeners {
        let name = &listener.name;
        let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if !name.chars().all(inner) || name.starts_with('-') || name.ends_with('-') {
            found.push(Violation {
                path: "spec.turn.listeners".to_owned(),
                message: format!(
                    "`{name}` is not a name; use lower-case letters, digits and dashes between them"
                ),
            });
        }
    }
    found
}

/// Walks a value along its schema and notes what is out of bounds.
fn check(schema: &Value, value: &Value, path: &str, found: &mut Vec<Violation>) {
    let mut note = |message: String| found.push(Violation { path: path.to_owned(), message });
    let size = match value {
        Value::Number(number) => {
            if let Some(number) = number.as_f64() {
                if schema["minimum"].as_f64().is_some_and(|min| number < min) {
                    note(format!("{number} is too low; write {} or more", schema["minimum"]));
                }
                if schema["maximum"].as_f64().is_some_and(|max| number > max) {
                    note(format!("{number} is too high; write {} or less", schema["maximum"]));
                }
            }
            None
        }
        Value::String(text) => Some((text.chars().count(), "Length", "characters")),
        Value::Array(items) => Some((items.len(), "Items", "entries")),
        _ => None,
    };
    if let Some((size, what, unit)) = size {
        let bound = |end: &str| schema[format!("{end}{what}")].as_u64().and_then(|n| usize::try_from(n).ok());
        if let Some(min) = bound("min").filter(|min| size < *min) {
            note(format!("has {size} {unit}; write {min} or more"));
        }
        if let Some(max) = bound("max").filter(|max| size > *max) {
            note(format!("has {size} {unit}; write {max} or fewer"));
        }
    }
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                check(&schema["properties"][name], field, &format!("{path}.{name}"), found);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                check(&schema["items"], item, &format!("{path}[{index}]"), found);
            }
        }
        _ => {}
    }
}
