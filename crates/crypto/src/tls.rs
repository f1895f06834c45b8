//! TLS 1.2 and 1.3 as others see it: whom a client trusts, and what a server shows. No connection is made here.
//!
//! Invariant: a server is always checked, by its name and by the time, whatever it is trusted by. With pinned
//! certificates nothing else is trusted: neither the machine's roots nor what a pinned leaf may have signed.

use std::fmt;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::time_provider::TimeProvider;
use rustls::{CertificateError, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::certificate;
use crate::error::{Error, ErrorKind, Result};

pub use rustls::{ClientConfig, ServerConfig};

/// Whom a client trusts.
#[derive(Clone, Debug)]
pub enum Trust {
    /// Whatever one of these certification authorities, in DER, vouches for.
    Roots(Vec<Vec<u8>>),
    /// These certificates, in DER: leaves, and authorities with what they vouch for.
    Pinned(Vec<Vec<u8>>),
}

/// The time of day, in seconds since the Unix epoch.
pub type Now = Arc<dyn Fn() -> u64 + Send + Sync>;

struct Time(Now);

impl fmt::Debug for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Time")
    }
}

impl TimeProvider for Time {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(std::time::Duration::from_secs((self.0)())))
    }
}

/// What one end shows of itself: a chain of certificates, its own first, and the key of that one.
pub struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("certificates", &self.chain.len()).finish_non_exhaustive()
    }
}

impl Identity {
    /// Reads both from PEM.
    ///
    /// # Errors
    /// [`ErrorKind::BadInput`] when one cannot be read. Whether they belong together is looked at when they are used.
    pub fn from_pem(chain_pem: &str, key_pem: &[u8]) -> Result<Self> {
        let chain = certificate::from_pem(chain_pem)?.into_iter().map(CertificateDer::from).collect();
        let key = PrivateKeyDer::from_pem_slice(key_pem)
            .map_err(|_| Error::new(ErrorKind::BadInput, "this is no private key in PEM"))?;
        Ok(Self { chain, key })
    }
}

fn unfit(_: rustls::Error) -> Error {
    Error::new(ErrorKind::BadInput, "the certificate and its key do not fit")
}

/// A client that trusts `trust` alone and shows nothing of itself.
///
/// # Errors
/// [`ErrorKind::BadInput`] for a certificate that cannot be read, or when there is none.
pub fn client(trust: Trust, now: Now) -> Result<Arc<ClientConfig>> {
    client_as(trust, None, &[], now)
}

/// A client that trusts `trust` alone, shows who it is when it is asked, and speaks one of `protocols` (of ALPN).
///
/// # Errors
/// [`ErrorKind::BadInput`] for a certificate that cannot be read, when there is none to trust, or when the identity's
/// parts do not belong together.
pub fn client_as(
    trust: Trust,
    identity: Option<Identity>,
    protocols: &[&[u8]],
    now: Now,
) -> Result<Arc<ClientConfig>> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let (pins, roots) = match trust {
        Trust::Roots(roots) => (Vec::new(), roots),
        Trust::Pinned(pins) => {
            let mut roots = Vec::new();
            for pin in &pins {
                // A leaf is trusted as it is; what its key signs is not.
                if certificate::details(pin)?.is_ca {
                    roots.push(pin.clone());
                }
            }
            (pins, roots)
        }
    };
    let chain = if roots.is_empty() {
        None
    } else {
        let mut store = RootCertStore::empty();
        // The machine's own store may hold old ones that cannot be read.
        store.add_parsable_certificates(roots.into_iter().map(CertificateDer::from));
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider.clone()).build();
        Some(verifier.map_err(|_| Error::new(ErrorKind::BadInput, "no authority can be trusted"))?)
    };
    if chain.is_none() && pins.is_empty() {
        return Err(Error::new(ErrorKind::BadInput, "there is no certificate to trust"));
    }
    let verifier = Arc::new(Verifier { pins, chain, provider: provider.clone() });
    let config = ClientConfig::builder_with_details(provider, Arc::new(Time(now)))
        .with_safe_default_protocol_versions()
        .map_err(|_| Error::new(ErrorKind::BadInput, "no version of TLS can be spoken"))?;
    let config = config.dangerous().with_custom_certificate_verifier(verifier);
    let mut config = match identity {
        Some(Identity { chain, key }) => config.with_client_auth_cert(chain, key).map_err(unfit)?,
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(Arc::new(config))
}

/// A server that shows a chain of certificates, its own first; all in PEM.
///
/// # Errors
/// [`ErrorKind::BadInput`] when they cannot be read or do not belong together.
pub fn server(chain_pem: &str, key_pem: &[u8]) -> Result<Arc<ServerConfig>> {
    let Identity { chain, key } = Identity::from_pem(chain_pem, key_pem)?;
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(unfit)?;
    Ok(Arc::new(config.with_no_client_auth().with_single_cert(chain, key).map_err(unfit)?))
}

/// A server that shows `identity` and speaks one of `protocols` (of ALPN). With authorities, in DER, it takes clients
/// alone that show a certificate that one of these vouches for.
///
/// # Errors
/// [`ErrorKind::BadInput`] when the identity's parts do not belong together, or an authority cannot be read.
pub fn server_as(
    identity: Identity,
    clients: Option<Vec<Vec<u8>>>,
    protocols: &[&[u8]],
    now: Now,
) -> Result<Arc<ServerConfig>> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_details(provider.clone(), Arc::new(Time(now)))
        .with_safe_default_protocol_versions()
        .map_err(unfit)?;
    let config = match clients {
        None => config.with_no_client_auth(),
        Some(authorities) => {
            let wrong = || Error::new(ErrorKind::BadInput, "this is no certificate of an authority");
            let mut store = RootCertStore::empty();
            for authority in authorities {
                store.add(CertificateDer::from(authority)).map_err(|_| wrong())?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(store), provider).build();
            config.with_client_cert_verifier(verifier.map_err(|_| wrong())?)
        }
    };
    let mut config = config.with_single_cert(identity.chain, identity.key).map_err(unfit)?;
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(Arc::new(config))
}

/// See [`Trust`].
#[derive(Debug)]
struct Verifier {
    pins: Vec<Vec<u8>>,
    chain: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.pins.iter().any(|pin| pin.as_slice() == end_entity.as_ref()) {
            let parsed = ParsedCertificate::try_from(end_entity)?;
            rustls::client::verify_server_name(&parsed, server_name)?;
            let details = certificate::details(end_entity)
                .map_err(|_| rustls::Error::from(CertificateError::BadEncoding))?;
            return match now.as_secs() {
                now if now < details.not_before => Err(CertificateError::NotValidYet.into()),
                now if now > details.not_after => Err(CertificateError::Expired.into()),
                _ => Ok(ServerCertVerified::assertion()),
            };
        }
        let chain = self.chain.as_ref().ok_or(CertificateError::UnknownIssuer)?;
        chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests;
