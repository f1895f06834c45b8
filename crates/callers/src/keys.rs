//! Sets of public keys, in the forms that they are published in: a JSON Web Key Set (RFC 7517), an object of key ids
//! and certificates or keys in PEM as Google shows those of its service accounts, and PEM alone.
//!
//! Invariant: a set has only keys that can be used here: RSA of 2048 bits and more, and P-256, to sign. A private key
//! is refused, so that no one leaves it where it does not belong.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use claviger_core::{Error, Result};
use claviger_crypto::verifying::{Scheme, VerifyingKey};
use serde::Deserialize;
use serde_json::Value;

/// Keys of a set, at most.
const MAX_KEYS: usize = 64;
/// Keys that one token is tried with, at most: those without an id fit any token.
const MAX_TRIED: usize = 4;

/// Keys of one signer.
#[derive(Debug, Default)]
pub(crate) struct Keys(Vec<Key>);

#[derive(Debug)]
struct Key {
    /// Nothing for keys that came without an id.
    kid: Option<String>,
    key: VerifyingKey,
    /// When its certificate holds, in seconds since the Unix epoch.
    holds: Option<(u64, u64)>,
}

/// A JSON Web Key, as far as it is looked at.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    #[serde(default)]
    kid: Option<String>,
    #[serde(default)]
    alg: Option<String>,
    #[serde(default, rename = "use")]
    purpose: Option<String>,
    #[serde(default)]
    crv: Option<String>,
    #[serde(default)]
    n: String,
    #[serde(default)]
    e: String,
    #[serde(default)]
    x: String,
    #[serde(default)]
    y: String,
    /// The private part.
    #[serde(default)]
    d: Option<Value>,
}

impl Keys {
    /// Reads a file of keys.
    ///
    /// # Errors
    /// `InvalidArgument`: it is none, holds a private key, or no key that can be used.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self> {
        let text = std::str::from_utf8(bytes).map_err(|_| Error::invalid("is no text"))?;
        let keys = match serde_json::from_str::<Value>(text) {
            Ok(Value::Object(object)) if object.contains_key("private_key") => return Err(private()),
            Ok(Value::Object(object)) => match object.get("keys") {
                Some(Value::Array(keys)) => of_set(keys)?,
                _ => of_object(object)?,
            },
            Ok(_) => return Err(Error::invalid("is JSON, but no set of keys (RFC 7517)")),
            Err(_) => of_pem(None, text)?,
        };
        match keys.len() {
            0 => Err(Error::invalid(
                "has no key of RSA (2048 bits or more) or on P-256 to check signatures with",
            )),
            count if count > MAX_KEYS => Err(Error::invalid(format!("has more than {MAX_KEYS} keys"))),
            _ => Ok(Self(keys)),
        }
    }

    /// The keys that may have signed a token with this key id.
    pub(crate) fn find<'a>(
        &'a self,
        kid: Option<&'a str>,
        scheme: Scheme,
        now: u64,
    ) -> impl Iterator<Item = &'a VerifyingKey> {
        let fits = move |key: &&Key| {
            let is_named = key.kid.is_none() || key.kid.as_deref() == kid;
            let holds = key.holds.is_none_or(|(from, to)| (from..=to).contains(&now));
            is_named && holds && key.key.scheme() == scheme
        };
        self.0.iter().filter(fits).take(MAX_TRIED).map(|key| &key.key)
    }

    /// Whether a key of this fingerprint is among them.
    pub(crate) fn has(&self, fingerprint: &[u8], now: u64) -> bool {
        let holds = |key: &Key| key.holds.is_none_or(|(from, to)| (from..=to).contains(&now));
        self.0.iter().any(|key| holds(key) && key.key.fingerprint() == fingerprint)
    }
}

fn private() -> Error {
    Error::invalid("holds a private key: give the server the public one, and keep this one with its owner")
}

fn of_set(set: &[Value]) -> Result<Vec<Key>> {
    let mut keys = Vec::new();
    for value in set.iter().take(MAX_KEYS + 1) {
        let jwk =
            Jwk::deserialize(value).map_err(|_| Error::invalid("has an entry that is no key (RFC 7517)"))?;
        if jwk.d.is_some() {
            return Err(private());
        }
        // Sets also hold keys for other purposes and schemes.
        let signs = jwk.purpose.as_deref().is_none_or(|purpose| purpose == "sig");
        let decode = |part: &str| {
            BASE64URL.decode(part).map_err(|_| Error::invalid("has a key that is not in Base64url"))
        };
        let key = match (jwk.kty.as_str(), jwk.crv.as_deref(), jwk.alg.as_deref()) {
            ("RSA", _, None | Some("RS256")) if signs => {
                VerifyingKey::rsa(&decode(&jwk.n)?, &decode(&jwk.e)?)
            }
            ("EC", Some("P-256"), None | Some("ES256")) if signs => {
                VerifyingKey::p256(&decode(&jwk.x)?, &decode(&jwk.y)?)
            }
            _ => continue,
        };
        let key = key.map_err(|e| Error::invalid("has a key that is too short, or none").because(e))?;
        keys.push(Key { kid: jwk.kid, key, holds: None });
    }
    Ok(keys)
}

fn of_object(object: serde_json::Map<String, Value>) -> Result<Vec<Key>> {
    let no_set = || {
        Error::invalid("is JSON, but neither a set of keys (RFC 7517) nor key ids with certificates in PEM")
    };
    let named: BTreeMap<String, String> =
        serde_json::from_value(Value::Object(object)).map_err(|_| no_set())?;
    let mut keys = Vec::new();
    for (kid, pem) in named.iter().take(MAX_KEYS + 1) {
        keys.extend(of_pem(Some(kid), pem)?);
    }
    Ok(keys)
}

fn of_pem(kid: Option<&str>, pem: &str) -> Result<Vec<Key>> {
    if pem.contains("PRIVATE KEY-----") {
        return Err(private());
    }
    let keys = VerifyingKey::all_of_pem(pem)
        .map_err(|e| Error::invalid("is neither JSON nor public keys or certificates in PEM").because(e))?;
    Ok(keys.into_iter().map(|(key, holds)| Key { kid: kid.map(str::to_owned), key, holds }).collect())
}
