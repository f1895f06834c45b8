//! Random sequences of operations, jumps of the clock and restarts, against a simple model.
//!
//! The model is what the documents say, written a second time and as plainly as can be: a list of versions with a state
//! and a time each, and the numbers of a schedule. After each step all that can be seen is compared; at restarts and at
//! the end every ciphertext is tried.
//!
//! `PROPTEST_CASES` says how many sequences.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::OnceLock;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{TestCaseError, TestRunner};

use super::VersionState::{DestroyScheduled, Destroyed, Disabled, Enabled, ImportFailed};
use super::*;
use crate::model::CryptoKeyUpdate;

const METHOD: Method = Method::RsaOaep3072Sha256;
const HOUR: Duration = Duration::from_secs(3600);
const WINDOW: Duration = DAY;
const SEQUENCES: u32 = 2000;
/// What the sequences must come to, or they are not worth running.
const EVENTS: [&str; 9] = [
    "a version was restored",
    "a restore came too late",
    "a version was destroyed",
    "a rotation was made",
    "a rotation was skipped",
    "an import failed",
    "material was imported again",
    "other material was refused",
    "an import job had expired",
];

/// One step. Versions are chosen by a number that wraps around those that are there, and one that is not.
#[derive(Clone, Debug)]
enum Step {
    Create(VersionState),
    Set(usize, VersionState),
    Destroy(usize),
    Restore(usize),
    Primary(usize),
    Schedule { period: Option<u8>, first: Option<u8> },
    Import { into: Option<usize>, material: u8 },
    Encrypt,
    Jump(Duration),
    Tick,
    Restart,
}

impl Step {
    /// The step with its version chosen.
    fn among(&self, versions: usize) -> Self {
        let mut step = self.clone();
        match &mut step {
            Self::Set(at, _) | Self::Destroy(at) | Self::Restore(at) | Self::Primary(at) => {
                *at %= versions + 1
            }
            Self::Import { into: Some(at), .. } => *at %= versions + 1,
            _ => {}
        }
        step
    }
}

fn step() -> impl Strategy<Value = Step> {
    let at = any::<usize>();
    let state = prop_oneof![4 => Just(Enabled), 4 => Just(Disabled), 1 => Just(Destroyed)];
    let jump = prop_oneof![3 => Just(HOUR), 3 => Just(8 * HOUR), 3 => Just(DAY), 1 => Just(9 * DAY)];
    prop_oneof![
        1 => state.clone().prop_map(Step::Create),
        5 => (at, state).prop_map(|(at, state)| Step::Set(at, state)),
        5 => at.prop_map(Step::Destroy),
        3 => at.prop_map(Step::Restore),
        3 => at.prop_map(Step::Primary),
        2 => (proptest::option::of(0_u8..5), proptest::option::of(0_u8..5))
            .prop_map(|(period, first)| Step::Schedule { period, first }),
        5 => (proptest::option::weighted(0.7, at), 0_u8..3)
            .prop_map(|(into, material)| Step::Import { into, material }),
        4 => Just(Step::Encrypt),
        5 => jump.prop_map(Step::Jump),
        6 => Just(Step::Tick),
        2 => Just(Step::Restart),
    ]
}

/// Steps at random, and among them a few that lead where chance alone seldom comes.
fn steps() -> impl Strategy<Value = Vec<Step>> {
    let again = (any::<usize>(), 0_u8..3).prop_map(|(at, material)| {
        vec![
            Step::Destroy(at),
            Step::Jump(WINDOW),
            Step::Tick,
            Step::Import { into: Some(at), material },
            Step::Encrypt,
        ]
    });
    let phrase = prop_oneof![9 => step().prop_map(|step| vec![step]), 1 => again];
    vec(phrase, 1..32).prop_map(|phrases| phrases.concat())
}

#[derive(Clone, Debug, PartialEq)]
struct Version {
    state: VersionState,
    destroy_time: Option<Timestamp>,
    imported: bool,
    /// What was imported first.
    material: Option<u8>,
}

