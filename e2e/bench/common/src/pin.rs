//! Which CPU does what: the server has one to itself, the generator another.

use std::io;
use std::process::{Child, Command};

use anyhow::{Result, bail};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The CPUs of a run.
#[derive(Clone, Copy, Debug)]
pub struct Cores {
    /// The generator's.
    pub generator: usize,
    /// The server's.
    pub server: usize,
}

impl Cores {
    /// Of `--cores GENERATOR,SERVER`; this thread stays on the generator's from now on.
    ///
    /// # Errors
    /// When they are not two, do not differ, or are not allowed to this process.
    pub fn take(cores: &[usize]) -> Result<Self> {
        let &[generator, server] = cores else { bail!("--cores takes two: GENERATOR,SERVER") };
        let cores = Self::new(generator, server)?;
        stay_on(generator)?;
        Ok(cores)
    }

    /// Checks that both exist, differ and are allowed to this process.
    fn new(generator: usize, server: usize) -> Result<Self> {
        let allowed = sched_getaffinity(None)?;
        if generator == server || !allowed.is_set(generator) || !allowed.is_set(server) {
            bail!(
                "the generator and the server need a CPU each, of those allowed here: \
                 {generator} and {server} are not; give others with --cores GENERATOR,SERVER"
            );
        }
        Ok(Cores { generator, server })
    }
}

/// Keeps this thread, and what it starts, on one CPU.
///
/// # Errors
/// As `sched_setaffinity`.
fn stay_on(core: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(core);
    Ok(sched_setaffinity(None, &set)?)
}

/// Starts a process that inherits one CPU; this thread then goes back to its own.
///
/// # Errors
/// As `sched_setaffinity` and starting.
pub fn spawn_on(core: usize, command: &mut Command) -> io::Result<Child> {
    let before = sched_getaffinity(None)?;
    stay_on(core)?;
    let child = command.spawn();
    sched_setaffinity(None, &before)?;
    child
}
