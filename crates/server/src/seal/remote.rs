//! A root seal by a key of another KMS, over the public gRPC API of Cloud KMS: Google's own, or a Claviger elsewhere.
//!
//! Invariant: where the KMS is and what is shown to it come from the configuration alone, never from a file beside the
//! keys, so that whoever writes to the disk cannot have a token sent elsewhere. Nothing goes beyond loopback in the
//! clear. What was damaged on the way is noticed (CRC32C, both ways).

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use claviger_core::names::CryptoKeyName;
use claviger_core::{Error, ErrorKind, Result};
use claviger_crypto::{SecretBytes, crc32c};
use claviger_kms::{RootWrap, WrapPlace};
use claviger_proto::google::cloud::kms::v1::key_management_service_client::KeyManagementServiceClient;
use claviger_proto::google::cloud::kms::v1::{DecryptRequest, EncryptRequest};
use http::Uri;
use tonic::metadata::MetadataValue;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Request, Status};

use crate::config::RootKms;
use crate::secrets::{first_line, secret};

/// How long a connection and a call may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A key of another KMS.
pub(super) struct RemoteKms {
    key: CryptoKeyName,
    endpoint: String,
    token_file: Option<PathBuf>,
    client: KeyManagementServiceClient<Channel>,
}

impl fmt::Debug for RemoteKms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteKms")
            .field("key", &self.key)
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}

impl RemoteKms {
    /// Makes ready to call, at the first use.
    ///
    /// # Errors
    /// `InvalidArgument` when the configuration cannot be: a name that is none, an endpoint beyond loopback without TLS;
    /// `FailedPrecondition` when the file of certificates cannot be read.
    pub(super) fn new(config: &RootKms) -> Result<Self> {
        let key = CryptoKeyName::parse(&config.key).map_err(|e| {
            Error::invalid(format!("--root-kms-key is not the name of a key: {}", e.message()))
        })?;
        let told = &config.endpoint;
        let wrong = |why: &str| Error::invalid(format!("--root-kms-endpoint '{told}' {why}"));
        let uri: Uri = told.parse().map_err(|_| wrong("is not a URL"))?;
        let host = uri.host().ok_or_else(|| wrong("names no host"))?;
        let endpoint = Endpoint::from(uri.clone()).connect_timeout(PATIENCE).timeout(PATIENCE);
        let endpoint = match uri.scheme_str() {
            Some("https") => {
                let roots = match &config.ca_file {
                    Some(file) => {
                        ClientTlsConfig::new().ca_certificate(Certificate::from_pem(secret(file)?.expose()))
                    }
                    None => ClientTlsConfig::new().with_native_roots(),
                };
                endpoint.tls_config(roots).map_err(|e| wrong("cannot be reached over TLS").because(e))?
            }
            Some("http") if matches!(host, "localhost" | "127.0.0.1" | "[::1]") => endpoint,
            _ => return Err(wrong("must be https://, or http:// on this machine")),
        };
        Ok(Self {
            key,
            endpoint: told.clone(),
            token_file: config.token_file.clone(),
            client: KeyManagementServiceClient::new(endpoint.connect_lazy()),
        })
    }

    /// A request with the token, which is read each time: tokens are short-lived.
    fn request<T>(&self, message: T) -> Result<Request<T>> {
        let mut request = Request::new(message);
        if let Some(file) = &self.token_file {
            let token = first_line(&secret(file)?);
            let no_token = || Error::precondition(format!("{} does not hold a token", file.display()));
            let token = std::str::from_utf8(token.expose()).map_err(|_| no_token())?;
            let mut value: MetadataValue<_> =
                format!("Bearer {}", token.trim()).parse().map_err(|_| no_token())?;
            value.set_sensitive(true);
            request.metadata_mut().insert("authorization", value);
        }
        Ok(request)
    }

    fn failed(&self, status: Status) -> Error {
        let silent = matches!(
            status.code(),
            Code::Unavailable
                | Code::DeadlineExceeded
                | Code::Cancelled
                | Code::Unknown
                | Code::Aborted
                | Code::ResourceExhausted
                | Code::Internal
        );
        let (kind, what) = if silent {
            (ErrorKind::Unavailable, "does not answer")
        } else {
            (ErrorKind::FailedPrecondition, "refuses")
        };
        let said: String = status.message().chars().take(300).collect();
        Error::new(kind, format!("the KMS at {} {what}, for the key {}: {said}", self.endpoint, self.key))
            .because(status)
    }

