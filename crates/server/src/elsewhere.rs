//! A KMS elsewhere (`--kms`): the client's side. Two kinds are told apart at the first contact: a Claviger, which has
//! `claviger.kms.v1.DataServers` beside the public API, and any other endpoint of the public API (`plain`).
//!
//! Invariants: what uses keys cannot tell this KMS from one in its own process (docs/adr/0017). Only what the KMS said is
//! a refusal. A policy's leave that is remembered is not older than the last change that the KMS told of, but while it is
//! silent.

mod dial;
mod follow;
mod memory;
mod plain;
mod socket;
mod wire;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use claviger_core::names::CryptoKeyName;
use claviger_core::{Caller, Clock, Error, ErrorKind, Result};
use claviger_crypto::SecretBytes;
use claviger_kms::agents::Service;
use claviger_kms::{Decrypted, Encrypted, KeyChange, KeyService};
use claviger_proto::claviger::kms::v1 as pb;
use claviger_proto::claviger::kms::v1::data_servers_client::DataServersClient;
use tokio::sync::broadcast;

use self::dial::{Dial, Line};
use self::memory::{Asked, Memory};
pub(crate) use self::plain::Plain;
use crate::config::KmsElsewhere;
use crate::keys::Authority;

/// Changes that a slow listener may be behind before it must ask about all of its keys.
const CHANGES_BUFFERED: usize = 1024;
/// The first and the longest wait before a KMS that did not answer is asked again.
const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// What was found where `--kms` says.
pub(crate) enum Reached {
    /// A Claviger that takes this server for a data server.
    Claviger(Arc<Elsewhere>),
    /// Another endpoint of the public API.
    Plain(Box<PlainKms>),
}

/// An endpoint of the public API.
pub(crate) struct PlainKms(Dial);

impl PlainKms {
    /// With the KMS of this process for all that the public API does not have.
    pub(crate) fn beside(self, here: crate::keys::Here) -> Arc<Plain> {
        Arc::new(Plain::new(self.0, here))
    }
}

/// Finds out what is where `--kms` says; waits while nothing answers.
///
/// # Errors
/// A configuration that cannot be; a refusal of the KMS; a certificate that one of both does not take.
pub(crate) async fn reach(config: &KmsElsewhere, clock: Arc<dyn Clock>) -> Result<Reached> {
    let dial = Dial::new(config, clock.clone())?;
    let mut wait = FIRST_WAIT;
    let mut waits = false;
    loop {
        let joined = DataServersClient::new(dial.line(false)).join(pb::JoinRequest {}).await;
        let failure = match joined {
            Ok(reply) => {
                let principal = reply.into_inner().principal;
                tracing::info!(kms = dial.place(), principal, "joined the KMS");
                return Ok(Reached::Claviger(Arc::new(Elsewhere::new(dial, clock))));
            }
            Err(status) => status,
        };
        let distrust = dial.distrust();
        let error = dial.failed(failure);
        match error.kind() {
            ErrorKind::Unimplemented => {
                tracing::info!(
                    kms = dial.place(),
                    "the KMS is no Claviger: keys are used by the public API, and their states found by checks"
                );
                return Ok(Reached::Plain(Box::new(PlainKms(dial))));
            }
            // Waiting would not mend it.
            _ if distrust.is_some() => return Err(Error::precondition(error.message()).because(error)),
            ErrorKind::Unavailable | ErrorKind::Internal => {}
            _ => {
                let text = format!("the KMS at {} refuses this server: {}", dial.place(), error.message());
                return Err(Error::new(error.kind(), text).because(error));
            }
        }
        if !std::mem::replace(&mut waits, true) {
            tracing::warn!(%error, "waiting for the KMS");
        }
        clock.sleep(wait).await;
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

/// A Claviger that keeps the keys of this server.
pub(crate) struct Elsewhere {
    dial: Dial,
    clock: Arc<dyn Clock>,
    calls: DataServersClient<Line>,
    changes: broadcast::Sender<KeyChange>,
    memory: Memory,
}

impl fmt::Debug for Elsewhere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Elsewhere").field("dial", &self.dial).finish_non_exhaustive()
    }
}

impl Elsewhere {
    fn new(dial: Dial, clock: Arc<dyn Clock>) -> Self {
        let calls = DataServersClient::new(dial.line(true));
        let changes = broadcast::Sender::new(CHANGES_BUFFERED);
        Self { dial, clock, calls, changes, memory: Memory::default() }
    }

