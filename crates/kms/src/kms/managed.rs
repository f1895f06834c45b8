//! Project numbers, service agents, and the keys that Claviger manages itself.
//!
//! Invariant: a number is durable before it is given out.

use claviger_core::names::ProjectName;

use super::*;
use crate::agents::{FIRST_NUMBER, KMS_AGENT, MANAGED_RING, Service};
use crate::model::NewCryptoKey;

impl Kms {
    /// The number of a project, given at its first use.
    ///
    /// # Errors
    /// `InvalidArgument` when it is no project's id; what the store answers.
    pub async fn project_number(&self, project: &str) -> Result<u64> {
        let name = ProjectName::new(project)?;
        if let Some(number) = self.inner.index().projects.get(project) {
            return Ok(*number);
        }
        let inner = self.inner.clone();
        detached(async move { inner.assign_number(name.project()).await }).await
    }

    /// The agent in whose name a service uses keys for the resources of a project.
    ///
    /// # Errors
    /// As [`Self::project_number`].
    pub async fn service_agent(&self, service: Service, project: &str) -> Result<Caller> {
        match service {
            Service::Platform => Ok(service.agent(0)),
            _ => Ok(service.agent(self.project_number(project).await?)),
        }
    }

    /// The key that Claviger manages for a service in a location, made at its first use. The service's
    /// agents, and nobody else, may use it.
    ///
    /// # Errors
    /// `InvalidArgument` when the location is no id; what the store answers.
    pub async fn managed_key(&self, service: Service, location: &str) -> Result<CryptoKeyName> {
        let name = agents::managed_key_name(service, location)?;
        if self.inner.index().keys.contains_key(name.as_str()) {
            return Ok(name);
        }
        let caller = Caller::new(KMS_AGENT);
        let ring = KeyRingName::new(MANAGED_PROJECT, location, MANAGED_RING)?;
        let call = Call::new(&caller, "CreateKeyRing", &ring);
        unless_there(self.change(call, move |index, now| rings::new_ring(index, ring, now)).await)?;
        let (call, times, key) =
            (Call::new(&caller, "CreateCryptoKey", &name), self.inner.times, name.clone());
        let made = self.change(call, move |index, now| {
            keys::new_key(index, key, &NewCryptoKey::symmetric(), times, now)
        });
        unless_there(made.await)?;
        Ok(name)
    }
}

fn unless_there<T>(made: Result<T>) -> Result<()> {
    match made {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

impl Inner {
    async fn assign_number(&self, project: &str) -> Result<u64> {
        let mut turn = self.turn().await?;
        let number = {
            let index = self.index();
            if let Some(number) = index.projects.get(project) {
                return Ok(*number);
            }
            index.projects.values().max().map_or(FIRST_NUMBER, |last| last + 1)
        };
        write_records(&mut turn, RecordBatch::new().put(&open::project_record(project), &number)?).await?;
        self.index_mut().projects.insert(project.to_owned(), number);
        Ok(number)
    }
}
