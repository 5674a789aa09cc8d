//! A network and process namespace of the bench's own. Without one, the connection
//! tracking that Docker or a firewall installs is charged to every server, 0.4 to 1.5 µs
//! a packet; and a bench that is killed would leave servers behind.

use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::{Resource, Rlimit, getrlimit, getuid, setrlimit};

const INSIDE: &str = "RTC_BENCH_NAMESPACE";
const READY: &str = "RTC_BENCH_READY";

/// Where the bench runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// In namespaces of its own.
    Isolated,
    /// In the namespaces it was started in, since others could not be made or were not wanted.
    Shared,
}

/// Whether this process is the one that measures, and where; none before [`enter`].
pub fn place() -> Option<Place> {
    match std::env::var(INSIDE).ok()?.as_str() {
        "isolated" => Some(Place::Isolated),
        _ => Some(Place::Shared),
    }
}

/// The names of the servers that were found ready before [`enter`].
pub fn ready() -> Vec<String> {
    std::env::var(READY).unwrap_or_default().split(',').map(str::to_owned).collect()
}

/// Starts this program again, with the same arguments, in namespaces of its own, and becomes it.
/// Servers are built before, where there is a network; it learns which are ready.
///
/// # Errors
/// When not even the same program can be started again.
pub fn enter(wanted: bool, ready: &[&str]) -> std::io::Error {
    let ready = ready.join(",");
    let mut unshare = Command::new("unshare");
    if !getuid().is_root() {
        unshare.args(["--user", "--map-root-user"]);
    }
    unshare.args(["--net", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    let program = std::env::current_exe().unwrap_or_else(|_| "bench".into());
    if wanted {
        let mut attempt = Command::new("unshare");
        attempt.args(unshare.get_args()).args(["ip", "link", "set", "lo", "up"]);
        match attempt.output() {
            Ok(output) if output.status.success() => {
                let script = r#"ip link set lo up && exec "$0" "$@""#;
                unshare.args(["sh", "-c", script]).arg(program);
                return unshare
                    .args(std::env::args_os().skip(1))
                    .env(INSIDE, "isolated")
                    .env(READY, ready)
                    .exec();
            }
            Ok(output) => eprintln!(
                "no network namespace of its own ({}): figures include this machine's \
                 packet filters and connection tracking; run as root for clean ones",
                String::from_utf8_lossy(&output.stderr).trim()
            ),
            Err(error) => eprintln!("no network namespace of its own: unshare or ip: {error}"),
        }
    }
    Command::new(program).args(std::env::args_os().skip(1)).env(INSIDE, "shared").env(READY, ready).exec()
}

/// Makes room for so many sockets, beside `others` open files, or for as many as this process may have; how many that is.
pub fn make_room(sockets: usize, others: usize) -> usize {
    let files = raise_open_files((sockets + others) as u64);
    usize::try_from(files).map_or(sockets, |files| files.saturating_sub(others).min(sockets))
}

/// Raises the limit of open files to `wanted`, or as far as this process may; what holds now.
fn raise_open_files(wanted: u64) -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let whole = Rlimit { current: Some(wanted), maximum: Some(wanted.max(limit.maximum.unwrap_or(wanted))) };
    if setrlimit(Resource::Nofile, whole).is_err() {
        let most = Rlimit { current: limit.maximum, maximum: limit.maximum };
        // The limit that holds is returned; an idle load then opens fewer.
        let _ = setrlimit(Resource::Nofile, most);
    }
    getrlimit(Resource::Nofile).current.unwrap_or(wanted)
}
