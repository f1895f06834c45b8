//! IAM policies of key rings, keys and import jobs.
//!
//! Invariant: a key ring's policy holds for its keys and import jobs, also for those made later.

use super::*;
use crate::external::EkmConnectionName;
use crate::iam::Policy;

/// What a policy is attached to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PolicyResource {
    /// A key ring.
    Ring(KeyRingName),
    /// A key.
    Key(CryptoKeyName),
    /// An import job.
    Job(ImportJobName),
    /// A connection to an external key manager.
    Connection(EkmConnectionName),
}

impl PolicyResource {
    /// Reads the name of a key ring, key, import job or connection.
    ///
    /// # Errors
    /// `InvalidArgument` when it is none of them.
    pub fn parse(name: &str) -> Result<Self> {
        if let Ok(key) = CryptoKeyName::parse(name) {
            return Ok(Self::Key(key));
        }
        if let Ok(job) = ImportJobName::parse(name) {
            return Ok(Self::Job(job));
        }
        if let Ok(connection) = EkmConnectionName::parse(name) {
            return Ok(Self::Connection(connection));
        }
        KeyRingName::parse(name).map(Self::Ring).map_err(|_| {
            Error::invalid(format!(
                "Invalid resource name '{name}': expected {}, {} or {}",
                KeyRingName::SHAPE,
                CryptoKeyName::SHAPE,
                ImportJobName::SHAPE
            ))
        })
    }

    fn on(&self) -> On<'_> {
        match self {
            Self::Ring(name) => On::Ring(name),
            Self::Key(name) => On::Key(name),
            Self::Job(name) => On::Job(name),
            Self::Connection(name) => On::Connection(name),
        }
    }

    fn permission(&self, verb: &str) -> String {
        match self {
            Self::Ring(_) => format!("cloudkms.keyRings.{verb}"),
            Self::Key(_) => format!("cloudkms.cryptoKeys.{verb}"),
            Self::Job(_) => format!("cloudkms.importJobs.{verb}"),
            Self::Connection(_) => format!("cloudkms.ekmConnections.{verb}"),
        }
    }

    fn policy<'a>(&self, index: &'a Index) -> Result<&'a Policy> {
        Ok(match self {
            Self::Ring(name) => &index.ring(name)?.policy,
            Self::Key(name) => &index.key(name)?.record.policy,
            Self::Job(name) => &index.job(name)?.policy,
            Self::Connection(name) => &index.connection(name)?.policy,
        })
    }
}

impl Kms {
    /// The policy of a key ring, key or import job itself, without what it inherits.
    ///
    /// # Errors
    /// `NotFound`, `PermissionDenied`.
    pub fn get_iam_policy(&self, caller: &Caller, resource: &PolicyResource) -> Result<Policy> {
        let index = self.inner.index();
        authorise(&index, caller, &resource.permission("getIamPolicy"), resource.on())?;
        resource.policy(&index).cloned()
    }

    /// Puts a policy in place of the old one.
    ///
    /// # Errors
    /// `Aborted` when its etag is not empty and not that of the policy that is there; `InvalidArgument` and
    /// `Unimplemented` for what cannot be evaluated; `NotFound`; `PermissionDenied`.
    pub async fn set_iam_policy(
        &self,
        caller: &Caller,
        resource: &PolicyResource,
        policy: Policy,
    ) -> Result<Policy> {
        let (caller, resource) = (caller.clone(), resource.clone());
        let call = Call::new(&caller, "SetIamPolicy", &resource.on().name());
        self.change(call, move |index, _| {
            authorise(index, &caller, &resource.permission("setIamPolicy"), resource.on())?;
            let policy = policy.replacing(resource.policy(index)?)?;
            match &resource {
                PolicyResource::Ring(name) => {
                    let ring = index.ring(name)?.ring.clone();
                    let prefix = format!("{name}/cryptoKeys/");
                    let keys = Index::children(&index.keys, &prefix).map(|(_, entry)| entry.name().clone());
                    let announce = keys.collect();
                    let entry = RingEntry { ring, policy: policy.clone() };
                    Ok(Plan { announce, ..Plan::ring(entry, policy) })
                }
                PolicyResource::Key(name) => {
                    let mut entry = KeyEntry::clone(index.key(name)?);
                    entry.record.policy = policy.clone();
                    Ok(Plan::key(entry, Vec::new(), policy))
                }
                PolicyResource::Job(name) => {
                    let job = index.job(name)?.job.clone();
                    Ok(Plan::job(JobEntry { job, policy: policy.clone() }, policy))
                }
                PolicyResource::Connection(name) => {
                    let connection = index.connection(name)?.connection.clone();
                    let entry = ConnectionEntry { connection, policy: policy.clone() };
                    Ok(Plan { connection: Some(entry), ..Plan::reply(policy) })
                }
            }
        })
        .await
    }

    /// Those of `permissions` that the caller has, its key ring's policy included. None when the resource is
    /// not there.
    ///
    /// # Errors
    /// `InvalidArgument` for a permission that key rings, keys and import jobs do not have.
    pub fn test_iam_permissions(
        &self,
        caller: &Caller,
        resource: &PolicyResource,
        permissions: &[String],
    ) -> Result<Vec<String>> {
        iam::check_tested(permissions)?;
        let index = self.inner.index();
        if resource.policy(&index).is_err() {
            return Ok(Vec::new());
        }
        let granted = permissions.iter().filter(|p| may(&index, caller, p, resource.on()));
        Ok(granted.cloned().collect())
    }
}
