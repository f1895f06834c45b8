//! Access tokens of our own, given for assertions that service accounts sign (RFC 7523).
//!
//! ```text
//! claviger1.BASE64URL({"sub": EMAIL, "key": FINGERPRINT, "rights": BITS, "exp": SECONDS}).BASE64URL(ED25519)
//! ```
//! Invariant: a token lives for an hour and not longer than the process, whose key signs it, and no longer than the
//! account's key that signed the assertion is known. It is kept nowhere.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use claviger_core::{Error, ErrorKind, Result};
use claviger_crypto::SecretKey;
use claviger_crypto::ed25519::{self, SIGNATURE_BYTES, SigningKey};
use serde::{Deserialize, Serialize};

use crate::jwt::wrong;
use crate::rights::Rights;
use crate::rules::{Grant, Rules};
use crate::{Known, LEEWAY_SECONDS, fault};

/// How they begin. No JSON Web Token does.
const PREFIX: &str = "claviger1.";
/// Seconds that they are good for.
const LIFE: u64 = 3600;

/// An access token.
pub struct Issued {
    /// The token: a secret.
    pub access_token: String,
    /// Seconds that it is good for.
    pub expires_in: u64,
}

impl std::fmt::Debug for Issued {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issued").field("expires_in", &self.expires_in).finish_non_exhaustive()
    }
}

#[derive(Serialize, Deserialize)]
struct Payload {
    sub: String,
    key: String,
    rights: u32,
    exp: u64,
}

/// What signs them.
pub(crate) struct Issuer(SigningKey);

/// What follows the mark of tokens of ours.
pub(crate) fn payload(token: &str) -> Option<&str> {
    token.strip_prefix(PREFIX)
}

impl Issuer {
    /// A key of this process alone.
    pub(crate) fn new() -> Result<Self> {
        let seed = SecretKey::random().map_err(|e| fault("there are no random bytes", e))?;
        SigningKey::from_seed(&seed).map(Self).map_err(|e| fault("there is no key for tokens", e))
    }

    pub(crate) fn issue(&self, grant: &Grant, now: u64) -> Result<Issued> {
        let payload = Payload {
            sub: grant.email.clone(),
            key: BASE64URL.encode(grant.key),
            rights: grant.scopes.bits(),
            exp: now.saturating_add(LIFE),
        };
        let json = serde_json::to_vec(&payload)
            .map_err(|e| Error::new(ErrorKind::Internal, "a token cannot be written").because(e))?;
        let signed = format!("{PREFIX}{}", BASE64URL.encode(json));
        let signature = BASE64URL.encode(self.0.sign(signed.as_bytes()));
        Ok(Issued { access_token: format!("{signed}.{signature}"), expires_in: LIFE })
    }

    /// Whose token this is; `issued` is what follows the mark.
    pub(crate) fn check(&self, rules: &Rules, issued: &str, now: u64) -> Result<Known> {
        let no_token = || wrong("is none that this server gave, or from before it was started anew");
        let (payload, signature) = issued.split_once('.').ok_or_else(no_token)?;
        let signature = BASE64URL.decode(signature).map_err(|_| no_token())?;
        let signed = format!("{PREFIX}{payload}");
        let fits = signature.len() == SIGNATURE_BYTES
            && ed25519::verify(&self.0.public_key(), signed.as_bytes(), &signature);
        let payload = BASE64URL.decode(payload).ok().filter(|_| fits).ok_or_else(no_token)?;
        let payload: Payload = serde_json::from_slice(&payload).map_err(|_| no_token())?;
        if payload.exp.saturating_add(LEEWAY_SECONDS) <= now {
            return Err(wrong("has expired"));
        }
        let key = BASE64URL.decode(&payload.key).map_err(|_| no_token())?;
        if !rules.has_key(&payload.sub, &key, now) {
            return Err(wrong("was given for a key that is not known any more"));
        }
        let principal = format!("serviceAccount:{}", payload.sub);
        Ok(rules.known(principal, Rights::of_bits(payload.rights), payload.exp))
    }
}
