//! The container image: one for all programs, from what cargo built here.

use std::fs;

use anyhow::{Context, Result};

use crate::process::{self, cargo, command, output, root, target};
use crate::tools;

/// The programs in the image.
const PROGRAMS: [&str; 4] = ["rtc", "rtc-operator", "rtc-signaling", "rtc-turn"];

/// What to call the image.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Repository and tag of the image
    #[arg(long, default_value = "ghcr.io/rtc-operator/rtc-operator:dev")]
    tag: String,
}

/// Builds the programs, then the image.
///
/// # Errors
/// When a tool is missing, the build fails, or a program does not start in the image.
pub(crate) fn run(args: &Args) -> Result<()> {
    process::run(&mut cargo(["build", "--release", "--workspace", "--bins"]))?;
    pack(&args.tag)?;
    println!("built {}", args.tag);
    Ok(())
}

/// Makes the image of the programs as they were built last, and starts each in it once.
pub(crate) fn pack(tag: &str) -> Result<()> {
    tools::need("docker", "install Docker, or an implementation of its command line")?;
    tools::need("strip", "install binutils")?;

    // the context is a folder of its own: the target directory is gigabytes
    let context = target().join("image");
    fs::create_dir_all(&context).with_context(|| format!("cannot make {}", context.display()))?;
    for program in PROGRAMS {
        let (built, stripped) = (target().join("release").join(program), context.join(program));
        process::run(command("strip", ["--strip-debug", "-o"]).arg(&stripped).arg(&built))?;
    }
    process::run(
        command("docker", ["build", "--quiet", "--tag", tag, "--file"])
            .arg(root().join("Dockerfile"))
            .arg(&context),
    )?;

    // a machine with a newer libc than the image's builds programs that do not start in it
    for program in PROGRAMS {
        let version = output(&mut command("docker", ["run", "--rm", tag, program, "--version"]))
            .with_context(|| {
                format!("{program} does not start in the image: build on Debian 12, or with its libc")
            })?;
        print!("{version}");
    }
    Ok(())
}
