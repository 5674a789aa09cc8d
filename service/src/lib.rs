//! What every program of the house shares: configuration, logs, the admin port, shutdown.
//!
//! | module | idea |
//! | --- | --- |
//! | [`admin`] | `/healthz`, `/readyz`, `/metrics`, `/status`, `/drain` |
//! | [`clock`] | Unix time |
//! | [`config`] | a YAML file under flags and environment |
//! | [`duration`] | `1h30m` |
//! | [`log`] | structured logs |
//! | [`metrics`] | Prometheus text |
//! | [`net`] | binding a port, with an error that helps |
//! | [`shutdown`] | SIGINT and SIGTERM |
//! | [`watch`] | files that change while a program runs |

pub mod admin;
pub mod clock;
pub mod config;
pub mod duration;
pub mod log;
pub mod metrics;
pub mod net;
pub mod shutdown;
pub mod watch;

pub use duration::HumanDuration;
