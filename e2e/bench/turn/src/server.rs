//! The servers measured: how each is built, started and known to be ready.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use rtc_bench_common::{pin, report::Server};

use crate::client::{Dialect, REALM, RELAY_PORTS, SECRET, SERVER, Session};

/// A server by the name it has on the command line.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, ValueEnum)]
pub(crate) enum Kind {
    /// rtc-turn of this tree.
    Ours,
    /// coturn's turnserver.
    Coturn,
    /// A server of pion/turn's packages.
    Pion,
    /// A forwarder without TURN: recvmmsg and sendmmsg.
    Bare,
    /// The same with UDP GRO and GSO.
    BareGso,
}

impl Server for Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Ours => "ours",
            Kind::Coturn => "coturn",
            Kind::Pion => "pion",
            Kind::Bare => "bare",
            Kind::BareGso => "bare-gso",
        }
    }

    fn version(self) -> String {
        match self {
            Kind::Ours | Kind::Bare | Kind::BareGso => env!("CARGO_PKG_VERSION").to_owned(),
            Kind::Coturn => {
                let output = Command::new("turnserver").arg("--version").output();
                let text = output.map(|output| output.stdout).unwrap_or_default();
                String::from_utf8_lossy(&text).lines().last().unwrap_or("unknown").trim().to_owned()
            }
            Kind::Pion => {
                let module = include_str!("../pion/go.mod");
                let line = module.lines().find(|line| line.contains("pion/turn/"));
                line.and_then(|line| line.split_whitespace().last()).unwrap_or("unknown").to_owned()
            }
        }
    }
}

impl Kind {
    /// Those that have these names.
    pub(crate) fn named(names: &[String]) -> Vec<Kind> {
        names.iter().filter_map(|name| Kind::from_str(name, false).ok()).collect()
    }

    /// What it speaks.
    pub(crate) fn dialect(self) -> Dialect {
        match self {
            Kind::Ours | Kind::Coturn | Kind::Pion => Dialect::Turn,
            Kind::Bare | Kind::BareGso => Dialect::Bare,
        }
    }

    /// Finds the server's program, building it where it is built from source; `ours` is not.
    ///
    /// # Errors
    /// When it cannot be built or is not installed; says what to do.
    pub(crate) fn prepare(self, ours: Option<&Path>) -> Result<()> {
        match self {
            Kind::Ours => ours.map_or_else(build_ours, |path| {
                path.metadata().map(drop).with_context(|| format!("{}", path.display()))
            }),
            Kind::Coturn => {
                let version = Command::new("turnserver").arg("--version").output();
                version.map(drop).context("coturn is not installed: apt-get install coturn")
            }
            Kind::Pion => build_pion(),
            Kind::Bare | Kind::BareGso => Ok(()),
        }
    }

    fn command(self, ours: Option<&Path>) -> Result<Command> {
        let listen = SERVER.to_string();
        let ip = SERVER.ip().to_string();
        let (low, high) = (RELAY_PORTS.0.to_string(), RELAY_PORTS.1.to_string());
        let mut command;
        match self {
            Kind::Ours => {
                command = Command::new(ours.map_or_else(ours_path, |path| Ok(path.to_owned()))?);
                command.args(["--listen", &format!("udp://{listen}"), "--relay-address", &ip]);
                command.args(["--relay-ports", &format!("{low}-{high}"), "--realm", REALM]);
                command.args(["--secret", SECRET, "--allow-peer", "127.0.0.0/8", "--workers", "1"]);
            }
            Kind::Coturn => {
                command = Command::new("turnserver");
                // -n: no configuration file. One relay thread, for one core; see README.md for others.
                command.args(["-n", "-L", &ip, "-p", "3478", "-E", &ip, "-m", "1"]);
                command.args(["--min-port", &low, "--max-port", &high, "-r", REALM]);
                command.args(["--lt-cred-mech", "--use-auth-secret", "--static-auth-secret", SECRET]);
                command.args(["--allow-loopback-peers", "--no-cli", "--no-tls", "--no-dtls", "--no-tcp"]);
                command.args(["--no-software-attribute", "--log-file", "/dev/null", "--no-stdout-log"]);
                command.args(["--pidfile", "/dev/null", "--userdb"]).arg(coturn_database());
            }
            Kind::Pion => {
                command = Command::new(pion_path()?);
                command.args(["-listen", &listen, "-relay", &ip, "-realm", REALM, "-secret", SECRET]);
                command.args(["-min-port", &low, "-max-port", &high]);
            }
            Kind::Bare | Kind::BareGso => {
                command = Command::new(std::env::current_exe()?);
                command.arg(self.name());
            }
        }
        Ok(command)
    }

    /// Starts it on the CPU given and waits until it answers.
    ///
    /// # Errors
    /// When it ends or does not answer within five seconds; with the end of what it printed.
    pub(crate) fn start(self, core: usize, ours: Option<&Path>) -> Result<Running> {
        let log = std::env::temp_dir().join(format!("bench-turn-{}-{}.log", self.name(), std::process::id()));
        let output = File::create(&log).with_context(|| format!("{}", log.display()))?;
        let mut command = self.command(ours)?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let child = pin::spawn_on(core, &mut command).with_context(|| format!("starting {}", self.name()))?;
        let mut running = Running { child, log };
        let patience = Instant::now() + Duration::from_secs(5);
        let mut session = Session::open(self.dialect(), 0)?;
        while !session.answers() {
            if let Some(status) = running.child.try_wait()? {
                bail!("{} ended with {status}: {}", self.name(), running.last_words());
            }
            if Instant::now() > patience {
                bail!("{} does not answer: {}", self.name(), running.last_words());
            }
        }
        Ok(running)
    }
}

/// A server that runs until this is dropped.
pub(crate) struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The end of what it printed.
    pub(crate) fn last_words(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().rev().take(5).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join(" / ")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Already ended is as good as killed.
        self.child.kill().ok();
        self.child.wait().ok();
        std::fs::remove_file(&self.log).ok();
        std::fs::remove_file(coturn_database()).ok();
    }
}

/// Where coturn keeps its (empty) user database; it authenticates nobody without one.
fn coturn_database() -> PathBuf {
    std::env::temp_dir().join(format!("bench-turn-coturn-{}.sqlite", std::process::id()))
}

/// Where cargo puts what it builds: this program is in `{target}/{profile}`.
fn target() -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    let target = program.ancestors().nth(2).context("this program is not in a cargo target directory")?;
    Ok(target.to_owned())
}

fn ours_path() -> Result<PathBuf> {
    Ok(target()?.join("release/rtc-turn"))
}

fn pion_path() -> Result<PathBuf> {
    Ok(target()?.join("bench-turn-pion"))
}

fn build_ours() -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build.args(["build", "--quiet", "--release", "-p", "rtc-turn", "--bin", "rtc-turn", "--target-dir"]);
    run(build.arg(target()?).current_dir(env!("CARGO_MANIFEST_DIR")))
}

fn build_pion() -> Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("pion");
    let mut build = Command::new("go");
    build.args(["build", "-trimpath", "-buildvcs=false", "-o"]).arg(pion_path()?).arg(".");
    run(build.current_dir(folder))
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("{:?} is not installed", command.get_program()))?;
    if !output.status.success() {
        bail!("{:?} failed: {}", command, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
