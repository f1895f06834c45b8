//! JSON Web Tokens (RFC 7519) in their compact form (RFC 7515), before anything of them is believed.
//!
//! Invariant: any text gives a token or a refusal, never a panic. What is not understood (another algorithm, a critical
//! header) is refused; no part of a token is in an error.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use claviger_core::{Error, ErrorKind, Result};
use claviger_crypto::verifying::Scheme;
use serde::{Deserialize, Deserializer};

use crate::LEEWAY_SECONDS;
use crate::keys::Keys;

/// Bytes of a token, at most. HTTP headers of servers end about there too.
pub const MAX_TOKEN_BYTES: usize = 8 * 1024;
/// Audiences of one token, at most.
const MAX_AUDIENCES: usize = 16;

/// A refusal: `the token ...`.
pub(crate) fn wrong(why: &str) -> Error {
    let message = format!(
        "Request had invalid authentication credentials: the token {why}. \
         Expected a token of a caller that this server knows."
    );
    Error::new(ErrorKind::Unauthenticated, message)
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: Option<String>,
    /// What must be understood; nothing is.
    #[serde(default)]
    crit: Option<serde_json::Value>,
}

/// What a token says of itself.
#[derive(Debug, Deserialize)]
pub(crate) struct Claims {
    pub(crate) iss: String,
    /// Assertions of Google's clients have none.
    #[serde(default)]
    pub(crate) sub: Option<String>,
    #[serde(default)]
    pub(crate) aud: Audiences,
    #[serde(deserialize_with = "seconds")]
    pub(crate) iat: u64,
    #[serde(deserialize_with = "seconds")]
    pub(crate) exp: u64,
    #[serde(default, deserialize_with = "maybe_seconds")]
    nbf: Option<u64>,
    #[serde(default)]
    pub(crate) email: Option<String>,
    #[serde(default)]
    pub(crate) email_verified: Option<serde_json::Value>,
    #[serde(default)]
    pub(crate) scope: Option<String>,
    /// For whom a token is wanted in exchange for this one.
    #[serde(default)]
    pub(crate) target_audience: Option<String>,
}

/// For whom a token is.
#[derive(Debug, Default, Deserialize)]
#[serde(untagged)]
pub(crate) enum Audiences {
    #[default]
    None,
    One(String),
    Some(Vec<String>),
}

impl Audiences {
    pub(crate) fn all(&self) -> &[String] {
        match self {
            Self::None => &[],
            Self::One(one) => std::slice::from_ref(one),
            Self::Some(some) => some,
        }
    }
}

/// A time as RFC 7519 has it: a number of seconds that may have a fraction.
fn of_number(number: &serde_json::Number) -> Option<u64> {
    if let Some(whole) = number.as_u64() {
        return Some(whole);
    }
    let parts = number.as_f64().filter(|seconds| (0.0..9e15).contains(seconds))?;
    format!("{:.0}", parts.floor()).parse().ok()
}

fn seconds<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<u64, D::Error> {
    of_number(&serde_json::Number::deserialize(from)?).ok_or_else(|| serde::de::Error::custom("no time"))
}

fn maybe_seconds<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<Option<u64>, D::Error> {
    seconds(from).map(Some)
}

/// A token in its parts. Nothing of it is true before [`Jwt::verify`].
#[derive(Debug)]
pub(crate) struct Jwt<'a> {
    scheme: Scheme,
    kid: Option<String>,
    pub(crate) claims: Claims,
    signed: &'a str,
    signature: Vec<u8>,
}

impl<'a> Jwt<'a> {
    /// Takes a token apart.
    ///
    /// # Errors
    /// `Unauthenticated`.
    pub(crate) fn parse(token: &'a str) -> Result<Self> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(wrong("is too long"));
        }
        let no_token = || wrong("is not of the form HEADER.CLAIMS.SIGNATURE");
        let (signed, signature) = token.rsplit_once('.').ok_or_else(no_token)?;
        let (header, claims) = signed.split_once('.').ok_or_else(no_token)?;
        let bytes = |part: &str| BASE64URL.decode(part).map_err(|_| no_token());
        let header: Header = serde_json::from_slice(&bytes(header)?).map_err(|_| no_token())?;
        let scheme = Scheme::parse(&header.alg).ok_or_else(|| wrong("is not signed by RS256 or ES256"))?;
        if header.crit.is_some() {
            return Err(wrong("demands what is not built (crit)"));
        }
        let claims: Claims =
            serde_json::from_slice(&bytes(claims)?).map_err(|_| wrong("lacks a claim: iss, iat, exp"))?;
        if claims.aud.all().len() > MAX_AUDIENCES {
            return Err(wrong("is for too many"));
        }
        Ok(Self { scheme, kid: header.kid, claims, signed, signature: bytes(signature)? })
    }

    /// Whether one of these keys signed it, and it holds at this time and for `longest` seconds at most. Gives the
    /// fingerprint of the key.
    ///
    /// # Errors
    /// `Unauthenticated`.
    pub(crate) fn verify(&self, keys: &Keys, longest: u64, now: u64) -> Result<[u8; 32]> {
        let mut candidates = keys.find(self.kid.as_deref(), self.scheme, now).peekable();
        if candidates.peek().is_none() {
            return Err(unknown());
        }
        let key = candidates
            .find(|key| key.verify(self.signed.as_bytes(), &self.signature))
            .ok_or_else(|| wrong("has a signature that does not fit"))?;
        let Claims { iat, exp, nbf, .. } = self.claims;
        if exp.saturating_add(LEEWAY_SECONDS) <= now {
            return Err(wrong("has expired"));
        }
        let soon = now.saturating_add(LEEWAY_SECONDS);
        if iat > soon || nbf.is_some_and(|nbf| nbf > soon) {
            return Err(wrong("does not hold yet"));
        }
        if exp <= iat || exp - iat > longest {
            return Err(wrong(&format!("is good for too long: more than {longest} s")));
        }
        Ok(key.fingerprint())
    }
}

/// The same for a signer and for a key that nobody knows, so that no one learns which accounts there are.
pub(crate) fn unknown() -> Error {
    wrong("is signed by nobody that this server knows")
}
