//! Who shows a certificate.
//!
//! Invariant: no certificate makes anyone a service agent, or what Claviger itself is.

use claviger_core::{Caller, Error, Result};
use claviger_crypto::certificate::{self, Details};
use claviger_kms::agents::Service;

/// The domain of what Claviger itself does.
const OWN_DOMAIN: &str = "claviger.local";
/// The kinds of IAM members that a URI in a certificate may be.
const MEMBERS: [&str; 2] = ["user:", "serviceAccount:"];
/// Bytes of a name, at most.
const MAX_NAME: usize = 254;

/// Who is at the other end of a connection, by its certificate. The connection puts it beside each of its requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Peer(pub(super) Caller);

impl Peer {
    /// Who shows a certificate, in DER, that was found right. `admins` are administrators.
    ///
    /// # Errors
    /// `Unauthenticated` when it names no one, or one whom no certificate can name.
    pub(crate) fn of(certificate: &[u8], admins: &[String]) -> Result<Self> {
        let wrong = |why: &str| Error::new(claviger_core::ErrorKind::Unauthenticated, why);
        let details =
            certificate::details(certificate).map_err(|_| wrong("The certificate cannot be read."))?;
        let principal = principal(&details).ok_or_else(|| {
            wrong("The certificate names no one: it needs a URI, a DNS name or a common name that is not reserved.")
        })?;
        Ok(Self(if admins.contains(&principal) {
            Caller::administrator(principal)
        } else {
            Caller::new(principal)
        }))
    }
}

/// The principal that a certificate names: its first URI, else its first DNS name, else its common name.
fn principal(details: &Details) -> Option<String> {
    let name = details.uris.first().or(details.dns_names.first()).or(details.common_name.as_ref())?;
    let is_name = !name.is_empty() && name.len() <= MAX_NAME && name.bytes().all(|b| b.is_ascii_graphic());
    let is_uri = !details.uris.is_empty();
    let is_member = is_uri && MEMBERS.iter().any(|kind| name.starts_with(kind));
    let principal = if is_member { name.clone() } else { format!("principal:{name}") };
    (is_name && !(is_member && is_reserved(&principal))).then_some(principal)
}

/// Whether a member is one whom no certificate can name: a service agent, or what Claviger itself is.
fn is_reserved(member: &str) -> bool {
    let member_lower = member.to_ascii_lowercase();
    let Some((_, domain)) = member_lower.rsplit_once('@') else { return true };
    let domain = domain.trim_end_matches('.');
    let own = domain == OWN_DOMAIN || domain.ends_with(&format!(".{OWN_DOMAIN}"));
    let agent = Service::ALL.iter().any(|service| service.agent_email(0).ends_with(&format!("@{domain}")));
    own || agent || domain.starts_with("gcp-sa-")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn details(uris: &[&str], dns_names: &[&str], common_name: Option<&str>) -> Details {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Details {
            issuer: String::new(),
            subject: String::new(),
            common_name: common_name.map(str::to_owned),
            dns_names: owned(dns_names),
            uris: owned(uris),
            not_before: 0,
            not_after: 0,
            serial: String::new(),
            sha256: String::new(),
            is_ca: false,
        }
    }

    #[test]
    fn a_certificate_names_its_owner_by_uri_then_dns_name_then_common_name() {
        for (details, expected) in [
            (
                details(&["spiffe://corp/data-1"], &["d.example.com"], Some("cn")),
                "principal:spiffe://corp/data-1",
            ),
            (details(&["user:ada@example.com"], &[], None), "user:ada@example.com"),
            (
                details(&["serviceAccount:a@p.iam.gserviceaccount.com"], &[], None),
                "serviceAccount:a@p.iam.gserviceaccount.com",
            ),
            (details(&[], &["d.example.com", "e.example.com"], Some("cn")), "principal:d.example.com"),
            (details(&[], &[], Some("data-1")), "principal:data-1"),
            // Only a URI can be a member of IAM.
            (details(&[], &[], Some("user:ada@example.com")), "principal:user:ada@example.com"),
        ] {
            assert_eq!(principal(&details).as_deref(), Some(expected));
        }
    }

    #[test]
    fn no_certificate_makes_anyone_a_service_agent_or_the_administrator() {
        for uri in [
            "serviceAccount:service-1@gcp-sa-bigtable.iam.gserviceaccount.com",
            "serviceAccount:service-1@GCP-SA-bigtable.iam.gserviceaccount.com",
            "serviceAccount:service-1@gs-project-accounts.iam.gserviceaccount.com",
            "serviceAccount:service-1@dataflow-service-producer-prod.iam.gserviceaccount.com.",
            "serviceAccount:platform@claviger.local",
            "user:admin@claviger.local",
            "user:admin@a.claviger.local",
            "user:ada",
            "user:ada@example.com smith",
            "",
        ] {
            assert_eq!(principal(&details(&[uri], &["d"], None)), None, "{uri}");
        }
        assert_eq!(principal(&details(&[], &[], None)), None);
        assert_eq!(principal(&details(&[], &[], Some(""))), None);
    }
}
