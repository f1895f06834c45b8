//! What travels between a KMS and an external key manager, as JSON over HTTP: the public interface of Google Cloud's
//! external key manager partners.
//!
//! ```text
//! POST https://HOST/PATH:wrap      {plaintext, additionalAuthenticatedData, additionalContext, keyUriPrefix}
//!                                  -> {wrappedBlob}
//! POST https://HOST/PATH:unwrap    {wrappedBlob, additionalAuthenticatedData, additionalContext, keyUriPrefix}
//!                                  -> {plaintext, allowedCacheDuration}
//! an error                         -> {code, message, status}, code as of google.rpc.Code
//! ```
//! Bytes are in Base64, durations are text as in `300s`.
//!
//! Invariant: a decoder takes unknown fields and either alphabet of Base64, and nothing else that is wrong.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use claviger_crypto::SecretBytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

/// Bytes of a body, at most: a sealed plaintext and additional data of 64 KiB each, in Base64, and what is around them.
pub(crate) const BODY_BYTES: usize = 256 * 1024;

/// Bytes, in Base64. They may be secret, so they are overwritten in the end.
#[derive(Default)]
pub(crate) struct Base64(pub(crate) Zeroizing<Vec<u8>>);

impl Base64 {
    pub(crate) fn of(bytes: &[u8]) -> Self {
        Self(Zeroizing::new(bytes.to_vec()))
    }

    pub(crate) fn into_secret(mut self) -> SecretBytes {
        SecretBytes::new(std::mem::take(&mut *self.0))
    }
}

impl Serialize for Base64 {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&Zeroizing::new(STANDARD.encode(&*self.0)))
    }
}

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = Zeroizing::new(String::deserialize(from)?);
        let bytes = STANDARD.decode(&*text).or_else(|_| URL_SAFE.decode(&*text));
        bytes.map(|bytes| Self(Zeroizing::new(bytes))).map_err(serde::de::Error::custom)
    }
}

/// Who uses a key, and why.
#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct RequestContext {
    /// The version of the key in the KMS.
    pub(crate) relative_resource_name: String,
    pub(crate) access_reason_context: AccessReasonContext,
    pub(crate) is_key_health_check: bool,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct AccessReasonContext {
    pub(crate) reason: String,
}

/// A call of wrap.
#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct WrapRequest {
    pub(crate) plaintext: Base64,
    pub(crate) additional_authenticated_data: Base64,
    pub(crate) additional_context: RequestContext,
    pub(crate) key_uri_prefix: String,
}

/// The answer to it.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct WrapResponse {
    pub(crate) wrapped_blob: Base64,
}

/// A call of unwrap.
#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct UnwrapRequest {
    pub(crate) wrapped_blob: Base64,
    pub(crate) additional_authenticated_data: Base64,
    pub(crate) additional_context: RequestContext,
    pub(crate) key_uri_prefix: String,
}

/// The answer to it.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct UnwrapResponse {
    pub(crate) plaintext: Base64,
    /// As `300s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) allowed_cache_duration: Option<String>,
}

/// A refusal, or a fault.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Status {
    pub(crate) code: i64,
    pub(crate) message: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) status: String,
    /// Some write the whole inside of this.
    #[serde(skip_serializing)]
    pub(crate) error: Option<Box<Status>>,
}

/// A duration as the JSON of Protocol Buffers writes it. None when it is no duration.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    let seconds: f64 = text.strip_suffix('s')?.parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_the_fields_of_the_public_interface() {
        let request = WrapRequest {
            plaintext: Base64::of(&[0xfb, 0xff]),
            additional_authenticated_data: Base64::of(b"aad"),
            additional_context: RequestContext {
                relative_resource_name: "projects/p/x".into(),
                access_reason_context: AccessReasonContext { reason: "CUSTOMER_INITIATED_ACCESS".into() },
                is_key_health_check: false,
            },
            key_uri_prefix: "https://h/k".into(),
        };
        assert_eq!(
            serde_json::to_value(&request).unwrap(),
            serde_json::json!({
                "plaintext": "+/8=",
                "additionalAuthenticatedData": "YWFk",
                "additionalContext": {
                    "relativeResourceName": "projects/p/x",
                    "accessReasonContext": {"reason": "CUSTOMER_INITIATED_ACCESS"},
                    "isKeyHealthCheck": false,
                },
                "keyUriPrefix": "https://h/k",
            })
        );
    }

    #[test]
    fn either_alphabet_and_further_fields_are_taken() {
        for text in [r#"{"wrappedBlob": "+/8=", "x": 1}"#, r#"{"wrappedBlob": "-_8="}"#] {
            let reply: WrapResponse = serde_json::from_str(text).unwrap();
            assert_eq!(*reply.wrapped_blob.0, [0xfb, 0xff]);
        }
        for text in ["{}", r#"{"wrappedBlob": "+"}"#, r#"{"wrappedBlob": 3}"#, "[]", "", "<html>"] {
            assert!(serde_json::from_str::<WrapResponse>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_are_seconds() {
        assert_eq!(duration("300s"), Some(Duration::from_secs(300)));
        assert_eq!(duration("1.5s"), Some(Duration::from_millis(1500)));
        for wrong in ["", "s", "-1s", "5m", "1e30s", "NaNs", "infs"] {
            assert_eq!(duration(wrong), None, "{wrong}");
        }
    }
}
