//! The root seals over HTTP, below `/seal/v1/`: status, unsealing, and changes of the seals.
//!
//! ```text
//! GET    status        {"state": "sealed" | "starting" | "open", "seals": [...], "shares": {...}}
//! POST   unseal        {"passphrase": ...} or {"keyFile": BASE64} or {"share": ...} or {"forgetShares": true}
//! POST   seals         {"passphrase": ...} or {"keyFile": BASE64} or {"localKey": true} or {"wrappedBy": KIND}
//!                      or {"shares": {"count": 5, "threshold": 3}}; with "replace": ID
//! DELETE seals/ID
//! ```
//!
//! Invariant: secrets cross no network in clear: a server without TLS listens on loopback only. Whoever is known may
//! unseal, since what they give is the proof; only administrators change seals. One attempt to unseal runs at a time, and a
//! wrong passphrase makes the next one wait, so that a derivation is no lever against the machine. Bodies must say that
//! they are JSON, which a page in a browser cannot do unasked. No secret is logged or answered; only new shares are.

mod begin;
mod body;
mod remote;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use claviger_callers::Right;
use claviger_core::{Caller, Clock, Error, ErrorKind, Result};
use claviger_crypto::passphrase::Params;
use claviger_kms::{Kms, NewSeal, OpenedRoot, RootSecret, RootWrap, SealInfo, SealedRoot, Share, WrapPlace};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::request::Parts;
use http::{Method, Request, Response};
use serde_json::{Value, json};
use tokio::sync::mpsc;

pub(crate) use self::begin::{Begin, Root, begin};
use self::body::{Add, Unseal};
use crate::auth;
use crate::status;

/// Where the API is. A bucket named `seal` cannot show its objects `v1/...` by the paths of the XML API.
const PREFIX: &str = "/seal/v1/";
/// The wait after the first wrong passphrase; it doubles with each.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// The longest wait after a wrong passphrase.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Shares that are kept until enough are there.
const SHARES_KEPT: usize = 64;

/// What requests are told while the KMS is not open.
pub(crate) const SEALED: &str =
    "The server is sealed: its keys cannot be read. Open it with 'claviger unseal'.";
/// What requests are told between the opening of the seal and readiness.
pub(crate) const STARTING: &str = "The server is unsealed and starts: try again in a moment.";

/// How a KMS was opened by a request.
#[derive(Debug)]
pub(crate) struct Unsealed {
    pub(crate) root: OpenedRoot,
    pub(crate) by: Caller,
}

/// The API of the seals, of a server that is open or not.
#[derive(Clone, Debug)]
pub(crate) struct SealApi(Arc<Shared>);

struct Shared {
    clock: Arc<dyn Clock>,
    /// The keys elsewhere that the server is configured with.
    wraps: Vec<Arc<dyn RootWrap>>,
    state: Mutex<State>,
    attempts: tokio::sync::Mutex<Attempts>,
    unsealed: mpsc::Sender<Unsealed>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shared")
    }
}

#[derive(Clone)]
enum State {
    Sealed(Arc<SealedRoot>),
    Starting(Vec<SealInfo>),
    Open(Arc<Kms>),
    /// The KMS of this server is elsewhere, at this place.
    Elsewhere(String),
}

/// What was tried since the server started.
#[derive(Default)]
struct Attempts {
    shares: Vec<Share>,
    wrong: u32,
    not_before: Duration,
}

impl SealApi {
    /// The API of a KMS that is sealed, and the channel on which it comes once it is opened.
    pub(crate) fn sealed(
        root: SealedRoot,
        wraps: Vec<Arc<dyn RootWrap>>,
        clock: Arc<dyn Clock>,
    ) -> (Self, mpsc::Receiver<Unsealed>) {
        Self::new(State::Sealed(Arc::new(root)), wraps, clock)
    }

    /// The API of a KMS that was opened at start, while the server starts.
    pub(crate) fn starting(wraps: Vec<Arc<dyn RootWrap>>, clock: Arc<dyn Clock>) -> Self {
        Self::new(State::Starting(Vec::new()), wraps, clock).0
    }

