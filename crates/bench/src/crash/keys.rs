//! Operators of keys in the crash harness.
//!
//! Invariant: a key ring belongs to one operator, and an operator has one change under way at a time. What
//! the KMS tells after a crash is the acknowledged model, or that with the one change; and a ciphertext made
//! before opens exactly when its version is enabled.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use claviger_proto::google::cloud::kms::v1::crypto_key_version::CryptoKeyVersionState as VersionState;
use claviger_proto::google::cloud::kms::v1::key_management_service_client::KeyManagementServiceClient;
use claviger_proto::google::cloud::kms::v1::{
    CreateCryptoKeyRequest, CreateCryptoKeyVersionRequest, CryptoKey, CryptoKeyVersion, DecryptRequest,
    DestroyCryptoKeyVersionRequest, EncryptRequest, ListCryptoKeyVersionsRequest, ListCryptoKeysRequest,
    RestoreCryptoKeyVersionRequest, UpdateCryptoKeyPrimaryVersionRequest, UpdateCryptoKeyVersionRequest,
    crypto_key,
};
use claviger_proto::google::iam::v1::iam_policy_client::IamPolicyClient;
use claviger_proto::google::iam::v1::{Binding, GetIamPolicyRequest, SetIamPolicyRequest};
use tonic::Code;
use tonic::transport::Channel;

use super::{Killed, UnderWay};
use crate::failure::{Doing, Failure, Result};
use crate::random::Random;

/// Keys of one operator, at most.
const MOST_KEYS: usize = 6;
/// Versions of one key, at most.
const MOST_VERSIONS: usize = 10;
/// The role that operators give away.
const ROLE: &str = "roles/cloudkms.viewer";
/// Larger than any list here.
const PAGE: i32 = 1000;

/// What is known of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Key {
    /// States of versions 1, 2 and so on.
    versions: Vec<VersionState>,
    primary: usize,
    members: BTreeSet<String>,
}

type Model = BTreeMap<String, Key>;

/// One change; versions are numbered from 1.
#[derive(Clone, Debug)]
enum Change {
    CreateKey(String),
    CreateVersion(String),
    Primary(String, usize),
    SetState(String, usize, VersionState),
    Destroy(String, usize),
    Restore(String, usize),
    Grant(String, String),
}

/// One operator, its keys and what it knows of them.
#[derive(Debug)]
pub(super) struct Operator {
    ring: String,
    random: Random,
    model: Model,
    under_way: Option<Change>,
    ciphertexts: BTreeMap<String, Bytes>,
    /// Changes that the server acknowledged.
    pub(super) acknowledged: u64,
}

impl Operator {
    /// The operator of an empty key ring.
    pub(super) fn new(ring: String, random: Random) -> Self {
        Self {
            ring,
            random,
            model: Model::new(),
            under_way: None,
            ciphertexts: BTreeMap::new(),
            acknowledged: 0,
        }
    }

    /// Changes keys until the server is gone.
    ///
    /// # Errors
    /// When a server that was not killed refuses.
    pub(super) async fn work(mut self, channel: Channel, killed: Killed) -> Result<Self> {
        loop {
            match self.step(&channel).await {
                Ok(()) => {}
                Err(_) if killed.said() => return Ok(self),
                Err(failure) => {
                    let change = self.under_way;
                    return Err(Failure::new(format!("a living server failed {change:?}: {failure}")));
                }
            }
        }
    }

    async fn step(&mut self, channel: &Channel) -> Result<()> {
        let change = self.choose();
        self.under_way = Some(change.clone());
        self.send(channel, &change).await?;
        apply(&mut self.model, &change);
        self.under_way = None;
        self.acknowledged += 1;
        if let Change::CreateKey(id) = &change {
            let request =
                EncryptRequest { name: self.name(id), plaintext: plaintext(id), ..EncryptRequest::default() };
            let made =
                KeyManagementServiceClient::new(channel.clone()).encrypt(request).await.doing("Encrypt")?;
            self.ciphertexts.insert(id.clone(), made.into_inner().ciphertext);
        }
        Ok(())
    }

