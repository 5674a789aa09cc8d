//! `rtc-signaling`: the signaling server alone.

use anyhow::Context;
use clap::Parser;
use rtc_service::{admin, config, log, net, shutdown, watch};
use rtc_signaling::{Settings, admin::Admin};
use std::{path::PathBuf, sync::Arc, time::Duration};

/// The signaling server: rooms that outlive their pod, on one log in Redis.
#[derive(Parser)]
#[command(name = "rtc-signaling", version)]
struct Cli {
    /// A YAML file whose keys are the names of these flags; flags and environment win over it
    #[arg(long, env = "RTC_SIGNALING_CONFIG")]
    config: Option<PathBuf>,
    #[command(flatten)]
    settings: Settings,
}

fn main() -> anyhow::Result<()> {
    // threads that share one CPU would only wake each other
    let mut runtime = match std::thread::available_parallelism() {
        Ok(cpus) if cpus.get() == 1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    runtime.enable_all().build().context("cannot start")?.block_on(run())
}

async fn run() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let settings = config::load(cli.config.as_deref(), cli.settings)?;
    log::init(settings.log_format.unwrap_or_default(), "info");
    let mut shutdown = shutdown::Shutdown::listen().context("cannot listen for signals")?;
    let admin_listener = net::listen_tcp(settings.admin(), "--admin").await?;
    let mut listeners = Vec::new();
    for address in settings.listeners() {
        listeners.push(net::listen_tcp(address, "--listen").await?);
    }
    let server = settings.start()?;
    let token = match &settings.keys {
        Some(keys) => admin::token_from(watch::files(keys.clone(), watch::INTERVAL)?, ".admin-token"),
        None => admin::open(),
    };
    tokio::spawn(admin::serve(admin_listener, Arc::new(Admin(server.clone())), token));
    for listener in listeners {
        tracing::info!(address = %listener.local_addr()?, store = server.hub().store().kind(), "listening");
        let server = server.clone();
        tokio::spawn(async move { server.serve(listener).await });
    }
    tokio::select! {
        () = shutdown.wait() => {}
        () = server.drained() => return Ok(()),
    }
    tokio::select! {
        _ = server.drain(Some(settings.drain_timeout())) => {}
        () = shutdown.wait() => tracing::warn!("ended before the drain had"),
    }
    // what was said last is still on its way
    tokio::time::sleep(Duration::from_millis(100)).await;
    Ok(())
}
