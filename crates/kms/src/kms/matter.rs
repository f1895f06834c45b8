//! Material that a change makes or removes.
//!
//! Invariant: of an HSM key our half is durable before the token makes its own, and goes after it. So whatever a crash
//! leaves in the token has its half here, by which the next start finds both.

use super::*;
use crate::hsm::HsmKey;
use crate::model::CryptoKeyVersion;
use claviger_crypto::SecretKey;

/// New material.
pub(super) enum Created {
    /// Of a version, in its entry.
    Version(Arc<VersionEntry>),
    /// The private key of an import job.
    ImportKey(Uuid, SecretBytes),
    /// What requests to external key managers are signed with.
    Signer(Uuid, SecretBytes),
    /// What this KMS is known by in its token, and our half of it.
    Home(Uuid, SecretKey),
}

impl Created {
    /// How it is removed again.
    pub(super) fn shred(&self) -> Shred {
        match self {
            Self::Version(entry) => Shred::of(&entry.version),
            Self::ImportKey(id, _) | Self::Signer(id, _) => Shred::ours(*id),
            Self::Home(id, _) => Shred { id: *id, in_token: true },
        }
    }
}

/// Material to be removed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shred {
    pub(super) id: Uuid,
    /// Whether the other half of it is in the token.
    pub(super) in_token: bool,
}

impl Shred {
    pub(super) fn of(version: &CryptoKeyVersion) -> Self {
        Self { id: version.material, in_token: version.hsm }
    }

    /// What never was in a token.
    pub(super) fn ours(id: Uuid) -> Self {
        Self { id, in_token: false }
    }
}

impl Inner {
    /// Makes new material durable, in both halves when it has two.
    pub(super) async fn create(&self, created: &Created) -> Result<()> {
        let (key, label, half) = match created {
            Created::ImportKey(id, key) => return self.material.put_import_key(*id, key).await,
            Created::Signer(id, key) => return self.material.put_signer(*id, key).await,
            Created::Version(entry) => {
                let half = entry.material.get();
                let half = half.ok_or_else(|| Error::internal("a new version has no material"))?;
                if !entry.version.hsm {
                    return self.material.put(entry.version.material, half).await;
                }
                let key = self.hsm_key(entry.version.material)?;
                (key, key.label(entry.version.name.as_str()), half)
            }
            Created::Home(id, half) => {
                let key = HsmKey { home: *id, id: *id };
                (key, key.label("home"), half)
            }
        };
        let hsm = self.hsm()?;
        self.material.put_half(key.id, half).await?;
        let made = hsm.make(key, &label).await;
        if let Err(failure) = made {
            // A token that was silent may have made it even so.
            self.shred_unused(created.shred()).await;
            return Err(texts::token(&failure));
        }
        Ok(())
    }

    /// Removes material for good, the token's half first.
    pub(super) async fn shred(&self, doomed: Shred) -> Result<()> {
        if doomed.in_token {
            let home = self.index().home;
            self.shred_from_token(doomed.id, home).await?;
        }
        self.material.shred(doomed.id).await
    }

    /// The same, for what no record names. What cannot be removed now is found again at the next start.
    pub(super) async fn shred_unused(&self, doomed: Shred) {
        if let Err(error) = self.shred(doomed).await {
            tracing::warn!(%error, "unused key material is left until the next start");
        }
    }
}
