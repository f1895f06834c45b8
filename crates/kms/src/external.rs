//! Keys that a partner's key manager keeps: where they are, for which reasons keys may be used, and what a client of
//! such a manager gives the KMS.
//!
//! Invariant: this file speaks no protocol. A manager that says no is told apart from one that says nothing.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use claviger_core::names::{CryptoKeyVersionName, KeyRingName, LocationName};
use claviger_core::{Caller, Error, Result, Timestamp};
use claviger_crypto::SecretBytes;
use claviger_crypto::rs256::SigningKey;
use serde::{Deserialize, Serialize};

/// The label of a caller's context that says why a key is used; it goes to the audit log as the justification.
pub const ACCESS_REASON: &str = "access_reason";

macro_rules! reasons {
    ($($(#[$doc:meta])* $reason:ident => $name:literal,)+) => {
        /// Why a key is used: the reasons of key access justifications.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum AccessReason {
            $($(#[$doc])* #[serde(rename = $name)] $reason,)+
        }

        impl AccessReason {
            /// All reasons.
            pub const ALL: &[Self] = &[$(Self::$reason,)+];

            /// The reason as the API spells it.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$reason => $name,)+ }
            }
        }
    };
}

reasons! {
    /// None was given.
    Unspecified => "REASON_UNSPECIFIED",
    /// Support that the customer asked for.
    CustomerInitiatedSupport => "CUSTOMER_INITIATED_SUPPORT",
    /// Work on the customer's systems by the operator.
    GoogleInitiatedService => "GOOGLE_INITIATED_SERVICE",
    /// A demand of a third party.
    ThirdPartyDataRequest => "THIRD_PARTY_DATA_REQUEST",
    /// An inquiry into abuse.
    GoogleInitiatedReview => "GOOGLE_INITIATED_REVIEW",
    /// The customer uses the data, or the key itself.
    CustomerInitiatedAccess => "CUSTOMER_INITIATED_ACCESS",
    /// The service works on the data by itself; checks of keys among that.
    GoogleInitiatedSystemOperation => "GOOGLE_INITIATED_SYSTEM_OPERATION",
    /// No reason is expected.
    ReasonNotExpected => "REASON_NOT_EXPECTED",
    /// The customer's access, after a change by the operator.
    ModifiedCustomerInitiatedAccess => "MODIFIED_CUSTOMER_INITIATED_ACCESS",
    /// The service's own work, after a change by the operator.
    ModifiedGoogleInitiatedSystemOperation => "MODIFIED_GOOGLE_INITIATED_SYSTEM_OPERATION",
    /// An answer to an alert.
    GoogleResponseToProductionAlert => "GOOGLE_RESPONSE_TO_PRODUCTION_ALERT",
    /// A workflow that the customer authorized.
    CustomerAuthorizedWorkflowServicing => "CUSTOMER_AUTHORIZED_WORKFLOW_SERVICING",
}

impl AccessReason {
    /// The reason of a name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|reason| reason.as_str() == name)
    }

    /// Why a caller uses a key: what its context says; without a word, the customer's access.
    #[must_use]
    pub fn of(caller: &Caller) -> Self {
        match caller.context.get(ACCESS_REASON) {
            Some(name) => Self::parse(name).unwrap_or(Self::Unspecified),
            None => Self::CustomerInitiatedAccess,
        }
    }
}

/// Where the key of a version is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExternalKey {
    /// At a URI that can be reached by everybody.
    Uri(String),
    /// At a path of the manager that the key's connection names.
    Path(String),
}

/// The full name of a connection.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EkmConnectionName(String);

impl EkmConnectionName {
    /// The shape of the name.
    pub const SHAPE: &str = "projects/{project}/locations/{location}/ekmConnections/{ekm_connection}";

    /// Reads a full name.
    ///
    /// # Errors
    /// `InvalidArgument` that repeats the text and the expected shape.
    pub fn parse(text: &str) -> Result<Self> {
        let parts = text.split_once("/ekmConnections/").and_then(|(place, id)| {
            let place = LocationName::parse(place).ok()?;
            // Ids of connections are spelled as those of key rings.
            KeyRingName::new(place.project(), place.location(), id).ok()
        });
        match parts {
            Some(_) => Ok(Self(text.to_owned())),
            None => Err(Error::invalid(format!("Invalid resource name '{text}': expected {}", Self::SHAPE))),
        }
    }

    /// The name of a connection in a location.
    ///
    /// # Errors
    /// `InvalidArgument` when the id has characters that a name may not have.
    pub fn new(location: &LocationName, id: &str) -> Result<Self> {
        Self::parse(&format!("{location}/ekmConnections/{id}"))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Where it is.
    #[must_use]
    pub fn location_name(&self) -> &str {
        self.0.split_once("/ekmConnections/").map_or("", |(place, _)| place)
    }

    /// The id of the project.
    #[must_use]
    pub fn project(&self) -> &str {
        self.0.split('/').nth(1).unwrap_or_default()
    }
}

impl fmt::Display for EkmConnectionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for EkmConnectionName {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        Self::parse(&text)
    }
}

impl From<EkmConnectionName> for String {
    fn from(name: EkmConnectionName) -> Self {
        name.0
    }
}

