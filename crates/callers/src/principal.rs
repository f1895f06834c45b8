//! Names of callers as IAM has them.
//!
//! Invariant: no token makes anyone a service agent, the KMS itself or the local administrator: the names of these are
//! reserved. A name holds no blank and no control character.

use claviger_core::{Error, Result};

/// The domain of what Claviger itself does.
const OWN: &str = "claviger.local";
/// Domains of service agents; those of most begin with `gcp-sa-`.
const AGENTS: [&str; 2] =
    ["dataflow-service-producer-prod.iam.gserviceaccount.com", "gs-project-accounts.iam.gserviceaccount.com"];
const AGENT: &str = "gcp-sa-";
/// The domain that marks a service account, with what is before it.
const ACCOUNTS: &str = "gserviceaccount.com";
/// Bytes of an e-mail address, at most (RFC 5321).
const MAX_EMAIL: usize = 254;
/// Bytes of a subject, at most (OpenID Connect).
const MAX_SUBJECT: usize = 255;

/// An e-mail address in lower case, unless it is none or reserved.
pub(crate) fn email(text: &str) -> Option<String> {
    let (name, domain) = text.split_once('@')?;
    let fits = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_graphic() && !b"@\"<>()[],;:\\/".contains(&b))
    };
    let email = text.to_ascii_lowercase();
    (text.len() <= MAX_EMAIL && fits(name) && fits(domain) && !is_reserved(&email)).then_some(email)
}

/// Whether an address, in lower case, is of someone whom no token can be of.
fn is_reserved(email: &str) -> bool {
    let Some((_, domain)) = email.rsplit_once('@') else { return true };
    let domain = domain.trim_end_matches('.');
    domain == OWN
        || domain.strip_suffix(OWN).is_some_and(|rest| rest.ends_with('.'))
        || AGENTS.contains(&domain)
        || domain.starts_with(AGENT)
}

/// The principal of a service account, by its address.
pub(crate) fn service_account(address: &str) -> Option<String> {
    Some(format!("serviceAccount:{}", email(address)?))
}

/// The principal of an address that an identity provider vouches for.
pub(crate) fn of_email(address: &str) -> Option<String> {
    let email = email(address)?;
    let (_, domain) = email.rsplit_once('@')?;
    let is_account = domain.strip_suffix(ACCOUNTS).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    Some(if is_account { format!("serviceAccount:{email}") } else { format!("user:{email}") })
}

/// The principal of a subject that an identity provider vouches for. `issuer` is its URL.
pub(crate) fn of_subject(issuer: &str, subject: &str) -> Option<String> {
    let fits =
        !subject.is_empty() && subject.len() <= MAX_SUBJECT && subject.bytes().all(|b| b.is_ascii_graphic());
    fits.then(|| format!("principal://{}/subject/{subject}", without_scheme(issuer)))
}

pub(crate) fn without_scheme(url: &str) -> &str {
    url.split_once("://").map_or(url, |(_, rest)| rest).trim_end_matches('/')
}

/// The name of one caller as it stands in a file, in the form that tokens give it.
///
/// # Errors
/// `InvalidArgument`.
pub(crate) fn parse(text: &str) -> Result<String> {
    let wrong = || {
        Error::invalid(format!(
            "'{text}' is no principal: expected user:EMAIL, serviceAccount:EMAIL or principal://ISSUER/subject/SUBJECT"
        ))
    };
    if let Some(rest) = text.strip_prefix("principal://") {
        let (issuer, subject) = rest.split_once("/subject/").ok_or_else(wrong)?;
        return of_subject(issuer, subject).filter(|_| !issuer.is_empty()).ok_or_else(wrong);
    }
    let (kind, address) = text.split_once(':').ok_or_else(wrong)?;
    let address = email(address).ok_or_else(wrong)?;
    match kind {
        "user" | "serviceAccount" => Ok(format!("{kind}:{address}")),
        _ => Err(wrong()),
    }
}
