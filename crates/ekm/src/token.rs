//! The tokens that a KMS shows to external key managers: JSON Web Tokens (RFC 7519) signed by RS256, as Google's.
//!
//! ```text
//! {"alg": "RS256", "kid": KEY, "typ": "JWT"}
//! {"iss": ISSUER, "sub": AGENT, "email": AGENT, "email_verified": true, "aud": "https://HOST", "iat": S, "exp": S}
//! ```
//! Invariant: a token is good for one host and five minutes. Only RS256 is ever verified, under a key that was given
//! beforehand; what a token says of itself chooses among these keys and nothing else.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use claviger_core::{Error, ErrorKind, Result};
use claviger_crypto::rs256::{PublicKey, SigningKey};
use claviger_crypto::sha256;
use serde::{Deserialize, Serialize};

/// Who signs, unless a server was told otherwise.
pub const ISSUER: &str = "https://accounts.claviger.local";

/// Seconds that a token is good for.
const LIFE: u64 = 5 * 60;
/// Seconds that a verifier's clock may be wrong.
const LEEWAY: u64 = 60;
/// Seconds that a token may say it is good for, at most; Google's figure.
const LONGEST_LIFE: u64 = 3600;
/// Bytes of a token, at most.
const MAX_TOKEN: usize = 8 * 1024;
/// Keys of a set, at most.
const MAX_KEYS: usize = 64;

/// A set of public keys (RFC 7517).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeySet {
    /// The keys.
    pub keys: Vec<Key>,
}

/// A public key of RSA (RFC 7518).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    /// `RSA`.
    pub kty: String,
    /// `RS256`.
    #[serde(default)]
    pub alg: String,
    /// `sig`.
    #[serde(default, rename = "use")]
    pub for_use: String,
    /// What tells it from others.
    pub kid: String,
    /// The modulus, in Base64url.
    pub n: String,
    /// The exponent, in Base64url.
    pub e: String,
}

impl KeySet {
    /// The set of one key.
    ///
    /// # Errors
    /// `Internal` when the key cannot be encoded.
    pub fn of(key: &SigningKey) -> Result<Self> {
        let public = key.public_key().map_err(|e| Error::internal("a key cannot be shown").because(e))?;
        Ok(Self {
            keys: vec![Key {
                kty: "RSA".into(),
                alg: "RS256".into(),
                for_use: "sig".into(),
                kid: key_id(&public),
                n: BASE64URL.encode(&public.n),
                e: BASE64URL.encode(&public.e),
            }],
        })
    }

    /// Reads a set in JSON.
    ///
    /// # Errors
    /// `InvalidArgument` when it is none, or has too many keys.
    pub fn parse(json: &[u8]) -> Result<Self> {
        let wrong = || Error::invalid("this is no set of keys in JSON (RFC 7517)");
        let set: Self = serde_json::from_slice(json).map_err(|e| wrong().because(e))?;
        if set.keys.is_empty() || set.keys.len() > MAX_KEYS { Err(wrong()) } else { Ok(set) }
    }

    fn find(&self, kid: &str) -> Option<PublicKey> {
        let signs =
            |key: &&Key| key.kty == "RSA" && matches!(key.alg.as_str(), "" | "RS256") && key.kid == kid;
        let key = self.keys.iter().find(signs)?;
        Some(PublicKey { n: BASE64URL.decode(&key.n).ok()?, e: BASE64URL.decode(&key.e).ok()? })
    }
}

fn key_id(key: &PublicKey) -> String {
    let digest = sha256(&[&key.n, b"/", &key.e]);
    BASE64URL.encode(digest.get(..16).unwrap_or_default())
}

#[derive(Serialize, Deserialize)]
struct Header {
    alg: String,
    kid: String,
    #[serde(default)]
    typ: String,
    /// What must be understood; nothing is.
    #[serde(default, skip_serializing)]
    crit: Option<serde_json::Value>,
}

/// What a token says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Who signed it.
    pub iss: String,
    /// Whose it is.
    pub sub: String,
    /// The address of whose it is.
    pub email: String,
    /// Whether the address is known to be right.
    #[serde(default)]
    pub email_verified: bool,
    /// For whom it is.
    pub aud: String,
    /// When it was made, in seconds since the Unix epoch.
    pub iat: u64,
    /// When it ends.
    pub exp: u64,
}

