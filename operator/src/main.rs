//! `rtc-operator`: parses and starts.

use anyhow::{Context, Result};
use clap::Parser;
use rtc_operator::{
    args::{Arguments, Command},
    run,
};

// One thread: nearly all of its time it waits for others, and each further one has an allocator's cache of its own.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let run = match Arguments::parse().command {
        Command::Crd => {
            print!("{}", rtc_operator_api::crd_yaml());
            return Ok(());
        }
        Command::Run(run) => run,
    };
    rtc_service::log::init(run.log_format, "info,rtc_operator=info");
    let client = kube::Client::try_default().await.map_err(|error| run::RunError::Client(Box::new(error)))?;
    let mut signals = rtc_service::shutdown::Shutdown::listen().context("cannot listen for signals")?;
    run::run(run, client, async move { signals.wait().await }).await?;
    Ok(())
}
