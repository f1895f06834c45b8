//! What a certificate says (RFC 5280), for those who look at one. Whether it can be trusted is not told here.
//!
//! Invariant: bytes that are no certificate are refused and never panic.

use x509_cert::Certificate;
use x509_cert::attr::AttributeTypeAndValue;
use x509_cert::der::asn1::{ObjectIdentifier, PrintableStringRef, Utf8StringRef};
use x509_cert::der::{Decode as _, DecodePem as _, Encode as _};
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{BasicConstraints, SubjectAltName};

use crate::error::{Error, ErrorKind, Result};
use crate::sha256;

const NO_CERTIFICATE: Error = Error::new(ErrorKind::BadInput, "this is no X.509 certificate");
/// id-at-commonName.
const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");
const PEM_BEGIN: &str = "-----BEGIN CERTIFICATE-----";

/// What a certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Details {
    /// Who signed it, as RFC 4514 writes names.
    pub issuer: String,
    /// Whose it is.
    pub subject: String,
    /// The common name of the subject; the last, when there are several.
    pub common_name: Option<String>,
    /// The DNS names that it is for.
    pub dns_names: Vec<String>,
    /// The URIs that it is for.
    pub uris: Vec<String>,
    /// When it begins to hold, in seconds since the Unix epoch.
    pub not_before: u64,
    /// When it ends, in seconds since the Unix epoch.
    pub not_after: u64,
    /// Its number, in hexadecimal.
    pub serial: String,
    /// The SHA-256 of its DER, in hexadecimal.
    pub sha256: String,
    /// Whether it may sign other certificates.
    pub is_ca: bool,
}

/// What a certificate in DER says.
///
/// # Errors
/// [`ErrorKind::BadInput`] when it is none.
pub fn details(der: &[u8]) -> Result<Details> {
    let certificate = Certificate::from_der(der).map_err(|_| NO_CERTIFICATE)?;
    let tbs = &certificate.tbs_certificate;
    let names = tbs.get::<SubjectAltName>().map_err(|_| NO_CERTIFICATE)?;
    let (mut dns_names, mut uris) = (Vec::new(), Vec::new());
    for name in names.iter().flat_map(|(_, names)| &names.0) {
        match name {
            GeneralName::DnsName(name) => dns_names.push(name.as_str().to_owned()),
            GeneralName::UniformResourceIdentifier(uri) => uris.push(uri.as_str().to_owned()),
            _ => {}
        }
    }
    let parts = tbs.subject.0.iter().flat_map(|part| part.0.iter());
    let common_name = parts.filter(|part| part.oid == COMMON_NAME).filter_map(text).next_back();
    let constraints = tbs.get::<BasicConstraints>().map_err(|_| NO_CERTIFICATE)?;
    Ok(Details {
        issuer: tbs.issuer.to_string(),
        subject: tbs.subject.to_string(),
        common_name,
        dns_names,
        uris,
        not_before: tbs.validity.not_before.to_unix_duration().as_secs(),
        not_after: tbs.validity.not_after.to_unix_duration().as_secs(),
        serial: hex(tbs.serial_number.as_bytes()),
        sha256: hex(&sha256(&[der])),
        is_ca: constraints.is_some_and(|(_, constraints)| constraints.ca),
    })
}

/// The text of a part of a name, in one of the forms that RFC 5280 lets be written today.
fn text(part: &AttributeTypeAndValue) -> Option<String> {
    let utf8 = part.value.decode_as::<Utf8StringRef<'_>>().map(|text| text.as_str().to_owned());
    let printable = || part.value.decode_as::<PrintableStringRef<'_>>().map(|text| text.as_str().to_owned());
    utf8.or_else(|_| printable()).ok()
}

/// The certificates of a text in PEM (RFC 7468), in DER. Other parts are skipped.
///
/// # Errors
/// [`ErrorKind::BadInput`] when there is none, or one that cannot be read.
pub fn from_pem(pem: &str) -> Result<Vec<Vec<u8>>> {
    let end = PEM_BEGIN.replace("BEGIN", "END");
    let blocks = pem.match_indices(PEM_BEGIN).map(|(at, _)| {
        let rest = pem.get(at..).unwrap_or_default();
        let len = rest.find(&end).ok_or(NO_CERTIFICATE)? + end.len();
        let certificate = Certificate::from_pem(rest.get(..len).unwrap_or_default());
        certificate.and_then(|certificate| certificate.to_der()).map_err(|_| NO_CERTIFICATE)
    });
    let certificates: Vec<_> = blocks.collect::<Result<_>>()?;
    if certificates.is_empty() { Err(NO_CERTIFICATE) } else { Ok(certificates) }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = include_str!("tls/testdata/self.pem");
    const CA: &str = include_str!("tls/testdata/ca.pem");

    #[test]
    fn a_certificate_is_read_as_openssl_reads_it() {
        let der = from_pem(&format!("before\n{OWN}between\n{CA}")).unwrap();
        assert_eq!(der.len(), 2);
        let details = details(&der[0]).unwrap();
        assert_eq!(details.subject, "CN=ekm.example.com,O=Partner");
        assert_eq!(details.issuer, details.subject);
        assert_eq!(details.common_name.as_deref(), Some("ekm.example.com"));
        assert_eq!(details.dns_names, ["ekm.example.com", "localhost"]);
        assert!(details.uris.is_empty());
        assert_eq!(details.serial, "3db668100ddcaa2a6c816fd80b1d3e5641fcf5be");
        assert!(details.sha256.starts_with("47e4345df6fd900b") && !details.is_ca);
        assert_eq!((details.not_before, details.not_after), (1_795_441_171, 4_949_041_171));
        assert!(super::details(&der[1]).unwrap().is_ca);
    }

    #[test]
    fn what_is_no_certificate_is_refused() {
        let der = from_pem(OWN).unwrap().remove(0);
        for len in 0..der.len() {
            assert!(details(&der[..len]).is_err(), "{len}");
        }
        for pem in ["", "text", PEM_BEGIN, &OWN[..200], &OWN.replace("MII", "!!!")] {
            assert!(from_pem(pem).is_err(), "{pem}");
        }
    }
}
