//! A network of a test's own: the test runs itself again inside it.

use std::process::Command;

const INSIDE: &str = "RTC_TEST_IN_NAMESPACE";

/// Runs the test of that name in a process of its own, on a network where nothing is but loopback and
/// all of 10.0.0.0/8 is this host. `true` in there; `false` where it has been run.
pub fn enter(test: &str) -> bool {
    if std::env::var(INSIDE).is_ok_and(|inside| inside == test) {
        return true;
    }
    let mut unshare = Command::new("unshare");
    if !rustix::process::getuid().is_root() {
        unshare.args(["--user", "--map-root-user"]);
    }
    let script = "ip link set lo up && ip route add local 10.0.0.0/8 dev lo && exec \"$0\" \"$@\"";
    unshare.args(["--net", "--", "sh", "-c", script]).arg(std::env::current_exe().unwrap());
    unshare.args(["--exact", test, "--nocapture"]).env(INSIDE, test);
    let output = unshare.output().expect("install Debian's package util-linux");
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{test} needs unshare, ip (Debian's package iproute2), and root or user namespaces: {text}"
    );
    false
}
