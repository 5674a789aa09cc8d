//! The servers measured: how each is built, started and known to be ready.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use rtc_bench_common::{
    pin,
    process::{Cpu, Memory},
    report::Server,
};

use crate::dialect::Dialect;

const PACKAGE: &str = include_str!("../peers/package.json");
const SCRIPTS: [(&str, &str); 2] = [
    ("socketio.cjs", include_str!("../peers/socketio.cjs")),
    ("peerjs.cjs", include_str!("../peers/peerjs.cjs")),
];
/// A package of a workspace of its own, so that nobody else builds what it depends on.
const SOCKETIOXIDE: [(&str, &str); 2] = [
    ("Cargo.toml", include_str!("../peers/socketioxide/Cargo.toml")),
    ("src/main.rs", include_str!("../peers/socketioxide/src/main.rs")),
];
const PATIENCE: Duration = Duration::from_secs(10);
/// Each measurement has ports of its own, so that none waits for another's connections to be forgotten.
static NEXT_PORT: AtomicU16 = AtomicU16::new(17_000);

/// A server by the name it has on the command line.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, ValueEnum)]
pub(crate) enum Kind {
    /// rtc-signaling of this tree.
    Ours,
    /// The same, whose clients ask for an answer to each message, as the browser client does.
    #[value(name = "ours-acks")]
    OursAcks,
    /// Socket.IO, with its Redis adapter across processes.
    #[value(name = "socketio")]
    SocketIo,
    /// PeerServer.
    #[value(name = "peerjs")]
    PeerJs,
    /// Socket.IO in Rust, with its Redis adapter across processes.
    Socketioxide,
    /// A relay that knows frames and rooms.
    Bare,
}

impl Server for Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Ours => "ours",
            Kind::OursAcks => "ours-acks",
            Kind::SocketIo => "socketio",
            Kind::PeerJs => "peerjs",
            Kind::Socketioxide => "socketioxide",
            Kind::Bare => "bare",
        }
    }

    fn version(self) -> String {
        let package = |name: &str| {
            let package: serde_json::Value = serde_json::from_str(PACKAGE).unwrap_or_default();
            package["dependencies"][name].as_str().unwrap_or("unknown").to_owned()
        };
        match self {
            Kind::Ours | Kind::OursAcks | Kind::Bare => env!("CARGO_PKG_VERSION").to_owned(),
            Kind::SocketIo => package("socket.io"),
            Kind::PeerJs => package("peer"),
            Kind::Socketioxide => {
                let version =
                    |line: &str| line.strip_prefix("socketioxide = ")?.split('"').nth(1).map(str::to_owned);
                let version = SOCKETIOXIDE[0].1.lines().find_map(version).unwrap_or_default();
                version.trim_start_matches('=').to_owned()
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
            Kind::Ours => Dialect::Native,
            Kind::OursAcks => Dialect::NativeAcks,
            Kind::SocketIo | Kind::Socketioxide => Dialect::SocketIo,
            Kind::PeerJs => Dialect::PeerJs,
            Kind::Bare => Dialect::Bare,
        }
    }

    /// Whether it can be two processes with Redis between them.
    pub(crate) fn scales(self) -> bool {
        matches!(self, Kind::Ours | Kind::OursAcks | Kind::SocketIo | Kind::Socketioxide | Kind::Bare)
    }

    /// Finds the server's program, building it where it is built from source; `ours` is not.
    ///
    /// # Errors
    /// When it cannot be built or is not installed; says what to do.
    pub(crate) fn prepare(self, ours: Option<&Path>) -> Result<()> {
        match self {
            Kind::Ours | Kind::OursAcks => ours.map_or_else(build_ours, |path| {
                path.metadata().map(drop).with_context(|| format!("{}", path.display()))
            }),
            Kind::SocketIo | Kind::PeerJs => install_node_packages(),
            Kind::Socketioxide => build_socketioxide(),
            Kind::Bare => Ok(()),
        }
    }

    /// `seat`: which of the server's processes it is.
    fn command(
        self,
        listen: SocketAddr,
        seat: usize,
        redis: Option<SocketAddr>,
        ours: Option<&Path>,
    ) -> Result<Command> {
        let mut command;
        let url = redis.map(|redis| format!("redis://{redis}"));
        match self {
            Kind::Ours | Kind::OursAcks => {
                command = Command::new(ours.map_or_else(ours_path, |path| Ok(path.to_owned()))?);
                let admin = SocketAddr::new(listen.ip(), NEXT_PORT.fetch_add(1, Ordering::Relaxed));
                command.args(["--listen", &listen.to_string(), "--admin", &admin.to_string()]);
                command.args(["--store", url.as_deref().unwrap_or("memory")]);
            }
            Kind::SocketIo | Kind::PeerJs => {
                command = Command::new("node");
                command.arg(node_folder()?.join(format!("{}.cjs", self.name())));
                command.arg(listen.port().to_string()).args(url);
            }
            Kind::Socketioxide => {
                command = Command::new(socketioxide_folder()?.join("release/bench-signaling-socketioxide"));
                command.arg(listen.port().to_string()).args(url);
            }
            Kind::Bare => {
                command = Command::new(std::env::current_exe()?);
                command.args(["bare", &listen.to_string()]);
                if let Some(redis) = redis {
                    command.args([redis.to_string(), seat.to_string()]);
                }
            }
        }
        Ok(command)
    }

    /// Starts it on the CPU given, as one process or as two with Redis, and waits until it listens.
    ///
    /// # Errors
    /// When it ends or does not listen in time; with the end of what it printed.
    pub(crate) fn start(self, two: bool, core: usize, ours: Option<&Path>) -> Result<Running> {
        let redis = if two { Some(start_redis(core)?) } else { None };
        let store = redis.as_ref().map(|redis| redis.address);
        let servers = (0..=usize::from(two)).map(|seat| {
            let listen = next_address();
            Process::start(self.name(), self.command(listen, seat, store, ours)?, listen, core)
        });
        Ok(Running { servers: servers.collect::<Result<_>>()?, redis })
    }
}

