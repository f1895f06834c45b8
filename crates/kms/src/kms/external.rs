//! External keys: connections to their managers, the key that requests to them are signed with, and the calls
//! themselves.
//!
//! Invariant: what a manager is given is sealed under material of ours first, and what it gives back is of no use
//! without that: neither side alone can decrypt. A call is made outside of the turn of changes.

use claviger_crypto::rs256::SigningKey;

use super::*;
use crate::external::{
    AccessReason, EkmConnection, EkmConnectionName, ExternalCall, ExternalFailure, ExternalKey, Identity,
    Resolver, Target, Unwrapped,
};
use crate::iam::Policy;
use crate::index::ConnectionEntry;
use crate::lists::paginate;
use crate::model::{CryptoKeyVersion, Page, PageRequest};
use crate::validate;

/// The domain of the agents that call external key managers, one for each project.
const AGENT_DOMAIN: &str = "gcp-sa-ekms.iam.gserviceaccount.com";

impl Kms {
    /// Makes a connection.
    ///
    /// # Errors
    /// `AlreadyExists`, `InvalidArgument`, `PermissionDenied`.
    pub async fn create_ekm_connection(
        &self,
        caller: &Caller,
        parent: &LocationName,
        id: &str,
        resolver: Resolver,
    ) -> Result<EkmConnection> {
        validate::id("ekm_connection_id", id)?;
        let name = EkmConnectionName::new(parent, id)?;
        let (caller, parent) = (caller.clone(), parent.clone());
        self.change(Call::new(&caller, "CreateEkmConnection", &name), move |index, now| {
            authorise(index, &caller, "cloudkms.ekmConnections.create", On::Location(&parent))?;
            validate::resolver(&resolver)?;
            if index.connections.contains_key(name.as_str()) {
                return Err(texts::exists("EkmConnection", name.as_str()));
            }
            let connection = EkmConnection { name, create_time: now, resolver, etag: new_etag() };
            let entry = ConnectionEntry { connection: connection.clone(), policy: Policy::default() };
            Ok(Plan { connection: Some(entry), ..Plan::reply(connection) })
        })
        .await
    }

    /// A connection.
    ///
    /// # Errors
    /// `NotFound`, `PermissionDenied`.
    pub fn get_ekm_connection(&self, caller: &Caller, name: &EkmConnectionName) -> Result<EkmConnection> {
        let index = self.inner.index();
        authorise(&index, caller, "cloudkms.ekmConnections.get", On::Connection(name))?;
        Ok(index.connection(name)?.connection.clone())
    }

    /// The connections of a location, in the order of their names.
    ///
    /// # Errors
    /// `InvalidArgument` for a page that was not asked for in this way, `PermissionDenied`.
    pub fn list_ekm_connections(
        &self,
        caller: &Caller,
        parent: &LocationName,
        page: &PageRequest,
    ) -> Result<Page<EkmConnection>> {
        let index = self.inner.index();
        authorise(&index, caller, "cloudkms.ekmConnections.list", On::Location(parent))?;
        let prefix = format!("{parent}/ekmConnections/");
        let entries = Index::children(&index.connections, &prefix);
        paginate(page, &prefix, entries.map(|(id, entry)| (id, &entry.connection)), Clone::clone)
    }

    /// Puts another way to the manager in place of the old one. Keys behind it are asked there from now on.
    ///
    /// # Errors
    /// `NotFound`, `InvalidArgument`, `PermissionDenied`; `Aborted` when `etag` is not empty and not the connection's.
    pub async fn update_ekm_connection(
        &self,
        caller: &Caller,
        name: &EkmConnectionName,
        resolver: Resolver,
        etag: String,
    ) -> Result<EkmConnection> {
        let (caller, name) = (caller.clone(), name.clone());
        self.change(Call::new(&caller, "UpdateEkmConnection", &name), move |index, _| {
            authorise(index, &caller, "cloudkms.ekmConnections.update", On::Connection(&name))?;
            let mut entry = ConnectionEntry::clone(index.connection(&name)?);
            if !etag.is_empty() && etag != entry.connection.etag {
                return Err(Error::new(
                    ErrorKind::Aborted,
                    "the connection was changed meanwhile: read it again",
                ));
            }
            validate::resolver(&resolver)?;
            entry.connection.resolver = resolver;
            entry.connection.etag = new_etag();
            let behind = |entry: &&Arc<KeyEntry>| entry.record.key.backend.as_ref() == Some(&name);
            let announce = index.keys.values().filter(behind).map(|entry| entry.name().clone()).collect();
            let reply = entry.connection.clone();
            Ok(Plan { connection: Some(entry), announce, ..Plan::reply(reply) })
        })
        .await
    }

