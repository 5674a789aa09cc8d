//! What a server process has used: CPU time and memory, as the kernel counts it.

use std::fs;
use std::ops::{Add, Sub};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::time::clock_getcpuclockid;
use nix::unistd::Pid;

/// CPU time of a process, all threads, at one moment.
#[derive(Clone, Copy, Default, Debug)]
pub struct Cpu {
    /// User and system time, exact.
    pub total: Duration,
    /// Clock ticks in user mode, sampled by the kernel.
    pub user_ticks: u64,
    /// Clock ticks in the kernel, sampled.
    pub system_ticks: u64,
}

impl Cpu {
    /// Reads the process's clocks.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn of(pid: u32) -> Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("the server has ended")?;
        // The name, in parentheses, may hold anything; fields 14 and 15 are utime and stime (proc(5)).
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |field: usize| fields.get(field - 3).and_then(|text| text.parse().ok()).unwrap_or(0);
        Ok(Cpu {
            total: clock(pid).context("the server's CPU clock")?,
            user_ticks: ticks(14),
            system_ticks: ticks(15),
        })
    }

    /// Part of the time spent in user mode, 0 to 1.
    pub fn user_share(&self) -> f64 {
        let all = self.user_ticks + self.system_ticks;
        if all == 0 { 0.0 } else { self.user_ticks as f64 / all as f64 }
    }
}

/// CPU time that a process has used, all its threads, ended ones too, in nanoseconds.
fn clock(pid: u32) -> Result<Duration> {
    Ok(clock_getcpuclockid(Pid::from_raw(pid.try_into()?))?.now()?.into())
}

impl Sub for Cpu {
    type Output = Cpu;

    fn sub(self, earlier: Cpu) -> Cpu {
        Cpu {
            total: self.total.saturating_sub(earlier.total),
            user_ticks: self.user_ticks.saturating_sub(earlier.user_ticks),
            system_ticks: self.system_ticks.saturating_sub(earlier.system_ticks),
        }
    }
}

impl Add for Cpu {
    type Output = Cpu;

    fn add(self, other: Cpu) -> Cpu {
        Cpu {
            total: self.total + other.total,
            user_ticks: self.user_ticks + other.user_ticks,
            system_ticks: self.system_ticks + other.system_ticks,
        }
    }
}

/// Memory of a process in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// Resident now (VmRSS).
    pub resident: u64,
    /// The most that ever was (VmHWM).
    pub peak: u64,
}

impl Memory {
    /// Reads the process's memory.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn of(pid: u32) -> Result<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).context("the server has ended")?;
        let kib = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        };
        Ok(Memory {
            resident: kib("VmRSS:").context("no VmRSS")? * 1024,
            peak: kib("VmHWM:").context("no VmHWM")? * 1024,
        })
    }
}
