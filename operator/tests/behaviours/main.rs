//! The operator against a real API server: `KUBEBUILDER_ASSETS` names the directory of `etcd`, `kube-apiserver` and
//! `kube-controller-manager`; else they are looked for on the PATH and in /usr/local/kubebuilder/bin.
//!
//! There are no nodes: [`kubelet`] plays them, with a real admin port for each pod.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod a_changed_template_drains_node_by_node;
mod a_killed_operator_goes_on;
mod a_malformed_cluster_stops_no_other;
mod a_second_operator_takes_over;
mod a_stale_watch_cuts_nothing;
mod addresses_are_followed;
mod an_edit_takes_effect;
mod an_empty_spec_runs;
mod certificates_are_followed;
mod deletion_leaves_nothing;
mod keys_rotate_when_all_have_them;
mod kubectl_knows_it;
mod kubelet;
mod link;
mod logs;
mod monitoring_is_there_where_it_can_be;
mod only_who_must_connects;
mod others_fields_survive;
mod rights;
mod ring_history;
mod routes_lead_in;
mod rules_refuse_with_advice;
mod server;
mod signaling_follows_its_load;
mod steady_state_writes_nothing;
mod trouble_is_waited_out;
mod two_leaders_lose_no_key;
mod world;
