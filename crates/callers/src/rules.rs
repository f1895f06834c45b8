//! Who is known, by which keys, and what they may ask for.
//!
//! Invariant: a service account signs for itself alone; an identity provider vouches for its subjects, and for e-mail
//! addresses of the domains that it was given alone.

use std::collections::{HashMap, HashSet};

use claviger_core::{Caller, Error, Result};

use crate::Known;
use crate::jwt::{Claims, Jwt, unknown, wrong};
use crate::keys::Keys;
use crate::principal;
use crate::rights::{self, Rights};

/// Seconds that a token which an account signs itself may be good for; Google's figure.
const LONGEST_SELF_SIGNED: u64 = 3600;
/// Seconds that a token of an identity provider may be good for.
const LONGEST_OF_ISSUER: u64 = 24 * 3600;
/// What assertions of Google's clients are for, whatever their token_uri is.
const GOOGLE_TOKEN_URLS: [&str; 3] = [
    "https://oauth2.googleapis.com/token",
    "https://www.googleapis.com/oauth2/v4/token",
    "https://accounts.google.com/o/oauth2/token",
];
/// The path of the place where assertions are exchanged.
const TOKEN_PATH: &str = "token";

/// See the module's text. Addresses and principals are in lower case where tokens give them so.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    /// URLs of this server, without a `/` at their ends.
    pub(crate) audiences: HashSet<String>,
    /// Whether tokens may be for Google's services.
    pub(crate) google: bool,
    pub(crate) administrators: HashSet<String>,
    /// Service accounts by their addresses.
    pub(crate) accounts: HashMap<String, Keys>,
    /// Identity providers by their URLs.
    pub(crate) issuers: HashMap<String, Provider>,
    /// Rights by principal.
    pub(crate) granted: HashMap<String, Rights>,
    /// Rights of users by domain.
    pub(crate) granted_to_domains: HashMap<String, Rights>,
    pub(crate) granted_to_all: Rights,
}

/// An identity provider (OpenID Connect).
#[derive(Debug)]
pub(crate) struct Provider {
    pub(crate) audiences: HashSet<String>,
    pub(crate) keys: Keys,
    /// Domains whose e-mail addresses it vouches for.
    pub(crate) email_domains: HashSet<String>,
}

/// What an assertion was found to be good for.
#[derive(Debug)]
pub(crate) struct Grant {
    pub(crate) email: String,
    /// The key that signed.
    pub(crate) key: [u8; 32],
    pub(crate) scopes: Rights,
}

impl Rules {
    /// Whose token this is.
    ///
    /// # Errors
    /// `Unauthenticated`.
    pub(crate) fn check(&self, token: &str, now: u64) -> Result<Known> {
        let jwt = Jwt::parse(token)?;
        let (principal, reach) = match self.issuers.get(&jwt.claims.iss) {
            Some(provider) => (provider.check(&jwt, now)?, Rights::ALL),
            None => {
                let (email, _) = self.check_account(&jwt, now)?;
                if jwt.claims.sub.is_none() {
                    return Err(wrong("lacks a claim: sub"));
                }
                (format!("serviceAccount:{email}"), self.reach(&jwt.claims)?)
            }
        };
        Ok(self.known(principal, reach, jwt.claims.exp))
    }

    /// The caller that a principal is, with a token that lets ask for `reach`.
    pub(crate) fn known(&self, principal: String, reach: Rights, expires: u64) -> Known {
        let is_administrator = self.administrators.contains(&principal);
        let rights = if is_administrator { Rights::ALL } else { self.rights(&principal) };
        let caller = if is_administrator { Caller::administrator(principal) } else { Caller::new(principal) };
        Known { caller, rights: rights.within(reach), expires }
    }

    fn rights(&self, principal: &str) -> Rights {
        let own = self.granted.get(principal).copied().unwrap_or_default();
        let domain = principal.strip_prefix("user:").and_then(|user| user.rsplit_once('@'));
        let of_domain = domain.and_then(|(_, domain)| self.granted_to_domains.get(domain)).copied();
        Rights::KNOWN.and(own).and(of_domain.unwrap_or_default()).and(self.granted_to_all)
    }

