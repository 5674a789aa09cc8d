//! The TURN server: one worker per core, batched UDP, keys that rotate under live calls.
//!
//! | file | what |
//! | --- | --- |
//! | [`settings`] | flags and the configuration file, and what they resolve to |
//! | `server` | starts the workers; changes what they do; drains |
//! | `handle` | the [`Handle`] of a running server, and its admin port |
//! | `worker` | one thread: its sockets, its `rtc_turn_proto::Server`, its loop |
//! | `listen` | the listening sockets, shared by the workers through SO_REUSEPORT |
//! | `udp` | receiving in batches and GRO trains, sending in GSO trains |
//! | `tcp` | connections of clients: frames in, bounded queues out |
//! | `tls` | sessions under those connections |
//! | `dtls` | sessions under datagrams |
//! | `places` | how many clients may be beginning such sessions |
//! | `certificate` | what both begin with, from files |
//! | `relay` | the relay sockets, towards peers |
//! | `peers` | connections with the peers of TCP allocations |
//! | `external` | how this host is seen from outside, by STUN |
//! | `directory` | which worker holds which relayed address |
//! | `post` | datagrams from one worker's clients to another's |
//! | `follow` | the files that change: settings, keys, certificate, fleet |
//! | [`fleet_quota`] | what users hold on other servers, by Redis |
//! | `reload` | what follows from them |
//! | `readiness` | a real allocation that relays to itself, or a Binding where TURN is off |
//! | `open_files` | the limit on sockets |
//! | `telemetry` | what workers publish; metrics and status |
//!
//! The protocol is `rtc_turn_proto`'s; this crate owns sockets and clocks.

mod certificate;
mod directory;
mod dtls;
mod external;
pub mod fleet_quota;
mod follow;
mod handle;
mod listen;
mod open_files;
mod peers;
mod places;
mod post;
mod readiness;
mod relay;
mod reload;
mod server;
pub mod settings;
mod tcp;
mod telemetry;
mod tls;
mod udp;
mod worker;

pub use handle::Handle;
pub use open_files::raise_open_files;
pub use server::{Server, StartError};
pub use settings::{Config, Settings};
