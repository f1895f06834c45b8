//! What the services of this process need of a KMS, wherever it is: the use of keys, service agents, managed keys,
//! policies.
//!
//! Invariant: nothing is decided here.

use std::sync::Arc;

use async_trait::async_trait;
use claviger_bigtable::KeyDirectory;
use claviger_buckets::KeyDirectory as BucketKeyDirectory;
use claviger_core::names::CryptoKeyName;
use claviger_core::{Caller, Result};
use claviger_crypto::SecretBytes;
use claviger_dataflow::KeyDirectory as JobKeyDirectory;
use claviger_kms::agents::Service;
use claviger_kms::{KeyService, Kms};
use claviger_orgpolicy::Policies;

use crate::orgpolicy;

/// A KMS and what is kept with it.
#[async_trait]
pub(crate) trait Authority: Send + Sync {
    /// The use of its keys.
    fn keys(&self) -> Arc<dyn KeyService>;

    /// The number of a project, given at its first use.
    ///
    /// # Errors
    /// `InvalidArgument` when it is no project's id; silence.
    async fn project_number(&self, project: &str) -> Result<u64>;

    /// The key that Claviger manages for a service in a location.
    ///
    /// # Errors
    /// `InvalidArgument` when the location is no id; silence.
    async fn managed_key(&self, service: Service, location: &str) -> Result<CryptoKeyName>;

    /// Whether an external key manager keeps a key.
    ///
    /// # Errors
    /// `NotFound`; silence.
    async fn is_external(&self, key: &CryptoKeyName) -> Result<bool>;

    /// Whether organisation policies let something new of a project be under a key.
    ///
    /// # Errors
    /// The policy's refusal; silence.
    async fn admit(
        &self,
        service: Service,
        project: &str,
        key: Option<&CryptoKeyName>,
        operation: &str,
    ) -> Result<()>;
}

/// The agent in whose name a service uses keys for the resources of a project.
///
/// # Errors
/// As [`Authority::project_number`].
pub(crate) async fn agent(authority: &dyn Authority, service: Service, project: &str) -> Result<Caller> {
    match service {
        Service::Platform => Ok(service.agent(0)),
        _ => Ok(service.agent(authority.project_number(project).await?)),
    }
}

/// A key that Claviger manages, and who may use it.
///
/// # Errors
/// As [`Authority::managed_key`].
pub(crate) async fn managed(
    authority: &dyn Authority,
    service: Service,
    location: &str,
) -> Result<(CryptoKeyName, Caller)> {
    let key = authority.managed_key(service, location).await?;
    let agent = agent(authority, service, key.project()).await?;
    Ok((key, agent))
}

/// The KMS of this process and its policies.
#[derive(Clone)]
pub(crate) struct Here {
    pub(crate) kms: Arc<Kms>,
    pub(crate) policies: Arc<Policies>,
}

#[async_trait]
impl Authority for Here {
    fn keys(&self) -> Arc<dyn KeyService> {
        self.kms.clone()
    }

    async fn project_number(&self, project: &str) -> Result<u64> {
        self.kms.project_number(project).await
    }

    async fn managed_key(&self, service: Service, location: &str) -> Result<CryptoKeyName> {
        self.kms.managed_key(service, location).await
    }

    async fn is_external(&self, key: &CryptoKeyName) -> Result<bool> {
        // Whatever the agent may see: it may use the key, or this is not asked.
        Ok(self.kms.get_crypto_key(&Caller::local_admin(), key)?.key.is_external())
    }

    async fn admit(
        &self,
        service: Service,
        project: &str,
        key: Option<&CryptoKeyName>,
        operation: &str,
    ) -> Result<()> {
        self.policies.protection(project, orgpolicy::names(service), key, operation)
    }
}

/// What one service sees of a KMS.
pub(crate) struct Directory {
    pub(crate) authority: Arc<dyn Authority>,
    pub(crate) service: Service,
}

impl Directory {
    async fn own_agent(&self, project: &str) -> Result<Caller> {
        agent(self.authority.as_ref(), self.service, project).await
    }

    async fn own_managed_key(&self, location: &str) -> Result<(CryptoKeyName, Caller)> {
        managed(self.authority.as_ref(), self.service, location).await
    }

    async fn try_once(&self, caller: &Caller, key: &CryptoKeyName) -> Result<()> {
        let probe = SecretBytes::new(b"claviger".to_vec());
        // Both halves: a key that only encrypts would lock its data in.
        let aad = b"claviger key trial";
        let keys = self.authority.keys();
        let sealed = keys.encrypt(caller, key, &probe, aad).await?;
        keys.decrypt(caller, key, &sealed.ciphertext, aad).await.map(drop)
    }

    async fn allow(&self, project: &str, key: Option<&CryptoKeyName>, operation: &str) -> Result<()> {
        self.authority.admit(self.service, project, key, operation).await
    }
}

#[async_trait]
impl KeyDirectory for Directory {
    async fn agent(&self, project: &str) -> Result<Caller> {
        self.own_agent(project).await
    }

    async fn managed_key(&self, region: &str) -> Result<(CryptoKeyName, Caller)> {
        self.own_managed_key(region).await
    }

    async fn try_key(&self, caller: &Caller, key: &CryptoKeyName) -> Result<()> {
        self.try_once(caller, key).await
    }

    async fn is_external(&self, key: &CryptoKeyName) -> Result<bool> {
        self.authority.is_external(key).await
    }

    async fn admit(&self, project: &str, key: Option<&CryptoKeyName>, operation: &str) -> Result<()> {
        self.allow(project, key, operation).await
    }
}

#[async_trait]
impl BucketKeyDirectory for Directory {
    async fn project_number(&self, project: &str) -> Result<u64> {
        self.authority.project_number(project).await
    }

    async fn agent(&self, project: &str) -> Result<Caller> {
        self.own_agent(project).await
    }

    async fn managed_key(&self, location: &str) -> Result<(CryptoKeyName, Caller)> {
        self.own_managed_key(location).await
    }

    async fn try_key(&self, caller: &Caller, key: &CryptoKeyName) -> Result<()> {
        self.try_once(caller, key).await
    }

    async fn admit(&self, project: &str, key: Option<&CryptoKeyName>, operation: &str) -> Result<()> {
        self.allow(project, key, operation).await
    }
}

#[async_trait]
impl JobKeyDirectory for Directory {
    async fn agent(&self, project: &str) -> Result<Caller> {
        self.own_agent(project).await
    }

    async fn managed_key(&self, region: &str) -> Result<(CryptoKeyName, Caller)> {
        self.own_managed_key(region).await
    }

    async fn admit(&self, project: &str, key: Option<&CryptoKeyName>, operation: &str) -> Result<()> {
        self.allow(project, key, operation).await
    }
}
