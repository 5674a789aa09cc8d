//! What `rtc up` tells when all is ready: a page for people, a line for programs.

use rtc_credentials::Policy;
use rtc_service::HumanDuration;
use std::fmt;

/// Where everything is.
pub(crate) struct Report {
    pub(crate) name: String,
    pub(crate) page: String,
    pub(crate) replicas: Vec<String>,
    pub(crate) store: &'static str,
    pub(crate) tokens: Option<String>,
    pub(crate) turn: Vec<String>,
    pub(crate) relay_ports: String,
    pub(crate) policy: Policy,
    pub(crate) turn_admin: String,
    pub(crate) signaling_admin: Vec<String>,
    pub(crate) notes: Vec<String>,
}

impl Report {
    /// One line: `{"signaling":[…],"turn":[…],"demo":"…","admin":{…}}`.
    pub(crate) fn json(&self) -> String {
        serde_json::json!({
            "signaling": self.replicas,
            "turn": self.turn,
            "demo": self.page,
            "admin": {"turn": self.turn_admin, "signaling": self.signaling_admin},
        })
        .to_string()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.replicas.len();
        let replicas = if count == 1 { "replica" } else { "replicas" };
        let (ttl, interval) = (HumanDuration(self.policy.ttl), HumanDuration(self.policy.interval));
        writeln!(f, "RtcCluster `{}` runs on this machine.\n", self.name)?;
        writeln!(f, "  Open         {}   in two tabs; with --lan, on two devices", self.page)?;
        writeln!(f, "  Signaling    {count} {replicas} behind that port; rooms are kept in {}", self.store)?;
        for url in &self.replicas {
            writeln!(f, "               {url}")?;
        }
        if let Some(tokens) = &self.tokens {
            writeln!(f, "  Tokens       {tokens}")?;
        }
        for (i, uri) in self.turn.iter().enumerate() {
            writeln!(f, "  {}{uri}", if i == 0 { "TURN         " } else { "             " })?;
        }
        writeln!(f, "               relays from ports {}", self.relay_ports)?;
        writeln!(f, "  Credentials  live {ttl}; the key that signs them is replaced every {interval}")?;
        writeln!(f, "  Status       {}/status (TURN)", self.turn_admin)?;
        for url in &self.signaling_admin {
            writeln!(f, "               {url}/status (signaling)")?;
        }
        for note in &self.notes {
            writeln!(f, "  Note         {note}")?;
        }
        write!(f, "\nCtrl-C drains and ends.")
    }
}
