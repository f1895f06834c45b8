//! A KMS elsewhere that has the public API of Cloud KMS and no more: Google's own, or any other.
//!
//! The customers' keys are used there. What that API does not have is in this process: the keys that Claviger manages,
//! numbers of projects, organisation policies.
//!
//! Invariant: which of the two keeps a key is told by its project alone. This server uses keys there as who it is there;
//! service agents and reasons do not go with the request.

use std::sync::Arc;

use async_trait::async_trait;
use claviger_core::names::CryptoKeyName;
use claviger_core::{Caller, Result};
use claviger_crypto::SecretBytes;
use claviger_kms::agents::{MANAGED_PROJECT, Service};
use claviger_kms::{Decrypted, Encrypted, KeyChange, KeyService};
use claviger_proto::google::cloud::kms::v1::key_management_service_client::KeyManagementServiceClient;
use claviger_proto::google::cloud::kms::v1::{GetCryptoKeyRequest, ProtectionLevel};
use tokio::sync::broadcast;

use super::dial::{Dial, Line};
use super::wire;
use crate::keys::{Authority, Here};

/// See the file's text.
#[derive(Clone)]
pub(crate) struct Plain {
    dial: Dial,
    client: KeyManagementServiceClient<Line>,
    here: Here,
}

impl Plain {
    pub(super) fn new(dial: Dial, here: Here) -> Self {
        let client = KeyManagementServiceClient::new(dial.line(false));
        Self { dial, client, here }
    }
}

fn is_here(key: &CryptoKeyName) -> bool {
    key.project() == MANAGED_PROJECT
}

#[async_trait]
impl KeyService for Plain {
    async fn encrypt(
        &self,
        caller: &Caller,
        key: &CryptoKeyName,
        plaintext: &SecretBytes,
        aad: &[u8],
    ) -> Result<Encrypted> {
        if is_here(key) {
            return self.here.kms.encrypt(caller, key, plaintext, aad).await;
        }
        let reply = self.client.clone().encrypt(wire::encrypt(key, plaintext, aad)).await;
        wire::encrypted(reply.map_err(|status| self.dial.failed(status))?.into_inner())
    }

    async fn decrypt(
        &self,
        caller: &Caller,
        key: &CryptoKeyName,
        ciphertext: &[u8],
        aad: &[u8],
    ) -> Result<Decrypted> {
        if is_here(key) {
            return self.here.kms.decrypt(caller, key, ciphertext, aad).await;
        }
        let reply = self.client.clone().decrypt(wire::decrypt(key, ciphertext, aad)).await;
        wire::decrypted(reply.map_err(|status| self.dial.failed(status))?.into_inner())
    }

    fn changes(&self) -> broadcast::Receiver<KeyChange> {
        // Of the keys that are here; the others are found by checks.
        self.here.kms.changes()
    }
}

#[async_trait]
impl Authority for Plain {
    fn keys(&self) -> Arc<dyn KeyService> {
        Arc::new(self.clone())
    }

    async fn project_number(&self, project: &str) -> Result<u64> {
        self.here.project_number(project).await
    }

    async fn managed_key(&self, service: Service, location: &str) -> Result<CryptoKeyName> {
        self.here.managed_key(service, location).await
    }

    async fn is_external(&self, key: &CryptoKeyName) -> Result<bool> {
        let request = GetCryptoKeyRequest { name: key.to_string() };
        let reply = self.client.clone().get_crypto_key(request).await;
        let found = reply.map_err(|status| self.dial.failed(status))?.into_inner();
        let level = found.version_template.unwrap_or_default().protection_level();
        Ok(matches!(level, ProtectionLevel::External | ProtectionLevel::ExternalVpc))
    }

    async fn admit(
        &self,
        service: Service,
        project: &str,
        key: Option<&CryptoKeyName>,
        operation: &str,
    ) -> Result<()> {
        self.here.admit(service, project, key, operation).await
    }
}
