//! HSM keys: halves of material that a token keeps, beside ours.
//!
//! Nothing in the token is touched but what we have a half of (`matter.rs`): neither what others keep there, nor what a
//! newer copy of this KMS has made.
//!
//! Invariant: neither half alone decrypts. What the token is given is sealed already. A token that is silent refuses
//! nothing: it says nothing about the key.

use super::*;
use crate::ciphertext;
use crate::hsm::{HsmFailure, HsmKey};
use crate::model::CryptoKeyVersion;
use claviger_crypto::SecretKey;

impl Kms {
    /// That the token is there, when a key is one of its, and knows this KMS. Without, nothing was changed or written.
    pub(super) async fn hsm_ready(&self, key: &CryptoKeyName) -> Result<()> {
        let is_hsm = self.inner.index().keys.get(key.as_str()).is_some_and(|entry| entry.record.key.is_hsm());
        if is_hsm { self.inner.hsm_prepare().await } else { Ok(()) }
    }

    /// The same, for what somebody asks for and may have: a refusal is in the audit log.
    pub(super) async fn hsm_ready_for(&self, call: &Call, permission: &str, on: On<'_>) -> Result<()> {
        if !may(&self.inner.index(), &call.caller, permission, on) {
            // The change says so.
            return Ok(());
        }
        match self.inner.hsm_prepare().await {
            Ok(()) => Ok(()),
            Err(error) => Err(self.inner.refuse(call, None, error).await),
        }
    }
}

impl Inner {
    pub(super) fn hsm(&self) -> Result<&Arc<dyn HsmKeys>> {
        self.hsm.as_ref().ok_or_else(texts::no_token)
    }

    /// The token's key for one of our halves.
    pub(super) fn hsm_key(&self, id: Uuid) -> Result<HsmKey> {
        let home = self.index().home.ok_or_else(|| Error::internal("this KMS has nothing in a token"))?;
        Ok(HsmKey { home, id })
    }

    /// That the token can be used, and knows this KMS.
    async fn hsm_prepare(self: &Arc<Self>) -> Result<()> {
        let hsm = self.hsm()?;
        let known = self.index().home;
        let home = match known {
            Some(home) => home,
            None => self.make_home().await?,
        };
        hsm.check(HsmKey { home, id: home }).await.map_err(|failure| texts::token(&failure))
    }

    async fn make_home(self: &Arc<Self>) -> Result<Uuid> {
        let half = SecretKey::random()
            .map_err(|e| Error::internal("the machine gives no random bytes").because(e))?;
        let caller = Caller::new(agents::KMS_AGENT);
        let call = Call::new(&caller, "CreateHsmHome", &"hsmHome");
        let inner = self.clone();
        let made = detached(Box::pin(async move {
            inner
                .change(call, move |index, _| {
                    // Another was faster.
                    if let Some(home) = index.home {
                        return Ok(Plan::reply(home));
                    }
                    let home = Uuid::new_v4();
                    let create = Some(Created::Home(home, half));
                    Ok(Plan { home: Some(home), create, ..Plan::reply(home) })
                })
                .await
        }));
        made.await
    }

    /// Removes from the token what one of our halves belongs to. Without a home, that half was to become it.
    pub(super) async fn shred_from_token(&self, id: Uuid, home: Option<Uuid>) -> Result<()> {
        let key = HsmKey { home: home.unwrap_or(id), id };
        self.hsm()?.remove(key).await.map_err(|failure| texts::token(&failure))
    }

    /// Has the token encrypt what is sealed under our half.
    pub(super) async fn wrap_in_token(&self, version: &CryptoKeyVersion, sealed: &[u8]) -> Result<Vec<u8>> {
        let told = |failure: HsmFailure| texts::hsm(&version.name, &failure);
        let hsm = self.hsm.as_ref().ok_or_else(|| told(not_configured()))?;
        let key = self.hsm_key(version.material)?;
        let wrapped = hsm.encrypt(key, version.name.as_str().as_bytes(), sealed).await.map_err(told)?;
        ciphertext::fitting(ciphertext::Kind::Hsm, &wrapped).then_some(wrapped).ok_or_else(|| {
            told(HsmFailure::Silent("it gave more bytes than a ciphertext may have".to_owned()))
        })
    }

    /// Has the token decrypt what [`Self::wrap_in_token`] gave.
    pub(super) async fn unwrap_in_token(
        &self,
        version: &CryptoKeyVersion,
        wrapped: &[u8],
    ) -> Result<SecretBytes> {
        let told = |failure: HsmFailure| texts::hsm(&version.name, &failure);
        let hsm = self.hsm.as_ref().ok_or_else(|| told(not_configured()))?;
        let key = self.hsm_key(version.material)?;
        hsm.decrypt(key, version.name.as_str().as_bytes(), wrapped).await.map_err(told)
    }
}

/// A key that is in use is not refused because the server was started without its token.
fn not_configured() -> HsmFailure {
    HsmFailure::Silent("this server was started without --hsm-module".to_owned())
}
