//! Bytes that are never printed, and wiped after use.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use std::fmt;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// Why a text is no secret.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SecretError {
    /// The text is shorter than [`Secret::MIN_LEN`] bytes.
    #[error(
        "the secret has {0} bytes: use at least {min}, such as `openssl rand -base64 32` prints",
        min = Secret::MIN_LEN
    )]
    TooShort(usize),
    /// The text holds something other than printable ASCII.
    #[error("the secret holds a character that is not printable ASCII: write it in base64")]
    NotPrintable,
    /// The system gave no random bytes.
    #[error("the system gave no random bytes: {0}")]
    NoEntropy(String),
}

/// A shared secret, as the text that keys the HMAC.
///
/// The HMAC key is the text itself, not what it decodes to, as coturn's `static-auth-secret` takes
/// it: so one file serves both servers during a migration.
///
/// Its `Debug` form is redacted, comparison takes the same time whatever differs, and the memory is
/// wiped on drop.
#[derive(Clone)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// The fewest bytes that a secret may have. 16 base64 characters are 96 bits.
    pub const MIN_LEN: usize = 16;

    /// 32 random bytes of the operating system, as 43 base64url characters.
    ///
    /// # Errors
    /// [`SecretError::NoEntropy`] when the operating system gives no random bytes.
    pub fn generate() -> Result<Self, SecretError> {
        let mut raw = Zeroizing::new([0u8; 32]);
        getrandom::fill(raw.as_mut()).map_err(|e| SecretError::NoEntropy(e.to_string()))?;
        Ok(Self(Zeroizing::new(URL_SAFE_NO_PAD.encode(raw.as_ref()).into_bytes())))
    }

    /// The secret that a file holds; white space around it does not count.
    ///
    /// # Errors
    /// [`SecretError::TooShort`] and [`SecretError::NotPrintable`].
    pub fn from_text(text: &str) -> Result<Self, SecretError> {
        let text = text.trim();
        if text.len() < Self::MIN_LEN {
            return Err(SecretError::TooShort(text.len()));
        }
        if !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(SecretError::NotPrintable);
        }
        Ok(Self(Zeroizing::new(text.as_bytes().to_vec())))
    }

    /// A secret of any bytes and any length, for `--secret` and for tests.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes that key the HMAC. Never log them.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(redacted)")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_generated_secret_reads_back_from_its_file_and_is_never_the_same_twice() {
        let a = Secret::generate().unwrap();
        let text = String::from_utf8(a.expose().to_vec()).unwrap();
        assert_eq!(text.len(), 43);
        assert_eq!(Secret::from_text(&format!(" {text}\n")).unwrap(), a);
        assert_ne!(Secret::generate().unwrap(), a);
    }

    #[test]
    fn a_short_or_binary_secret_is_refused() {
        assert_eq!(Secret::from_text("north"), Err(SecretError::TooShort(5)));
        assert_eq!(Secret::from_text("0123456789abcdef\u{7f}x"), Err(SecretError::NotPrintable));
    }

    #[test]
    fn debug_never_prints_the_secret() {
        assert_eq!(format!("{:?}", Secret::new(b"north".to_vec())), "Secret(redacted)");
    }
}
