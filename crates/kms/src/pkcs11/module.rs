//! PKCS #11 modules: each is loaded once in this process, however many tokens are used by it, and the sessions that are
//! kept with their tokens.
//!
//! A module that lost its tokens (a network, a directory) may not find them again until it begins its work anew, which
//! ends all sessions. So [`Module::revive`] does that, while nothing else uses the module.
//!
//! Invariant: no session is open while a module begins anew, and none of before is closed afterwards, when its number
//! may be another's. A module is never unloaded.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error as Fault, RvError};
use cryptoki::object::ObjectHandle;
use cryptoki::session::Session;

/// A module begins anew at most so often.
const REVIVE_EVERY: Duration = Duration::from_secs(5);
/// How often, and after which pauses, is looked whether nothing uses the module.
const TRIES: u32 = 50;
const TRY_EVERY: Duration = Duration::from_millis(10);
/// Sessions kept for a token, of each kind.
const KEPT: usize = 16;
/// Handles that a session remembers.
const HANDLES: usize = 4096;

/// The modules of this process, by their paths.
static MODULES: Mutex<BTreeMap<PathBuf, Arc<Module>>> = Mutex::new(BTreeMap::new());

/// A session that is logged in, and the objects that were found in it.
pub(crate) struct Open {
    pub(crate) session: Session,
    handles: HashMap<Vec<u8>, ObjectHandle>,
}

impl Open {
    pub(super) fn new(session: Session) -> Self {
        Self { session, handles: HashMap::new() }
    }

    /// The object that was found by an id before.
    pub(crate) fn known(&self, id: &[u8]) -> Option<ObjectHandle> {
        self.handles.get(id).copied()
    }

    /// Remembers what was found.
    pub(crate) fn remember(&mut self, id: &[u8], handle: ObjectHandle) {
        if self.handles.len() >= HANDLES {
            self.handles.clear();
        }
        self.handles.insert(id.to_vec(), handle);
    }

    /// Forgets an object.
    pub(crate) fn forget(&mut self, id: &[u8]) {
        self.handles.remove(id);
    }
}

/// Sessions of a token that nobody uses, by its label and by whether they may write.
type Kept = HashMap<(String, bool), Vec<Open>>;

/// A module; see the file's text.
pub(super) struct Module {
    context: Pkcs11,
    /// Whether it was initialised. Held for reading by whoever uses it.
    begun: RwLock<bool>,
    kept: Mutex<Kept>,
    /// When it may begin anew, by the process's time.
    next: Mutex<Duration>,
}

/// A module in use.
pub(super) struct Running<'a> {
    module: &'a Module,
    _begun: RwLockReadGuard<'a, bool>,
}

impl Module {
    /// The module of a path.
    pub(super) fn load(path: &Path) -> Result<Arc<Self>, Fault> {
        // One file may have several names.
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let mut modules = MODULES.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(module) = modules.get(&path) {
            return Ok(module.clone());
        }
        let module = Arc::new(Self {
            context: Pkcs11::new(&path)?,
            begun: RwLock::new(false),
            kept: Mutex::default(),
            next: Mutex::default(),
        });
        modules.insert(path, module.clone());
        Ok(module)
    }

    /// The module, ready for use.
    pub(super) fn running(&self) -> Result<Running<'_>, Fault> {
        loop {
            let begun = self.begun.read().unwrap_or_else(PoisonError::into_inner);
            if *begun {
                return Ok(Running { module: self, _begun: begun });
            }
            drop(begun);
            let mut begun = self.begun.write().unwrap_or_else(PoisonError::into_inner);
            if !*begun {
                match self.context.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
                    Ok(()) | Err(Fault::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => *begun = true,
                    Err(fault) => return Err(fault),
                }
            }
        }
    }

    /// Ends the module's work, so that its next use begins anew. Not while it is in use, and not too often: whether it
    /// was done.
    pub(super) fn revive(&self, now: Duration) -> bool {
        // One at a time; the others are told no.
        let Ok(mut next) = self.next.try_lock() else { return false };
        if now < *next {
            return false;
        }
        *next = now.saturating_add(REVIVE_EVERY);
        for _ in 0..TRIES {
            // Never waited for: a call that does not come back would hold up those behind.
            let Ok(mut begun) = self.begun.try_write() else {
                std::thread::sleep(TRY_EVERY);
                continue;
            };
            self.kept().clear();
            if std::mem::replace(&mut *begun, false)
                && let Err(error) = self.context.clone().finalize()
            {
                tracing::debug!(%error, "a PKCS #11 module did not end its work");
            }
            return true;
        }
        false
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Running<'_> {
    pub(super) fn context(&self) -> &Pkcs11 {
        &self.module.context
    }

    /// A session that was kept.
    pub(super) fn take(&self, token: &str, writes: bool) -> Option<Open> {
        self.module.kept().get_mut(&(token.to_owned(), writes)).and_then(Vec::pop)
    }

    /// Keeps a session for the next use.
    pub(super) fn keep(&self, token: &str, writes: bool, open: Open) {
        let mut kept = self.module.kept();
        let sessions = kept.entry((token.to_owned(), writes)).or_default();
        if sessions.len() < KEPT {
            sessions.push(open);
        }
    }

    /// Closes the sessions that are kept for a token.
    pub(super) fn forget(&self, token: &str) {
        self.module.kept().retain(|(of, _), _| of != token);
    }
}
