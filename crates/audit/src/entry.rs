//! One line of the audit log.
//!
//! Invariant: no field ever holds a plaintext, a ciphertext, additional data or key bytes.

use std::collections::BTreeMap;

use claviger_core::{Caller, Error, Timestamp};
use serde::{Deserialize, Serialize};

use crate::tlog::LEAF_BYTES;

/// What is in [`Entry::code`] when the call succeeded.
const OK: &str = "OK";
/// What a byte of text becomes in JSON, at most.
const ESCAPED: usize = 6;
/// What stands around a text in JSON: quotes, a colon, a comma.
const QUOTES: usize = 4;
/// The names of the fields in JSON, the time, and what stands around them, at most.
const FRAME: usize = 256;

/// One use or change of a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// When; the log sets it.
    #[serde(default)]
    pub time: Timestamp,
    /// The service that was called, as `cloudkms.googleapis.com`.
    pub service: String,
    /// What was called, as `Encrypt`.
    pub method: String,
    /// The full name of the key, key ring or version.
    pub resource: String,
    /// The full name of the key version that was used, once it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_version: Option<String>,
    /// Who called.
    pub principal: String,
    /// What the caller said of the reason: the resource that the key protects, a job's id.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub context: BTreeMap<String, String>,
    /// The reason of a key access justification.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub justification: Option<String>,
    /// `OK`, or the name of the `ErrorKind`.
    pub code: String,
    /// The message of the error; empty when there was none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

impl Entry {
    /// An entry of a call that succeeded so far, without a time.
    pub fn new(
        service: impl Into<String>,
        method: impl Into<String>,
        resource: impl Into<String>,
        caller: &Caller,
    ) -> Self {
        Self {
            time: Timestamp::default(),
            service: service.into(),
            method: method.into(),
            resource: resource.into(),
            key_version: None,
            principal: caller.principal.clone(),
            context: caller.context.clone(),
            justification: None,
            code: OK.to_owned(),
            message: String::new(),
        }
    }

    /// Names the key version that was used.
    #[must_use]
    pub fn with_key_version(mut self, version: impl Into<String>) -> Self {
        self.key_version = Some(version.into());
        self
    }

    /// Says that the call was refused or failed.
    #[must_use]
    pub fn refused(mut self, error: &Error) -> Self {
        self.code = format!("{:?}", error.kind());
        self.message = error.message().to_owned();
        self
    }

    /// Whether its stored form fits a leaf of the log's tree, whatever its time.
    pub(crate) fn fits_leaf(&self) -> bool {
        let texts = [&self.service, &self.method, &self.resource, &self.principal, &self.code, &self.message];
        let context = self.context.iter().flat_map(|(key, value)| [key, value]);
        let all = texts.into_iter().chain(context).chain(&self.key_version).chain(&self.justification);
        let bytes: usize = all.map(|text| text.len() * ESCAPED + QUOTES).sum();
        if bytes + FRAME <= LEAF_BYTES {
            return true;
        }
        let latest = Self { time: Timestamp(i64::MIN), ..self.clone() };
        serde_json::to_vec(&latest).is_ok_and(|stored| stored.len() <= LEAF_BYTES)
    }

    /// Whether the call succeeded.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.code == OK
    }
}
