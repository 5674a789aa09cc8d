//! turn/README.md leaves out no flag, variable, metric, reason or key of the status.

use crate::common::{admin, certificate, config, start};
use clap::{Args, Command};
use rtc_turn::{
    Settings,
    fleet_quota::{FleetQuota, Store},
    settings::{ExternalStun, QuotaFail},
};
use rtc_turn_proto::Drop;

const PAGE: &str = include_str!("../../README.md");

fn listed(what: &str) {
    // a name is followed by what ends it, so that no longer one stands for it
    let found = [" ", "`", "\""].iter().any(|end| PAGE.contains(&format!("`{what}{end}")));
    assert!(found, "turn/README.md does not list {what}");
}

#[test]
fn every_flag_and_variable_is_listed() {
    let command = Settings::augment_args(Command::new("rtc-turn"));
    for argument in command.get_arguments() {
        listed(&format!("--{}", argument.get_long().unwrap()));
        listed(argument.get_env().unwrap().to_str().unwrap());
    }
    assert!(command.get_arguments().count() > 20);
}

#[tokio::test]
async fn every_metric_reason_and_key_of_the_status_is_listed() {
    let dir = tempfile::tempdir().unwrap();
    certificate::issue(dir.path());
    let mut config = certificate::with_certificate(dir.path(), &["udp://127.0.0.1:0"], config());
    // what is shown only where there is one
    let store = Store { url: "redis://127.0.0.1:1".into(), ..Store::default() };
    config.fleet_quota = Some(FleetQuota::new(store, 3, QuotaFail::Open).unwrap());
    let every = std::time::Duration::from_secs(20);
    config.external_stun = Some(ExternalStun { server: "127.0.0.1:1".into(), every });
    config.relay = vec!["127.0.0.1,127.0.0.2".parse().unwrap()];
    let server = start(config).await;
    let (_, metrics) = admin(&server, "GET /metrics", None).await;
    let mut count = 0;
    for line in metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').unwrap();
        listed(&format!("{name}{}", if kind == "counter" { "_total" } else { "" }));
        count += 1;
    }
    assert_eq!(count, PAGE.matches("\n| `rtc_turn_").count(), "the page lists metrics that are none");
    Drop::ALL.iter().for_each(|why| listed(why.label()));
    server.status().as_object().unwrap().keys().for_each(|key| listed(key));
}
