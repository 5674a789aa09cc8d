//! The CRDs as files: written by `cargo xtask crds`, compared by the tests.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::process::{cargo, command, output, root, run, target};

/// Name of the file that holds the RtcCluster CRD, wherever it lies.
const FILE: &str = "rtcclusters.yaml";

/// The folders that hold a copy: the one for `kubectl apply`, and one for each
/// chart, since a chart reads no file from outside its own folder.
const FOLDERS: [&str; 3] = ["crds", "charts/rtc-operator/files", "charts/rtc-operator-crds/files"];

/// Writes every copy.
pub(crate) fn write() -> Result<()> {
    // the whole workspace, so that nothing is built with other features than the tests' build has
    run(&mut cargo(["build", "--release", "--workspace", "--bins"]))?;
    let text = generate()?;
    for file in copies() {
        if let Some(folder) = file.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(&file, &text).with_context(|| format!("cannot write {}", file.display()))?;
        println!("wrote {}", file.strip_prefix(root()).unwrap_or(&file).display());
    }
    Ok(())
}

/// Fails when a copy differs from what the types say.
pub(crate) fn check() -> Result<()> {
    let text = generate()?;
    for file in copies() {
        if std::fs::read_to_string(&file).ok().as_ref() != Some(&text) {
            bail!("{} differs from operator/api: run `cargo xtask crds` and commit it", file.display());
        }
    }
    Ok(())
}

fn copies() -> impl Iterator<Item = PathBuf> {
    FOLDERS.into_iter().map(|folder| root().join(folder).join(FILE))
}

/// What `rtc crd` prints, as it was built last.
fn generate() -> Result<String> {
    let program = target().join("release/rtc");
    output(&mut command(&program.to_string_lossy(), ["crd"]))
}
