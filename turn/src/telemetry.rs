//! What the workers publish, and what is made of it: metrics and status.

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};
use rtc_credentials::{KeyId, Transport};
use rtc_turn_proto::{self as proto, Counters, Drop, ErrorCode, Traffic};
use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

/// The name of the key that the readiness probe signs with; no metric shows it.
pub(crate) const PROBE_KEY: &str = "rtc-readiness";

/// A worker's copy of its counters, for others to read.
#[derive(Debug, Default)]
pub(crate) struct Published(Mutex<Snapshot>);

/// What may change while the server runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reloaded {
    Configuration,
    Keys,
    FleetFile,
    Certificate,
}

impl Reloaded {
    const ALL: [Self; 4] = [Self::Configuration, Self::Keys, Self::FleetFile, Self::Certificate];
}

impl fmt::Display for Reloaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Configuration => "configuration",
            Self::Keys => "keys",
            Self::FleetFile => "fleet file",
            Self::Certificate => "certificate",
        })
    }
}

/// The counters of one worker, or of all.
#[derive(Clone, Debug, Default)]
pub(crate) struct Snapshot {
    pub(crate) counters: Counters,
    pub(crate) key_uses: BTreeMap<KeyId, u64>,
    pub(crate) work: Work,
}

/// What a worker counts beside the protocol.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Work {
    pub(crate) ring_revision: u64,
    pub(crate) connections: u64,
    /// With TCP peers.
    pub(crate) peer_connections: u64,
    /// Datagrams from client to client without a system call.
    pub(crate) short_cuts: u64,
    pub(crate) handshakes_done: u64,
    pub(crate) handshakes_failed: u64,
    pub(crate) associations: u64,
    /// ClientHellos that were answered with a cookie.
    pub(crate) challenges: u64,
    pub(crate) dtls_handshakes_done: u64,
    pub(crate) dtls_handshakes_failed: u64,
    /// The longest that a turn of the loop has taken since it was last published.
    pub(crate) longest_turn: Duration,
}

impl Published {
    pub(crate) fn update(&self, server: &proto::Server, work: Work) {
        let mut snapshot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        snapshot.counters.clone_from(server.counters());
        snapshot.key_uses = server.key_uses().map(|(id, uses)| (id.clone(), uses)).collect();
        snapshot.work = work;
    }

