//! The operator against a real API server: `KUBEBUILDER_ASSETS` names the directory of `etcd`, `kube-apiserver` and
//! `kube-controller-manager`; else they are looked for on the PATH and in /usr/local/kubebuilder/bin.
//!
//! There are no nodes: [`kubelet`] plays them, with a real admin port for each pod.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod a_changed_template_drains_node_by_node;
mod a_malformed_cluster_stops_no_other;
mod a_second_operator_takes_over;
mod an_edit_takes_effect;
mod an_empty_spec_runs;
mod certificates_are_followed;
mod deletion_leaves_nothing;
mod keys_rotate_when_all_have_them;
mod kubelet;
mod monitoring_is_there_where_it_can_be;
mod only_who_must_connects;
mod others_fields_survive;
mod routes_lead_in;
mod rules_refuse_with_advice;
mod server;
mod signaling_follows_its_load;
mod steady_state_writes_nothing;
mod world;
