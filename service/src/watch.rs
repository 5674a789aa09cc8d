//! Files that change while a program runs: mounted Secrets and ConfigMaps, certificates, settings.
//!
//! Polled, not notified: kubelet swaps a whole directory by a link, network file systems send no
//! events, and reading some small files twice a second costs nothing.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::sync::watch;

/// How often a file is looked at.
pub const INTERVAL: Duration = Duration::from_millis(500);
/// A larger file is taken for a mistake.
const MAX_FILE: u64 = 8 << 20;

/// File name -> content.
pub type Files = BTreeMap<String, Vec<u8>>;

/// The content of the file at `path`, or of each file directly in the directory at `path`, less
/// those whose names start with two dots (kubelet's own).
///
/// A volume that kubelet mounts is read through its `..data` link, resolved once: so all content is
/// of one version, though the links beside it are swapped one after the other.
///
/// # Errors
/// When something cannot be read, or a file is over 8 MiB.
pub fn read(path: &Path) -> io::Result<Files> {
    let mut files = Files::new();
    if !std::fs::metadata(path)?.is_dir() {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        files.insert(name, read_bounded(path)?);
        return Ok(files);
    }
    let version = std::fs::canonicalize(path.join("..data"));
    for entry in std::fs::read_dir(version.as_deref().unwrap_or(path))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with("..") && std::fs::metadata(entry.path())?.is_file() {
            files.insert(name, read_bounded(&entry.path())?);
        }
    }
    Ok(files)
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    if std::fs::metadata(path)?.len() > MAX_FILE {
        return Err(io::Error::other(format!("{} is over {MAX_FILE} bytes", path.display())));
    }
    std::fs::read(path)
}

/// Follows `path` (a file or a directory) and yields its new content after each change.
///
/// The first value is what `path` holds now. While it cannot be read the last value stays; that is
/// logged once. Ends when every receiver is dropped. Must be called in a tokio runtime.
///
/// # Errors
/// When `path` cannot be read now.
pub fn files(path: PathBuf, every: Duration) -> io::Result<watch::Receiver<Files>> {
    let (sender, receiver) = watch::channel(read(&path)?);
    tokio::spawn(async move {
        let mut failing = false;
        loop {
            tokio::select! {
                () = sender.closed() => return,
                () = tokio::time::sleep(every) => {}
            }
            // a version that is swapped away while it is read is gone; the next one is there
            match read(&path).or_else(|_| read(&path)) {
                Ok(now) => {
                    failing = false;
                    sender.send_if_modified(|last| {
                        let changed = *last != now;
                        *last = now;
                        changed
                    });
                }
                Err(error) if !failing => {
                    failing = true;
                    tracing::warn!(path = %path.display(), %error, "cannot read; keeping what was read before");
                }
                Err(_) => {}
            }
        }
    });
    Ok(receiver)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::symlink;

    #[tokio::test]
    async fn a_directory_that_kubelet_swaps_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let version = |name: &str, content: &str| {
            std::fs::create_dir(dir.path().join(name)).unwrap();
            std::fs::write(dir.path().join(name).join("key"), content).unwrap();
        };
        version("..1", "one");
        symlink("..1", dir.path().join("..data")).unwrap();
        symlink("..data/key", dir.path().join("key")).unwrap();
        let mut seen = files(dir.path().to_owned(), Duration::from_millis(5)).unwrap();
        assert_eq!(seen.borrow_and_update()["key"], b"one");

        version("..2", "two");
        // its link is not there yet when the version is swapped
        std::fs::write(dir.path().join("..2/new"), "new").unwrap();
        symlink("..2", dir.path().join("..tmp")).unwrap();
        std::fs::rename(dir.path().join("..tmp"), dir.path().join("..data")).unwrap();
        seen.changed().await.unwrap();
        assert_eq!(seen.borrow_and_update()["key"], b"two");
        assert_eq!(seen.borrow()["new"], b"new");
        assert_eq!(seen.borrow().len(), 2);
    }

    #[tokio::test]
    async fn what_was_read_stays_while_the_file_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("turn.json");
        std::fs::write(&path, "1").unwrap();
        let mut seen = files(path.clone(), Duration::from_millis(5)).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "2").unwrap();
        seen.changed().await.unwrap();
        assert_eq!(seen.borrow()["turn.json"], b"2");
        assert!(files(dir.path().join("none"), Duration::from_millis(5)).is_err());
    }
}