    fn snapshot(&self) -> Snapshot {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// All workers' counters, and what they share.
#[derive(Clone, Debug, Default)]
pub(crate) struct Telemetry {
    pub(crate) workers: Vec<Arc<Published>>,
    /// When the certificate expires, in Unix seconds; 0 where there is none.
    pub(crate) certificate_expires: Arc<AtomicU64>,
    /// Whether the store of the fleet's quotas answers, where there is one.
    pub(crate) quota_store_up: Option<Arc<AtomicBool>>,
    /// Whether the STUN server said how this host is seen, where one is asked.
    pub(crate) external_stun_up: Option<Arc<AtomicBool>>,
    /// By what changed, why the change could not be taken.
    pub(crate) reload_errors: Arc<Mutex<BTreeMap<Reloaded, String>>>,
}

impl Telemetry {
    pub(crate) fn reload_errors(&self) -> MutexGuard<'_, BTreeMap<Reloaded, String>> {
        self.reload_errors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The sum; of the ring's revision the least, as a change is in effect when all have it.
    pub(crate) fn total(&self) -> Snapshot {
        let mut total = Snapshot::default();
        total.work.ring_revision = u64::MAX;
        for worker in &self.workers {
            let one = worker.snapshot();
            add(&mut total.counters, &one.counters);
            for (id, uses) in one.key_uses {
                *total.key_uses.entry(id).or_default() += uses;
            }
            let (sum, one) = (&mut total.work, one.work);
            sum.ring_revision = sum.ring_revision.min(one.ring_revision);
            sum.connections += one.connections;
            sum.peer_connections += one.peer_connections;
            sum.short_cuts += one.short_cuts;
            sum.handshakes_done += one.handshakes_done;
            sum.handshakes_failed += one.handshakes_failed;
            sum.associations += one.associations;
            sum.challenges += one.challenges;
            sum.dtls_handshakes_done += one.dtls_handshakes_done;
            sum.dtls_handshakes_failed += one.dtls_handshakes_failed;
            sum.longest_turn = sum.longest_turn.max(one.longest_turn);
        }
        total
    }
}

fn add(total: &mut Counters, one: &Counters) {
    let traffic = |to: &mut [Traffic; 4], from: &[Traffic; 4]| {
        for (to, from) in to.iter_mut().zip(from) {
            to.packets += from.packets;
            to.bytes += from.bytes;
        }
    };
    traffic(&mut total.to_peers, &one.to_peers);
    traffic(&mut total.to_clients, &one.to_clients);
    total.allocations += one.allocations;
    total.live += one.live;
    total.moves += one.moves;
    total.bindings += one.bindings;
    total.errors.iter_mut().zip(one.errors).for_each(|(to, from)| *to += from);
    total.drops.iter_mut().zip(one.drops).for_each(|(to, from)| *to += from);
}

impl Collector for Telemetry {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let total = self.total();
        let counters = &total.counters;
        let encoder = &mut encoder;
        let packets = traffic(counters, |t| t.packets);
        family(encoder, "rtc_turn_packets", "Datagrams relayed", &packets)?;
        let bytes = traffic(counters, |t| t.bytes);
        family(encoder, "rtc_turn_bytes", "Bytes of application data relayed", &bytes)?;
        count(encoder, "rtc_turn_allocations_created", "Allocations that began", counters.allocations)?;
        let help = "Datagrams from client to client that were handed over without a system call";
        count(encoder, "rtc_turn_short_cuts", help, total.work.short_cuts)?;
        let help = "Times that a client took its allocation to another address";
        count(encoder, "rtc_turn_moves", help, counters.moves)?;
        count(encoder, "rtc_turn_bindings", "Binding requests answered", counters.bindings)?;
        let errors: Vec<_> = ErrorCode::ALL
            .iter()
            .map(|code| ([("code", code.code().to_string())], counters.errors_of(*code)))
            .collect();
        family(encoder, "rtc_turn_errors", "Error responses by code", &errors)?;
        let drops: Vec<_> = Drop::ALL
            .iter()
            .map(|why| ([("reason", why.label().to_owned())], counters.drops_of(*why)))
            .collect();
        family(encoder, "rtc_turn_drops", "Packets dropped by reason", &drops)?;
        let keys: Vec<_> = total
            .key_uses
            .iter()
            .filter(|(id, _)| id.as_str() != PROBE_KEY)
            .map(|(id, uses)| ([("key", id.to_string())], *uses))
            .collect();
        family(encoder, "rtc_turn_key_uses", "Allocations begun by each key of the ring", &keys)?;
        let work = &total.work;
        let handshakes = [
            ("tls", "done", work.handshakes_done),
            ("tls", "failed", work.handshakes_failed),
            ("dtls", "done", work.dtls_handshakes_done),
            ("dtls", "failed", work.dtls_handshakes_failed),
        ];
        let handshakes = handshakes.map(|(transport, result, n)| {
            ([("transport", transport.to_owned()), ("result", result.to_owned())], n)
        });
        family(encoder, "rtc_turn_tls_handshakes", "TLS and DTLS handshakes that ended", &handshakes)?;
        let help = "ClientHellos over DTLS that were answered with a cookie, and forgotten";
        count(encoder, "rtc_turn_dtls_challenges", help, work.challenges)?;
        gauge(encoder, "rtc_turn_allocations", "Allocations that are live", counters.live as f64)?;
        gauge(
            encoder,
            "rtc_turn_connections",
            "TCP and TLS connections of clients",
            total.work.connections as f64,
        )?;
        let associations = total.work.associations as f64;
        gauge(encoder, "rtc_turn_associations", "DTLS associations of clients", associations)?;
        let help = "Connections with peers of TCP allocations";
        gauge(encoder, "rtc_turn_peer_connections", help, total.work.peer_connections as f64)?;
        gauge(
            encoder,
            "rtc_turn_ring_revision",
            "The key ring that all workers use",
            total.work.ring_revision as f64,
        )?;
        let expires = self.certificate_expires.load(Ordering::Relaxed);
        if expires > 0 {
            let help = "When the certificate of TLS and DTLS listeners expires, in Unix time";
            gauge(encoder, "rtc_turn_tls_certificate_expiry_seconds", help, expires as f64)?;
        }
        if let Some(up) = &self.quota_store_up {
            let up = f64::from(u8::from(up.load(Ordering::Relaxed)));
            gauge(encoder, "rtc_turn_quota_store_up", "Whether the store of the fleet's quotas answers", up)?;
        }
        if let Some(up) = &self.external_stun_up {
            let up = f64::from(u8::from(up.load(Ordering::Relaxed)));
            let help = "Whether the STUN server says how this host is seen from outside";
            gauge(encoder, "rtc_turn_external_stun_up", help, up)?;
        }
        let help = "Whether what is used is older than its file, since that cannot be used";
        let mut metric =
            encoder.encode_descriptor("rtc_turn_reload_failed", help, None, MetricType::Gauge)?;
        for what in Reloaded::ALL {
            let failed = self.reload_errors().contains_key(&what);
            ConstGauge::new(i64::from(failed))
                .encode(metric.encode_family(&[("what", what.to_string())])?)?;
        }
        let lag = total.work.longest_turn.as_secs_f64();
        gauge(encoder, "rtc_turn_loop_seconds", "The longest recent turn of a worker's loop", lag)
    }
}

fn traffic(counters: &Counters, of: impl Fn(&Traffic) -> u64) -> Vec<([(&'static str, String); 2], u64)> {
    let mut rows = Vec::new();
    for (direction, by_transport) in [("to_peer", &counters.to_peers), ("to_client", &counters.to_clients)] {
        for transport in [Transport::Udp, Transport::Tcp, Transport::Tls, Transport::Dtls] {
            let name = crate::settings::transport_name(transport).to_owned();
            let value = of(&by_transport[transport as usize]);
            rows.push(([("direction", direction.to_owned()), ("transport", name)], value));
        }
    }
    rows
}

fn family<const N: usize>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    rows: &[([(&'static str, String); N], u64)],
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (labels, value) in rows {
        let counter = ConstCounter::new(*value);
        counter.encode(metric.encode_family(labels)?)?;
    }
    Ok(())
}

fn count(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    let metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    ConstCounter::new(value).encode(metric)
}

fn gauge(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: f64) -> fmt::Result {
    let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    ConstGauge::new(value).encode(metric)
}
