//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};

use crate::load::{LOADS, Load};
use crate::server::Kind;

/// CPU per call of signaling servers, side by side in alternating rounds.
#[derive(Parser, Debug)]
#[command(name = "bench-signaling", version)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) role: Option<Role>,
    /// A first impression within a minute: short measurements, 1,000 idle connections.
    #[arg(long)]
    pub(crate) quick: bool,
    /// Only these loads: one-process, reconnect, two-processes, paced, fan-out, idle.
    #[arg(long, value_delimiter = ',', value_name = "LOAD")]
    pub(crate) only: Vec<String>,
    /// The servers; one that cannot be built or found is left out, and said so.
    #[arg(long, value_delimiter = ',', value_enum, default_value = "ours,socketio,peerjs,socketioxide,bare")]
    pub(crate) servers: Vec<Kind>,
    /// The rtc-signaling to measure; built from this tree when not given.
    #[arg(long, value_name = "FILE")]
    pub(crate) ours: Option<PathBuf>,
    /// Rounds, each measuring every server under every load; 5, or 1 when quick.
    #[arg(long)]
    pub(crate) rounds: Option<usize>,
    /// Seconds of each measurement.
    #[arg(long)]
    pub(crate) seconds: Option<f64>,
    /// Idle connections; 19,500, or 1,000 when quick.
    #[arg(long)]
    pub(crate) idle: Option<usize>,
    /// No measurement starts after this many seconds; 330, or 50 when quick.
    #[arg(long)]
    pub(crate) limit: Option<u64>,
    /// CPUs of the generator and of the servers.
    #[arg(long, value_delimiter = ',', value_name = "GENERATOR,SERVER", default_value = "0,1")]
    pub(crate) cores: Vec<usize>,
    /// Writes all figures to this file.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Measures in the namespaces it is started in.
    #[arg(long)]
    pub(crate) no_namespace: bool,
}

/// What the bench starts itself as.
#[derive(Subcommand, Clone, Copy, Debug)]
pub(crate) enum Role {
    /// The relay that is the floor.
    #[command(hide = true)]
    Bare {
        /// Where it listens.
        listen: SocketAddr,
        /// Where Redis listens, if there is another relay.
        redis: Option<SocketAddr>,
        /// Of the two, which this is: 0 or 1.
        #[arg(default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=1))]
        seat: u8,
    },
}

impl Args {
    /// The loads asked for, in the order of [`LOADS`].
    ///
    /// # Errors
    /// When a name is none of theirs.
    pub(crate) fn loads(&self) -> Result<Vec<Load>> {
        if let Some(unknown) = self.only.iter().find(|name| LOADS.iter().all(|load| load.name != **name)) {
            let names: Vec<&str> = LOADS.iter().map(|load| load.name).collect();
            bail!("no load is named {unknown}; there are {}", names.join(", "));
        }
        let wanted = |load: &&Load| self.only.is_empty() || self.only.iter().any(|name| name == load.name);
        Ok(LOADS.iter().filter(wanted).copied().collect())
    }

    /// How many rounds at most.
    pub(crate) fn rounds(&self) -> usize {
        self.rounds.unwrap_or(if self.quick { 1 } else { 5 })
    }

    /// The measured time of each measurement.
    pub(crate) fn measured(&self) -> Duration {
        Duration::from_secs_f64(self.seconds.unwrap_or(if self.quick { 0.6 } else { 1.2 }))
    }

    /// Connections of the idle load.
    pub(crate) fn idle(&self) -> usize {
        self.idle.unwrap_or(if self.quick { 1_000 } else { 19_500 })
    }

    /// When to start nothing more.
    pub(crate) fn limit(&self) -> Duration {
        Duration::from_secs(self.limit.unwrap_or(if self.quick { 50 } else { 330 }))
    }
}
