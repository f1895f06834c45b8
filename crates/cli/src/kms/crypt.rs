//! Encrypting and decrypting a file under a key.
//!
//! Invariant: every message carries its checksum both ways, and a reply is used only when they agree. A
//! decrypted file can be read by its owner alone.

use std::path::PathBuf;

use bytes::Bytes;
use clap::Args;
use claviger_core::names::CryptoKeyName;
use claviger_crypto::crc32c;
use claviger_proto::google::cloud::kms::v1::{DecryptRequest, EncryptRequest};

use crate::client::Session;
use crate::failure::Failure;
use crate::flags::{read_file, write_file};
use crate::names::InKey;

/// The most plaintext, and the most additional data, that a server takes.
const MAX_PLAINTEXT: u64 = 64 * 1024;
/// More than the ciphertext of the most plaintext.
const MAX_CIPHERTEXT: u64 = 128 * 1024;

pub(crate) const EXAMPLES: &str = "\
Examples:
  claviger kms keys encrypt k --keyring ring --location us-east1 \\
      --plaintext-file secret --ciphertext-file secret.enc
  claviger kms keys decrypt k --keyring ring --location us-east1 \\
      --ciphertext-file secret.enc --plaintext-file -

'-' stands for standard input or output. Plaintexts have at most 64 KiB.";

/// The files of an encryption.
#[derive(Debug, Args)]
pub(crate) struct EncryptFiles {
    /// What to encrypt; '-' is standard input
    #[arg(long, value_name = "FILE")]
    plaintext_file: PathBuf,
    /// Where the ciphertext goes; '-' is standard output
    #[arg(long, value_name = "FILE")]
    ciphertext_file: PathBuf,
    /// Data that is not encrypted and must be given again to decrypt
    #[arg(long, value_name = "FILE")]
    additional_authenticated_data_file: Option<PathBuf>,
    /// Encrypt under this version in place of the primary one
    #[arg(long, value_name = "N")]
    version: Option<String>,
}

/// The files of a decryption.
#[derive(Debug, Args)]
pub(crate) struct DecryptFiles {
    /// What to decrypt; '-' is standard input
    #[arg(long, value_name = "FILE")]
    ciphertext_file: PathBuf,
    /// Where the plaintext goes; '-' is standard output
    #[arg(long, value_name = "FILE")]
    plaintext_file: PathBuf,
    /// The data that was given with the plaintext
    #[arg(long, value_name = "FILE")]
    additional_authenticated_data_file: Option<PathBuf>,
}

/// `claviger kms encrypt`, as `gcloud` has it: the key is a flag.
#[derive(Debug, Args)]
pub(crate) struct EncryptWithKey {
    #[command(flatten)]
    at: InKey,
    #[command(flatten)]
    files: EncryptFiles,
}

/// `claviger kms decrypt`, as `gcloud` has it: the key is a flag.
#[derive(Debug, Args)]
pub(crate) struct DecryptWithKey {
    #[command(flatten)]
    at: InKey,
    #[command(flatten)]
    files: DecryptFiles,
}

/// Runs `claviger kms encrypt`.
///
/// # Errors
/// As [`encrypt`].
pub(crate) async fn encrypt_with_key(session: &Session, options: EncryptWithKey) -> Result<(), Failure> {
    encrypt(session, &options.at.parent(&session.project)?, &options.files).await
}

/// Runs `claviger kms decrypt`.
///
/// # Errors
/// As [`decrypt`].
pub(crate) async fn decrypt_with_key(session: &Session, options: DecryptWithKey) -> Result<(), Failure> {
    decrypt(session, &options.at.parent(&session.project)?, &options.files).await
}

/// Encrypts a file.
///
/// # Errors
/// A file that cannot be read or written; what the server refuses; bytes that changed on their way.
pub(crate) async fn encrypt(
    session: &Session,
    key: &CryptoKeyName,
    files: &EncryptFiles,
) -> Result<(), Failure> {
    two_files(&files.plaintext_file, files.additional_authenticated_data_file.as_ref())?;
    let plaintext = Bytes::from(read_file(&files.plaintext_file, MAX_PLAINTEXT)?);
    let aad = additional(files.additional_authenticated_data_file.as_ref())?;
    let name = match &files.version {
        Some(version) => format!("{key}/cryptoKeyVersions/{version}"),
        None => key.to_string(),
    };
    let request = EncryptRequest {
        name,
        plaintext_crc32c: Some(sum(&plaintext)),
        additional_authenticated_data_crc32c: Some(sum(&aad)),
        plaintext,
        additional_authenticated_data: aad,
    };
    let reply = session.kms().encrypt(request).await?.into_inner();
    if !reply.verified_plaintext_crc32c || !reply.verified_additional_authenticated_data_crc32c {
        return Err(changed("the request"));
    }
    agree("the ciphertext", &reply.ciphertext, reply.ciphertext_crc32c)?;
    write_file(&files.ciphertext_file, &reply.ciphertext)
}

/// Decrypts a file.
///
/// # Errors
/// As [`encrypt`].
pub(crate) async fn decrypt(
    session: &Session,
    key: &CryptoKeyName,
    files: &DecryptFiles,
) -> Result<(), Failure> {
    two_files(&files.ciphertext_file, files.additional_authenticated_data_file.as_ref())?;
    let ciphertext = Bytes::from(read_file(&files.ciphertext_file, MAX_CIPHERTEXT)?);
    let aad = additional(files.additional_authenticated_data_file.as_ref())?;
    let request = DecryptRequest {
        name: key.to_string(),
        ciphertext_crc32c: Some(sum(&ciphertext)),
        additional_authenticated_data_crc32c: Some(sum(&aad)),
        ciphertext,
        additional_authenticated_data: aad,
    };
    let reply = session.kms().decrypt(request).await?.into_inner();
    agree("the plaintext", &reply.plaintext, reply.plaintext_crc32c)?;
    write_file(&files.plaintext_file, &reply.plaintext)
}

fn two_files(first: &PathBuf, second: Option<&PathBuf>) -> Result<(), Failure> {
    let dash = PathBuf::from("-");
    if *first == dash && second == Some(&dash) {
        return Err(Failure::usage("standard input cannot be two files"));
    }
    Ok(())
}

fn additional(file: Option<&PathBuf>) -> Result<Bytes, Failure> {
    file.map_or(Ok(Bytes::new()), |file| read_file(file, MAX_PLAINTEXT).map(Bytes::from))
}

fn sum(bytes: &[u8]) -> i64 {
    i64::from(crc32c(bytes))
}

fn agree(what: &str, bytes: &[u8], told: Option<i64>) -> Result<(), Failure> {
    if told == Some(sum(bytes)) { Ok(()) } else { Err(changed(what)) }
}

fn changed(what: &str) -> Failure {
    Failure::advised(format!("{what} was changed on its way: its checksum does not agree"), "try again")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_without_its_checksum_or_with_a_wrong_one_is_not_used() {
        assert!(agree("x", b"bytes", Some(sum(b"bytes"))).is_ok());
        assert!(agree("x", b"bytes", Some(sum(b"bytez"))).is_err());
        assert!(agree("x", b"bytes", None).is_err());
    }

    #[test]
    fn standard_input_is_read_once() {
        let dash = PathBuf::from("-");
        assert!(two_files(&dash, Some(&dash)).is_err());
        assert!(two_files(&dash, None).is_ok());
        assert!(two_files(&"a".into(), Some(&dash)).is_ok());
    }
}
