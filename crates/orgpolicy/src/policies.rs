//! The policies of all projects: kept sealed, read from memory.
//!
//! Invariant: what is in memory is on disk. A change runs to its end even when its caller goes away, and changes are
//! made one at a time.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock};

use claviger_core::{Clock, Error, ErrorKind, Result};
use claviger_sealed::Records;
use tokio::sync::{Mutex, watch};

use crate::policy::PREFIX;
use crate::{Constraint, KeptSpec, Policy, PolicyName, Spec, validate};

/// What a request says a policy is to be.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    /// The policy's etag, when it must be current.
    pub etag: String,
    /// What is to be enforced.
    pub spec: Option<WishedSpec>,
    /// What is to be tried.
    pub dry_run: Option<WishedSpec>,
}

/// What a request says a specification is to be.
#[derive(Clone, Debug, Default)]
pub struct WishedSpec {
    /// The etag of the specification to replace, when it must be current.
    pub etag: String,
    /// What it says.
    pub spec: Spec,
}

/// What of a policy a change is about. The other part stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// What is enforced.
    Spec,
    /// What is tried.
    DryRun,
    /// Both.
    Both,
}

/// The policies of all projects; see the file's text.
pub struct Policies {
    records: Records,
    clock: Arc<dyn Clock>,
    set: RwLock<BTreeMap<PolicyName, Arc<Policy>>>,
    /// The last revision that was given; held while a change is made.
    turn: Mutex<i64>,
    changes: watch::Sender<()>,
}

impl fmt::Debug for Policies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Policies").finish_non_exhaustive()
    }
}

impl Policies {
    /// Reads the policies that are set.
    ///
    /// # Errors
    /// `DataLoss` when a record is not what was written.
    pub async fn open(records: Records, clock: Arc<dyn Clock>) -> Result<Arc<Self>> {
        let mut set = BTreeMap::new();
        let mut last = 0;
        for (record, policy) in records.scan::<Policy>(PREFIX).await? {
            policy.check_record(&record)?;
            last = last.max(policy.revision);
            set.insert(policy.name.clone(), Arc::new(policy));
        }
        let changes = watch::Sender::new(());
        Ok(Arc::new(Self { records, clock, set: RwLock::new(set), turn: Mutex::new(last), changes }))
    }

    /// Follows the policies: changed after each change.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// A policy.
    ///
    /// # Errors
    /// `NotFound` when none is set.
    pub fn get(&self, name: &PolicyName) -> Result<Arc<Policy>> {
        self.find(name).ok_or_else(|| missing(name))
    }

    /// The policies of a project that come after one, by name.
    #[must_use]
    pub fn list(&self, project: &str, after: Option<Constraint>) -> Vec<Arc<Policy>> {
        let first = Constraint::ALL.first().copied();
        let at = |constraint| PolicyName { project: project.to_owned(), constraint };
        let start = match (after, first) {
            (Some(after), _) => Bound::Excluded(at(after)),
            (None, Some(first)) => Bound::Included(at(first)),
            (None, None) => return Vec::new(),
        };
        let set = self.set.read().unwrap_or_else(PoisonError::into_inner);
        let own = set.range((start, Bound::Unbounded)).take_while(|(name, _)| name.project == project);
        own.map(|(_, policy)| policy.clone()).collect()
    }

    /// What is enforced, whether a policy is set or not.
    #[must_use]
    pub fn effective(&self, name: &PolicyName) -> Spec {
        let policy = self.find(name);
        let spec = policy.as_ref().and_then(|policy| policy.spec.as_ref()).map(|kept| &kept.spec);
        Spec::effective(name.constraint, spec)
    }

    /// Sets a policy where none is. Etags in the wish mean nothing.
    ///
    /// # Errors
    /// `AlreadyExists`, `InvalidArgument` for what a specification may not say, `Unimplemented`.
    pub async fn create(self: &Arc<Self>, name: PolicyName, wish: Wish) -> Result<Arc<Policy>> {
        check(&name, &wish)?;
        self.change(move |this, revision| {
            if this.find(&name).is_some() {
                return Err(Error::already_exists(format!("The policy {name} already exists.")));
            }
            let kept = |wished: Option<WishedSpec>| wished.map(|wished| this.kept(wished.spec, revision));
            let (spec, dry_run) = (kept(wish.spec), kept(wish.dry_run));
            some(Policy::new(name, spec, dry_run, revision))
        })
        .await
    }

