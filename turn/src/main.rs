//! `rtc-turn`: parses its flags, and runs the server until it is told to end.

use clap::Parser;
use rtc_service::{config, log, shutdown::Shutdown};
use rtc_turn::{Server, Settings, raise_open_files, settings::SettingsFile};
use std::{path::PathBuf, process::ExitCode, time::Duration};

/// A TURN and STUN server.
#[derive(Parser)]
#[command(name = "rtc-turn", version, about)]
struct Args {
    /// A YAML file of settings, each named as its flag; flags and environment win over it
    #[arg(long, env = "RTC_TURN_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    settings: Settings,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // the message alone: a backtrace tells an operator nothing
            eprintln!("rtc-turn: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> anyhow::Result<()> {
    let settings = config::load(args.config.as_deref(), args.settings.clone())?;
    log::init(settings.log_format.unwrap_or_default(), "info");
    raise_open_files();
    let mut signals = Shutdown::listen()?;
    let mut config = settings.clone().resolve()?;
    config.file = args.config.map(|path| SettingsFile { path, flags: args.settings, read: settings });
    let drain_timeout = config.drain_timeout;
    let server = Server::start(config).await?;
    for (transport, address) in server.local_addrs() {
        tracing::info!(?transport, %address, "listening");
    }
    tokio::select! {
        result = server.stopped() => return Ok(result?),
        () = signals.wait() => server.drain(drain_timeout),
    }
    tokio::select! {
        result = server.stopped() => Ok(result?),
        () = signals.wait() => {
            server.drain(Duration::ZERO);
            Ok(server.stopped().await?)
        }
    }
}