#[derive(Debug)]
struct Model {
    now: Timestamp,
    versions: Vec<Version>,
    primary: Option<usize>,
    period: Option<Duration>,
    next_rotation: Option<Timestamp>,
    job_ends: Timestamp,
    /// Which of [`EVENTS`] there were.
    seen: BTreeSet<&'static str>,
}

impl Model {
    fn version(&mut self, at: usize) -> Option<&mut Version> {
        self.versions.get_mut(at)
    }

    /// Whether a step is to succeed; then it is taken.
    fn take(&mut self, step: &Step) -> bool {
        let (now, job_ends) = (self.now, self.job_ends);
        match *step {
            Step::Create(state) => {
                let settable = matches!(state, Enabled | Disabled);
                if settable {
                    self.versions.push(Version {
                        state,
                        destroy_time: None,
                        imported: false,
                        material: None,
                    });
                }
                settable
            }
            Step::Set(at, to) => match self.version(at) {
                Some(version)
                    if matches!(to, Enabled | Disabled) && matches!(version.state, Enabled | Disabled) =>
                {
                    version.state = to;
                    true
                }
                _ => false,
            },
            Step::Destroy(at) => match self.version(at) {
                Some(version) if matches!(version.state, Enabled | Disabled) => {
                    (version.state, version.destroy_time) = (DestroyScheduled, Some(now.plus(WINDOW)));
                    true
                }
                _ => false,
            },
            Step::Restore(at) => match self.version(at) {
                Some(version) if version.state == DestroyScheduled && version.destroy_time > Some(now) => {
                    (version.state, version.destroy_time) = (Disabled, None);
                    self.seen.insert("a version was restored");
                    true
                }
                Some(version) if version.state == DestroyScheduled => {
                    self.seen.insert("a restore came too late");
                    false
                }
                _ => false,
            },
            Step::Primary(at) => {
                let enabled = self.versions.get(at).is_some_and(|version| version.state == Enabled);
                if enabled {
                    self.primary = Some(at);
                }
                enabled
            }
            Step::Schedule { period, first } => {
                let valid = period.is_none_or(|days| days > 0) && (period.is_none() || first.is_some());
                if valid {
                    self.period = period.map(|days| u32::from(days) * DAY);
                    self.next_rotation = first.map(|days| now.plus(u32::from(days) * DAY));
                }
                valid
            }
            Step::Import { into, material } => {
                if now >= job_ends {
                    self.seen.insert("an import job had expired");
                    return false;
                }
                let at = match into {
                    None => {
                        self.versions.push(Version {
                            state: ImportFailed,
                            destroy_time: None,
                            imported: true,
                            material: None,
                        });
                        self.versions.len() - 1
                    }
                    Some(at) => at,
                };
                let Some(version) = self.version(at) else { return false };
                if !version.imported || !matches!(version.state, Destroyed | ImportFailed) {
                    return false;
                }
                // The first of the materials is of a wrong length.
                let good = material > 0 && version.material.is_none_or(|old| old == material);
                let event = match (good, version.material) {
                    (true, Some(_)) => "material was imported again",
                    (false, Some(_)) if material > 0 => "other material was refused",
                    (true, None) => "material was imported",
                    _ => "an import failed",
                };
                version.state = if good { Enabled } else { ImportFailed };
                version.material = version.material.or(good.then_some(material));
                self.seen.insert(event);
                true
            }
            Step::Encrypt => {
                let primary = self.primary.and_then(|at| self.versions.get(at));
                primary.is_some_and(|version| version.state == Enabled)
            }
            Step::Jump(by) => {
                self.now = now.plus(by);
                true
            }
            Step::Tick => {
                if self.next_rotation.is_some_and(|at| at <= now) {
                    let mut next = self.next_rotation;
                    while next.is_some_and(|at| at <= now) {
                        next = next.and_then(|at| self.period.map(|period| at.plus(period)));
                    }
                    self.next_rotation = next;
                    if self.take(&Step::Encrypt) {
                        self.take(&Step::Create(Enabled));
                        self.primary = Some(self.versions.len() - 1);
                        self.seen.insert("a rotation was made");
                    } else {
                        self.seen.insert("a rotation was skipped");
                    }
                }
                for version in &mut self.versions {
                    if version.state == DestroyScheduled && version.destroy_time <= Some(now) {
                        (version.state, version.destroy_time) = (Destroyed, None);
                        self.seen.insert("a version was destroyed");
                    }
                }
                true
            }
            Step::Restart => true,
        }
    }
}