/// A token for one host. `now` is in seconds since the Unix epoch.
///
/// # Errors
/// `Internal` when it cannot be signed.
pub fn sign(key: &SigningKey, issuer: &str, email: &str, audience: &str, now: u64) -> Result<String> {
    let fault = |e| Error::internal("a token cannot be signed").because(e);
    let public = key.public_key().map_err(fault)?;
    let header = Header { alg: "RS256".into(), kid: key_id(&public), typ: "JWT".into(), crit: None };
    let claims = Claims {
        iss: issuer.to_owned(),
        sub: email.to_owned(),
        email: email.to_owned(),
        email_verified: true,
        aud: audience.to_owned(),
        iat: now,
        exp: now + LIFE,
    };
    let signed = format!("{}.{}", part(&header)?, part(&claims)?);
    let signature = key.sign(signed.as_bytes()).map_err(fault)?;
    Ok(format!("{signed}.{}", BASE64URL.encode(signature)))
}

fn part(value: &impl Serialize) -> Result<String> {
    let json =
        serde_json::to_vec(value).map_err(|e| Error::internal("a token cannot be written").because(e))?;
    Ok(BASE64URL.encode(json))
}

/// What a verifier holds tokens against.
#[derive(Clone, Debug)]
pub struct Expected {
    /// The keys that may have signed.
    pub keys: KeySet,
    /// Who must have signed.
    pub issuer: String,
    /// For whom tokens must be: any of these.
    pub audiences: Vec<String>,
}

impl Expected {
    /// What a token says, once all of it was found right. `now` is in seconds since the Unix epoch.
    ///
    /// # Errors
    /// `Unauthenticated` that says what is wrong with it.
    pub fn verify(&self, token: &str, now: u64) -> Result<Claims> {
        let wrong = |why: &str| Error::new(ErrorKind::Unauthenticated, format!("the token {why}"));
        if token.len() > MAX_TOKEN {
            return Err(wrong("is too long"));
        }
        let no_token = || wrong("is not of the form HEADER.CLAIMS.SIGNATURE");
        let (signed, signature) = token.rsplit_once('.').ok_or_else(no_token)?;
        let (header, claims) = signed.split_once('.').ok_or_else(no_token)?;
        let bytes = |part: &str| BASE64URL.decode(part).map_err(|_| no_token());
        let header: Header = serde_json::from_slice(&bytes(header)?).map_err(|_| no_token())?;
        if header.alg != "RS256" || header.crit.is_some() {
            return Err(wrong("is not signed by RS256"));
        }
        let key =
            self.keys.find(&header.kid).ok_or_else(|| wrong("is signed with a key that is not known"))?;
        if !key.verify(signed.as_bytes(), &bytes(signature)?) {
            return Err(wrong("has a signature that does not fit"));
        }
        let claims: Claims = serde_json::from_slice(&bytes(claims)?).map_err(|_| wrong("lacks a claim"))?;
        if claims.iss != self.issuer {
            return Err(wrong("is of another issuer"));
        }
        if !self.audiences.contains(&claims.aud) {
            return Err(wrong("is for another host"));
        }
        if claims.iat > now.saturating_add(LEEWAY) || claims.exp.saturating_add(LEEWAY) <= now {
            return Err(wrong("is not good at this time"));
        }
        if claims.exp.saturating_sub(claims.iat) > LONGEST_LIFE {
            return Err(wrong("is good for too long"));
        }
        if !claims.email_verified || claims.email.is_empty() {
            return Err(wrong("does not say whose it is"));
        }
        Ok(claims)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use std::sync::LazyLock;

    const NOW: u64 = 1_800_000_000;
    const AGENT: &str = "service-7@gcp-sa-ekms.iam.gserviceaccount.com";
    const HOST: &str = "https://ekm.example.com";

    static KEY: LazyLock<SigningKey> = LazyLock::new(|| SigningKey::generate().unwrap());

    fn expected() -> Expected {
        Expected { keys: KeySet::of(&KEY).unwrap(), issuer: ISSUER.into(), audiences: vec![HOST.into()] }
    }

    fn token() -> String {
        sign(&KEY, ISSUER, AGENT, HOST, NOW).unwrap()
    }

    /// A token with other parts, signed rightly.
    fn forged(change: impl FnOnce(&mut Value, &mut Value), key: &SigningKey) -> String {
        let good = token();
        let parts: Vec<&str> = good.split('.').collect();
        let json = |part: &str| serde_json::from_slice(&BASE64URL.decode(part).unwrap()).unwrap();
        let (mut header, mut claims): (Value, Value) = (json(parts[0]), json(parts[1]));
        change(&mut header, &mut claims);
        let signed = format!("{}.{}", part(&header).unwrap(), part(&claims).unwrap());
        format!("{signed}.{}", BASE64URL.encode(key.sign(signed.as_bytes()).unwrap()))
    }

    fn refusal(token: &str) -> String {
        let error = expected().verify(token, NOW).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unauthenticated);
        error.message().to_owned()
    }

