//! What the tests run beside cargo: found, installed where that is ours to do,
//! or named together with how to get it.

use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use anyhow::{Context, Result, anyhow, bail};

use crate::process::{cargo, command, output, run, which};

/// A program and the Debian package that has it.
type Packaged = (&'static str, &'static str);

/// Programs that the tests start.
const PACKAGED: [Packaged; 8] = [
    ("redis-server", "redis-server"),
    ("turnutils_uclient", "coturn"),
    ("ip", "iproute2"),
    ("chromium", "chromium"),
    ("chromedriver", "chromium-driver"),
    ("node", "nodejs"),
    ("openssl", "openssl"),
    // what Python lacks on Debian without it is no program
    ("python3", "python3-venv"),
];

/// Fails when `program` is not on PATH, saying how to get it.
pub(crate) fn need(program: &str, how: &str) -> Result<()> {
    if which(program).is_none() {
        bail!("`{program}` is not on PATH: {how}");
    }
    Ok(())
}

/// Sees to it that the packaged programs are there: installs them as root on
/// Debian and its children, and says what to install elsewhere.
pub(crate) fn packages() -> Result<()> {
    let missing: Vec<Packaged> =
        PACKAGED.into_iter().filter(|(program, _)| which(program).is_none()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages = missing.iter().map(|(_, package)| *package).collect::<Vec<_>>();
    let programs = missing.iter().map(|(program, _)| *program).collect::<Vec<_>>().join(", ");
    if which("apt-get").is_none() || !am_root() {
        bail!(
            "not on PATH: {programs}. On Debian or Ubuntu: `sudo apt-get install --no-install-recommends {}`; \
             elsewhere the packages that have these programs",
            packages.join(" ")
        );
    }
    let _quiet = NoServices::begin()?;
    let apt = |args: &[&str]| {
        let mut apt = command("apt-get", ["-qq", "-o", "DPkg::Lock::Timeout=600"]);
        apt.args(args).env("DEBIAN_FRONTEND", "noninteractive");
        apt
    };
    run(&mut apt(&["update"]))?;
    run(apt(&["install", "-y", "--no-install-recommends"]).args(&packages))
}

/// Fails without a Go that builds the Go clients of the tests: from 1.21 on, it gets the very version that
/// a go.mod asks for. Debian 12's own is older, and so is named rather than installed.
pub(crate) fn go() -> Result<()> {
    const HOW: &str = "install Go 1.21 or later (https://go.dev/dl, or Debian's backports)";
    need("go", HOW)?;
    let version = output(command("go", ["env", "GOVERSION"]).env("GOTOOLCHAIN", "local"))?;
    let minor = version.trim().strip_prefix("go1.").and_then(|rest| rest.split(['.', 'r', 'b']).next());
    match minor.and_then(|minor| minor.parse::<u32>().ok()) {
        Some(minor) if minor < 21 => bail!("`go` is {}: {HOW}", version.trim()),
        _ => Ok(()),
    }
}

fn am_root() -> bool {
    output(&mut command("id", ["-u"])).is_ok_and(|id| id.trim() == "0")
}

/// While this lives, a package that is installed starts no service: the tests
/// start their own Redis and TURN servers, on ports of their own.
/// (`/usr/sbin/policy-rc.d`, invoke-rc.d's README.policy-rc.d)
struct NoServices {
    made: Option<PathBuf>,
}

impl NoServices {
    fn begin() -> Result<Self> {
        use std::os::unix::fs::OpenOptionsExt;

        let file = Path::new("/usr/sbin/policy-rc.d");
        let opened = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o755).open(file);
        match opened {
            Ok(mut opened) => {
                std::io::Write::write_all(&mut opened, b"#!/bin/sh\nexit 101\n")?;
                Ok(Self { made: Some(file.to_owned()) })
            }
            // the machine has a policy of its own, which is its owner's business
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(Self { made: None }),
            Err(error) => Err(error).context("cannot write /usr/sbin/policy-rc.d"),
        }
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if let Some(file) = &self.made {
            let _ = std::fs::remove_file(file);
        }
    }
}

/// cargo-deny on its way: it is built beside the other steps when it is lacking.
pub(crate) struct CargoDeny(Option<JoinHandle<Result<()>>>);

impl CargoDeny {
    pub(crate) fn begin() -> Self {
        if which("cargo-deny").is_some() {
            return Self(None);
        }
        // unoptimised: it runs once, for a second, and builds in a third of the time
        let install = || run(&mut cargo(["install", "--quiet", "--locked", "--debug", "cargo-deny"]));
        Self(Some(std::thread::spawn(install)))
    }

    /// Waits until it can be used.
    pub(crate) fn ready(self) -> Result<()> {
        match self.0 {
            None => Ok(()),
            Some(thread) => {
                thread.join().map_err(|_| anyhow!("the thread that installed cargo-deny panicked"))?
            }
        }
    }
}

/// A folder with the programs of a control plane, for tests that run one alone:
/// `KUBEBUILDER_ASSETS`, or the folder of the kubectl on PATH, or kubebuilder's own.
pub(crate) fn control_plane() -> Result<PathBuf> {
    const PROGRAMS: [&str; 3] = ["etcd", "kube-apiserver", "kube-controller-manager"];
    let complete = |folder: &PathBuf| PROGRAMS.iter().all(|name| folder.join(name).is_file());
    let given = std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
    if let Some(given) = given.as_ref().filter(|folder| !complete(folder)) {
        bail!("KUBEBUILDER_ASSETS is {}, which lacks one of {}", given.display(), PROGRAMS.join(", "));
    }
    let beside = which("kubectl").and_then(|file| file.canonicalize().ok()?.parent().map(Path::to_owned));
    let usual = PathBuf::from("/usr/local/kubebuilder/bin");
    given.into_iter().chain(beside).chain([usual]).find(complete).with_context(|| {
        format!(
            "no folder with {}: unpack those of a Kubernetes release (https://dl.k8s.io) and of an etcd \
             release into one, and set KUBEBUILDER_ASSETS to it; or leave these tests out with --no-kind",
            PROGRAMS.join(", ")
        )
    })
}