    /// The API of a server whose KMS is elsewhere.
    pub(crate) fn elsewhere(place: String, clock: Arc<dyn Clock>) -> Self {
        Self::new(State::Elsewhere(place), Vec::new(), clock).0
    }

    fn new(
        state: State,
        wraps: Vec<Arc<dyn RootWrap>>,
        clock: Arc<dyn Clock>,
    ) -> (Self, mpsc::Receiver<Unsealed>) {
        let (unsealed, receiver) = mpsc::channel(1);
        let attempts = tokio::sync::Mutex::default();
        (Self(Arc::new(Shared { clock, wraps, state: Mutex::new(state), attempts, unsealed })), receiver)
    }

    /// Says that the KMS is open.
    pub(crate) fn open(&self, kms: Arc<Kms>) {
        self.set(State::Open(kms));
    }

    /// What a request that needs the KMS is told.
    pub(crate) fn refusal(&self) -> Error {
        let why = match self.state() {
            State::Sealed(_) => SEALED.to_owned(),
            State::Starting(_) | State::Open(_) => STARTING.to_owned(),
            State::Elsewhere(place) => format!("The server waits for its KMS at {place}."),
        };
        Error::new(ErrorKind::Unavailable, why)
    }

    /// Whether a request is for this API.
    pub(crate) fn matches(path: &str) -> bool {
        path.starts_with(PREFIX)
    }

    /// Answers a request, whatever it is.
    pub(crate) async fn call(&self, request: Request<Body>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path().strip_prefix(PREFIX).unwrap_or_default().to_owned();
        let answer = match (path.as_str(), &parts.method) {
            ("status", &(Method::GET | Method::HEAD)) => self.status(&parts).await,
            ("status", _) => return status::not_allowed("GET, HEAD"),
            ("unseal", &Method::POST) => self.unseal(&parts, body).await,
            ("unseal", _) => return status::not_allowed("POST"),
            ("seals", &Method::POST) => self.add(&parts, body).await,
            ("seals", _) => return status::not_allowed("POST"),
            (path, method) => match path.strip_prefix("seals/").map(str::parse) {
                Some(Ok(id)) if *method == Method::DELETE => self.remove(&parts, id).await,
                Some(Ok(_)) => return status::not_allowed("DELETE"),
                _ => Err(Error::not_found("There is nothing at this path of the seals.")),
            },
        };
        match answer {
            Ok(value) => reply(&value),
            Err(error) => status::response(&status::status(error)),
        }
    }

    /// Tries the keys elsewhere once more, of a server that waits for them.
    pub(crate) async fn try_wraps(&self) {
        let Ok(mut attempts) = self.0.attempts.try_lock() else { return };
        for wrap in &self.0.wraps {
            let State::Sealed(root) = self.state() else { return };
            let secret = RootSecret::Wrapped(wrap.clone());
            match root.open(&secret, Params::RECOMMENDED).await {
                Ok(opened) => drop(self.opened(&mut attempts, opened, Caller::local_admin()).await),
                Err(error) => tracing::debug!(%error, ?wrap, "a key elsewhere does not open the seal"),
            }
        }
    }

    async fn status(&self, parts: &Parts) -> Result<Value> {
        caller(parts, Right::Unseal)?;
        let (state, seals) = match self.state() {
            State::Sealed(root) => ("sealed", root.seals()),
            State::Starting(seals) => ("starting", seals),
            State::Open(kms) => ("open", kms.seals().await),
            State::Elsewhere(place) => return Ok(json!({ "state": "elsewhere", "kms": place, "seals": [] })),
        };
        let mut told = json!({ "state": state, "seals": seals.iter().map(shown).collect::<Vec<_>>() });
        // An attempt under way holds the shares; it is over in a moment.
        if let (Ok(attempts), Some(told)) = (self.0.attempts.try_lock(), told.as_object_mut())
            && let Some(last) = attempts.shares.last()
        {
            told.insert("shares".to_owned(), attempts.told(last));
        }
        Ok(told)
    }

