//! Programs of others' libraries.

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

/// Runs a program to its end, which has to be a good one.
pub async fn play(mut command: Command) {
    let shown = format!("{command:?}");
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap();
    let output = match output {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            panic!("{shown} is not installed; on Debian: apt-get install nodejs npm")
        }
        output => output.unwrap(),
    };
    assert!(
        output.status.success(),
        "{shown}: {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
}

/// The program of `tests/clients/matchbox`, built once.
pub fn matchbox() -> PathBuf {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM
        .get_or_init(|| {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/matchbox");
            let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("matchbox-client");
            let built = Command::new(env!("CARGO"))
                .args(["build", "--locked", "--quiet", "--target-dir"])
                .arg(&target)
                .current_dir(folder)
                .output()
                .unwrap();
            assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
            target.join("debug/matchbox-client")
        })
        .clone()
}
