//! What a table needs before a load: for a store under a customer's key, key ring, key, grant and instance.
//!
//! Invariant: all goes through the public API, except the grant, whose service agent the command line knows.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use claviger_proto::google::bigtable::admin::v2::bigtable_instance_admin_client::BigtableInstanceAdminClient;
use claviger_proto::google::bigtable::admin::v2::bigtable_table_admin_client::BigtableTableAdminClient;
use claviger_proto::google::bigtable::admin::v2::{
    Cluster, ColumnFamily, CreateInstanceRequest, CreateTableRequest, GcRule, Instance, Table, cluster,
    gc_rule,
};
use claviger_proto::google::cloud::kms::v1::key_management_service_client::KeyManagementServiceClient;
use claviger_proto::google::cloud::kms::v1::{
    CreateCryptoKeyRequest, CreateKeyRingRequest, CryptoKey, crypto_key,
};
use claviger_proto::google::longrunning::operations_client::OperationsClient;
use claviger_proto::google::longrunning::{GetOperationRequest, Operation, operation};
use tonic::transport::{Channel, Endpoint};

use crate::failure::{Doing, Failure, Result};

/// Where keys and clusters live.
pub(crate) const LOCATION: &str = "us-east1";
/// The zone of the one cluster.
pub(crate) const ZONE: &str = "us-east1-b";

/// Clients of the admin services of one server.
#[derive(Clone, Debug)]
pub(crate) struct Admin {
    authority: String,
    channel: Channel,
}

impl Admin {
    /// Connects to `host:port`.
    ///
    /// # Errors
    /// When nobody answers there.
    pub(crate) async fn connect(authority: &str) -> Result<Self> {
        let endpoint = Endpoint::from_shared(format!("http://{authority}")).doing("a bad address")?;
        let channel = endpoint.connect().await.doing(format!("cannot connect to {authority}"))?;
        Ok(Self { authority: authority.to_owned(), channel })
    }

    /// The connection, for clients of other services.
    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Makes a key ring and gives its name.
    ///
    /// # Errors
    /// What the server answers.
    pub(crate) async fn create_key_ring(&self, project: &str, ring: &str) -> Result<String> {
        let request = CreateKeyRingRequest {
            parent: format!("projects/{project}/locations/{LOCATION}"),
            key_ring_id: ring.to_owned(),
            key_ring: Some(Default::default()),
        };
        let made = KeyManagementServiceClient::new(self.channel()).create_key_ring(request).await;
        Ok(made.doing("CreateKeyRing")?.into_inner().name)
    }

    /// Makes a symmetric key and gives its name.
    ///
    /// # Errors
    /// What the server answers.
    pub(crate) async fn create_key(&self, ring: &str, key: &str) -> Result<String> {
        let purpose = crypto_key::CryptoKeyPurpose::EncryptDecrypt.into();
        let request = CreateCryptoKeyRequest {
            parent: ring.to_owned(),
            crypto_key_id: key.to_owned(),
            crypto_key: Some(CryptoKey { purpose, ..CryptoKey::default() }),
            ..CreateCryptoKeyRequest::default()
        };
        let made = KeyManagementServiceClient::new(self.channel()).create_crypto_key(request).await;
        Ok(made.doing("CreateCryptoKey")?.into_inner().name)
    }

    /// Lets Bigtable's service agent use a key.
    ///
    /// # Errors
    /// When the command line fails.
    pub(crate) async fn authorize(&self, claviger: &Path, project: &str, key: &str) -> Result<()> {
        let output = tokio::process::Command::new(claviger)
            .args(["kms", "keys", "authorize", key, "--service", "bigtable", "--project", project])
            .args(["--endpoint", &format!("http://{}", self.authority)])
            .output()
            .await
            .doing(format!("cannot run {}", claviger.display()))?;
        if output.status.success() {
            Ok(())
        } else {
            Err(Failure::new(format!("kms keys authorize: {}", String::from_utf8_lossy(&output.stderr))))
        }
    }

    /// Makes an instance with one cluster, under a key of the customer's or Claviger's own.
    ///
    /// # Errors
    /// What the server answers.
    pub(crate) async fn create_instance(
        &self,
        project: &str,
        instance: &str,
        key: Option<&str>,
    ) -> Result<()> {
        let encryption_config = key.map(|key| cluster::EncryptionConfig { kms_key_name: key.to_owned() });
        let cluster = Cluster {
            location: format!("projects/{project}/locations/{ZONE}"),
            serve_nodes: 1,
            encryption_config,
            ..Cluster::default()
        };
        let request = CreateInstanceRequest {
            parent: format!("projects/{project}"),
            instance_id: instance.to_owned(),
            instance: Some(Instance { display_name: "Benchmarks".to_owned(), ..Instance::default() }),
            clusters: HashMap::from([(format!("{instance}-c1"), cluster)]),
        };
        let operation = BigtableInstanceAdminClient::new(self.channel()).create_instance(request).await;
        self.finish(operation.doing("CreateInstance")?.into_inner()).await
    }

    async fn finish(&self, mut operation: Operation) -> Result<()> {
        while !operation.done {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let request = GetOperationRequest { name: operation.name };
            operation = OperationsClient::new(self.channel())
                .get_operation(request)
                .await
                .doing("GetOperation")?
                .into_inner();
        }
        match operation.result {
            Some(operation::Result::Error(status)) => {
                Err(Failure::new(format!("the operation failed: {}", status.message)))
            }
            _ => Ok(()),
        }
    }

    /// Makes a table whose families keep one version of each cell.
    ///
    /// # Errors
    /// What the server answers.
    pub(crate) async fn create_table(
        &self,
        instance: &str,
        table: &str,
        families: &[&str],
    ) -> Result<String> {
        let rule = GcRule { rule: Some(gc_rule::Rule::MaxNumVersions(1)) };
        let family = ColumnFamily { gc_rule: Some(rule), ..ColumnFamily::default() };
        let column_families = families.iter().map(|&name| (name.to_owned(), family.clone())).collect();
        let request = CreateTableRequest {
            parent: instance.to_owned(),
            table_id: table.to_owned(),
            table: Some(Table { column_families, ..Table::default() }),
            ..CreateTableRequest::default()
        };
        let made = BigtableTableAdminClient::new(self.channel()).create_table(request).await;
        made.doing("CreateTable")?;
        Ok(format!("{instance}/tables/{table}"))
    }

    /// All that a table under a customer's key needs; gives the instance's name.
    ///
    /// # Errors
    /// What the server answers.
    pub(crate) async fn protected_instance(
        &self,
        claviger: &Path,
        project: &str,
        instance: &str,
    ) -> Result<String> {
        let ring = self.create_key_ring(project, instance).await?;
        let key = self.create_key(&ring, "key").await?;
        self.authorize(claviger, project, &key).await?;
        self.create_instance(project, instance, Some(&key)).await?;
        Ok(format!("projects/{project}/instances/{instance}"))
    }
}