    async fn unseal(&self, parts: &Parts, body: Body) -> Result<Value> {
        let caller = caller(parts, Right::Unseal)?;
        let given = body::read::<Unseal>(parts, body).await?;
        let Ok(mut attempts) = self.0.attempts.try_lock() else {
            return Err(Error::new(
                ErrorKind::ResourceExhausted,
                "Another attempt to unseal is under way: try again in a moment.",
            ));
        };
        let root = match self.state() {
            State::Sealed(root) => root,
            State::Elsewhere(_) => return Err(self.kms().err().unwrap_or_else(|| self.refusal())),
            State::Starting(_) | State::Open(_) => {
                return Err(Error::precondition("The server is not sealed."));
            }
        };
        let secret = match given {
            Unseal::ForgetShares => {
                attempts.shares.clear();
                return Ok(json!({ "state": "sealed" }));
            }
            Unseal::Share(share) => {
                root.check_share(&share)?;
                let told = attempts.keep(share)?;
                match attempts.enough() {
                    Some(shares) => RootSecret::Shares(shares),
                    None => return Ok(json!({ "state": "sealed", "shares": told })),
                }
            }
            Unseal::KeyFile(contents) => RootSecret::KeyFile(contents),
            Unseal::Passphrase(text) => {
                attempts.admit(self.0.clock.elapsed())?;
                RootSecret::Passphrase(text)
            }
        };
        match root.open(&secret, Params::RECOMMENDED).await {
            Ok(opened) => self.opened(&mut attempts, opened, caller).await,
            Err(error) => {
                tracing::warn!(reason = error.message(), "an attempt to unseal failed");
                if matches!(secret, RootSecret::Passphrase(_)) {
                    attempts.was_wrong(self.0.clock.elapsed());
                }
                Err(error)
            }
        }
    }

    async fn opened(&self, attempts: &mut Attempts, root: OpenedRoot, by: Caller) -> Result<Value> {
        attempts.shares.clear();
        let seal = root.opened_by().clone();
        let seals = match self.state() {
            State::Sealed(sealed) => sealed.seals(),
            State::Starting(_) | State::Open(_) | State::Elsewhere(_) => Vec::new(),
        };
        // Before it is handed on: whoever gets it says that the KMS is open.
        self.set(State::Starting(seals));
        self.0.unsealed.send(Unsealed { root, by }).await.map_err(|_| {
            Error::new(ErrorKind::Unavailable, "The server stops: it cannot be unsealed any more.")
        })?;
        tracing::info!(seal = seal.id, kind = seal.kind, "the server was unsealed");
        Ok(json!({ "state": "starting", "openedBy": shown(&seal) }))
    }

    async fn add(&self, parts: &Parts, body: Body) -> Result<Value> {
        let caller = caller(parts, Right::Seals)?;
        let Add { new, replace } = body::read(parts, body).await?;
        let kms = self.kms()?;
        let new = match new {
            body::New::Seal(new) => new,
            body::New::WrappedBy(kind) => NewSeal::Wrapped(self.wrap(&kind)?),
        };
        let added = kms.add_seal(&caller, new, replace).await?;
        let mut told = json!({ "seal": shown(&added.seal) });
        if let (false, Some(told)) = (added.shares.is_empty(), told.as_object_mut()) {
            let texts: Vec<_> = added.shares.iter().map(|share| text(share.expose_text().expose())).collect();
            told.insert("shares".to_owned(), texts.into());
        }
        Ok(told)
    }

    async fn remove(&self, parts: &Parts, id: u32) -> Result<Value> {
        let caller = caller(parts, Right::Seals)?;
        self.kms()?.remove_seal(&caller, id).await?;
        Ok(json!({}))
    }