    /// Tries whether the manager behind a connection can be reached and shows the right certificate.
    ///
    /// # Errors
    /// `NotFound`, `PermissionDenied`; `FailedPrecondition` that says what is wrong.
    pub async fn verify_ekm_connectivity(&self, caller: &Caller, name: &EkmConnectionName) -> Result<()> {
        let target = {
            let index = self.inner.index();
            authorise(&index, caller, "cloudkms.ekmConnections.verifyConnectivity", On::Connection(name))?;
            target(&index.connection(name)?.connection, "")
        };
        let identity =
            Identity { key: self.inner.signer().await?, email: self.ekm_agent(name.project()).await? };
        let tried = self.inner.external()?.probe(&target, &identity).await;
        tried.map_err(|failure| {
            let (ExternalFailure::Refused { kind, detail } | ExternalFailure::Silent { kind, detail }) =
                failure;
            let message = format!("The external key manager of {name} cannot be used: {detail}");
            Error::precondition(&message).violating(kind, name.as_str(), message)
        })
    }

    /// The connection of keys in a location that name none.
    ///
    /// # Errors
    /// `PermissionDenied`.
    pub fn get_ekm_config(&self, caller: &Caller, place: &LocationName) -> Result<Option<EkmConnectionName>> {
        let index = self.inner.index();
        authorise(&index, caller, "cloudkms.ekmConfigs.get", On::Location(place))?;
        Ok(index.ekm_configs.get(place.as_str()).and_then(Clone::clone))
    }

    /// Sets the connection of keys in a location that name none, or takes it away.
    ///
    /// # Errors
    /// `NotFound` for the connection, `InvalidArgument` when it is elsewhere, `PermissionDenied`.
    pub async fn update_ekm_config(
        &self,
        caller: &Caller,
        place: &LocationName,
        default: Option<EkmConnectionName>,
    ) -> Result<Option<EkmConnectionName>> {
        let (caller, place) = (caller.clone(), place.clone());
        let name = format!("{place}/ekmConfig");
        self.change(Call::new(&caller, "UpdateEkmConfig", &name), move |index, _| {
            authorise(index, &caller, "cloudkms.ekmConfigs.update", On::Location(&place))?;
            if let Some(connection) = &default {
                check_place("ekm_config.default_ekm_connection", connection, place.as_str())?;
                index.connection(connection)?;
            }
            Ok(Plan { ekm_config: Some((place, default.clone())), ..Plan::reply(default) })
        })
        .await
    }

    /// The key that requests to external key managers are signed with; it is made at its first use. Managers are told
    /// its public half, and who it speaks for: the agents of projects, as `service-NUMBER@DOMAIN`.
    ///
    /// # Errors
    /// `Internal` when it could not be made; what the store answers.
    pub async fn ekm_signer(&self) -> Result<&SigningKey> {
        self.inner.signer().await
    }

    /// The agent in whose name the external keys of a project are used.
    ///
    /// # Errors
    /// As [`Self::project_number`].
    pub async fn ekm_agent(&self, project: &str) -> Result<String> {
        Ok(format!("service-{}@{AGENT_DOMAIN}", self.project_number(project).await?))
    }

    /// Wraps what is sealed under our material with the external key of a version.
    pub(super) async fn wrap_externally(
        &self,
        caller: &Caller,
        version: &CryptoKeyVersion,
        sealed: &[u8],
        aad: &[u8],
    ) -> Result<Vec<u8>> {
        let (target, identity) = self.way_to(version).await?;
        let reason = AccessReason::of(caller);
        let call = ExternalCall { target: &target, identity: &identity, version: &version.name, reason, aad };
        let wrapped = self.inner.external()?.wrap(&call, sealed).await;
        wrapped.map_err(|failure| texts::external(&version.name, reason, &failure))
    }

