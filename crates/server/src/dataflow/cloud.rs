//! What jobs need of the other services of this process: buckets, service agents, managed keys.
//!
//! Invariant: a job reads buckets as any client does, under the buckets' own keys.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use claviger_buckets::Buckets;
use claviger_core::names::CryptoKeyName;
use claviger_core::{Caller, Result};
use claviger_dataflow::files::BucketInfo;
use claviger_dataflow::{CloudFiles, KeyDirectory};
use claviger_kms::Kms;
use claviger_kms::agents::Service;
use claviger_orgpolicy::Policies;
use futures::stream::BoxStream;

/// The buckets of this process.
pub(crate) struct Files(pub(crate) Arc<Buckets>);

#[async_trait]
impl CloudFiles for Files {
    async fn bucket(&self, name: &str) -> Result<BucketInfo> {
        let bucket = self.0.bucket(name)?;
        Ok(BucketInfo {
            location: bucket.location.as_str().to_ascii_lowercase(),
            kms_key: bucket.config.kms_key.clone(),
        })
    }

    async fn open(&self, bucket: &str, object: &str) -> Result<(u64, BoxStream<'static, Result<Bytes>>)> {
        let (object, bytes) = self.0.open_object(bucket, object).await?;
        Ok((object.size, bytes))
    }
}

/// Service agents and managed keys of jobs, from the KMS of this process, and policies on them.
pub(crate) struct Directory {
    pub(crate) kms: Arc<Kms>,
    pub(crate) policies: Arc<Policies>,
}

#[async_trait]
impl KeyDirectory for Directory {
    async fn agent(&self, project: &str) -> Result<Caller> {
        self.kms.service_agent(Service::Dataflow, project).await
    }

    async fn managed_key(&self, region: &str) -> Result<(CryptoKeyName, Caller)> {
        let key = self.kms.managed_key(Service::Dataflow, region).await?;
        let agent = self.kms.service_agent(Service::Dataflow, key.project()).await?;
        Ok((key, agent))
    }

    fn admit(&self, project: &str, key: Option<&CryptoKeyName>, operation: &str) -> Result<()> {
        self.policies.protection(project, crate::orgpolicy::names(Service::Dataflow), key, operation)
    }
}