    /// The service account that signed, and the fingerprint of its key.
    fn check_account(&self, jwt: &Jwt<'_>, now: u64) -> Result<(String, [u8; 32])> {
        let email = principal::email(&jwt.claims.iss).ok_or_else(unknown)?;
        let keys = self.accounts.get(&email).ok_or_else(unknown)?;
        let key = jwt.verify(keys, LONGEST_SELF_SIGNED, now)?;
        if jwt.claims.sub.as_ref().is_some_and(|sub| *sub != jwt.claims.iss) {
            return Err(wrong(
                "is for another subject than who signed it: accounts speak for themselves alone",
            ));
        }
        if jwt.claims.target_audience.is_some() {
            return Err(wrong("asks for an ID token, which is not built"));
        }
        Ok((email, key))
    }

    /// What a token that an account signed itself lets ask for: by its scopes, and by whom it is for.
    fn reach(&self, claims: &Claims) -> Result<Rights> {
        let scopes = claims.scope.as_deref().map(rights::of_scopes);
        let reach = match (claims.aud.all(), scopes) {
            ([], Some(scopes)) if self.google => scopes,
            ([], _) => return Err(wrong("is for nobody: it has no audience of this server")),
            (audiences, scopes) => {
                let of = |audience: &String| self.of_audience(audience);
                let reach = audiences.iter().map(of).fold(Rights::NONE, Rights::and);
                reach.within(scopes.unwrap_or(Rights::ALL))
            }
        };
        if reach == Rights::NONE { Err(wrong("is for another audience")) } else { Ok(reach) }
    }

    /// What a token for this audience lets ask for: a URL of ours, or of one of Google's services. Old clients add the
    /// name of the gRPC service as the path.
    fn of_audience(&self, audience: &str) -> Rights {
        let bare = audience.trim_end_matches('/');
        if self.audiences.contains(bare) {
            return Rights::ALL;
        }
        let service = bare.rsplit_once('/').filter(|(_, path)| path.starts_with("google."));
        let base = service.map_or(bare, |(base, _)| base);
        if service.is_some() && self.audiences.contains(base) {
            return Rights::ALL;
        }
        match base.strip_prefix("https://") {
            Some(host) if self.google => rights::of_google_host(host),
            _ => Rights::NONE,
        }
    }

    /// What an assertion is good for that an account signed.
    ///
    /// # Errors
    /// `Unauthenticated`; `InvalidArgument` when its scopes give nothing here.
    pub(crate) fn check_assertion(&self, assertion: &str, now: u64) -> Result<Grant> {
        let jwt = Jwt::parse(assertion)?;
        let own = |audience: &str| {
            let base = audience.strip_suffix(TOKEN_PATH).and_then(|base| base.strip_suffix('/'));
            base.is_some_and(|base| self.audiences.contains(base))
        };
        let is_ours = |audience: &String| {
            own(audience) || (self.google && GOOGLE_TOKEN_URLS.contains(&audience.as_str()))
        };
        // Verified before anything else is told of it.
        let (email, key) = self.check_account(&jwt, now)?;
        match jwt.claims.aud.all() {
            [one] if is_ours(one) => {}
            _ => return Err(wrong("is for another audience than the place where tokens are exchanged")),
        }
        let scopes = rights::of_scopes(jwt.claims.scope.as_deref().unwrap_or_default());
        if scopes == Rights::NONE {
            return Err(Error::invalid(
                "The assertion has no scope that gives anything here: ask for https://www.googleapis.com/auth/cloud-platform.",
            ));
        }
        Ok(Grant { email, key, scopes })
    }

    /// Whether an account still has a key.
    pub(crate) fn has_key(&self, email: &str, key: &[u8], now: u64) -> bool {
        self.accounts.get(email).is_some_and(|keys| keys.has(key, now))
    }
}

impl Provider {
    /// The principal that a token of this provider is about.
    fn check(&self, jwt: &Jwt<'_>, now: u64) -> Result<String> {
        jwt.verify(&self.keys, LONGEST_OF_ISSUER, now)?;
        let Claims { iss, sub, aud, email, email_verified, .. } = &jwt.claims;
        if !aud.all().iter().any(|audience| self.audiences.contains(audience)) {
            return Err(wrong("is for another audience"));
        }
        let is_verified = email_verified.as_ref().and_then(serde_json::Value::as_bool) == Some(true);
        let address = email.as_deref().filter(|_| is_verified);
        let vouched = address.filter(|address| {
            let domain = address.rsplit_once('@').map(|(_, domain)| domain.to_ascii_lowercase());
            domain.is_some_and(|domain| self.email_domains.contains(&domain))
        });
        let named = match vouched {
            Some(address) => principal::of_email(address),
            None => sub.as_deref().and_then(|sub| principal::of_subject(iss, sub)),
        };
        named.ok_or_else(|| wrong("does not say whose it is in a form that this server takes"))
    }
}