/// A server, its second process and its Redis, which run until this is dropped.
pub(crate) struct Running {
    servers: Vec<Process>,
    redis: Option<Process>,
}

impl Running {
    /// Where the two of a call connect.
    pub(crate) fn addresses(&self) -> [SocketAddr; 2] {
        let [first, .., last] = self.servers.as_slice() else {
            return [self.servers[0].address; 2];
        };
        [first.address, last.address]
    }

    /// CPU time of all processes of the server, and of Redis.
    ///
    /// # Errors
    /// When one has ended.
    pub(crate) fn cpu(&self) -> Result<(Cpu, Cpu)> {
        let mut all = Cpu::default();
        for server in &self.servers {
            all = all + Cpu::of(server.child.id())?;
        }
        let redis = self.redis.as_ref().map(|redis| Cpu::of(redis.child.id())).transpose()?;
        Ok((all, redis.unwrap_or_default()))
    }

    /// Memory of the server's first process.
    ///
    /// # Errors
    /// When it has ended.
    pub(crate) fn memory(&self) -> Result<Memory> {
        Memory::of(self.servers[0].child.id())
    }

    /// The ends of what its processes printed.
    pub(crate) fn last_words(&self) -> String {
        self.servers.iter().map(Process::last_words).collect::<Vec<_>>().join("; ")
    }
}

struct Process {
    child: Child,
    address: SocketAddr,
    log: PathBuf,
}

impl Process {
    fn start(name: &str, mut command: Command, address: SocketAddr, core: usize) -> Result<Self> {
        let log = std::env::temp_dir().join(format!("bench-signaling-{name}-{}.log", address.port()));
        let output = File::create(&log).with_context(|| format!("{}", log.display()))?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let child = pin::spawn_on(core, &mut command).with_context(|| format!("starting {name}"))?;
        let mut process = Process { child, address, log };
        let start = Instant::now();
        while TcpStream::connect_timeout(&address, PATIENCE).is_err() {
            if let Some(status) = process.child.try_wait()? {
                bail!("{name} ended with {status}: {}", process.last_words());
            }
            if start.elapsed() > PATIENCE {
                bail!("{name} does not listen: {}", process.last_words());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(process)
    }

    fn last_words(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().rev().take(5).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join(" / ")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Already ended is as good as killed.
        self.child.kill().ok();
        self.child.wait().ok();
        fs::remove_file(&self.log).ok();
    }
}

fn next_address() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, NEXT_PORT.fetch_add(1, Ordering::Relaxed)).into()
}

fn start_redis(core: usize) -> Result<Process> {
    let listen = next_address();
    let mut command = Command::new("redis-server");
    command.args(["--bind", "127.0.0.1", "--port", &listen.port().to_string()]);
    command.args(["--save", "", "--appendonly", "no"]);
    let started = Process::start("redis", command, listen, core);
    started.context("Redis is needed across processes: apt-get install redis-server")
}

/// Where cargo puts what it builds: this program is in `{target}/{profile}`.
fn target() -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    let target = program.ancestors().nth(2).context("this program is not in a cargo target directory")?;
    Ok(target.to_owned())
}

fn ours_path() -> Result<PathBuf> {
    Ok(target()?.join("release/rtc-signaling"))
}

fn node_folder() -> Result<PathBuf> {
    Ok(target()?.join("bench-signaling-peers"))
}

/// Where its package is put, and built.
fn socketioxide_folder() -> Result<PathBuf> {
    Ok(target()?.join("bench-signaling-socketioxide"))
}

fn build_socketioxide() -> Result<()> {
    let folder = socketioxide_folder()?;
    fs::create_dir_all(folder.join("src"))?;
    for (name, text) in SOCKETIOXIDE {
        let path = folder.join(name);
        if !fs::read_to_string(&path).is_ok_and(|before| before == text) {
            fs::write(path, text)?;
        }
    }
    let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    build.args(["build", "--quiet", "--release", "--target-dir"]).arg(&folder);
    run(build.current_dir(&folder))
}

fn build_ours() -> Result<()> {
    let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    build.args([
        "build",
        "--quiet",
        "--release",
        "-p",
        "rtc-signaling",
        "--bin",
        "rtc-signaling",
        "--target-dir",
    ]);
    run(build.arg(target()?).current_dir(env!("CARGO_MANIFEST_DIR")))
}

fn install_node_packages() -> Result<()> {
    let folder = node_folder()?;
    fs::create_dir_all(&folder)?;
    for (name, script) in SCRIPTS {
        fs::write(folder.join(name), script)?;
    }
    let package = folder.join("package.json");
    let installed = fs::read_to_string(&package).is_ok_and(|text| text == PACKAGE);
    if installed && folder.join("node_modules/peer").is_dir() {
        return Ok(());
    }
    fs::write(package, PACKAGE)?;
    run(Command::new("npm").args(["install", "--no-audit", "--no-fund", "--omit=dev"]).current_dir(folder))
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("{:?} is not installed", command.get_program()))?;
    if !output.status.success() {
        bail!("{:?} failed: {}", command, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
