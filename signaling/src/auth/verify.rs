//! Whether a token is good, and what it permits.

use super::{
    claims::{Claims, Grant},
    jwks::{JwksUrl, RefreshError},
    keys::{Key, KeyError, Keys},
    ring,
};
use jsonwebtoken::{Validation, decode, decode_header, errors::ErrorKind};
use rtc_service::watch;
use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

/// A longer token is none.
const TOKEN_BYTES: usize = 8 << 10;
/// By how much clocks may differ.
pub const LEEWAY: Duration = Duration::from_secs(5);

/// Why a token is refused. What a client is told must not help it to guess: it says no more than the token
/// itself does.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// There is none.
    #[error(
        "this server asks for a token: `Authorization: Bearer TOKEN`, `?access_token=TOKEN`, or the WebSocket \
         subprotocols `rtc.v1` and `rtc.bearer.TOKEN`"
    )]
    Missing,
    /// It is no JWT, or of an algorithm that is not supported.
    #[error("the token is no signed JWT of a supported algorithm")]
    Malformed,
    /// Its signature is not by a key that is in force here.
    #[error("the token is not signed with a key that is in force here")]
    Signature,
    /// It is over.
    #[error("the token has expired; get a fresh one")]
    Expired,
    /// It has not begun.
    #[error("the token is not valid yet; compare the clocks of the issuer and this server")]
    Early,
    /// `iss`.
    #[error("the token is by another issuer than this server trusts")]
    Issuer,
    /// `aud`.
    #[error("the token is for another audience than this server")]
    Audience,
    /// Other claims.
    #[error("the token's claims are not as they should be: {0}")]
    Claims(String),
    /// It was for one connection, which has been.
    #[error("the token was for one connection and has been used; get a fresh one")]
    Used,
    /// It is somebody else's than the connection's.
    #[error("the token has another `sub` than the one that this connection began with")]
    OtherSubject,
    /// It does not let into the room where the connection is.
    #[error("the token does not let into the room in which this connection is")]
    OtherRoom,
    /// It cannot be checked now.
    #[error("the token cannot be checked now; try again in a few seconds")]
    Unavailable,
}

/// Why tokens cannot be checked as configured.
#[derive(Debug, thiserror::Error)]
pub enum VerifierError {
    /// The keys' file.
    #[error("cannot read {}: {source}; correct --jwt-keys", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// See [`KeyError`].
    #[error("{}: {source}; correct --jwt-keys", path.display())]
    Keys {
        /// Which file or directory.
        path: PathBuf,
        /// Why.
        source: KeyError,
    },
    /// The URL.
    #[error("--jwt-jwks-url: {0}")]
    Url(String),
}

/// Who a token has to be by and for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// `iss`; any if `None`.
    pub issuer: Option<String>,
    /// Of `aud`; without one, tokens that name an audience are refused (RFC 7519, section 4.1.3).
    pub audience: Option<String>,
    /// By how much clocks may differ.
    pub leeway: Duration,
}

impl Default for Rules {
    fn default() -> Self {
        Self { issuer: None, audience: None, leeway: LEEWAY }
    }
}

#[derive(Debug)]
enum Source {
    Files(Arc<RwLock<Keys>>),
    Url(JwksUrl),
}

/// Checks tokens.
pub struct Verifier {
    source: Source,
    rules: Rules,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Verifier({:?})", self.rules)
    }
}

impl Verifier {
    /// With the keys in a file, or in each file of a directory, which are followed: an HMAC secret, a public
    /// key in PEM, or a JWK set. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// [`VerifierError`].
    pub fn from_files(path: &Path, rules: Rules) -> Result<Self, VerifierError> {
        ring::install();
        let path = path.to_owned();
        let read = |source| VerifierError::Read { path: path.clone(), source };
        let mut seen = watch::files(path.clone(), watch::INTERVAL).map_err(read)?;
        let bad = |source| VerifierError::Keys { path: path.clone(), source };
        let first = Keys::from_files(&seen.borrow_and_update()).map_err(bad)?;
        let keys = Arc::new(RwLock::new(first));
        let followed = Arc::downgrade(&keys);
        tokio::spawn(async move {
            while seen.changed().await.is_ok() {
                let Some(keys) = followed.upgrade() else { return };
                match Keys::from_files(&seen.borrow_and_update()) {
                    Ok(now) => {
                        tracing::info!(keys = now.len(), "the keys of tokens have changed");
                        *keys.write().unwrap_or_else(PoisonError::into_inner) = now;
                    }
                    Err(error) => {
                        tracing::warn!(%error, "cannot use the keys of tokens; keeping those before")
                    }
                }
            }
        });
        Ok(Self { source: Source::Files(keys), rules })
    }