/// A way to an external key manager in a private network. It is never deleted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EkmConnection {
    /// The full name.
    pub name: EkmConnectionName,
    /// When it was made.
    pub create_time: Timestamp,
    /// Where the manager is, and what it must show.
    pub resolver: Resolver,
    /// Changes with each change.
    pub etag: String,
}

/// Where a manager is, and what it must show.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resolver {
    /// The host, with a port unless that is 443.
    pub hostname: String,
    /// The certificates that it is trusted by, in DER.
    #[serde(with = "certificates")]
    pub certificates: Vec<Vec<u8>>,
    /// Kept for those who set it; names are resolved by DNS here.
    #[serde(default)]
    pub service_directory_service: String,
    /// Kept for those who set it.
    #[serde(default)]
    pub endpoint_filter: String,
}

mod certificates {
    //! Certificates in Base64.

    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD as BASE64;
    use serde::de::Error as _;
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(certificates: &[Vec<u8>], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(certificates.iter().map(|der| BASE64.encode(der)))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Vec<u8>>, D::Error> {
        let texts = Vec::<String>::deserialize(from)?;
        texts.iter().map(|text| BASE64.decode(text).map_err(D::Error::custom)).collect()
    }
}

/// Where one key of a manager is reached, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// As `https://HOST/PATH`, without a verb.
    pub uri: String,
    /// The certificates that the host is trusted by; without any, those that the machine trusts.
    pub pins: Vec<Vec<u8>>,
}

/// What the KMS signs its requests with.
#[derive(Debug)]
pub struct Identity<'a> {
    /// The key.
    pub key: &'a SigningKey,
    /// Whose request it is: the agent of the key's project.
    pub email: String,
}

/// A use of an external key.
#[derive(Debug)]
pub struct ExternalCall<'a> {
    /// Where the key is.
    pub target: &'a Target,
    /// In whose name.
    pub identity: &'a Identity<'a>,
    /// The version that the key is behind.
    pub version: &'a CryptoKeyVersionName,
    /// Why.
    pub reason: AccessReason,
    /// What is bound to the wrapped bytes.
    pub aad: &'a [u8],
}

/// What an external manager unwrapped.
#[derive(Debug)]
pub struct Unwrapped {
    /// The bytes.
    pub payload: SecretBytes,
    /// How long the manager lets them be kept, if it says.
    pub cache_for: Option<Duration>,
}

/// Why an external key could not be used. The sentences are for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExternalFailure {
    /// The manager decided so.
    Refused {
        /// As `EXTERNAL_PERMISSION_DENIED`.
        kind: &'static str,
        /// What the manager said.
        detail: String,
    },
    /// The manager did not answer, or said nothing about the key.
    Silent {
        /// As `EXTERNAL_KEY_MANAGER_UNREACHABLE`.
        kind: &'static str,
        /// What happened.
        detail: String,
    },
}

/// A client of external key managers.
#[async_trait]
pub trait ExternalKeys: fmt::Debug + Send + Sync {
    /// Wraps bytes under an external key.
    ///
    /// # Errors
    /// The manager's refusal, or its silence.
    async fn wrap(&self, call: &ExternalCall<'_>, payload: &[u8]) -> Result<Vec<u8>, ExternalFailure>;

    /// Unwraps what [`Self::wrap`] gave.
    ///
    /// # Errors
    /// The manager's refusal, or its silence.
    async fn unwrap(&self, call: &ExternalCall<'_>, wrapped: &[u8]) -> Result<Unwrapped, ExternalFailure>;

    /// Tries whether a manager can be reached and shows the right certificate.
    ///
    /// # Errors
    /// Its refusal, or its silence.
    async fn probe(&self, target: &Target, identity: &Identity<'_>) -> Result<(), ExternalFailure>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_have_the_numbers_and_names_of_the_api() {
        assert_eq!(AccessReason::ALL.len(), 12);
        for reason in AccessReason::ALL {
            assert_eq!(AccessReason::parse(reason.as_str()), Some(*reason));
        }
        let caller = Caller::local_admin();
        assert_eq!(AccessReason::of(&caller), AccessReason::CustomerInitiatedAccess);
        let system = caller.clone().with(ACCESS_REASON, "GOOGLE_INITIATED_SYSTEM_OPERATION");
        assert_eq!(AccessReason::of(&system), AccessReason::GoogleInitiatedSystemOperation);
        assert_eq!(AccessReason::of(&caller.with(ACCESS_REASON, "?")), AccessReason::Unspecified);
    }

    #[test]
    fn names_of_connections_have_one_shape() {
        let name = EkmConnectionName::parse("projects/p/locations/l/ekmConnections/c").unwrap();
        assert_eq!((name.location_name(), name.project()), ("projects/p/locations/l", "p"));
        for wrong in [
            "projects/p/locations/l/ekmConnections/",
            "projects/p/locations/l/ekmConnections/c/d",
            "projects/p/locations/l/ekmConnections/a b",
            "projects/p/ekmConnections/c",
            "projects/p/locations/l/keyRings/c",
        ] {
            assert!(EkmConnectionName::parse(wrong).is_err(), "{wrong}");
        }
    }
}