    /// Replaces parts of a policy.
    ///
    /// # Errors
    /// `NotFound`, `Aborted` when an etag is not current, else as [`Self::create`].
    pub async fn update(self: &Arc<Self>, name: PolicyName, wish: Wish, part: Part) -> Result<Arc<Policy>> {
        check(&name, &wish)?;
        self.change(move |this, revision| {
            let before = this.get(&name)?;
            current(&wish.etag, Some(before.etag()))?;
            let next = |kept: &Option<KeptSpec>, wished: Option<WishedSpec>, chosen: bool| {
                let Some(wished) = wished.filter(|_| chosen) else {
                    return Ok(kept.clone().filter(|_| !chosen));
                };
                current(&wished.etag, kept.as_ref().map(KeptSpec::etag))?;
                Ok(Some(this.kept(wished.spec, revision)))
            };
            let spec = next(&before.spec, wish.spec, part != Part::DryRun)?;
            let dry_run = next(&before.dry_run, wish.dry_run, part != Part::Spec)?;
            some(Policy::new(name, spec, dry_run, revision))
        })
        .await
    }

    /// Removes a policy. With an etag, only while it is current.
    ///
    /// # Errors
    /// `NotFound`, `Aborted`.
    pub async fn delete(self: &Arc<Self>, name: PolicyName, etag: String) -> Result<()> {
        let this = self.clone();
        detached(async move {
            let _turn = this.turn.lock().await;
            current(&etag, Some(this.get(&name)?.etag()))?;
            this.records.delete(&name.record()).await?;
            this.set.write().unwrap_or_else(PoisonError::into_inner).remove(&name);
            this.changes.send_replace(());
            Ok(())
        })
        .await
    }

    /// Makes all durable and closes.
    ///
    /// # Errors
    /// What the records answer.
    pub async fn close(&self) -> Result<()> {
        self.records.close().await
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.set.read().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    pub(crate) fn find(&self, name: &PolicyName) -> Option<Arc<Policy>> {
        self.set.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    fn kept(&self, spec: Spec, revision: i64) -> KeptSpec {
        KeptSpec::new(spec, self.clock.now(), revision)
    }

    async fn change(
        self: &Arc<Self>,
        plan: impl FnOnce(&Self, i64) -> Result<Policy> + Send + 'static,
    ) -> Result<Arc<Policy>> {
        let this = self.clone();
        detached(async move {
            let mut last = this.turn.lock().await;
            // Greater than all before, also those of policies that are gone and that a restart has forgotten.
            let revision = this.clock.now().micros().max(*last + 1);
            let policy = Arc::new(plan(&this, revision)?);
            *last = revision;
            this.records.put(&policy.name.record(), policy.as_ref()).await?;
            let name = policy.name.clone();
            this.set.write().unwrap_or_else(PoisonError::into_inner).insert(name, policy.clone());
            this.changes.send_replace(());
            Ok(policy)
        })
        .await
    }
}

/// Runs to its end even when whoever waits for it goes away.
async fn detached<T: Send + 'static>(work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    tokio::spawn(work).await.map_err(|e| Error::internal("a change of a policy failed").because(e))?
}

fn check(name: &PolicyName, wish: &Wish) -> Result<()> {
    for (wished, field) in [(&wish.spec, "policy.spec"), (&wish.dry_run, "policy.dry_run_spec")] {
        if let Some(wished) = wished {
            validate::check(name.constraint, &wished.spec, field)?;
        }
    }
    Ok(())
}

/// A policy that says something.
fn some(policy: Policy) -> Result<Policy> {
    if policy.spec.is_none() && policy.dry_run.is_none() {
        return Err(Error::invalid_field("policy.spec", "a policy needs a spec or a dry_run_spec"));
    }
    Ok(policy)
}

fn missing(name: &PolicyName) -> Error {
    Error::not_found(format!("The policy {name} was not found: none is set."))
}

/// Refuses an etag that is not current; none is.
fn current(expected: &str, etag: Option<String>) -> Result<()> {
    if expected.is_empty() || etag.is_some_and(|etag| etag == expected) {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Aborted,
        "The policy was changed meanwhile: the etag is not current. Read it again and change that.",
    ))
}
