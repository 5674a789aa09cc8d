//! `cargo xtask`: the repository's own commands.

mod crds;
mod image;
mod kind;
mod process;
mod report;
mod suites;
mod test;
mod tools;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The repository's own commands.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs every check and every test, then prints what passed and what failed
    Test(test::Args),
    /// Builds the container image from the programs that cargo builds here
    Image(image::Args),
    /// Writes the CRDs from operator/api to crds/ and into both charts
    Crds,
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        // its report has said already what failed
        Command::Test(args) if !test::run(&args) => return ExitCode::FAILURE,
        Command::Test(_) => Ok(()),
        Command::Image(args) => image::run(&args),
        Command::Crds => crds::write(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
