//! The keys that tokens are signed with: an HMAC secret, a public key in PEM, or a JWK set.

use jsonwebtoken::{
    Algorithm, AlgorithmFamily, DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse},
};
use rtc_service::watch::Files;
use serde::Deserialize;
use serde_json::Value;
use std::fmt;

/// Tokens that name no key are tried with each, so there is an end to them.
const MOST: usize = 64;
/// A shorter secret can be guessed offline from any one token (RFC 7518, section 3.2).
pub(super) const SECRET_BYTES: usize = 32;

/// Why there are no keys in what was read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Nothing at all.
    #[error("there is no key; give an HMAC secret, a public key in PEM, or a JWK set")]
    None,
    /// More than anybody has.
    #[error("there are more than {MOST} keys")]
    TooMany,
    /// Guessable.
    #[error("{0:?}: a secret has at least {SECRET_BYTES} bytes; make one with `openssl rand -base64 48`")]
    Short(String),
    /// Keys that only check.
    #[error("{0:?} is no HMAC secret, so no tokens can be made with it")]
    NoSecret(String),
    /// Not a public key.
    #[error(
        "{0:?}: this PEM is no public key of RSA, P-256, P-384 or Ed25519; make one with `openssl pkey -pubout`"
    )]
    Pem(String),
    /// Not a JWK set.
    #[error("{0:?} is no JWK set: {1}")]
    Jwks(String, String),
    /// Neither text nor anything else that is known.
    #[error("{0:?} is no text")]
    Binary(String),
}

/// A key, and which algorithms it is for: the key says so, never the token.
#[derive(Clone)]
pub(crate) struct Key {
    pub(super) id: Option<String>,
    pub(super) algorithms: Vec<Algorithm>,
    pub(super) key: DecodingKey,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({:?}, {:?})", self.id, self.algorithms)
    }
}

impl Key {
    fn new(id: Option<String>, key: DecodingKey) -> Option<Self> {
        let algorithms = match key.family() {
            AlgorithmFamily::Ec => match key.try_get_as_bytes().ok()? {
                // uncompressed points (SEC 1, section 2.3.3)
                [4, point @ ..] if point.len() == 64 => vec![Algorithm::ES256],
                [4, point @ ..] if point.len() == 96 => vec![Algorithm::ES384],
                _ => return None,
            },
            AlgorithmFamily::Ed if key.try_get_as_bytes().ok()?.len() != 32 => return None,
            family => family.algorithms().to_vec(),
        };
        Some(Self { id, algorithms, key })
    }

    fn from_pem(name: &str, text: &str) -> Result<Self, KeyError> {
        let bad = || KeyError::Pem(name.to_owned());
        // others may be understood as keys too, and a private one has no place here
        if !["-----BEGIN PUBLIC KEY-----", "-----BEGIN RSA PUBLIC KEY-----"]
            .iter()
            .any(|b| text.starts_with(b))
        {
            return Err(bad());
        }
        let readers = [DecodingKey::from_rsa_pem, DecodingKey::from_ec_pem, DecodingKey::from_ed_pem];
        let key = readers.iter().find_map(|read| read(text.as_bytes()).ok()).ok_or_else(bad)?;
        Self::new(None, key).ok_or_else(bad)
    }

    /// `None` for a key that is for something else, or of a kind that is not supported.
    fn from_jwk(jwk: &Jwk) -> Option<Self> {
        if !matches!(jwk.common.public_key_use, None | Some(PublicKeyUse::Signature)) {
            return None;
        }
        match &jwk.algorithm {
            AlgorithmParameters::EllipticCurve(p) => {
                matches!(p.curve, EllipticCurve::P256 | EllipticCurve::P384).then_some(())?;
            }
            AlgorithmParameters::OctetKeyPair(p) => (p.curve == EllipticCurve::Ed25519).then_some(())?,
            _ => {}
        }
        let mut key = Self::new(jwk.common.key_id.clone(), DecodingKey::from_jwk(jwk).ok()?)?;
        if key.key.family() == AlgorithmFamily::Hmac && key.key.try_get_as_bytes().ok()?.len() < SECRET_BYTES
        {
            return None;
        }
        if let Some(named) = jwk.common.key_algorithm {
            let named: Algorithm = named.try_into().ok()?;
            key.algorithms.retain(|algorithm| *algorithm == named);
            (!key.algorithms.is_empty()).then_some(())?;
        }
        Some(key)
    }
}

/// All keys that are in force.
#[derive(Clone, Debug, Default)]
pub(crate) struct Keys(Vec<Key>);

