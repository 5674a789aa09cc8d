//! Whether the operator can act on a spec, and what in it is for trying out. Pure.

use rtc_operator_api::{
    RtcCluster,
    rules::{self, Violation},
    spec::AuthMode,
};

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Rules that are broken. Nothing is changed until they hold.
    pub violations: Vec<Violation>,
    /// What is only for trying out.
    pub for_trying_out: Vec<String>,
}

impl Verdict {
    /// Whether the operator may act.
    #[must_use]
    pub fn acts(&self) -> bool {
        self.violations.is_empty()
    }
}

/// Checks a resource, which the API server may have taken before a rule existed.
#[must_use]
pub fn validate(cluster: &RtcCluster) -> Verdict {
    let spec = &cluster.spec;
    let mut verdict = Verdict {
        violations: rules::validate_name(cluster.metadata.name.as_deref().unwrap_or_default())
            .into_iter()
            .chain(rules::validate(spec))
            .collect(),
        ..Verdict::default()
    };
    let list =
        |of: &[(bool, &str)]| of.iter().filter(|(is, _)| *is).map(|(_, what)| (*what).to_owned()).collect();
    let external = spec.redis.external.as_ref();
    verdict.for_trying_out = list(&[
        (
            spec.signaling.auth.mode == AuthMode::Anonymous,
            "signaling.auth.mode is Anonymous: whoever reaches the endpoint can join every room and use TURN",
        ),
        (
            external.is_none(),
            "the managed Redis keeps nothing over a restart; name your own in redis.external",
        ),
    ]);
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_spec_is_acted_on_and_said_to_be_for_trying_out() {
        let verdict = validate(&RtcCluster::new("calls", Default::default()));
        assert!(verdict.acts());
        assert_eq!(verdict.for_trying_out.len(), 2);
    }
}
