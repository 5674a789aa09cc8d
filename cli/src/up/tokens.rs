//! Tokens, where the manifest asks for them: how they are checked here, and who makes those of the page.

use super::Options;
use anyhow::Context;
use rtc_credentials::Secret;
use rtc_operator_api::{RtcCluster, spec::AuthMode};
use rtc_service::HumanDuration;
use rtc_signaling::auth::{Mint, Policy, Rules, Verifier};
use std::{
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Who is let in.
pub(crate) struct Tokens {
    pub(crate) policy: Policy,
    /// Makes the page's own, where there is a secret to make them with.
    pub(crate) mint: Option<Arc<Mint>>,
    /// The file with that secret.
    pub(crate) secret: Option<PathBuf>,
}

impl Tokens {
    /// The Secret that a manifest names is in a cluster: here the keys are those of `--jwt-keys`, or a secret of this
    /// run's own in `home`.
    pub(crate) fn new(options: &Options, cluster: &RtcCluster, home: &Path) -> anyhow::Result<Self> {
        let auth = &cluster.spec.signaling.auth;
        let (AuthMode::Jwt, Some(jwt)) = (auth.mode, &auth.jwt) else {
            anyhow::ensure!(options.jwt_keys.is_none(), "--jwt-keys: the manifest asks for no tokens");
            return Ok(Self { policy: Policy::Anonymous, mint: None, secret: None });
        };
        let (issuer, audience) = (jwt.issuer.clone(), jwt.audience.clone());
        let rules = Rules { issuer: issuer.clone(), audience: audience.clone(), ..Rules::default() };
        if let (Some(url), None) = (&jwt.jwks_url, &options.jwt_keys) {
            let verifier = Verifier::from_url(url, rules).context("spec.signaling.auth.jwt.jwksURL")?;
            return Ok(Self { policy: Policy::Jwt(Arc::new(verifier)), mint: None, secret: None });
        }
        let path = match &options.jwt_keys {
            Some(path) => path.clone(),
            None => secret_of_this_run(home)?,
        };
        let verifier = Verifier::from_files(&path, rules)?;
        // what only checks, or is several, makes none
        let text = if path.is_file() { std::fs::read_to_string(&path)? } else { String::new() };
        let mint = Mint::new("--jwt-keys", &text, options.token_ttl.into()).ok();
        let secret = mint.is_some().then_some(path);
        let mint = mint.map(|mint| Arc::new(mint.of(issuer, audience)));
        Ok(Self { policy: Policy::Jwt(Arc::new(verifier)), mint, secret })
    }

    /// What a person has to know of them; `None` where none are asked for.
    pub(crate) fn words(&self, ttl: HumanDuration) -> Option<String> {
        match (&self.policy, &self.secret) {
            (Policy::Anonymous, _) => None,
            (_, None) => Some("are asked for; the page takes one of your issuer's".into()),
            (_, Some(secret)) => Some(format!(
                "are asked for; whoever opens the page is given one, for {ttl}, and here is another:\n\
                 \x20              rtc token --secret-file {} --user you --room '*' --api rooms:list",
                secret.display()
            )),
        }
    }
}

fn secret_of_this_run(home: &Path) -> anyhow::Result<PathBuf> {
    use std::io::Write;
    let path = home.join("jwt-secret");
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
    file.write_all(Secret::generate()?.expose())?;
    Ok(path)
}