    /// A change that the model allows.
    fn choose(&mut self) -> Change {
        let keys = self.model.len();
        if keys == 0 || (keys < MOST_KEYS && self.random.below(20) == 0) {
            return Change::CreateKey(format!("k{keys}"));
        }
        let at = self.random.below(keys as u64) as usize;
        let Some((id, key)) = self.model.iter().nth(at) else { return Change::CreateKey("k0".to_owned()) };
        let id = id.clone();
        let number = self.random.below(key.versions.len() as u64) as usize + 1;
        let state = key.versions.get(number - 1).copied().unwrap_or_default();
        match (self.random.below(8), state) {
            (0, _) if key.versions.len() < MOST_VERSIONS => Change::CreateVersion(id),
            (0 | 1, _) => {
                let member = format!("user:u{}@example.com", self.random.below(1000));
                Change::Grant(id, member)
            }
            (2, VersionState::Enabled) if number != key.primary => Change::Primary(id, number),
            (3, VersionState::Enabled | VersionState::Disabled) if number > 1 => Change::Destroy(id, number),
            (_, VersionState::Enabled) => Change::SetState(id, number, VersionState::Disabled),
            (_, VersionState::DestroyScheduled) => Change::Restore(id, number),
            (_, _) => Change::SetState(id, number, VersionState::Enabled),
        }
    }

    fn name(&self, key: &str) -> String {
        format!("{}/cryptoKeys/{key}", self.ring)
    }

    fn version(&self, key: &str, number: usize) -> String {
        format!("{}/cryptoKeyVersions/{number}", self.name(key))
    }

    async fn send(&self, channel: &Channel, change: &Change) -> Result<()> {
        let mut kms = KeyManagementServiceClient::new(channel.clone());
        match change {
            Change::CreateKey(id) => {
                let purpose = crypto_key::CryptoKeyPurpose::EncryptDecrypt.into();
                let request = CreateCryptoKeyRequest {
                    parent: self.ring.clone(),
                    crypto_key_id: id.clone(),
                    crypto_key: Some(CryptoKey { purpose, ..CryptoKey::default() }),
                    ..CreateCryptoKeyRequest::default()
                };
                kms.create_crypto_key(request).await.map(drop)
            }
            Change::CreateVersion(id) => {
                let crypto_key_version = Some(CryptoKeyVersion::default());
                let request = CreateCryptoKeyVersionRequest { parent: self.name(id), crypto_key_version };
                kms.create_crypto_key_version(request).await.map(drop)
            }
            Change::Primary(id, number) => {
                let crypto_key_version_id = number.to_string();
                let request =
                    UpdateCryptoKeyPrimaryVersionRequest { name: self.name(id), crypto_key_version_id };
                kms.update_crypto_key_primary_version(request).await.map(drop)
            }
            Change::SetState(id, number, state) => {
                let name = self.version(id, *number);
                let request = UpdateCryptoKeyVersionRequest {
                    crypto_key_version: Some(CryptoKeyVersion {
                        name,
                        state: (*state).into(),
                        ..Default::default()
                    }),
                    update_mask: Some(prost_types::FieldMask { paths: vec!["state".to_owned()] }),
                };
                kms.update_crypto_key_version(request).await.map(drop)
            }
            Change::Destroy(id, number) => {
                let request = DestroyCryptoKeyVersionRequest { name: self.version(id, *number) };
                kms.destroy_crypto_key_version(request).await.map(drop)
            }
            Change::Restore(id, number) => {
                let request = RestoreCryptoKeyVersionRequest { name: self.version(id, *number) };
                kms.restore_crypto_key_version(request).await.map(drop)
            }
            Change::Grant(id, member) => return self.grant(channel, id, member).await,
        }
        .doing(format!("{change:?}"))
    }

