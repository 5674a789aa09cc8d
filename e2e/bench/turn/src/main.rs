//! Measures TURN servers side by side; `e2e/bench/README.md` says what, how and with what result.

mod args;
mod bare;
mod churn;
mod client;
mod flow;
mod isolate;
mod load;
mod measure;
mod pin;
mod process;
mod report;
mod rounds;
mod server;
mod stats;
mod stun;
mod sys;
mod traffic;

use std::process::ExitCode;

use clap::Parser;

use args::{Args, Role};

fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    if let Some(role) = args.role {
        bare::run(matches!(role, Role::BareGso))?;
        return Ok(ExitCode::SUCCESS);
    }
    args.loads()?;
    let Some(place) = isolate::place() else {
        let ready = rounds::prepare(&args);
        return Err(isolate::enter(!args.no_namespace, &ready).into());
    };
    let good = rounds::run(&args, &isolate::servers(), place)?;
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
