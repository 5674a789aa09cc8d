//! `rtc token`: what an application's backend would give to a browser, for trying out.

use anyhow::Context;
use rtc_service::{HumanDuration, clock};
use rtc_signaling::auth::Mint;
use serde_json::{Map, Value, json};
use std::path::PathBuf;

/// Flags of `rtc token`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The file with the HMAC secret that signaling checks tokens with (--jwt-keys, or the manifest's jwt.secretRef)
    #[arg(long, env = "RTC_JWT_SECRET_FILE")]
    secret_file: PathBuf,
    /// For whom: the claim `sub`
    #[arg(long)]
    user: String,
    /// A room that it lets into, or the beginning of several and `*`; repeatable
    #[arg(long, required = true)]
    room: Vec<String>,
    /// How long it is valid, such as 90s or 1h30m
    #[arg(long, default_value = "1h")]
    ttl: HumanDuration,
    /// The name that others see
    #[arg(long)]
    name: Option<String>,
    /// What it permits by the HTTP API, such as rooms:list; repeatable
    #[arg(long)]
    api: Vec<String>,
    /// It may not send
    #[arg(long)]
    no_publish: bool,
    /// It is not told what others send
    #[arg(long)]
    no_subscribe: bool,
    /// The most members of a room that it begins
    #[arg(long)]
    max: Option<u32>,
    /// The claim `iss`
    #[arg(long)]
    issuer: Option<String>,
    /// The claim `aud`
    #[arg(long)]
    audience: Option<String>,
}

pub(crate) fn run(options: Options) -> anyhow::Result<()> {
    let path = options.secret_file.display().to_string();
    let text = std::fs::read_to_string(&options.secret_file)
        .with_context(|| format!("cannot read --secret-file {path}"))?;
    let mint = Mint::new(&path, &text, options.ttl.into()).context("--secret-file")?;
    let mut claims = Map::from_iter([("rooms".to_owned(), json!(options.room))]);
    let mut say = |name: &str, value: Value| claims.insert(name.to_owned(), value);
    if let Some(name) = options.name {
        say("name", name.into());
    }
    if let Some(max) = options.max {
        say("max", max.into());
    }
    if !options.api.is_empty() {
        say("api", json!(options.api));
    }
    if options.no_publish {
        say("publish", false.into());
    }
    if options.no_subscribe {
        say("subscribe", false.into());
    }
    let mint = mint.of(options.issuer, options.audience);
    println!("{}", mint.token(&options.user, &Value::Object(claims), clock::unix_now()));
    Ok(())
}
