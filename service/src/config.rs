//! A YAML file under flags and environment.
//!
//! A program's settings are one struct, read twice: by clap from flags and environment, and by serde
//! from the file, whose keys are the flags' names. Every field is an `Option` or a `Vec`, so that
//! "not given" differs from any value; what is given as a flag or in the environment wins.

use serde::{Serialize, de::DeserializeOwned};
use std::{
    io,
    path::{Path, PathBuf},
};

/// Why a configuration file could not be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read the configuration {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is no YAML, or a key is unknown or of the wrong type.
    #[error("{}: {key}{message}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// `key: `, or empty where it concerns the whole.
        key: String,
        /// What is wrong with it.
        message: String,
    },
}

/// The settings of `file`, if any, with `flags` over them.
///
/// # Errors
/// [`ConfigError`] names the file, the key and what is wrong with it.
pub fn load<S: Serialize + DeserializeOwned>(file: Option<&Path>, flags: S) -> Result<S, ConfigError> {
    let Some(path) = file else { return Ok(flags) };
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    merge(&text, flags).map_err(|(key, message)| ConfigError::Parse { path: path.to_owned(), key, message })
}

fn merge<S: Serialize + DeserializeOwned>(text: &str, flags: S) -> Result<S, (String, String)> {
    let whole = |e: String| (String::new(), e);
    let text = if text.trim().is_empty() { "{}" } else { text };
    let yaml = serde_yaml::Deserializer::from_str(text);
    // The file is read into S first, by itself, so that an error has its path and line.
    let file: S = serde_path_to_error::deserialize(yaml).map_err(|e| {
        let path = e.path().to_string();
        let key = if path == "." { String::new() } else { format!("{path}: ") };
        (key, e.into_inner().to_string())
    })?;
    let mut merged = serde_json::to_value(file).map_err(|e| whole(e.to_string()))?;
    let over = serde_json::to_value(flags).map_err(|e| whole(e.to_string()))?;
    if let (Some(merged), serde_json::Value::Object(over)) = (merged.as_object_mut(), over) {
        merged.extend(over.into_iter().filter(|(_, value)| is_given(value)));
    }
    serde_json::from_value(merged).map_err(|e| whole(e.to_string()))
}

fn is_given(value: &serde_json::Value) -> bool {
    match value {
        serde_json::Value::Null | serde_json::Value::Bool(false) => false,
        serde_json::Value::Array(items) => !items.is_empty(),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
    struct Settings {
        listen: Vec<String>,
        user_quota: Option<u32>,
        realm: Option<String>,
    }

    #[test]
    fn flags_win_over_the_file_and_the_rest_stays() {
        let flags = Settings { realm: Some("flag".into()), ..Settings::default() };
        let merged = merge("listen: [a, b]\nuser-quota: 3\nrealm: file\n", flags).unwrap();
        let expected = Settings {
            listen: vec!["a".into(), "b".into()],
            user_quota: Some(3),
            realm: Some("flag".into()),
        };
        assert_eq!(merged, expected);
        assert_eq!(merge("", Settings::default()).unwrap(), Settings::default());
    }

    #[test]
    fn an_unknown_key_and_a_wrong_type_are_named() {
        let (_, message) = merge("user-qouta: 3", Settings::default()).unwrap_err();
        assert!(message.contains("user-qouta") && message.contains("user-quota"), "{message}");
        let (key, message) = merge("realm: a\nuser-quota: many", Settings::default()).unwrap_err();
        assert!(key.contains("user-quota") && message.contains("line 2"), "{key} {message}");
        assert!(merge("a: [", Settings::default()).is_err());
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = load(Some(Path::new("/nowhere/rtc.yaml")), Settings::default()).unwrap_err();
        assert!(error.to_string().contains("/nowhere/rtc.yaml"));
    }
}
