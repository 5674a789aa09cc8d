//! Tokens, signed as an issuer would, and their keys as it would publish them.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use ring::{
    hmac,
    rand::SystemRandom,
    signature::{self as sig, EcdsaKeyPair, Ed25519KeyPair, RsaKeyPair, RsaPublicKeyComponents},
};
use serde_json::{Value, json};
use std::time::{SystemTime, UNIX_EPOCH};

/// For nothing but these tests.
const RSA: &str = include_str!("../keys/rsa.pem");
pub const SECRET: &str = "a secret of the tests, which is long enough to be one";

/// Unix seconds, so many from now.
pub fn at(seconds: i64) -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap() + seconds
}

/// Good for a minute, for everything.
pub fn claims() -> Value {
    json!({"sub": "alice", "exp": at(60), "rooms": ["*"]})
}

/// `claims` with some of them changed; `null` takes one away.
pub fn but(mut claims: Value, changes: Value) -> Value {
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
            value => claims[name] = value.clone(),
        }
    }
    claims
}

/// Signed with [`SECRET`].
pub fn token(changes: Value) -> String {
    Signer::Secret(SECRET.into()).token("HS256", &but(claims(), changes))
}

pub enum Signer {
    Secret(String),
    Pair(Box<rcgen::KeyPair>),
}

impl Signer {
    pub fn p256() -> Self {
        Self::Pair(Box::new(rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap()))
    }

    pub fn p384() -> Self {
        Self::Pair(Box::new(rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap()))
    }

    pub fn ed25519() -> Self {
        Self::Pair(Box::new(rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap()))
    }

    pub fn rsa() -> Self {
        Self::Pair(Box::new(rcgen::KeyPair::from_pem(RSA).unwrap()))
    }

    fn pair(&self) -> &rcgen::KeyPair {
        match self {
            Self::Pair(pair) => pair,
            Self::Secret(_) => panic!("a secret has no public side"),
        }
    }

    /// What `--jwt-keys` takes.
    pub fn file(&self) -> String {
        match self {
            Self::Secret(secret) => secret.clone(),
            Self::Pair(pair) => pair.public_key_pem(),
        }
    }

    pub fn jwk(&self, kid: &str) -> Value {
        let text = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        let pair = self.pair();
        let mut jwk = if pair.is_compatible(&rcgen::PKCS_RSA_SHA256) {
            let rsa = RsaKeyPair::from_pkcs8(&pair.serialize_der()).unwrap();
            let RsaPublicKeyComponents { n, e } = RsaPublicKeyComponents::<Vec<u8>>::from(rsa.public());
            json!({"kty": "RSA", "n": text(&n), "e": text(&e)})
        } else if pair.is_compatible(&rcgen::PKCS_ED25519) {
            json!({"kty": "OKP", "crv": "Ed25519", "x": text(pair.public_key_raw())})
        } else {
            let (x, y) = pair.public_key_raw()[1..].split_at((pair.public_key_raw().len() - 1) / 2);
            let curve = if x.len() == 32 { "P-256" } else { "P-384" };
            json!({"kty": "EC", "crv": curve, "x": text(x), "y": text(y)})
        };
        jwk["kid"] = kid.into();
        jwk
    }

    pub fn token(&self, algorithm: &str, claims: &Value) -> String {
        self.token_with(&json!({"typ": "JWT", "alg": algorithm}), claims)
    }

    pub fn token_with(&self, header: &Value, claims: &Value) -> String {
        let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", part(header), part(claims));
        let signature = self.sign(header["alg"].as_str().unwrap(), message.as_bytes());
        format!("{message}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
    }

    fn sign(&self, algorithm: &str, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        let mac = |kind, secret: &str| {
            hmac::sign(&hmac::Key::new(kind, secret.as_bytes()), message).as_ref().to_vec()
        };
        let rsa = |kind: &'static dyn sig::RsaEncoding| {
            let pair = RsaKeyPair::from_pkcs8(&self.pair().serialize_der()).unwrap();
            let mut signature = vec![0; pair.public().modulus_len()];
            pair.sign(kind, &random, message, &mut signature).unwrap();
            signature
        };
        let ec = |kind| {
            let pair = EcdsaKeyPair::from_pkcs8(kind, &self.pair().serialize_der(), &random).unwrap();
            pair.sign(&random, message).unwrap().as_ref().to_vec()
        };
        match (algorithm, self) {
            ("HS256", Self::Secret(secret)) => mac(hmac::HMAC_SHA256, secret),
            ("HS384", Self::Secret(secret)) => mac(hmac::HMAC_SHA384, secret),
            ("HS512", Self::Secret(secret)) => mac(hmac::HMAC_SHA512, secret),
            ("RS256", _) => rsa(&sig::RSA_PKCS1_SHA256),
            ("RS384", _) => rsa(&sig::RSA_PKCS1_SHA384),
            ("RS512", _) => rsa(&sig::RSA_PKCS1_SHA512),
            ("PS256", _) => rsa(&sig::RSA_PSS_SHA256),
            ("PS384", _) => rsa(&sig::RSA_PSS_SHA384),
            ("PS512", _) => rsa(&sig::RSA_PSS_SHA512),
            ("ES256", _) => ec(&sig::ECDSA_P256_SHA256_FIXED_SIGNING),
            ("ES384", _) => ec(&sig::ECDSA_P384_SHA384_FIXED_SIGNING),
            ("EdDSA", _) => {
                let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&self.pair().serialize_der()).unwrap();
                pair.sign(message).as_ref().to_vec()
            }
            // what it says, without a signature by it
            _ => Vec::new(),
        }
    }
}