    /// A client for one call.
    fn calls(&self) -> DataServersClient<Line> {
        self.calls.clone()
    }
}

fn usage(caller: &Caller) -> Option<pb::Use> {
    let context = caller.context.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
    Some(pb::Use { agent: caller.principal.clone(), context })
}

#[async_trait]
impl KeyService for Elsewhere {
    async fn encrypt(
        &self,
        caller: &Caller,
        key: &CryptoKeyName,
        plaintext: &SecretBytes,
        aad: &[u8],
    ) -> Result<Encrypted> {
        let request = Some(wire::encrypt(key, plaintext, aad));
        let request = pb::EncryptForRequest { r#use: usage(caller), request };
        let reply = self.calls().encrypt(request).await.map_err(|status| self.dial.failed(status))?;
        wire::encrypted(reply.into_inner())
    }

    async fn decrypt(
        &self,
        caller: &Caller,
        key: &CryptoKeyName,
        ciphertext: &[u8],
        aad: &[u8],
    ) -> Result<Decrypted> {
        let request = Some(wire::decrypt(key, ciphertext, aad));
        let request = pb::DecryptForRequest { r#use: usage(caller), request };
        let reply = self.calls().decrypt(request).await.map_err(|status| self.dial.failed(status))?;
        let pb::DecryptForResponse { response, cache_for } = reply.into_inner();
        let decrypted = wire::decrypted(response.ok_or_else(wire::damaged)?)?;
        // A time that is none is the shortest.
        let cache_for = cache_for.map(|time| Duration::try_from(time).unwrap_or_default());
        Ok(Decrypted { cache_for, ..decrypted })
    }

    fn changes(&self) -> broadcast::Receiver<KeyChange> {
        self.changes.subscribe()
    }
}

/// The same KMS as the services of this process see it.
#[derive(Clone, Debug)]
pub(crate) struct Remote(pub(crate) Arc<Elsewhere>);

#[async_trait]
impl Authority for Remote {
    fn keys(&self) -> Arc<dyn KeyService> {
        self.0.clone()
    }

    async fn project_number(&self, project: &str) -> Result<u64> {
        if let Some(number) = self.0.memory.number(project) {
            return Ok(number);
        }
        let request = pb::GetProjectNumberRequest { project: project.to_owned() };
        let reply = self.0.calls().get_project_number(request).await;
        let number = reply.map_err(|status| self.0.dial.failed(status))?.into_inner().number;
        self.0.memory.keep_number(project, number);
        Ok(number)
    }

    async fn managed_key(&self, service: Service, location: &str) -> Result<CryptoKeyName> {
        if let Some(key) = self.0.memory.managed_key(service, location) {
            return Ok(key);
        }
        let request =
            pb::GetManagedKeyRequest { service: service.as_str().to_owned(), location: location.to_owned() };
        let reply = self.0.calls().get_managed_key(request).await;
        let reply = reply.map_err(|status| self.0.dial.failed(status))?.into_inner();
        let key = CryptoKeyName::parse(&reply.name).map_err(|_| wire::damaged())?;
        self.0.memory.keep_managed_key(service, location, key.clone());
        Ok(key)
    }

    async fn is_external(&self, key: &CryptoKeyName) -> Result<bool> {
        let request = pb::DescribeKeyRequest { name: key.to_string() };
        let reply = self.0.calls().describe_key(request).await;
        Ok(reply.map_err(|status| self.0.dial.failed(status))?.into_inner().external)
    }

    async fn admit(
        &self,
        service: Service,
        project: &str,
        key: Option<&CryptoKeyName>,
        operation: &str,
    ) -> Result<()> {
        let asked = Asked {
            service,
            project: project.to_owned(),
            key: key.cloned(),
            operation: operation.to_owned(),
        };
        let turn = match self.0.memory.leave(&asked) {
            Ok(()) => return Ok(()),
            Err(turn) => turn,
        };
        let request = pb::CheckPolicyRequest {
            project: asked.project.clone(),
            service: service.as_str().to_owned(),
            key: key.map(ToString::to_string).unwrap_or_default(),
            operation: asked.operation.clone(),
        };
        match self.0.calls().check_policy(request).await {
            Ok(_) => {
                self.0.memory.keep_leave(turn, asked);
                Ok(())
            }
            Err(status) => match self.0.dial.failed(status) {
                silence if silence.kind() == ErrorKind::Unavailable && self.0.memory.had_leave(&asked) => {
                    Ok(())
                }
                error => Err(error),
            },
        }
    }
}

#[cfg(test)]
mod tests;