    async fn grant(&self, channel: &Channel, key: &str, member: &str) -> Result<()> {
        let mut iam = IamPolicyClient::new(channel.clone());
        let request = GetIamPolicyRequest { resource: self.name(key), ..GetIamPolicyRequest::default() };
        let mut policy = iam.get_iam_policy(request).await.doing("GetIamPolicy")?.into_inner();
        match policy.bindings.iter_mut().find(|binding| binding.role == ROLE) {
            Some(binding) if binding.members.iter().any(|there| there == member) => {}
            Some(binding) => binding.members.push(member.to_owned()),
            None => {
                let members = vec![member.to_owned()];
                policy.bindings.push(Binding { role: ROLE.to_owned(), members, ..Binding::default() });
            }
        }
        let request =
            SetIamPolicyRequest { resource: self.name(key), policy: Some(policy), ..Default::default() };
        iam.set_iam_policy(request).await.doing("SetIamPolicy").map(drop)
    }

    /// Compares the keys as they are with what they may be.
    ///
    /// # Errors
    /// A lost or strange change, or a ciphertext that does not behave as its version's state says.
    pub(super) async fn check(&mut self, channel: Channel, found: &mut UnderWay) -> Result<()> {
        let seen = self.observe(&channel).await?;
        if let Some(change) = self.under_way.take() {
            let mut with = self.model.clone();
            apply(&mut with, &change);
            if seen == with {
                found.kept += 1;
                self.model = with;
            } else {
                found.gone += 1;
            }
        }
        if let Some(difference) = difference(&self.model, &seen) {
            return Err(Failure::new(format!("{}: {difference}", self.ring)));
        }
        self.check_ciphertexts(channel).await
    }

    async fn observe(&self, channel: &Channel) -> Result<Model> {
        let mut kms = KeyManagementServiceClient::new(channel.clone());
        let mut iam = IamPolicyClient::new(channel.clone());
        let request = ListCryptoKeysRequest {
            parent: self.ring.clone(),
            page_size: PAGE,
            ..ListCryptoKeysRequest::default()
        };
        let keys = kms.list_crypto_keys(request).await.doing("ListCryptoKeys")?.into_inner().crypto_keys;
        let mut model = Model::new();
        for key in keys {
            let request = ListCryptoKeyVersionsRequest {
                parent: key.name.clone(),
                page_size: PAGE,
                ..ListCryptoKeyVersionsRequest::default()
            };
            let list =
                kms.list_crypto_key_versions(request).await.doing("ListCryptoKeyVersions")?.into_inner();
            let mut versions: Vec<(usize, VersionState)> = list
                .crypto_key_versions
                .iter()
                .map(|version| (number_of(&version.name), version.state()))
                .collect();
            versions.sort_unstable_by_key(|(number, _)| *number);
            if versions.iter().enumerate().any(|(at, (number, _))| at + 1 != *number) {
                return Err(Failure::new(format!("{} has a gap in its versions: {versions:?}", key.name)));
            }
            let request =
                GetIamPolicyRequest { resource: key.name.clone(), ..GetIamPolicyRequest::default() };
            let policy = iam.get_iam_policy(request).await.doing("GetIamPolicy")?.into_inner();
            let members = policy.bindings.into_iter().filter(|binding| binding.role == ROLE);
            let state = Key {
                versions: versions.into_iter().map(|(_, state)| state).collect(),
                primary: key.primary.as_ref().map_or(0, |primary| number_of(&primary.name)),
                members: members.flat_map(|binding| binding.members).collect(),
            };
            model.insert(key.name.rsplit('/').next().unwrap_or_default().to_owned(), state);
        }
        Ok(model)
    }