impl Keys {
    /// The keys of a file, or of each file in a directory.
    pub(super) fn from_files(files: &Files) -> Result<Self, KeyError> {
        let mut keys = Vec::new();
        for (name, content) in files.iter().filter(|(name, _)| !name.starts_with('.')) {
            let text = std::str::from_utf8(content).map_err(|_| KeyError::Binary(name.clone()))?.trim();
            if text.starts_with('{') {
                keys.extend(Self::from_jwks(name, text)?.0);
            } else if text.starts_with("-----BEGIN") {
                keys.push(Key::from_pem(name, text)?);
            } else if text.len() < SECRET_BYTES {
                return Err(KeyError::Short(name.clone()));
            } else {
                keys.extend(Key::new(None, DecodingKey::from_secret(text.as_bytes())));
            }
        }
        Self::bounded(keys)
    }

    /// The keys of a JWK set (RFC 7517, section 5): those that are for something else, or of a kind that is
    /// not supported, are passed over.
    pub(super) fn from_jwks(name: &str, text: &str) -> Result<Self, KeyError> {
        #[derive(Deserialize)]
        struct Set {
            keys: Vec<Value>,
        }
        let bad = |why: String| KeyError::Jwks(name.to_owned(), why);
        // one by one, as one that cannot be read must not take the others with it
        let Set { keys } = serde_json::from_str(text).map_err(|e| bad(e.to_string()))?;
        let jwks = keys.into_iter().filter_map(|key| serde_json::from_value::<Jwk>(key).ok());
        let keys: Vec<Key> = jwks.filter_map(|jwk| Key::from_jwk(&jwk)).collect();
        if keys.is_empty() {
            return Err(bad("it has no key for signatures that is supported".into()));
        }
        Self::bounded(keys)
    }

    fn bounded(keys: Vec<Key>) -> Result<Self, KeyError> {
        match keys.len() {
            0 => Err(KeyError::None),
            n if n > MOST => Err(KeyError::TooMany),
            _ => Ok(Self(keys)),
        }
    }

    /// Those that a token may be signed with: all of that id, and those that have none.
    pub(super) fn candidates(&self, kid: Option<&str>) -> impl Iterator<Item = &Key> {
        self.0.iter().filter(move |key| kid.is_none() || key.id.is_none() || key.id.as_deref() == kid)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn read(text: &str) -> Result<Keys, KeyError> {
        Keys::from_files(&Files::from([("key".to_owned(), text.as_bytes().to_vec())]))
    }

    #[test]
    fn a_secret_that_can_be_guessed_is_refused() {
        assert_eq!(read("secret").unwrap_err(), KeyError::Short("key".into()));
        assert_eq!(read(&"x".repeat(32)).unwrap().0[0].algorithms[0], Algorithm::HS256);
        assert_eq!(Keys::from_files(&Files::new()).unwrap_err(), KeyError::None);
    }

    #[test]
    fn a_private_key_or_a_certificate_is_no_key() {
        let pair = rcgen::KeyPair::generate().unwrap();
        assert_eq!(read(&pair.public_key_pem()).unwrap().0[0].algorithms, [Algorithm::ES256]);
        assert_eq!(read(&pair.serialize_pem()).unwrap_err(), KeyError::Pem("key".into()));
        let made = rcgen::generate_simple_self_signed(["a".to_owned()]).unwrap();
        assert_eq!(read(&made.cert.pem()).unwrap_err(), KeyError::Pem("key".into()));
    }

    #[test]
    fn of_a_set_those_keys_count_that_are_for_signatures() {
        let ed = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
        let good = json!({"kty": "OKP", "crv": "Ed25519", "x": ed, "kid": "a"});
        let others = [
            json!({"kty": "OKP", "crv": "X25519", "x": ed, "kid": "b"}),
            json!({"kty": "OKP", "crv": "Ed25519", "x": ed, "kid": "c", "use": "enc"}),
            json!({"kty": "OKP", "crv": "Ed25519", "x": ed, "kid": "d", "alg": "RS256"}),
            json!({"kty": "oct", "k": "c2hvcnQ", "kid": "e"}),
            json!({"kty": "lattice", "kid": "f"}),
            json!(7),
        ];
        let set = |keys: &[Value]| json!({"keys": keys}).to_string();
        let mut all = others.to_vec();
        all.push(good);
        let keys = read(&set(&all)).unwrap();
        assert_eq!((keys.len(), keys.0[0].id.as_deref()), (1, Some("a")));
        assert!(matches!(read(&set(&others)), Err(KeyError::Jwks(..))));
        assert!(matches!(read("{}"), Err(KeyError::Jwks(..))));
        assert_eq!(keys.candidates(Some("z")).count(), 0);
        assert_eq!(keys.candidates(None).count(), 1);
    }
}
