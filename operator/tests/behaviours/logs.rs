//! What the operators of this process log.

use std::{
    io,
    sync::{Mutex, MutexGuard, Once},
};

static LINES: Mutex<Vec<u8>> = Mutex::new(Vec::new());
static BEGIN: Once = Once::new();

struct Lines(MutexGuard<'static, Vec<u8>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Keeps warnings and errors from now on.
pub(crate) fn keep() {
    BEGIN.call_once(|| {
        let lines = || Lines(LINES.lock().unwrap());
        tracing_subscriber::fmt()
            .with_max_level(tracing::Level::WARN)
            .with_ansi(false)
            .with_writer(lines)
            .init();
    });
}

/// The lines that have all of these parts.
pub(crate) fn with(parts: &[&str]) -> Vec<String> {
    let all = String::from_utf8_lossy(&LINES.lock().unwrap()).into_owned();
    all.lines().filter(|line| parts.iter().all(|part| line.contains(part))).map(str::to_owned).collect()
}