    /// Unwraps what [`Self::wrap_externally`] gave.
    pub(super) async fn unwrap_externally(
        &self,
        caller: &Caller,
        version: &CryptoKeyVersion,
        wrapped: &[u8],
        aad: &[u8],
    ) -> Result<Unwrapped> {
        let (target, identity) = self.way_to(version).await?;
        let reason = AccessReason::of(caller);
        let call = ExternalCall { target: &target, identity: &identity, version: &version.name, reason, aad };
        let unwrapped = self.inner.external()?.unwrap(&call, wrapped).await;
        unwrapped.map_err(|failure| texts::external(&version.name, reason, &failure))
    }

    async fn way_to(&self, version: &CryptoKeyVersion) -> Result<(Target, Identity<'_>)> {
        let target = {
            let index = self.inner.index();
            match &version.external {
                Some(ExternalKey::Uri(uri)) => Target { uri: uri.clone(), pins: Vec::new() },
                Some(ExternalKey::Path(path)) => {
                    let backend = &index.key(&version.name.crypto_key_name())?.record.key.backend;
                    let name = backend.as_ref().ok_or_else(|| Error::internal("a key has no connection"))?;
                    target(&index.connection(name)?.connection, path)
                }
                None => return Err(Error::internal("a version has no external key")),
            }
        };
        let email = self.ekm_agent(version.name.project()).await?;
        Ok((target, Identity { key: self.inner.signer().await?, email }))
    }
}

impl Inner {
    fn external(&self) -> Result<&Arc<dyn ExternalKeys>> {
        self.external.as_ref().ok_or_else(|| {
            Error::precondition(
                "This server has no way to external key managers: none was given at its start.",
            )
        })
    }

    /// The key that requests are signed with.
    async fn signer(self: &Arc<Self>) -> Result<&SigningKey> {
        self.signer.get_or_try_init(|| self.load_signer()).await
    }

    async fn load_signer(self: &Arc<Self>) -> Result<SigningKey> {
        let known = self.index().signer;
        let id = match known {
            Some(id) => id,
            None => {
                let made = tokio::task::spawn_blocking(|| SigningKey::generate()?.to_pkcs8()).await;
                let private = made.map_err(not_made)?.map_err(not_made)?;
                let caller = Caller::new(agents::KMS_AGENT);
                let call = Call::new(&caller, "GenerateEkmSigningKey", &"ekmSigningKey");
                let inner = self.clone();
                let made = detached(Box::pin(async move {
                    inner
                        .change(call, move |index, _| {
                            // Another was faster.
                            if let Some(id) = index.signer {
                                return Ok(Plan::reply(id));
                            }
                            let id = Uuid::new_v4();
                            let create = Some(Created::Signer(id, private));
                            Ok(Plan { signer: Some(id), create, ..Plan::reply(id) })
                        })
                        .await
                }));
                made.await?
            }
        };
        let private = self.material.load_signer(id).await?;
        SigningKey::from_pkcs8(&private).map_err(|e| {
            Error::new(ErrorKind::DataLoss, "the key for external managers is damaged").because(e)
        })
    }
}

fn not_made(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::internal("the key for external key managers could not be made").because(error)
}

fn new_etag() -> String {
    Uuid::new_v4().simple().to_string()
}

fn target(connection: &EkmConnection, path: &str) -> Target {
    let Resolver { hostname, certificates, .. } = &connection.resolver;
    Target { uri: format!("https://{hostname}/{}", path.trim_start_matches('/')), pins: certificates.clone() }
}

/// Refuses a connection that is not in a location.
pub(super) fn check_place(field: &str, connection: &EkmConnectionName, place: &str) -> Result<()> {
    if connection.location_name() == place {
        return Ok(());
    }
    Err(Error::invalid_field(field, format!("must be in {place}, as the keys are that use it")))
}
