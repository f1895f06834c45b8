//! Who calls, and what they may ask for (docs/adr/0016).
//!
//! Invariant: every request passes [`Callers::admit`] before anything looks at it, and what it reaches asks again for
//! the right that it needs; a request without an identity has none. A server that asks no one who they are, by a file of
//! callers or by certificates, listens on loopback only (the configuration refuses anything else), so whoever reaches
//! it is the local administrator: no header changes that. What is open to everybody is named in [`is_open`] and in `methods.rs`, and nowhere else.

mod certificate;
mod exchange;
mod methods;
mod refusal;
#[cfg(test)]
pub(crate) mod tests;

use std::net::SocketAddr;
use std::sync::Arc;

use claviger_callers::{Known, Right};
use claviger_core::{Caller, Clock, Error, ErrorKind, Result};
use http::header::AUTHORIZATION;
use http::{Extensions, HeaderMap, Method, Request};
use tokio::task::JoinHandle;

use crate::beam::fn_api;
use crate::config::ServeConfig;
use crate::ekm::EkmApi;
use crate::http::Answer;

pub(crate) use certificate::Peer;
pub(crate) use methods::Guarded;

/// How the header of a token begins; the case of its letters does not matter (RFC 9110).
const BEARER: &[u8] = b"bearer ";

/// Who may call.
#[derive(Clone, Debug)]
pub(crate) enum Callers {
    /// Whoever reaches this server, as the local administrator.
    Local,
    /// Those whose tokens are right.
    Tokens(Arc<claviger_callers::Callers>),
}

/// Who calls, on every request that was admitted.
#[derive(Clone, Debug)]
pub(crate) enum Identity {
    /// The local administrator.
    Local,
    /// The owner of a token, or of a certificate where a file of callers says what they may.
    Known(Arc<Known>),
    /// The owner of a certificate.
    Peer(Peer),
}

/// What becomes of a request.
pub(crate) enum Admitted<B> {
    /// It goes on. An identity is missing for what is open to everybody alone.
    Go(Request<B>, Option<Identity>),
    /// It asks for a token.
    Exchange(Arc<claviger_callers::Callers>, Request<B>),
    /// It is answered already.
    Refused(Answer),
}

impl Callers {
    /// Those that a configuration names.
    ///
    /// # Errors
    /// `InvalidArgument` when the file of callers or one that it names is wrong.
    pub(crate) fn open(config: &ServeConfig, address: SocketAddr, clock: &Arc<dyn Clock>) -> Result<Self> {
        let Some(file) = &config.callers else { return Ok(Self::Local) };
        let own = vec![format!("http://{address}"), format!("https://{address}")];
        Ok(Self::Tokens(claviger_callers::Callers::open(file.clone(), own, clock.clone())?))
    }

    /// Starts to look at the files again and again, if there are any.
    pub(crate) fn watch(&self) -> Option<JoinHandle<()>> {
        match self {
            Self::Local => None,
            Self::Tokens(callers) => Some(tokio::spawn(callers.clone().run())),
        }
    }

    /// Lets a request in, or answers it. Without a file of callers and certificates this does nothing.
    pub(crate) fn admit<B>(&self, request: Request<B>, grpc: bool) -> Admitted<B> {
        let peer = request.extensions().get::<Peer>();
        let Self::Tokens(callers) = self else {
            let identity = peer.map_or(Identity::Local, |peer| Identity::Peer(peer.clone()));
            return Admitted::Go(request, Some(identity));
        };
        let path = request.uri().path();
        if exchange::matches(path) && !grpc {
            return Admitted::Exchange(callers.clone(), request);
        }
        let peer = peer.filter(|_| !request.headers().contains_key(AUTHORIZATION));
        let identity = match peer {
            Some(peer) if peer.0.is_administrator() => Ok(Identity::Peer(peer.clone())),
            Some(peer) => Ok(Identity::Known(callers.of_certificate(&peer.0.principal))),
            None => identify(callers, request.headers()),
        };
        match identity {
            Ok(identity) => Admitted::Go(request, Some(identity)),
            Err(_) if is_open(request.method(), path) => Admitted::Go(request, None),
            Err(error) => Admitted::Refused(refusal::unauthenticated(
                error,
                request.headers().contains_key(AUTHORIZATION),
                grpc,
            )),
        }
    }
}

