//! `rtc`: a whole cluster on this machine, probes, credentials, tokens, CRDs.

mod check;
mod credentials;
mod token;
mod up;

use clap::{Parser, Subcommand};
use rtc_service::log::{self, LogFormat};
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "rtc", version, about = "Real-time communication on Kubernetes, from the command line")]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// How log lines are written; what is logged is set by RTC_LOG
    #[arg(long, global = true, value_enum, env = "RTC_LOG_FORMAT", default_value = "text")]
    log_format: LogFormat,
}

#[derive(Subcommand)]
enum Command {
    /// Run an RtcCluster manifest on this machine: signaling, TURN, rotating keys and a page
    Up(up::Options),
    /// Find what a client would find: signaling, STUN, TURN, and how long each takes
    Check(check::Options),
    /// Mint an `iceServers` object with a time-limited TURN credential
    Credentials(credentials::Options),
    /// Mint a token (JWT) for signaling, by its HMAC secret
    Token(token::Options),
    /// Print the CustomResourceDefinitions, for `kubectl apply -f -`
    Crd,
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    log::init(cli.log_format, "warn");
    let done = |()| ExitCode::SUCCESS;
    let result = match cli.command {
        Command::Up(options) => up::run(options).await.map(done),
        Command::Check(options) => check::run(options).await,
        Command::Credentials(options) => credentials::run(&options).map(done),
        Command::Token(options) => token::run(options).map(done),
        Command::Crd => {
            print!("{}", rtc_operator_api::crd_yaml());
            Ok(ExitCode::SUCCESS)
        }
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("rtc: {error:#}");
            ExitCode::FAILURE
        }
    }
}