    async fn check_ciphertexts(&self, channel: Channel) -> Result<()> {
        let mut kms = KeyManagementServiceClient::new(channel);
        for (id, ciphertext) in &self.ciphertexts {
            // All were made when version 1 was the only one.
            let state = self.model.get(id).and_then(|key| key.versions.first()).copied().unwrap_or_default();
            let request = DecryptRequest {
                name: self.name(id),
                ciphertext: ciphertext.clone(),
                ..DecryptRequest::default()
            };
            let answer = kms.decrypt(request).await;
            let right = match (&answer, state) {
                (Ok(opened), VersionState::Enabled) => opened.get_ref().plaintext == plaintext(id),
                (Err(status), VersionState::Disabled) => status.code() == Code::FailedPrecondition,
                _ => false,
            };
            if !right {
                let told = answer.err().map_or("it opened".to_owned(), |status| status.message().to_owned());
                return Err(Failure::new(format!(
                    "version 1 of {id} is {state:?}, but its ciphertext: {told}"
                )));
            }
        }
        Ok(())
    }
}

fn plaintext(id: &str) -> Bytes {
    format!("sealed under {id} before the crash").into()
}

fn number_of(version: &str) -> usize {
    version.rsplit('/').next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

fn apply(model: &mut Model, change: &Change) {
    let mut set = |id: &String, number: usize, state: VersionState| {
        if let Some(there) = model.get_mut(id).and_then(|key| key.versions.get_mut(number.wrapping_sub(1))) {
            *there = state;
        }
    };
    match change {
        Change::SetState(id, number, state) => set(id, *number, *state),
        Change::Destroy(id, number) => set(id, *number, VersionState::DestroyScheduled),
        Change::Restore(id, number) => set(id, *number, VersionState::Disabled),
        Change::CreateKey(id) => {
            let key = Key { versions: vec![VersionState::Enabled], primary: 1, members: BTreeSet::new() };
            model.insert(id.clone(), key);
        }
        Change::CreateVersion(id) => {
            if let Some(key) = model.get_mut(id) {
                key.versions.push(VersionState::Enabled);
            }
        }
        Change::Primary(id, number) => {
            if let Some(key) = model.get_mut(id) {
                key.primary = *number;
            }
        }
        Change::Grant(id, member) => {
            if let Some(key) = model.get_mut(id) {
                key.members.insert(member.clone());
            }
        }
    }
}

fn difference(expected: &Model, seen: &Model) -> Option<String> {
    let ids: BTreeSet<&String> = expected.keys().chain(seen.keys()).collect();
    let id = ids.into_iter().find(|id| expected.get(*id) != seen.get(*id))?;
    Some(format!("key {id} is {:?}, acknowledged was {:?}", seen.get(id), expected.get(id)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_chosen_are_allowed_and_lead_to_every_state() {
        let mut operator = Operator::new("ring".to_owned(), Random::new(5));
        let mut seen = BTreeSet::new();
        for _ in 0..5000 {
            let change = operator.choose();
            if let Change::Restore(id, number) = &change {
                assert_eq!(operator.model[id].versions[number - 1], VersionState::DestroyScheduled);
            }
            apply(&mut operator.model, &change);
            seen.extend(operator.model.values().flat_map(|key| key.versions.clone()));
        }
        assert_eq!(operator.model.len(), MOST_KEYS);
        let all = [VersionState::Enabled, VersionState::Disabled, VersionState::DestroyScheduled];
        assert!(all.iter().all(|state| seen.contains(state)), "{seen:?}");
    }

    #[test]
    fn a_difference_names_the_key() {
        let mut model = Model::new();
        apply(&mut model, &Change::CreateKey("k0".to_owned()));
        let mut other = model.clone();
        assert_eq!(difference(&model, &other), None);
        apply(&mut other, &Change::SetState("k0".to_owned(), 1, VersionState::Disabled));
        assert!(difference(&model, &other).unwrap().contains("key k0"));
        assert!(difference(&model, &Model::new()).unwrap().contains("None"));
    }
}
