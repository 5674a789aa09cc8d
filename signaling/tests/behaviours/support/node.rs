//! Programs of node with packages from npm: unmodified clients of the dialects.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::Mutex,
};

/// Installs packages (`name@version`) once, into a folder of their own.
pub fn install(folder: &str, packages: &[&str]) -> PathBuf {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _one = ONE_AT_A_TIME.lock().unwrap();
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(folder);
    let done = dir.join("installed");
    let wanted = packages.join(" ");
    if std::fs::read_to_string(&done).is_ok_and(|there| there == wanted) {
        return dir;
    }
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("package.json"), "{\"private\": true}").unwrap();
    let install = Command::new("npm")
        .args(["install", "--no-audit", "--no-fund", "--loglevel", "error"])
        .args(packages)
        .current_dir(&dir)
        .output();
    let install = install.expect("npm is not installed; on Debian: apt-get install npm");
    assert!(install.status.success(), "{}", String::from_utf8_lossy(&install.stderr));
    std::fs::write(done, wanted).unwrap();
    dir
}

/// Runs a script below `tests/` to its end, which has to be a good one.
pub async fn play(script: &str, packages: &Path, arguments: &[String]) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/behaviours").join(script);
    let mut node = Command::new("node");
    node.arg(&script).args(arguments).env("NODE_PATH", packages.join("node_modules"));
    super::clients::play(node).await;
}