    fn wrap(&self, kind: &str) -> Result<Arc<dyn RootWrap>> {
        let found = self.0.wraps.iter().find(|wrap| match wrap.place() {
            WrapPlace::CloudKms { .. } => kind == "cloud-kms",
            WrapPlace::Pkcs11 { .. } => kind == "pkcs11",
        });
        found.cloned().ok_or_else(|| {
            Error::precondition(format!(
                "The server was not started with a key of the kind '{kind}': see --root-kms-key and --root-pkcs11-module of 'claviger serve'."
            ))
        })
    }

    fn kms(&self) -> Result<Arc<Kms>> {
        match self.state() {
            State::Open(kms) => Ok(kms),
            State::Sealed(_) | State::Starting(_) => Err(self.refusal()),
            State::Elsewhere(place) => {
                Err(Error::precondition(format!("The keys of this server are at {place}: ask there.")))
            }
        }
    }

    fn state(&self) -> State {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, state: State) {
        *self.0.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }
}

impl Attempts {
    /// Refuses a passphrase that comes too soon after a wrong one.
    fn admit(&self, now: Duration) -> Result<()> {
        match self.not_before.checked_sub(now) {
            Some(left) if !left.is_zero() => Err(Error::new(
                ErrorKind::ResourceExhausted,
                format!(
                    "After a wrong passphrase the next one waits: try again in {} s.",
                    left.as_secs() + 1
                ),
            )),
            _ => Ok(()),
        }
    }

    fn was_wrong(&mut self, now: Duration) {
        let wait = FIRST_WAIT.saturating_mul(2_u32.saturating_pow(self.wrong)).min(LONGEST_WAIT);
        self.wrong = self.wrong.saturating_add(1);
        self.not_before = now + wait;
    }

    /// Keeps a share that was checked; tells which ones of its set there are.
    fn keep(&mut self, share: Share) -> Result<Value> {
        let is_kept = |kept: &Share| (kept.set(), kept.number()) == (share.set(), share.number());
        if self.shares.iter().any(is_kept) {
            return Err(Error::already_exists(format!("Share {} was given already.", share.number())));
        }
        if self.shares.len() >= SHARES_KEPT {
            return Err(Error::new(
                ErrorKind::ResourceExhausted,
                "Too many shares were given: let the server forget them.",
            ));
        }
        self.shares.push(share);
        Ok(self.shares.last().map_or(Value::Null, |share| self.told(share)))
    }

    fn told(&self, of: &Share) -> Value {
        let given = self.shares.iter().filter(|share| share.set() == of.set());
        let mut numbers: Vec<u8> = given.map(Share::number).collect();
        numbers.sort_unstable();
        json!({ "set": of.set(), "given": numbers, "needed": of.threshold() })
    }

    /// The shares of the last one's set, when they are enough. They are not kept further: were they not to open, all
    /// would be given anew.
    fn enough(&mut self) -> Option<Vec<Share>> {
        let last = self.shares.last()?;
        let (set, needed) = (last.set().to_owned(), usize::from(last.threshold()));
        if self.shares.iter().filter(|share| share.set() == set).count() < needed {
            return None;
        }
        let (of_set, others) = self.shares.drain(..).partition(|share| share.set() == set);
        self.shares = others;
        Some(of_set)
    }
}

/// Who calls, if they may ask for this.
fn caller(parts: &Parts, right: Right) -> Result<Caller> {
    auth::allow(&parts.extensions, right, "the seals of the server")?;
    auth::caller(&parts.extensions)
}

fn shown(seal: &SealInfo) -> Value {
    let SealInfo { id, kind, detail, create_time } = seal;
    let time = create_time.map(|time| {
        let (seconds, nanos) = time.seconds_and_nanos();
        prost_types::Timestamp { seconds, nanos }.to_string()
    });
    json!({ "id": id, "kind": kind, "detail": detail, "createTime": time })
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn reply(value: &Value) -> Response<Body> {
    let mut response = Response::new(Body::from(format!("{value}\n")));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json; charset=UTF-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests;
