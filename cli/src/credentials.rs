//! `rtc credentials`: what a backend of one's own would hand to a browser.

use anyhow::Context;
use rtc_credentials::{KeyRing, Secret, ice};
use rtc_service::{HumanDuration, clock};
use std::path::PathBuf;

/// Flags of `rtc credentials`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The file that holds the secret: a key of the ring, or coturn's `static-auth-secret`
    #[arg(long, env = "RTC_SECRET_FILE")]
    secret_file: PathBuf,
    /// For whom
    #[arg(long)]
    user: String,
    /// How long the credential lives, such as 90s or 1h30m
    #[arg(long, default_value = "1h")]
    ttl: HumanDuration,
    /// A TURN URI that the object shall name, such as turn:turn.example.com:3478?transport=udp; repeatable
    #[arg(long = "turn", default_value = "turn:127.0.0.1:3478?transport=udp")]
    turn: Vec<String>,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let path = options.secret_file.display();
    let text = std::fs::read_to_string(&options.secret_file)
        .with_context(|| format!("cannot read --secret-file {path}"))?;
    let secret = Secret::from_text(&text).with_context(|| format!("--secret-file {path}"))?;
    let ring = KeyRing::single(secret);
    let (servers, expires) = ice::with_uris(
        Vec::new(),
        options.turn.clone(),
        &ring,
        &options.user,
        options.ttl.into(),
        clock::unix_now(),
    )?;
    println!("{}", serde_json::json!({"iceServers": servers, "expires": expires}));
    Ok(())
}
