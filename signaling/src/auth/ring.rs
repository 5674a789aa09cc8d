//! The signatures of tokens, checked by ring: the one provider of cryptography in this program.

use jsonwebtoken::{
    Algorithm, AlgorithmFamily, DecodingKey, DecodingKeyKind,
    crypto::{CryptoProvider, JwtVerifier, KeyUtils},
    errors::{ErrorKind, Result},
};
use ring::{
    hmac,
    signature::{self as sig, RsaPublicKeyComponents, UnparsedPublicKey},
};
use signature::Verifier;

/// Has tokens checked by ring, in the whole process. Signs nothing.
pub(super) fn install() {
    static RING: CryptoProvider = CryptoProvider {
        signer_factory: |_, _| Err(ErrorKind::UnsupportedAlgorithm.into()),
        verifier_factory: |algorithm, key| {
            // an algorithm confusion would begin with a key of another family
            if key.family() != algorithm.family() {
                return Err(ErrorKind::InvalidAlgorithm.into());
            }
            Ok(Box::new(Check { algorithm: *algorithm, key: key.clone() }))
        },
        // for thumbprints and for making JWKs, of which there are none here
        key_utils: KeyUtils::new_unimplemented(),
    };
    // Err when it is installed already
    let _ = RING.install_default();
}

struct Check {
    algorithm: Algorithm,
    key: DecodingKey,
}

impl JwtVerifier for Check {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

impl Verifier<Vec<u8>> for Check {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> std::result::Result<(), signature::Error> {
        self.check(message, signature).map_err(|_| signature::Error::new())
    }
}

impl Check {
    fn check(&self, message: &[u8], signature: &[u8]) -> Result<()> {
        let wrong = |_| ErrorKind::InvalidSignature.into();
        if self.key.family() == AlgorithmFamily::Hmac {
            let kind = match self.algorithm {
                Algorithm::HS256 => hmac::HMAC_SHA256,
                Algorithm::HS384 => hmac::HMAC_SHA384,
                Algorithm::HS512 => hmac::HMAC_SHA512,
                _ => return Err(ErrorKind::InvalidAlgorithm.into()),
            };
            let key = hmac::Key::new(kind, self.key.try_get_as_bytes()?);
            return hmac::verify(&key, message, signature).map_err(wrong);
        }
        if let Some(kind) = rsa(self.algorithm) {
            return match self.key.kind() {
                DecodingKeyKind::RsaModulusExponent { n, e } => {
                    RsaPublicKeyComponents { n, e }.verify(kind, message, signature)
                }
                DecodingKeyKind::SecretOrDer(der) => {
                    UnparsedPublicKey::new(kind, der).verify(message, signature)
                }
            }
            .map_err(wrong);
        }
        let kind: &dyn sig::VerificationAlgorithm = match self.algorithm {
            // the two numbers one after the other, not in DER (RFC 7518, section 3.4)
            Algorithm::ES256 => &sig::ECDSA_P256_SHA256_FIXED,
            Algorithm::ES384 => &sig::ECDSA_P384_SHA384_FIXED,
            Algorithm::EdDSA => &sig::ED25519,
            _ => return Err(ErrorKind::InvalidAlgorithm.into()),
        };
        UnparsedPublicKey::new(kind, self.key.try_get_as_bytes()?).verify(message, signature).map_err(wrong)
    }
}

fn rsa(algorithm: Algorithm) -> Option<&'static sig::RsaParameters> {
    Some(match algorithm {
        Algorithm::RS256 => &sig::RSA_PKCS1_2048_8192_SHA256,
        Algorithm::RS384 => &sig::RSA_PKCS1_2048_8192_SHA384,
        Algorithm::RS512 => &sig::RSA_PKCS1_2048_8192_SHA512,
        Algorithm::PS256 => &sig::RSA_PSS_2048_8192_SHA256,
        Algorithm::PS384 => &sig::RSA_PSS_2048_8192_SHA384,
        Algorithm::PS512 => &sig::RSA_PSS_2048_8192_SHA512,
        _ => return None,
    })
}
