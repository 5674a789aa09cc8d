//! Structured logs on standard error, so that standard output stays for results.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use std::io::IsTerminal;
use tracing_subscriber::{EnvFilter, fmt};

/// How a log line is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line, for log collectors.
    Json,
}

/// Starts logging. What is logged is set by `RTC_LOG`, in the syntax of `tracing`'s `EnvFilter`
/// (`info`, `rtc_turn=debug,info`); without it, `default`. A second call changes nothing.
pub fn init(format: LogFormat, default: &str) {
    let filter = EnvFilter::try_from_env("RTC_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let builder = fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let _ = match format {
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
}
