//! The RtcCluster custom resource: types, schema, rules and defaults.
