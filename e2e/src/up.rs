//! `rtc up`: a whole cluster on this machine, as a person would start it.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// How long it may take to be ready.
const PATIENCE: Duration = Duration::from_secs(30);

/// The line that `rtc up --json` prints when it is ready.
#[derive(Debug, Deserialize)]
pub struct Ready {
    /// A URL of each signaling replica.
    pub signaling: Vec<String>,
    /// A URI of each way to the TURN server.
    pub turn: Vec<String>,
    /// The page.
    pub demo: String,
}

/// A running `rtc up`. Dropping it ends it.
pub struct Up {
    /// Where everything is.
    pub ready: Ready,
    _process: Child,
}

impl Up {
    /// Starts it on free ports and waits until it is ready.
    ///
    /// # Errors
    /// When there is no `rtc` program, or it ends or stays silent; what it wrote is in the message.
    pub async fn start(manifest: &str) -> Result<Self> {
        let program = program()?;
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(manifest);
        let mut process = Command::new(&program)
            .arg("up")
            .arg(&file)
            .args(["--port", "0", "--turn-port", "0", "--json"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let mut lines = BufReader::new(process.stdout.take().context("no standard output")?).lines();
        let line = tokio::time::timeout(PATIENCE, lines.next_line()).await.with_context(|| {
            format!("`rtc up {manifest}` was not ready within {} s", PATIENCE.as_secs())
        })??;
        let Some(line) = line else {
            bail!("`rtc up {manifest}` ended before it was ready: {}", process.wait().await?);
        };
        let ready = serde_json::from_str(&line).with_context(|| format!("`rtc up --json` printed {line}"))?;
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Ok(Self { ready, _process: process })
    }
}

/// Where the `rtc` program is: `RTC_BIN`, or beside the folder of the running test program.
fn program() -> Result<PathBuf> {
    if let Some(given) = std::env::var_os("RTC_BIN") {
        return Ok(given.into());
    }
    let test = std::env::current_exe().context("this program does not know where it is")?;
    // target/release/deps/test-123 -> target/release/rtc
    let beside = test.parent().and_then(Path::parent).map(|folder| folder.join("rtc"));
    match beside {
        Some(program) if program.is_file() => Ok(program),
        _ => bail!("there is no `rtc` program: run `cargo build --release -p rtc-cli`, or set RTC_BIN"),
    }
}