    /// With the JWK set at a URL, which is asked again now and then, and for a key that is not known. Must
    /// be called in a tokio runtime.
    ///
    /// # Errors
    /// [`VerifierError`].
    pub fn from_url(url: &str, rules: Rules) -> Result<Self, VerifierError> {
        ring::install();
        Ok(Self { source: Source::Url(JwksUrl::start(url).map_err(VerifierError::Url)?), rules })
    }

    /// Whether there are keys.
    ///
    /// # Errors
    /// Why not.
    pub fn ready(&self) -> Result<(), String> {
        match &self.source {
            Source::Url(url) if url.keys().is_none() => {
                Err("the keys of tokens have not been read yet; see --jwt-jwks-url".into())
            }
            _ => Ok(()),
        }
    }

    /// What a token permits now.
    ///
    /// # Errors
    /// [`TokenError`].
    pub async fn verify(&self, token: &str) -> Result<Grant, TokenError> {
        if token.len() > TOKEN_BYTES {
            return Err(TokenError::Malformed);
        }
        let header = decode_header(token).map_err(|_| TokenError::Malformed)?;
        // nothing that a header may declare critical is understood here (RFC 7515, section 4.1.11)
        if header.crit.is_some() {
            return Err(TokenError::Malformed);
        }
        let kid = header.kid.as_deref();
        let url = match &self.source {
            Source::Files(keys) => {
                let keys = keys.read().unwrap_or_else(PoisonError::into_inner).clone();
                return self.check(token, keys.candidates(kid), header.alg);
            }
            Source::Url(url) => url,
        };
        let known = url.keys();
        if let Some(known) = &known
            && known.candidates(kid).next().is_some()
        {
            return self.check(token, known.candidates(kid), header.alg);
        }
        match url.refresh().await {
            Ok(keys) => self.check(token, keys.candidates(kid), header.alg),
            // a token of a key that never was must not look like an outage, and has not to wait for one
            Err(RefreshError::TooSoon | RefreshError::Failed) if known.is_some() => {
                Err(TokenError::Signature)
            }
            Err(_) => Err(TokenError::Unavailable),
        }
    }

    fn check<'a>(
        &self,
        token: &str,
        keys: impl Iterator<Item = &'a Key>,
        algorithm: jsonwebtoken::Algorithm,
    ) -> Result<Grant, TokenError> {
        // the key decides which algorithms are good; the header only chooses among those
        for key in keys.filter(|key| key.algorithms.contains(&algorithm)) {
            let mut rules = Validation::new(algorithm);
            rules.algorithms.clone_from(&key.algorithms);
            rules.leeway = self.rules.leeway.as_secs();
            rules.validate_nbf = true;
            let mut required = vec!["exp"];
            if let Some(issuer) = &self.rules.issuer {
                rules.set_issuer(&[issuer]);
                required.push("iss");
            }
            if let Some(audience) = &self.rules.audience {
                rules.set_audience(&[audience]);
                required.push("aud");
            }
            rules.set_required_spec_claims(&required);
            match decode::<Claims>(token, &key.key, &rules) {
                Ok(good) => {
                    let grant = Grant::new(good.claims, self.rules.leeway.as_secs());
                    return grant.map_err(|why| TokenError::Claims(why.to_owned()));
                }
                Err(error) if matches!(error.kind(), ErrorKind::InvalidSignature) => {}
                Err(error) => return Err(refused(error.kind())),
            }
        }
        Err(TokenError::Signature)
    }
}

fn refused(kind: &ErrorKind) -> TokenError {
    match kind {
        ErrorKind::ExpiredSignature => TokenError::Expired,
        ErrorKind::ImmatureSignature => TokenError::Early,
        ErrorKind::InvalidIssuer => TokenError::Issuer,
        ErrorKind::InvalidAudience => TokenError::Audience,
        ErrorKind::MissingRequiredClaim(claim) => TokenError::Claims(format!("`{claim}` is missing")),
        ErrorKind::InvalidClaimFormat(claim) => TokenError::Claims(format!("`{claim}` is of the wrong type")),
        // only of claims, whose signature is good by then
        ErrorKind::Json(error) => TokenError::Claims(error.to_string()),
        _ => TokenError::Malformed,
    }
}
