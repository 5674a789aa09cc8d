//! Real servers on loopback, and what clients see of them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod abuse;
mod bandwidth;
mod behaviour_discovery;
mod common;
mod coturn_clients;
mod dtls;
mod external_address;
mod fleet_quota;
mod ipv6;
mod library_clients;
mod lifecycle;
mod load;
mod lost_datagrams;
mod mobility;
mod proxy_protocol;
mod reference;
mod relaying;
mod reload;
mod rotation;
mod short_cuts;
mod stun_only;
mod tcp_allocations;
mod tls;