/// A KMS with a key and an import job, closed: each sequence begins with a copy.
fn seed(runtime: &tokio::runtime::Runtime) -> &'static (InMemory, ImportJob) {
    static SEED: OnceLock<(InMemory, ImportJob)> = OnceLock::new();
    SEED.get_or_init(|| {
        runtime.block_on(async {
            let store = Arc::new(InMemory::new());
            let world = World::on(store.clone(), Arc::new(ManualClock::at(START))).await.unwrap();
            world.kms.create_key_ring(&admin(), &location(), "r").await.unwrap();
            let new = NewCryptoKey { destroy_scheduled_duration: Some(WINDOW), ..NewCryptoKey::symmetric() };
            world.kms.create_crypto_key(&admin(), &ring(), "k", new).await.unwrap();
            let job = world.job("j", METHOD).await;
            world.kms.close().await.unwrap();
            (store.fork(), job)
        })
    })
}

/// A KMS under test, its model, and what was encrypted so far.
struct Pair {
    world: World,
    model: Model,
    job: ImportJob,
    sealed: Vec<(usize, Vec<u8>)>,
}

impl Pair {
    async fn take(mut self, step: &Step) -> Result<Self, TestCaseError> {
        let number = |at: usize| at as u64 + 1;
        let (kms, now) = (&self.world.kms, self.world.clock.now());
        let result = match step {
            Step::Create(state) => kms.create_version_as(&admin(), &key(), *state).await.map(drop),
            Step::Set(at, state) => self.world.set_state(number(*at), *state).await.map(drop),
            Step::Destroy(at) => self.world.destroy(number(*at)).await.map(drop),
            Step::Restore(at) => self.world.restore(number(*at)).await.map(drop),
            Step::Primary(at) => {
                let id = number(*at).to_string();
                kms.update_primary_version(&admin(), &key(), &id).await.map(drop)
            }
            Step::Schedule { period, first } => {
                let days = |days: &u8| u32::from(*days) * DAY;
                let update = CryptoKeyUpdate {
                    rotation_period: Some(period.as_ref().map(days)),
                    next_rotation_time: Some(first.as_ref().map(|first| now.plus(days(first)))),
                    ..CryptoKeyUpdate::default()
                };
                kms.update_crypto_key(&admin(), &key(), update).await.map(drop)
            }
            Step::Import { into, material } => {
                let bytes = vec![*material; if *material == 0 { 16 } else { 32 }];
                self.world.import(&self.job, &bytes, into.map(number)).await.map(drop)
            }
            Step::Encrypt => match self.world.encrypt("text").await {
                Ok(ciphertext) => {
                    self.sealed.extend(self.model.primary.map(|primary| (primary, ciphertext)));
                    Ok(())
                }
                Err(error) => Err(error),
            },
            Step::Jump(by) => {
                self.world.clock.advance(*by);
                Ok(())
            }
            Step::Tick => kms.tick().await.map(drop),
            Step::Restart => {
                self.world = self.world.restarted().await;
                Ok(())
            }
        };
        let expected = self.model.take(step);
        prop_assert_eq!(result.is_ok(), expected, "{:?}: {:?}", step, result);
        self.compare(step)?;
        if matches!(step, Step::Restart) {
            self.decrypt_all().await?;
        }
        Ok(self)
    }