pub(crate) use exchange::answer as exchange;

/// Who a request's headers say that it comes from.
fn identify(callers: &claviger_callers::Callers, headers: &HeaderMap) -> Result<Identity> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = values.next().ok_or_else(refusal::missing)?;
    let wrong = || {
        let message = "Request had invalid authentication credentials: the header authorization is to be \
            'Bearer TOKEN', once.";
        Error::new(ErrorKind::Unauthenticated, message)
    };
    let (scheme, token) = value.as_bytes().split_at_checked(BEARER.len()).ok_or_else(wrong)?;
    if !scheme.eq_ignore_ascii_case(BEARER) || values.next().is_some() {
        return Err(wrong());
    }
    let token = std::str::from_utf8(token).map_err(|_| wrong())?.trim();
    callers.check(token).map(Identity::Known)
}

/// Whether anybody may ask for this: whether the server lives, the key that its requests to external key managers are
/// signed with, and what workers ask, whose names nobody guesses.
fn is_open(method: &Method, path: &str) -> bool {
    match path {
        "/healthz" | "/readyz" => matches!(*method, Method::GET | Method::HEAD),
        path => EkmApi::matches(path) || fn_api::is_for_workers(path),
    }
}

impl Identity {
    /// The caller, for policies and the audit log.
    fn caller(&self) -> Caller {
        match self {
            Self::Local => Caller::local_admin(),
            Self::Known(known) => known.caller.clone(),
            Self::Peer(peer) => peer.0.clone(),
        }
    }

    /// Whether they may ask for something.
    pub(crate) fn has(&self, right: Right) -> bool {
        match self {
            Self::Local => true,
            Self::Known(known) => known.rights.has(right),
            // Without a file of callers a certificate is for all data of the server. The seals are the administrators'.
            Self::Peer(peer) => right != Right::Seals || peer.0.is_administrator(),
        }
    }

    fn allow(&self, right: Right, what: &str) -> Result<()> {
        if self.has(right) {
            return Ok(());
        }
        let principal = match self {
            Self::Local => Caller::LOCAL_ADMIN,
            Self::Known(known) => &known.caller.principal,
            Self::Peer(peer) => &peer.0.principal,
        };
        Err(Error::permission_denied(format!(
            "Permission denied on {what}: no role of {principal} gives it on this server, \
             or the scopes or the audience of the token do not."
        )))
    }

    /// Refuses a call of a gRPC method that they may not make.
    pub(crate) fn allow_method(&self, path: &str) -> Result<()> {
        match (self, methods::right(path)) {
            (Self::Local, _) | (_, None) => Ok(()),
            (known, Some(right)) => known.allow(right, path),
        }
    }
}

/// The identity of a request that was admitted.
///
/// # Errors
/// `Unauthenticated` when there is none.
pub(crate) fn identity(extensions: &Extensions) -> Result<&Identity> {
    extensions.get::<Identity>().ok_or_else(refusal::missing)
}

/// Who calls.
///
/// # Errors
/// `Unauthenticated` when nobody is known to.
pub(crate) fn caller(extensions: &Extensions) -> Result<Caller> {
    Ok(identity(extensions)?.caller())
}

/// Refuses whoever may not ask for something.
///
/// # Errors
/// `Unauthenticated` when nobody is known to call; `PermissionDenied`.
pub(crate) fn allow(extensions: &Extensions, right: Right, what: &str) -> Result<()> {
    identity(extensions)?.allow(right, what)
}
