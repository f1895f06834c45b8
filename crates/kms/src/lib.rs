//! Key rings, keys, versions, IAM and the root seal: a Cloud KMS with symmetric keys, in software, in a token and
//! external.
//!
//! Invariant: this crate knows no service that uses its keys and no wire format of an API.

pub mod agents;
mod ciphertext;
pub mod external;
pub mod hsm;
mod iam;
mod index;
mod kms;
mod lists;
pub mod locations;
mod material;
pub mod model;
mod pkcs11;
mod seal;
pub mod service;
mod storage;
mod texts;
mod validate;

pub use iam::{Binding, Policy};
pub use kms::{
    DecryptReply, DecryptRequest, EncryptReply, EncryptRequest, ImportRequest, KeyOrVersion, Kms, KmsConfig,
    PolicyResource,
};
pub use model::{
    Algorithm, CryptoKey, CryptoKeyUpdate, CryptoKeyVersion, Import, ImportJob, ImportJobState, KeyRing,
    KeyView, NewCryptoKey, NewImportJob, NewVersion, Page, PageRequest, ProtectionLevel, Purpose,
    VersionState, VersionTemplate, VersionUpdate,
};
pub use seal::{
    AddedSeal, MAX_SHARES, NewSeal, OpenedRoot, RootSecret, RootWrap, SealInfo, SealedRoot, Share, Token,
    WrapPlace, open_or_make,
};
pub use service::{Decrypted, Encrypted, KeyChange, KeyService};

#[doc(hidden)]
pub mod fuzzing {
    //! The decoders of what an attacker may change, for the fuzz targets. None may panic.

    use claviger_core::names::CryptoKeyName;
    use claviger_crypto::SecretKey;

    /// Reads and opens a ciphertext, under a fixed key.
    pub fn ciphertext(bytes: &[u8]) {
        let (Ok(key), Ok(material)) =
            (CryptoKeyName::new("p", "l", "r", "k"), SecretKey::from_slice(&[7; 32]))
        else {
            return;
        };
        if let Ok(parsed) = crate::ciphertext::parse(bytes) {
            let _ =
                crate::ciphertext::open(parsed.kind, &material, &key, parsed.version, b"", parsed.message);
        }
    }

    /// Reads the filter of a list.
    pub fn filter(text: &str) {
        use crate::lists::Listed as _;
        let _ = crate::lists::Filter::parse(text, crate::model::KeyView::FIELDS);
    }

    /// Reads a `root.json` and opens its keys, under a fixed key; reads a key file and a share.
    pub fn root(bytes: &[u8]) {
        if let Ok(key) = SecretKey::from_slice(&[7; 32]) {
            crate::seal::fuzz(bytes, &key);
        }
    }
}