    #[test]
    fn a_token_says_whose_it_is_and_for_whom() {
        let claims = expected().verify(&token(), NOW + 10).unwrap();
        assert_eq!((claims.email.as_str(), claims.aud.as_str()), (AGENT, HOST));
        assert_eq!((claims.iat, claims.exp), (NOW, NOW + 300));
        assert_eq!(expected().verify(&forged(|_, _| {}, &KEY), NOW).unwrap(), claims);
    }

    #[test]
    fn another_algorithm_is_never_taken() {
        for alg in ["none", "None", "HS256", "RS512", "PS256", "ES256", ""] {
            let token = forged(|header, _| header["alg"] = alg.into(), &KEY);
            assert!(refusal(&token).contains("RS256"), "{alg}");
        }
        // As libraries were once deceived: no algorithm, and no signature.
        let token = forged(|header, _| header["alg"] = "none".into(), &KEY);
        let (signed, _) = token.rsplit_once('.').unwrap();
        refusal(&format!("{signed}."));
        refusal(&forged(|header, _| header["crit"] = json!(["exp"]), &KEY));
    }

    #[test]
    fn another_key_is_never_taken() {
        let other = SigningKey::generate().unwrap();
        assert!(refusal(&forged(|_, _| {}, &other)).contains("does not fit"));
        let theirs = KeySet::of(&other).unwrap().keys.remove(0);
        let token = forged(|header, _| header["kid"] = theirs.kid.clone().into(), &other);
        assert!(refusal(&token).contains("not known"));
        // A key that the token itself brings along is not looked at.
        let brought = forged(
            |header, _| {
                header["kid"] = theirs.kid.clone().into();
                header["jwk"] = serde_json::to_value(&theirs).unwrap();
            },
            &other,
        );
        assert!(refusal(&brought).contains("not known"));
    }

    #[test]
    fn wrong_claims_are_refused() {
        let claims = |name: &str, value: Value| refusal(&forged(|_, claims| claims[name] = value, &KEY));
        assert!(claims("aud", "https://other.example.com".into()).contains("another host"));
        assert!(claims("aud", format!("{HOST}.evil.com").into()).contains("another host"));
        assert!(claims("iss", "https://accounts.google.com".into()).contains("issuer"));
        assert!(claims("exp", (NOW - 61).into()).contains("this time"));
        assert!(claims("iat", (NOW + 61).into()).contains("this time"));
        assert!(claims("exp", (NOW + 3601).into()).contains("too long"));
        assert!(claims("email_verified", false.into()).contains("whose"));
        assert!(claims("exp", "soon".into()).contains("lacks a claim"));
        assert!(claims("email", Value::Null).contains("lacks a claim"));
    }

    #[test]
    fn a_token_ends_five_minutes_after_its_making_and_a_bit_for_clocks() {
        let at = |now| expected().verify(&token(), now).is_ok();
        assert!(at(NOW - 60) && at(NOW + 359));
        assert!(!at(NOW - 61) && !at(NOW + 360));
    }

    #[test]
    fn each_changed_byte_is_noticed() {
        let good = token();
        for at in 0..good.len() {
            let mut bytes = good.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(bytes).unwrap();
            // The last character of the signature has bits that mean nothing; the decoder refuses them.
            assert!(expected().verify(&changed, NOW).is_err(), "byte {at}");
        }
        for token in
            ["", ".", "..", "a.b", "a.b.c", &good[..good.len() - 1], &format!("{good}.x"), &"a".repeat(9000)]
        {
            assert!(expected().verify(token, NOW).is_err(), "{token}");
        }
    }

    #[test]
    fn a_set_of_keys_is_read_back() {
        let set = KeySet::of(&KEY).unwrap();
        assert_eq!(KeySet::parse(&serde_json::to_vec(&set).unwrap()).unwrap(), set);
        assert_eq!(set.keys[0].e, "AQAB");
        for wrong in ["", "[]", "{}", r#"{"keys": []}"#] {
            assert!(KeySet::parse(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }
}
