//! `rtc up`: a whole cluster on this machine, as a person would start it.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
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
    /// The admin ports.
    pub admin: Admin,
}

/// The admin ports of what runs.
#[derive(Debug, Deserialize)]
pub struct Admin {
    /// The TURN server's, as a URL.
    pub turn: String,
    /// A URL of each signaling replica's.
    pub signaling: Vec<String>,
}

/// A running `rtc up`. Dropping it ends it at once.
pub struct Up {
    /// Where everything is.
    pub ready: Ready,
    process: Child,
}

impl Up {
    /// Starts a manifest of the repository on free ports and waits until it is ready.
    ///
    /// # Errors
    /// When there is no `rtc` program, or it ends or stays silent; what it wrote is in the message.
    pub async fn start(manifest: &str) -> Result<Self> {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(manifest);
        Self::start_with(&file, &["--port", "0", "--turn-port", "0"]).await
    }

    /// Starts any manifest with flags of one's own; `--json` is added.
    ///
    /// # Errors
    /// As [`Up::start`].
    pub async fn start_with(manifest: &Path, flags: &[&str]) -> Result<Self> {
        let mut process = command(manifest, flags)?
            .arg("--json")
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the `rtc` program")?;
        let shown = manifest.display();
        let mut lines = BufReader::new(process.stdout.take().context("no standard output")?).lines();
        let line = tokio::time::timeout(PATIENCE, lines.next_line())
            .await
            .with_context(|| format!("`rtc up {shown}` was not ready within {} s", PATIENCE.as_secs()))??;
        let Some(line) = line else {
            bail!("`rtc up {shown}` ended before it was ready: {}", process.wait().await?);
        };
        let ready = serde_json::from_str(&line).with_context(|| format!("`rtc up --json` printed {line}"))?;
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Ok(Self { ready, process })
    }

    /// Presses Ctrl-C and waits until it has ended.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn interrupt(mut self) -> Result<ExitStatus> {
        let id = self.process.id().and_then(|id| rustix::process::Pid::from_raw(id.cast_signed()));
        let id = id.context("`rtc up` has ended by itself")?;
        rustix::process::kill_process(id, rustix::process::Signal::INT)?;
        let ended = tokio::time::timeout(PATIENCE, self.process.wait()).await;
        Ok(ended.with_context(|| format!("`rtc up` drains for over {} s", PATIENCE.as_secs()))??)
    }
}

/// What `rtc up` says when it will not start.
///
/// # Errors
/// When it does start.
pub async fn refused(manifest: &Path, flags: &[&str]) -> Result<String> {
    let output = tokio::time::timeout(PATIENCE, command(manifest, flags)?.output())
        .await
        .context("`rtc up` started, and should not have")??;
    if output.status.success() {
        bail!("`rtc up` ended well, and should not have");
    }
    Ok(String::from_utf8_lossy(&output.stderr).into_owned())
}

/// A token as `rtc token` makes it.
///
/// # Errors
/// When it makes none.
pub async fn token(flags: &[&str]) -> Result<String> {
    let output = Command::new(program()?).arg("token").args(flags).stdin(Stdio::null()).output().await?;
    if !output.status.success() {
        bail!("`rtc token`: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// What `rtc check` reports, and whether it found all sound.
///
/// # Errors
/// When it reports nothing.
pub async fn check(flags: &[&str]) -> Result<(bool, serde_json::Value)> {
    check_with(Command::new(program()?), flags).await
}

/// The same on a machine that trusts the authorities in a PEM file.
///
/// # Errors
/// As [`check`].
pub async fn check_trusting(flags: &[&str], authorities: &Path) -> Result<(bool, serde_json::Value)> {
    let mut command = Command::new(program()?);
    command.env("SSL_CERT_FILE", authorities);
    check_with(command, flags).await
}

async fn check_with(mut command: Command, flags: &[&str]) -> Result<(bool, serde_json::Value)> {
    command.arg("check").args(flags).args(["--output", "json"]).stdin(Stdio::null()).kill_on_drop(true);
    let output =
        tokio::time::timeout(PATIENCE, command.output()).await.context("`rtc check` does not end")??;
    let said = || String::from_utf8_lossy(&output.stderr).into_owned();
    let report = serde_json::from_slice(&output.stdout).with_context(said)?;
    Ok((output.status.success(), report))
}

fn command(manifest: &Path, flags: &[&str]) -> Result<Command> {
    let mut command = Command::new(program()?);
    command.arg("up").arg(manifest).args(flags).stdin(Stdio::null()).kill_on_drop(true);
    Ok(command)
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
