//! Measures TURN servers side by side; `e2e/bench/README.md` says what, how and with what result.

mod args;
mod bare;
mod churn;
mod client;
mod flow;
mod load;
mod measure;
mod rounds;
mod server;
mod stun;
mod sys;
mod traffic;

use std::process::ExitCode;

use clap::Parser;
use rtc_bench_common::{namespace, report::Server};

use args::{Args, Role};

fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    if let Some(role) = args.role {
        bare::run(matches!(role, Role::BareGso))?;
        return Ok(ExitCode::SUCCESS);
    }
    args.loads()?;
    let Some(place) = namespace::place() else {
        let ready: Vec<&str> = rounds::prepare(&args).into_iter().map(Server::name).collect();
        return Err(namespace::enter(!args.no_namespace, &ready).into());
    };
    let good = rounds::run(&args, &server::Kind::named(&namespace::ready()), place)?;
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
