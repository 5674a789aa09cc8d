//! Measures signaling servers side by side; `e2e/bench/README.md` says what, how and with what result.

mod args;
mod bare;
mod calls;
mod clients;
mod dialect;
mod link;
mod load;
mod measure;
mod rooms;
mod rounds;
mod server;
mod ws;

use std::process::ExitCode;

use clap::Parser;
use rtc_bench_common::{namespace, report::Server};

use args::{Args, Role};
use server::Kind;

fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    if let Some(Role::Bare { listen, redis, seat }) = args.role {
        bare::run(listen, redis, seat)?;
        return Ok(ExitCode::SUCCESS);
    }
    args.loads()?;
    let Some(place) = namespace::place() else {
        let ready: Vec<&str> = rounds::prepare(&args).into_iter().map(Server::name).collect();
        return Err(namespace::enter(!args.no_namespace, &ready).into());
    };
    let good = rounds::run(&args, &Kind::named(&namespace::ready()), place)?;
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