    fn damaged(&self) -> Error {
        Error::new(
            ErrorKind::Unavailable,
            format!("what went to the KMS at {} or came from it was damaged on the way", self.endpoint),
        )
    }
}

fn checksum(bytes: &[u8]) -> Option<i64> {
    Some(i64::from(crc32c(bytes)))
}

#[async_trait::async_trait]
impl RootWrap for RemoteKms {
    fn place(&self) -> WrapPlace {
        WrapPlace::CloudKms { key: self.key.to_string() }
    }

    async fn wrap(&self, key: &SecretBytes, aad: &[u8]) -> Result<Vec<u8>> {
        let request = self.request(EncryptRequest {
            name: self.key.to_string(),
            plaintext: key.expose().to_vec().into(),
            additional_authenticated_data: aad.to_vec().into(),
            plaintext_crc32c: checksum(key.expose()),
            additional_authenticated_data_crc32c: checksum(aad),
        })?;
        let reply =
            self.client.clone().encrypt(request).await.map_err(|status| self.failed(status))?.into_inner();
        let whole = reply.verified_plaintext_crc32c
            && reply.verified_additional_authenticated_data_crc32c
            && reply.ciphertext_crc32c == checksum(&reply.ciphertext);
        if whole { Ok(reply.ciphertext.to_vec()) } else { Err(self.damaged()) }
    }

    async fn unwrap(&self, wrapped: &[u8], aad: &[u8]) -> Result<SecretBytes> {
        let request = self.request(DecryptRequest {
            name: self.key.to_string(),
            ciphertext: wrapped.to_vec().into(),
            additional_authenticated_data: aad.to_vec().into(),
            ciphertext_crc32c: checksum(wrapped),
            additional_authenticated_data_crc32c: checksum(aad),
        })?;
        let reply =
            self.client.clone().decrypt(request).await.map_err(|status| self.failed(status))?.into_inner();
        let whole = reply.plaintext_crc32c == checksum(&reply.plaintext);
        let plaintext = SecretBytes::new(Vec::from(reply.plaintext));
        if whole { Ok(plaintext) } else { Err(self.damaged()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(key: &str, endpoint: &str) -> Result<RemoteKms> {
        let (key, endpoint) = (key.to_owned(), endpoint.to_owned());
        RemoteKms::new(&RootKms { key, endpoint, ca_file: None, token_file: None })
    }

    const KEY: &str = "projects/p/locations/l/keyRings/r/cryptoKeys/k";

    #[tokio::test]
    async fn what_cannot_be_called_safely_is_refused_by_name() {
        for (key, endpoint, part) in [
            ("k", "https://cloudkms.googleapis.com", "--root-kms-key"),
            (KEY, "http://cloudkms.googleapis.com", "must be https://"),
            (KEY, "http://127.0.0.1.example.com", "must be https://"),
            (KEY, "ftp://127.0.0.1", "must be https://"),
            (KEY, "/", "names no host"),
            (KEY, "a b", "is not a URL"),
        ] {
            let error = made(key, endpoint).unwrap_err();
            assert!(error.message().contains(part), "{endpoint}: {error}");
        }
        for endpoint in ["http://127.0.0.1:1", "http://localhost:1", "http://[::1]:1"] {
            made(KEY, endpoint).unwrap();
        }
    }

    #[tokio::test]
    async fn nothing_that_answers_is_silence_and_no_refusal() {
        let remote = made(KEY, "http://127.0.0.1:1").unwrap();
        let error = remote.unwrap(b"x", b"a").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.message().contains("http://127.0.0.1:1 does not answer"), "{error}");
    }

    #[tokio::test]
    async fn a_token_is_read_at_each_use_and_does_not_show() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        let mut remote = made(KEY, "http://127.0.0.1:1").unwrap();
        remote.token_file = Some(file.clone());
        assert_eq!(remote.request(()).unwrap_err().kind(), ErrorKind::FailedPrecondition);
        for token in ["one", "two"] {
            std::fs::write(&file, format!("{token}\n")).unwrap();
            let request = remote.request(()).unwrap();
            let value = request.metadata().get("authorization").unwrap();
            assert_eq!(value.to_str().unwrap(), format!("Bearer {token}"));
            assert!(!format!("{request:?}").contains(token), "{request:?}");
        }
    }
}
