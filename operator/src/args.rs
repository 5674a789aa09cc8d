//! The command line.

use std::net::SocketAddr;

use clap::{Args, Parser, Subcommand};
use rtc_service::log::LogFormat;

/// The controller that keeps RtcClusters as their manifests say.
#[derive(Debug, Parser)]
#[command(name = "rtc-operator", version)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Runs the controller until it is told to stop. Of several, one acts and the others stand by.
    Run(Run),
    /// Prints the CustomResourceDefinition.
    Crd,
}

/// How the controller runs.
#[derive(Clone, Debug, Args)]
pub struct Run {
    /// The namespaces to watch, separated by commas. All when left out.
    #[arg(long, env = "RTC_OPERATOR_NAMESPACES", value_delimiter = ',')]
    pub namespaces: Vec<String>,
    /// Where /healthz, /readyz, /metrics and /status are served.
    #[arg(long, env = "RTC_OPERATOR_ADMIN", default_value = "0.0.0.0:9643")]
    pub admin: SocketAddr,
    /// The image of the signaling and TURN pods, unless an RtcCluster names another: the operator's own.
    #[arg(
        long,
        env = "RTC_OPERATOR_IMAGE",
        default_value = concat!("ghcr.io/rtc-operator/rtc-operator:", env!("CARGO_PKG_VERSION"))
    )]
    pub image: String,
    /// The namespace of the Lease. That of the operator's own pod.
    #[arg(long, env = "POD_NAMESPACE", default_value = "default")]
    pub lease_namespace: String,
    /// The name of the Lease.
    #[arg(long, env = "RTC_OPERATOR_LEASE_NAME", default_value = "rtc-operator")]
    pub lease_name: String,
    /// Who holds the Lease: unique among the operators. The pod's name.
    #[arg(long, env = "POD_NAME")]
    pub identity: Option<String>,
    /// How logs are written.
    #[arg(long, env = "RTC_OPERATOR_LOG_FORMAT", value_enum, default_value = "text")]
    pub log_format: LogFormat,
}
