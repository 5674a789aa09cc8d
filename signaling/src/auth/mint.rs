//! Making tokens by a shared secret: for trying out, and for tests. An application's own backend makes its own.

use super::{KeyError, keys::SECRET_BYTES};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use ring::hmac;
use serde_json::{Value, json};
use std::{fmt, time::Duration};

/// Signs tokens with an HMAC secret (HS256).
pub struct Mint {
    key: hmac::Key,
    issuer: Option<String>,
    audience: Option<String>,
    ttl: Duration,
}

impl fmt::Debug for Mint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mint({:?})", self.ttl)
    }
}

impl Mint {
    /// By the text of a file as `--jwt-keys` takes it; tokens are valid for `ttl`, in whole seconds.
    ///
    /// # Errors
    /// When it is too short, or is keys of another kind; `name` is in the message.
    pub fn new(name: &str, text: &str, ttl: Duration) -> Result<Self, KeyError> {
        let secret = text.trim();
        if secret.starts_with('{') || secret.starts_with("-----BEGIN") {
            return Err(KeyError::NoSecret(name.to_owned()));
        }
        if secret.len() < SECRET_BYTES {
            return Err(KeyError::Short(name.to_owned()));
        }
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
        Ok(Self { key, issuer: None, audience: None, ttl })
    }

    /// Tokens have this `iss`, and this `aud`.
    #[must_use]
    pub fn of(mut self, issuer: Option<String>, audience: Option<String>) -> Self {
        (self.issuer, self.audience) = (issuer, audience);
        self
    }

    /// A token for `subject`, from `now` (Unix seconds) on, with claims of its own besides.
    #[must_use]
    pub fn token(&self, subject: &str, claims: &Value, now: u64) -> String {
        let mut all = json!({"sub": subject, "iat": now, "exp": now.saturating_add(self.ttl.as_secs())});
        for (name, value) in claims.as_object().into_iter().flatten() {
            all[name] = value.clone();
        }
        for (name, value) in [("iss", &self.issuer), ("aud", &self.audience)] {
            if let Some(value) = value {
                all[name] = json!(value);
            }
        }
        let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&json!({"typ": "JWT", "alg": "HS256"})), part(&all));
        let signature = hmac::sign(&self.key, signed.as_bytes());
        format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::auth::{Rules, TokenError, Verifier};

    const SECRET: &str = "a secret of this test, long enough to be one\n";

    #[tokio::test]
    async fn what_is_made_is_accepted_by_the_same_secret_until_it_ends() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("secret");
        std::fs::write(&file, SECRET).unwrap();
        let (issuer, audience) = (Some("here".to_owned()), Some("calls".to_owned()));
        let rules = Rules { issuer: issuer.clone(), audience: audience.clone(), ..Rules::default() };
        let verifier = Verifier::from_files(&file, rules).unwrap();
        let mint = Mint::new("secret", SECRET, Duration::from_secs(60)).unwrap();
        let now = rtc_service::clock::unix_now();
        let nobodys = mint.token("ada", &json!({}), now);
        assert!(matches!(verifier.verify(&nobodys).await, Err(TokenError::Claims(_))));
        let mint = mint.of(issuer, audience);
        let good = mint.token("ada", &json!({"rooms": ["a*"], "name": "Ada", "aud": "others"}), now);
        let grant = verifier.verify(&good).await.unwrap();
        assert_eq!((grant.subject.as_str(), grant.name.as_deref()), ("ada", Some("Ada")));
        assert!(grant.admits("abc") && !grant.admits("b"));
        assert_eq!(
            verifier.verify(&mint.token("ada", &json!({}), now - 70)).await.unwrap_err(),
            TokenError::Expired
        );
    }

    #[test]
    fn what_is_no_secret_makes_no_tokens() {
        for text in [
            "short",
            "{\"keys\":[]}, which is long enough to be a secret",
            "-----BEGIN PUBLIC KEY-----and more",
        ] {
            let error = Mint::new("file", text, Duration::ZERO).unwrap_err().to_string();
            assert!(error.contains("file") && !error.contains(text), "{error}");
        }
    }
}
