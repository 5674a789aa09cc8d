//! Secrets, and signatures by them.

use base64::{Engine, prelude::BASE64_STANDARD};
use ring::hmac;
use rtc_service::watch::Files;

/// A shorter secret can be guessed offline from any one request (as Standard Webhooks has it).
const SECRET_BYTES: usize = 24;
/// Of the old one and the new one, and some to spare.
const MOST: usize = 4;
/// What a secret in base64 begins with.
const PREFIX: &str = "whsec_";

/// Why there is no secret in what was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// Nothing at all.
    #[error("there is no secret; make one with `echo whsec_$(openssl rand -base64 32)`")]
    None,
    /// More than anybody needs.
    #[error(
        "there are more than {MOST} secrets, one a line; take away those that no receiver checks any more"
    )]
    TooMany,
    /// Guessable.
    #[error(
        "a secret has at least {SECRET_BYTES} bytes; make one with `echo whsec_$(openssl rand -base64 32)`"
    )]
    Short,
    /// It begins with the prefix, and does not go on so.
    #[error("what follows {PREFIX} in a secret is base64")]
    Base64,
    /// Not text.
    #[error("a secret is text")]
    Binary,
}

/// The secrets in force.
#[derive(Clone)]
pub(super) struct Secrets(Vec<hmac::Key>);

impl Secrets {
    /// A secret a line: the bytes that `whsec_` and base64 stand for, or else the text itself.
    pub(super) fn from_files(files: &Files) -> Result<Self, SecretError> {
        let mut keys = Vec::new();
        for (_, content) in files.iter().filter(|(name, _)| !name.starts_with('.')) {
            let text = std::str::from_utf8(content).map_err(|_| SecretError::Binary)?;
            for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
                let secret = match line.strip_prefix(PREFIX) {
                    Some(encoded) => BASE64_STANDARD.decode(encoded).map_err(|_| SecretError::Base64)?,
                    None => line.as_bytes().to_vec(),
                };
                if secret.len() < SECRET_BYTES {
                    return Err(SecretError::Short);
                }
                keys.push(hmac::Key::new(hmac::HMAC_SHA256, &secret));
            }
        }
        match keys.len() {
            0 => Err(SecretError::None),
            n if n > MOST => Err(SecretError::TooMany),
            _ => Ok(Self(keys)),
        }
    }

    /// The header `webhook-signature`: a signature by each secret.
    pub(super) fn sign(&self, id: &str, timestamp: u64, body: &[u8]) -> String {
        let signed = [format!("{id}.{timestamp}.").as_bytes(), body].concat();
        let signatures = self.0.iter().map(|key| hmac::sign(key, &signed));
        let words = signatures.map(|signature| format!("v1,{}", BASE64_STANDARD.encode(signature)));
        words.collect::<Vec<_>>().join(" ")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read(text: &str) -> Result<Secrets, SecretError> {
        Secrets::from_files(&Files::from([("secret".to_owned(), text.as_bytes().to_vec())]))
    }

    #[test]
    fn a_signature_is_that_of_the_standards_own_example() {
        // of the libraries at github.com/standard-webhooks/standard-webhooks
        let secrets = read("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n").unwrap();
        let signature =
            secrets.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, b"{\"test\": 2432232314}");
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn each_line_is_a_secret() {
        let (one, two) = ("an old secret of 24 bytes and more", "a new secret of 24 bytes and more");
        let both = read(&format!("{one}\r\n\n{two}")).unwrap().sign("i", 1, b"b");
        let each = [one, two].map(|secret| read(secret).unwrap().sign("i", 1, b"b"));
        assert_eq!(both, each.join(" "));
        assert_ne!(each[0], each[1]);
    }

    #[test]
    fn what_is_no_secret_is_refused() {
        let short = "whsec_c2hvcnQ=";
        for (text, error) in
            [("\n", SecretError::None), ("short", SecretError::Short), (short, SecretError::Short)]
        {
            assert_eq!(read(text).err(), Some(error), "{text:?}");
        }
        assert_eq!(read("whsec_not base64, but long enough").err(), Some(SecretError::Base64));
        assert_eq!(read(&format!("{}\n", "x".repeat(24)).repeat(5)).err(), Some(SecretError::TooMany));
    }
}
