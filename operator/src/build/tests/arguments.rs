//! The flags that pods are given, read by the programs' own parsers: one that a program does not know would keep
//! its pods from ever starting.

use std::collections::BTreeMap;

use clap::{Args, Parser};
use rtc_credentials::{Fleet, FleetNode, PortRange};
use rtc_operator_api::{crd, rules};

use super::*;

/// Manifests that set every field of the spec between them.
const MANIFESTS: &str = include_str!("every_field.yaml");
/// Fields of Kubernetes itself, which reach no flag.
const KUBERNETES: [&str; 5] = ["affinity", "tolerations", "resources", "nodeSelector", "podTemplate"];

#[derive(Parser)]
struct Program<S: Args> {
    #[command(flatten)]
    settings: S,
}

fn specs() -> Vec<Value> {
    let documents = serde_yaml::Deserializer::from_str(MANIFESTS);
    let specs: Vec<Value> = documents.map(|one| serde::Deserialize::deserialize(one).unwrap()).collect();
    assert!(specs.len() > 5);
    specs
}

/// What the pod's container is started with: its variables filled in, and those that are settings as flags.
fn command_line(workload: &Value) -> Vec<String> {
    let container = &pod_of(workload)["containers"][0];
    let mut line = vec![container["command"][0].as_str().unwrap().to_owned()];
    let mut known = BTreeMap::new();
    for variable in container["env"].as_array().into_iter().flatten() {
        let name = variable["name"].as_str().unwrap();
        match variable["valueFrom"]["fieldRef"]["fieldPath"].as_str() {
            Some("status.hostIP") => known.insert(format!("$({name})"), "192.0.2.1"),
            Some("spec.nodeName") => known.insert(format!("$({name})"), "w1"),
            Some(other) => panic!("{other} is not in this test"),
            None => {
                let flag = name.strip_prefix("RTC_SIGNALING_").unwrap().to_lowercase().replace('_', "-");
                line.push(format!("--{flag}={}", variable["value"].as_str().unwrap()));
                None
            }
        };
    }
    line.extend(args(workload).into_iter().map(|arg| {
        known.iter().fold(arg.to_owned(), |arg, (variable, value)| arg.replace(variable.as_str(), value))
    }));
    line
}

fn parsed<S: Args>(line: &[String]) -> S {
    match Program::<S>::try_parse_from(line) {
        Ok(program) => program.settings,
        Err(error) => panic!("{error}\n{}", line.join(" ")),
    }
}

/// The fields of a schema that none of the values has.
fn unset(schema: &Value, values: &[&Value], path: &str) -> Vec<String> {
    let mut missing = Vec::new();
    for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        let found = values.iter().filter_map(|value| value.get(name));
        let found: Vec<_> = found
            .flat_map(|value| value.as_array().map_or_else(|| vec![value], |items| items.iter().collect()))
            .collect();
        if found.is_empty() {
            missing.push(path);
        } else if !KUBERNETES.contains(&name.as_str()) {
            let schema = if schema["type"] == "array" { &schema["items"] } else { schema };
            missing.extend(unset(schema, &found, &path));
        }
    }
    missing
}

#[test]
fn the_manifests_of_these_tests_set_every_field_and_keep_every_rule() {
    let schema = json!(crd());
    let spec = &schema["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    let specs = specs();
    assert_eq!(unset(spec, &specs.iter().collect::<Vec<_>>(), "spec"), <Vec<String>>::new());
    for spec in specs {
        let violations = rules::validate(&serde_json::from_value(spec.clone()).unwrap());
        assert!(violations.is_empty(), "{violations:?} in {spec}");
    }
}

#[test]
fn rtc_signaling_knows_every_flag_that_its_pods_get() {
    for spec in specs() {
        let line = command_line(&built(spec, deployment::build));
        let settings: rtc_signaling::Settings = parsed(&line);
        assert_eq!(settings.listeners().len(), 1);
        assert!(settings.turn_file.is_some() && settings.keys.is_some() && settings.admin.is_some());
        assert!(settings.store.is_some() != settings.redis_url_file.is_some(), "{line:?}");
        assert_eq!(settings.tls_cert.is_some(), settings.tls_key.is_some());
    }
}

#[test]
fn rtc_turn_knows_every_flag_that_its_pods_get_and_can_start_with_them() {
    // What the pods mount, where the flags can be pointed to.
    let files = tempfile::tempdir().unwrap();
    let mount = |build: &Build<'_>| {
        let turn = &build.cluster.spec.turn;
        let fleet = Fleet {
            realm: turn.realm.clone(),
            relay_ports: PortRange { min: turn.relay_ports.min, max: turn.relay_ports.max },
            nodes: vec![FleetNode {
                node: "w1".into(),
                addresses: vec!["192.0.2.1".parse().unwrap()],
                serving: true,
            }],
            ..Fleet::default()
        };
        let config = configmap::build(build, &fleet).value;
        std::fs::create_dir_all(files.path().join("turn")).unwrap();
        let text = config["data"][configmap::FILE].as_str().unwrap();
        std::fs::write(files.path().join("turn").join(configmap::FILE), text).unwrap();
        daemonset::build(build)
    };
    std::fs::create_dir_all(files.path().join("redis")).unwrap();
    std::fs::write(files.path().join("redis/url"), "redis://redis.example.com\n").unwrap();
    for spec in specs() {
        let turn: rtc_operator_api::spec::Turn =
            serde_json::from_value(spec.get("turn").cloned().unwrap_or_else(|| json!({}))).unwrap();
        let line = command_line(&built(spec, mount));
        let here = files.path().to_str().unwrap();
        let line: Vec<_> = line.iter().map(|arg| arg.replace("=/etc/rtc", &format!("={here}"))).collect();
        let config =
            parsed::<rtc_turn::Settings>(&line).resolve().unwrap_or_else(|e| panic!("{e}\n{line:?}"));
        assert_eq!(config.listen.len(), turn.listeners.len() * turn.addresses.families.len());
        assert_eq!(config.tls.is_some(), turn.listeners.iter().any(|l| l.transport.needs_tls()));
        assert_eq!(config.stun_only, !turn.relays());
        let asked = config.external_stun.as_ref().map(|stun| stun.server.as_str());
        assert_eq!(asked, turn.addresses.stun_server.as_deref());
        if turn.relays() {
            assert_eq!(config.fleet.unwrap().node.as_deref(), Some("w1"));
            assert_eq!(config.fleet_quota.map(|quota| quota.max), turn.fleet_quota());
            assert_eq!(config.limits.total.unwrap_or_default(), turn.quotas.allocations);
            assert_eq!(
                config.bandwidth.map_or(0, std::num::NonZero::get),
                turn.quotas.bandwidth_per_allocation
            );
        }
    }
}
