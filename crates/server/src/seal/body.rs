//! The bodies of requests about seals.
//!
//! Invariant: an error says nothing of what a body held, which may be a secret in the wrong place.

use axum::body::Body;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use claviger_core::{Error, Result};
use claviger_crypto::SecretBytes;
use claviger_kms::{NewSeal, Share};
use http::header::CONTENT_TYPE;
use http::request::Parts;
use http_body_util::{BodyExt, Limited};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};

/// A body, bytes at most.
const BODY_BYTES: usize = 64 * 1024;

/// A text that is overwritten when it is dropped.
struct Secret(SecretBytes);

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from).map(|text| Self(SecretBytes::new(text.into_bytes())))
    }
}

/// What opens a sealed server.
#[derive(Debug)]
pub(super) enum Unseal {
    Passphrase(SecretBytes),
    KeyFile(SecretBytes),
    Share(Share),
    ForgetShares,
}

/// A seal that is asked for.
#[derive(Debug)]
pub(super) struct Add {
    pub(super) new: New,
    pub(super) replace: Option<u32>,
}

/// What a new seal is.
#[derive(Debug)]
pub(super) enum New {
    Seal(NewSeal),
    /// By a key elsewhere of that kind, which the server was started with.
    WrappedBy(String),
}

/// What is made from a body.
pub(super) trait FromBody: Sized {
    /// The fields as JSON has them.
    type Fields: DeserializeOwned;

    fn made(fields: Self::Fields) -> Result<Self>;
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub(super) struct UnsealFields {
    passphrase: Option<Secret>,
    key_file: Option<Secret>,
    share: Option<Secret>,
    forget_shares: bool,
}

impl FromBody for Unseal {
    type Fields = UnsealFields;

    fn made(fields: UnsealFields) -> Result<Self> {
        match fields {
            UnsealFields { passphrase: Some(text), key_file: None, share: None, forget_shares: false } => {
                Ok(Self::Passphrase(text.0))
            }
            UnsealFields { passphrase: None, key_file: Some(text), share: None, forget_shares: false } => {
                key_file(&text).map(Self::KeyFile)
            }
            UnsealFields { passphrase: None, key_file: None, share: Some(text), forget_shares: false } => {
                let text = std::str::from_utf8(text.0.expose());
                text.map_err(|_| unexpected())?.parse().map(Self::Share)
            }
            UnsealFields { passphrase: None, key_file: None, share: None, forget_shares: true } => {
                Ok(Self::ForgetShares)
            }
            _ => Err(Error::invalid(
                "One of passphrase, keyFile, share and forgetShares is expected, and no other.",
            )),
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub(super) struct AddFields {
    passphrase: Option<Secret>,
    key_file: Option<Secret>,
    local_key: bool,
    wrapped_by: Option<String>,
    shares: Option<Counts>,
    replace: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Counts {
    count: u8,
    threshold: u8,
}

impl FromBody for Add {
    type Fields = AddFields;

    fn made(fields: AddFields) -> Result<Self> {
        let AddFields { passphrase, key_file: file, local_key, wrapped_by, shares, replace } = fields;
        let passphrase = passphrase.map(|text| New::Seal(NewSeal::Passphrase(text.0)));
        let file = file.map(|text| key_file(&text)).transpose()?;
        let shares = shares.map(|Counts { count, threshold }| NewSeal::Shares { shares: count, threshold });
        let mut given = [
            passphrase,
            file.map(|contents| New::Seal(NewSeal::KeyFile(contents))),
            local_key.then_some(New::Seal(NewSeal::Local)),
            wrapped_by.map(New::WrappedBy),
            shares.map(New::Seal),
        ]
        .into_iter()
        .flatten();
        match (given.next(), given.next()) {
            (Some(new), None) => Ok(Self { new, replace }),
            _ => Err(Error::invalid(
                "One of passphrase, keyFile, localKey, wrappedBy and shares is expected, and no other.",
            )),
        }
    }
}

/// Reads the body of a request.
///
/// # Errors
/// `InvalidArgument` when it is not what is expected.
pub(super) async fn read<T: FromBody>(parts: &Parts, body: Body) -> Result<T> {
    let kind = parts.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if kind.split(';').next().unwrap_or_default().trim() != "application/json" {
        return Err(Error::invalid("The body must be JSON, and the Content-Type must say so."));
    }
    let body = Limited::new(body, BODY_BYTES).collect().await;
    let body = body.map_err(|_| Error::invalid(format!("A body has at most {BODY_BYTES} bytes.")))?;
    let body = SecretBytes::new(Vec::from(body.to_bytes()));
    T::made(serde_json::from_slice(body.expose()).map_err(|_| unexpected())?)
}

fn unexpected() -> Error {
    Error::invalid("The body is not what is expected: see the API of the seals.")
}

fn key_file(text: &Secret) -> Result<SecretBytes> {
    let contents = BASE64.decode(text.0.expose());
    contents.map(SecretBytes::new).map_err(|_| Error::invalid("keyFile is not in Base64."))
}
