//! `rtc check`: what a client would find at a deployment.

mod link;
mod report;
mod signaling;
mod turn;
mod uri;

use anyhow::Context;
use clap::ValueEnum;
use report::Report;
use rtc_credentials::IceServer;
use std::{path::PathBuf, process::ExitCode, sync::Arc, time::Duration};
use tokio_rustls::TlsConnector;
use uri::IceUri;

/// Flags of `rtc check`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Where signaling is, such as https://calls.example.com or http://127.0.0.1:8080
    #[arg(long, env = "RTC_CHECK_SIGNALING")]
    signaling: String,
    /// A file with a token (JWT), for signaling that asks for one
    #[arg(long, env = "RTC_CHECK_TOKEN_FILE")]
    token_file: Option<PathBuf>,
    /// The room to join [default: one of its own, rtc-check-…]
    #[arg(long, env = "RTC_CHECK_ROOM")]
    room: Option<String>,
    /// Check this STUN or TURN URI instead of those that signaling hands out; repeatable
    #[arg(long, env = "RTC_CHECK_TURN", value_delimiter = ' ')]
    turn: Vec<IceUri>,
    /// A table for people, or JSON for programs
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

#[derive(Clone, Copy, ValueEnum)]
enum Output {
    Table,
    Json,
}

/// How long a step may take before it counts as broken.
const PATIENCE: Duration = Duration::from_secs(5);

/// Exits 1 when something is broken.
pub(crate) async fn run(options: Options) -> anyhow::Result<ExitCode> {
    let tls = connector()?;
    let mut report = Report::default();
    let token = options.token_file.as_ref().map(|path| {
        let text = std::fs::read_to_string(path);
        text.with_context(|| format!("cannot read --token-file {}", path.display()))
    });
    let token = token.transpose()?;
    let client = signaling::Client {
        tls: &tls,
        token: token.as_deref().map(str::trim),
        room: options.room.as_deref(),
    };
    let servers = signaling::check(&options.signaling, &client, &mut report).await;
    for (uri, server) in targets(&options.turn, &servers, &mut report) {
        turn::check(&uri, server, &tls, &mut report).await;
    }
    match options.output {
        Output::Table => print!("{report}"),
        Output::Json => println!("{}", serde_json::to_string(&report)?),
    }
    Ok(if report.all_work() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What is to be checked, each with the `iceServers` entry whose credential it takes.
fn targets<'a>(
    given: &[IceUri],
    servers: &'a [IceServer],
    report: &mut Report,
) -> Vec<(IceUri, Option<&'a IceServer>)> {
    let credential = servers.iter().find(|server| server.credential.is_some());
    if !given.is_empty() {
        return given.iter().map(|uri| (uri.clone(), credential)).collect();
    }
    let mut targets = Vec::new();
    for server in servers {
        for text in &server.urls {
            match text.parse() {
                Ok(uri) => targets.push((uri, Some(server))),
                Err(error) => report.broken(text, "uri", error),
            }
        }
    }
    targets
}

/// TLS that trusts what this machine trusts.
fn connector() -> anyhow::Result<TlsConnector> {
    let mut roots = rustls::RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(found.certs);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}
