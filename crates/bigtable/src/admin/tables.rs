//! Tables: make, change, empty, remove; and what protects them.

use std::collections::BTreeMap;
use std::sync::Arc;

use claviger_cmek::{ScopeSpec, Status};
use claviger_core::names::{ClusterName, InstanceName, TableName, region_of_zone};
use claviger_core::{Error, Result};
use claviger_sealed::scope::ScopeId;

use super::{TABLETS, ids, scopes};
use crate::Bigtable;
use crate::catalog::{Change, Cluster, Table, TabletRecord};
use crate::model::gc::GcRule;
use crate::model::schema::check_family_name;
use crate::tablet::Tablet;

/// The most families of a table.
const MAX_FAMILIES: usize = 100;

/// What a new table is to be.
#[derive(Clone, Debug, Default)]
pub struct TableSpec {
    /// Families by name, each with its rule.
    pub families: BTreeMap<String, Option<GcRule>>,
    /// Whether the table may not be deleted.
    pub deletion_protection: bool,
}

/// One change of a table's families. A list of them is applied in order, all or none.
#[derive(Clone, Debug)]
pub enum FamilyChange {
    /// Adds a family.
    Create(String, Option<GcRule>),
    /// Replaces a family's rule.
    Update(String, Option<GcRule>),
    /// Drops a family with its cells.
    Drop(String),
}

/// Which rows to drop.
#[derive(Clone, Debug)]
pub enum RowDrop {
    /// All.
    All,
    /// Those whose keys begin so.
    Prefix(Vec<u8>),
}

/// What protects a table in one cluster.
#[derive(Clone, Debug)]
pub struct Encryption {
    /// The cluster's id.
    pub cluster: String,
    /// The key, its version and state.
    pub key: KeyInUse,
}

/// The key that protects a table.
#[derive(Clone, Debug)]
pub enum KeyInUse {
    /// One that Claviger keeps.
    Managed,
    /// One of the customer's, as it was last seen.
    Customer(Box<Status>),
}

impl Bigtable {
    /// Makes a table, and in each cluster a scope of its own under the cluster's key.
    ///
    /// # Errors
    /// `NotFound` for the instance, `AlreadyExists`, `InvalidArgument` for an id, a family or a rule, and
    /// the refusal of the key or of a policy of the project.
    pub async fn create_table(
        &self,
        instance: &InstanceName,
        id: &str,
        spec: TableSpec,
    ) -> Result<Arc<Table>> {
        ids::table(id)?;
        let name = TableName::new(instance.project(), instance.instance(), id)?;
        if spec.families.len() > MAX_FAMILIES {
            return Err(too_many_families());
        }
        for family in spec.families.keys() {
            check_family_name(family)?;
        }
        let right = self.catalog.change().await;
        self.catalog.instance(instance)?;
        if self.catalog.table(&name).is_ok() {
            return Err(Error::already_exists(format!("Table already exists: {name}")));
        }
        self.refuse_while_locked(instance).await?;
        let clusters = self.catalog.clusters(instance);
        for cluster in &clusters {
            self.directory.admit(name.project(), cluster.kms_key.as_ref(), "CreateTable").await?;
        }
        let mut tablets = BTreeMap::new();
        for cluster in clusters {
            let scope = self.create_scope(&cluster, &name).await?;
            tablets.insert(cluster.name.cluster().to_owned(), TabletRecord::new(scope.as_str()));
        }
        let mut table = Table {
            name: name.clone(),
            families: Vec::new(),
            next_family: 1,
            deletion_protection: spec.deletion_protection,
            tablets,
            created: self.shared.clock.now(),
        };
        for (family, gc) in spec.families {
            table.add_family(&family, gc);
        }
        table.schema()?;
        self.catalog.apply(&right, vec![Change::Table(table)]).await?;
        self.catalog.table(&name)
    }

    /// A new scope for a table in a cluster, under the cluster's key.
    async fn create_scope(&self, cluster: &Cluster, table: &TableName) -> Result<ScopeId> {
        let id = ScopeId::new(format!("{TABLETS}/{}", uuid::Uuid::new_v4().simple()));
        let (key, caller) = match &cluster.kms_key {
            Some(key) => (key.clone(), self.directory.agent(table.project()).await?),
            None => self.directory.managed_key(region_of_zone(&cluster.zone)?).await?,
        };
        let spec = ScopeSpec {
            id: id.clone(),
            key,
            customer_managed: cluster.kms_key.is_some(),
            caller,
            resource: format!("{}/tables/{}", cluster.name, table.table()),
        };
        self.shared.keys.create_scope(spec).await?;
        Ok(id)
    }

    /// Changes a table's families, all or none.
    ///
    /// # Errors
    /// `NotFound` for the table or a family, `AlreadyExists` for a family, `InvalidArgument` for a name
    /// or rule, `FailedPrecondition` while the table's key is not usable (B7).
    pub async fn modify_families(&self, name: &TableName, changes: Vec<FamilyChange>) -> Result<Arc<Table>> {
        let right = self.catalog.change().await;
        let mut table = Table::clone(&*self.catalog.table(name)?);
        self.refuse_while_locked(&name.instance_name()).await?;
        for change in changes {
            let (id, at) = match &change {
                FamilyChange::Create(id, _) | FamilyChange::Update(id, _) | FamilyChange::Drop(id) => {
                    (id.clone(), table.families.iter().position(|family| *family.name == **id))
                }
            };
            let missing =
                || Error::not_found(format!("Requested column family not found: '{id}' in table {name}"));
            match change {
                FamilyChange::Create(_, gc) => {
                    check_family_name(&id)?;
                    if at.is_some() {
                        return Err(Error::already_exists(format!(
                            "Column family already exists: '{id}' in table {name}"
                        )));
                    }
                    table.add_family(&id, gc);
                }
                FamilyChange::Update(_, gc) => table.families[at.ok_or_else(missing)?].gc = gc,
                FamilyChange::Drop(_) => drop(table.families.remove(at.ok_or_else(missing)?)),
            }
        }
        if table.families.len() > MAX_FAMILIES {
            return Err(too_many_families());
        }
        self.put_table(&right, table).await
    }

