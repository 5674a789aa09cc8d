//! signaling/README.md leaves out no flag, variable, metric, key of the status, error code or close code.

use crate::support::*;
use clap::{Args, Command};
use rtc_signaling::{Settings, metrics::WebhookOutcome};
use rtc_signaling_proto::{client::Code, close};

const PAGE: &str = include_str!("../../README.md");

fn listed(what: &str) {
    // a name is followed by what ends it, so that no longer one stands for it
    let found = [" ", "`", "\""].iter().any(|end| PAGE.contains(&format!("`{what}{end}")));
    assert!(found, "signaling/README.md does not list {what}");
}

#[test]
fn every_flag_and_variable_is_listed() {
    let command = Settings::augment_args(Command::new("rtc-signaling"));
    for argument in command.get_arguments() {
        listed(&format!("--{}", argument.get_long().unwrap()));
        listed(argument.get_env().unwrap().to_str().unwrap());
    }
    let rows = PAGE.lines().filter(|line| line.starts_with("| `--") && line.contains("`RTC_SIGNALING_"));
    // and --config, which is no setting
    assert_eq!(rows.count(), command.get_arguments().count() + 1, "the page lists flags that are none");
}

#[tokio::test]
async fn every_metric_and_key_of_the_status_is_listed() {
    let server = Backend::memory().replica().await.server;
    // what has labels is told once it has happened
    let metrics = server.hub().metrics();
    let _open = metrics.connection("native");
    metrics.message("native", "join");
    metrics.resume("resumed");
    metrics.refused("unauthorized");
    metrics.webhooks.get_or_create(&WebhookOutcome { outcome: "sent" }).inc();
    let metrics = server.metrics();
    let mut count = 0;
    for line in metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').unwrap();
        listed(&format!("{name}{}", if kind == "counter" { "_total" } else { "" }));
        count += 1;
    }
    assert_eq!(count, PAGE.matches("\n| `rtc_signaling_").count(), "the page lists metrics that are none");
    server.status().as_object().unwrap().keys().for_each(|key| listed(key));
}

#[test]
fn every_error_and_close_code_is_listed() {
    Code::ALL.iter().for_each(|code| listed(code.as_str()));
    use close::*;
    for code in [RESTART, TOO_BIG, SUPERSEDED, SLOW, IDLE, KICKED, EXPIRED, PROTOCOL] {
        assert!(PAGE.contains(&format!("\n| {code} |")), "signaling/README.md does not list {code}");
    }
}
