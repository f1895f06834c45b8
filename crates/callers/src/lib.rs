//! Who calls: tokens, the keys that they are signed with, and what their owners may ask for (docs/adr/0016).
//!
//! Invariant: who is not named by the file of callers gets nothing; what a token says of itself chooses among the
//! keys of that file and nothing else. No token is kept, logged or repeated in an error; the cache knows them by
//! their hash. No request waits for a network: all keys are in files.

mod cache;
mod file;
mod issued;
mod jwt;
mod keys;
mod principal;
mod rights;
mod rules;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use claviger_core::{Caller, Clock, Error, ErrorKind, Result};

use cache::Cache;
use issued::Issuer;
use rules::Rules;

pub use issued::Issued;
pub use jwt::MAX_TOKEN_BYTES;
pub use rights::{Right, Rights};

/// Seconds that a signer's clock may be wrong.
pub const LEEWAY_SECONDS: u64 = 30;
/// How often the files are looked at: a key that was removed from them is refused after that.
pub const RELOAD: Duration = Duration::from_secs(10);

/// Somebody whose token was found right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// Who it is.
    pub caller: Caller,
    /// What they may ask for, with this token.
    pub rights: Rights,
    /// When the token ends, in seconds since the Unix epoch.
    expires: u64,
}

/// The callers that a file names.
pub struct Callers {
    path: PathBuf,
    /// URLs of this server that tokens may be for, beside those of the file.
    own: Vec<String>,
    clock: Arc<dyn Clock>,
    rules: RwLock<(Arc<Rules>, file::Digest)>,
    /// Counts changes of the rules: what was found under older ones is found anew.
    generation: AtomicU64,
    cache: Cache,
    issuer: Issuer,
}

impl fmt::Debug for Callers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Callers").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Callers {
    /// Reads a file of callers. `own` are URLs of this server that tokens may be for, beside those of the file.
    ///
    /// # Errors
    /// `InvalidArgument` that says what is wrong with which file; `Internal` when the machine gives no random bytes.
    pub fn open(path: PathBuf, own: Vec<String>, clock: Arc<dyn Clock>) -> Result<Arc<Self>> {
        let (rules, digest) = file::read(&path, &own)?;
        Ok(Arc::new(Self {
            path,
            own,
            clock,
            rules: RwLock::new((Arc::new(rules), digest)),
            generation: AtomicU64::new(0),
            cache: Cache::default(),
            issuer: Issuer::new()?,
        }))
    }

    /// Whose token this is.
    ///
    /// # Errors
    /// `Unauthenticated` that says what is wrong with it.
    pub fn check(&self, token: &str) -> Result<Arc<Known>> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(jwt::wrong("is too long"));
        }
        let (now, generation) = (self.now(), self.generation.load(Ordering::Acquire));
        let hash = Cache::hash(token);
        if let Some(known) = self.cache.get(&hash, generation, now) {
            return Ok(known);
        }
        let rules = self.rules();
        let known = match issued::payload(token) {
            Some(issued) => self.issuer.check(&rules, issued, now)?,
            None => rules.check(token, now)?,
        };
        let known = Arc::new(known);
        self.cache.put(hash, generation, known.clone(), now);
        Ok(known)
    }

    /// What the owner of a certificate may ask for, whom the connection knows.
    #[must_use]
    pub fn of_certificate(&self, principal: &str) -> Arc<Known> {
        Arc::new(self.rules().known(principal.to_owned(), Rights::ALL, u64::MAX))
    }

    /// An access token for a service account that signed an assertion (RFC 7523).
    ///
    /// # Errors
    /// `Unauthenticated` that says what is wrong with the assertion; `InvalidArgument` for scopes that give nothing
    /// here.
    pub fn exchange(&self, assertion: &str) -> Result<Issued> {
        let now = self.now();
        let grant = self.rules().check_assertion(assertion, now)?;
        self.issuer.issue(&grant, now)
    }

    /// Looks at the files again. When they cannot be read, what was read before stays.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn reload(&self) -> Result<()> {
        let (rules, digest) = file::read(&self.path, &self.own)?;
        let mut held = self.rules.write().unwrap_or_else(PoisonError::into_inner);
        if held.1 != digest {
            *held = (Arc::new(rules), digest);
            self.generation.fetch_add(1, Ordering::Release);
            tracing::info!(file = %self.path.display(), "the callers were read anew");
        }
        Ok(())
    }

    /// Looks at the files every [`RELOAD`], for ever.
    pub async fn run(self: Arc<Self>) {
        let mut failing = false;
        loop {
            self.clock.sleep(RELOAD).await;
            let failed = self.reload().err();
            if let (false, Some(error)) = (failing, &failed) {
                tracing::warn!(%error, "the callers could not be read anew: those read before stay");
            }
            failing = failed.is_some();
        }
    }

    fn rules(&self) -> Arc<Rules> {
        self.rules.read().unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    fn now(&self) -> u64 {
        self.clock.now().seconds_and_nanos().0.try_into().unwrap_or(0)
    }
}

/// Who may be who, for a fuzzer: any text as a token, and as a file of keys.
#[doc(hidden)]
pub mod fuzzing {
    /// Reads any text as a token.
    pub fn token(text: &str) {
        if let Ok(token) = crate::jwt::Jwt::parse(text) {
            let _ = crate::principal::service_account(&token.claims.iss);
        }
    }

    /// Reads any bytes as a file of keys.
    pub fn keys(bytes: &[u8]) {
        let _ = crate::keys::Keys::parse(bytes);
    }
}

fn fault(what: &str, error: claviger_crypto::Error) -> Error {
    Error::new(ErrorKind::Internal, what).because(error)
}