    /// Sets whether a table may be deleted.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn protect_table(&self, name: &TableName, deletion_protection: bool) -> Result<Arc<Table>> {
        let right = self.catalog.change().await;
        let mut table = Table::clone(&*self.catalog.table(name)?);
        table.deletion_protection = deletion_protection;
        self.put_table(&right, table).await
    }

    async fn put_table(&self, right: &tokio::sync::MutexGuard<'_, ()>, table: Table) -> Result<Arc<Table>> {
        let (name, schema) = (table.name.clone(), table.schema()?);
        let scopes = scopes(&table);
        self.catalog.apply(right, vec![Change::Table(table)]).await?;
        for id in scopes {
            if let Some(tablet) = self.tablets().by_scope.get(id.as_str()) {
                tablet.set_schema(schema.clone());
            }
        }
        self.catalog.table(&name)
    }

    /// Removes a table and shreds its keys. Works while a key is disabled (B7).
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` while the table is protected from deletion.
    pub async fn delete_table(&self, name: &TableName) -> Result<()> {
        let right = self.catalog.change().await;
        let table = self.catalog.table(name)?;
        if table.deletion_protection {
            return Err(Error::precondition(format!("Table {name} is protected from deletion.")));
        }
        self.catalog.apply(&right, vec![Change::DropTable(name.clone())]).await?;
        self.tablets().by_table.remove(name);
        drop(right);
        self.shred(scopes(&table)).await
    }

    /// Drops rows of a table. To drop all of them shreds the table's keys and gives it new ones.
    ///
    /// # Errors
    /// `NotFound`, `InvalidArgument` for an empty prefix, `FailedPrecondition` while the key is not usable.
    pub async fn drop_rows(&self, name: &TableName, which: RowDrop) -> Result<()> {
        match which {
            RowDrop::Prefix(prefix) if prefix.is_empty() => {
                Err(Error::invalid_field("row_key_prefix", "must not be empty"))
            }
            RowDrop::Prefix(prefix) => self.delete_prefix(name, &prefix).await,
            RowDrop::All => {
                let right = self.catalog.change().await;
                let old = self.catalog.table(name)?;
                let mut table = Table::clone(&*old);
                for cluster in self.catalog.clusters(&name.instance_name()) {
                    let scope = self.create_scope(&cluster, name).await?;
                    let record = TabletRecord::new(scope.as_str());
                    table.tablets.insert(cluster.name.cluster().to_owned(), record);
                }
                self.put_table(&right, table).await?;
                // From here on requests find the new tablet.
                self.tablets().by_table.remove(name);
                drop(right);
                self.shred(scopes(&old)).await
            }
        }
    }

    /// What protects a table, in each of its clusters (B16). Asks no key service.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn encryption(&self, name: &TableName) -> Result<Vec<Encryption>> {
        let table = self.catalog.table(name)?;
        let mut found = Vec::new();
        for (cluster, tablet) in &table.tablets {
            let scope = self.shared.keys.scope(&ScopeId::new(&tablet.scope)).await?;
            let cluster_name = ClusterName::new(name.project(), name.instance(), cluster)?;
            let customer = self.catalog.cluster(&cluster_name)?.kms_key.is_some();
            let key = if customer { KeyInUse::Customer(Box::new(scope.status())) } else { KeyInUse::Managed };
            found.push(Encryption { cluster: cluster.clone(), key });
        }
        Ok(found)
    }

    /// Whether the key of any cluster of the instance is not usable now.
    ///
    /// # Errors
    /// When a scope cannot be loaded.
    pub async fn is_locked(&self, instance: &InstanceName) -> Result<bool> {
        for table in self.catalog.tables(instance) {
            for id in scopes(&table) {
                if self.shared.keys.scope(&id).await?.state().is_locked() {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// The tablet that serves a table's rows.
    pub(crate) fn tablet(&self, name: &TableName) -> Result<Arc<Tablet>> {
        let known = self
            .tablets
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .by_table
            .get(name)
            .cloned();
        if let Some(tablet) = known {
            return Ok(tablet);
        }
        let table = self.catalog.table(name)?;
        let record = table.tablets.values().next();
        let record = record.ok_or_else(|| Error::internal(format!("table {name} is in no cluster")))?;
        let made = Tablet::new(name.clone(), record, table.schema()?, self.shared.clone());
        let mut tablets = self.tablets();
        // The table may have gone since it was looked up: a tablet must not outlive its shredding.
        if self.catalog.table(name)?.tablets.values().all(|tablet| tablet.scope != record.scope) {
            return Err(Error::new(
                claviger_core::ErrorKind::Aborted,
                format!("table {name} was changed; try again"),
            ));
        }
        let tablet = tablets.by_scope.entry(record.scope.clone()).or_insert(made).clone();
        tablets.by_table.insert(name.clone(), tablet.clone());
        Ok(tablet)
    }
}

fn too_many_families() -> Error {
    Error::invalid_field("table.column_families", format!("at most {MAX_FAMILIES} column families"))
}