    fn compare(&self, step: &Step) -> Result<(), TestCaseError> {
        let view = self.world.view();
        let primary = view.primary.map(|version| version.number as usize - 1);
        prop_assert_eq!(primary, self.model.primary, "the primary version after {:?}", step);
        prop_assert_eq!(
            (view.key.rotation_period, view.key.next_rotation_time, view.key.next_version as usize),
            (self.model.period, self.model.next_rotation, self.model.versions.len() + 1),
            "the key after {:?}",
            step
        );
        let page = crate::model::PageRequest { size: 1000, ..crate::model::PageRequest::default() };
        let found = self.world.kms.list_versions(&admin(), &key(), &page).unwrap().items;
        let found: Vec<_> = found.iter().map(|version| (version.state, version.destroy_time)).collect();
        let model: Vec<_> =
            self.model.versions.iter().map(|version| (version.state, version.destroy_time)).collect();
        prop_assert_eq!(found, model, "the versions after {:?}", step);
        Ok(())
    }

    /// A ciphertext opens exactly when its version is enabled; otherwise the error names the version.
    async fn decrypt_all(&self) -> Result<(), TestCaseError> {
        for (at, ciphertext) in &self.sealed {
            let state = self.model.versions[*at].state;
            match self.world.decrypt(ciphertext).await {
                Ok(text) => prop_assert!(state == Enabled && text == "text", "{} is {:?}", at, state),
                Err(error) => {
                    let name = key().version_name(*at as u64 + 1);
                    let text = format!("{name} is not enabled, current state is: {}.", state.as_str());
                    prop_assert_eq!(error.message(), text);
                    prop_assert!(state != Enabled);
                }
            }
        }
        // The key of the job, and the material of each version that has any.
        let job = usize::from(
            self.world.kms.get_import_job(&admin(), &self.job.name).unwrap().public_key.is_some(),
        );
        let held =
            self.model.versions.iter().filter(|v| matches!(v.state, Enabled | Disabled | DestroyScheduled));
        prop_assert_eq!(self.world.materials().await, held.count() + job);
        Ok(())
    }
}

/// Runs one sequence, and tells which of [`EVENTS`] there were.
async fn run(
    store: InMemory,
    job: ImportJob,
    steps: Vec<Step>,
) -> Result<BTreeSet<&'static str>, TestCaseError> {
    let world = World::on(Arc::new(store), Arc::new(ManualClock::at(START))).await.unwrap();
    let first = Version { state: Enabled, destroy_time: None, imported: false, material: None };
    let model = Model {
        now: START,
        versions: vec![first],
        primary: Some(0),
        period: None,
        next_rotation: None,
        job_ends: job.expire_time,
        seen: BTreeSet::new(),
    };
    let mut pair = Pair { world, model, job, sealed: Vec::new() };
    for step in &steps {
        let step = step.among(pair.model.versions.len());
        pair = Box::pin(pair.take(&step)).await?;
    }
    pair.decrypt_all().await?;
    pair.world.kms.close().await.unwrap();
    Ok(pair.model.seen)
}

fn config() -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
    ProptestConfig {
        cases: cases.unwrap_or(SEQUENCES),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

#[test]
fn whatever_is_done_the_kms_is_as_the_model_says() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (store, job) = seed(&runtime);
    let (mut runner, seen) = (TestRunner::new(config()), RefCell::new(BTreeSet::new()));
    runner
        .run(&steps(), |steps| {
            let events = runtime.block_on(run(store.fork(), job.clone(), steps))?;
            seen.borrow_mut().extend(events);
            Ok(())
        })
        .unwrap_or_else(|failure| panic!("{failure}"));
    let never: Vec<_> = EVENTS.iter().filter(|event| !seen.borrow().contains(*event)).collect();
    assert!(never.is_empty() || config().cases < 1000, "the sequences never came to: {never:?}");
}
