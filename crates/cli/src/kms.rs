//! `claviger kms`: key rings, keys and their versions, and who may use them. Shaped like `gcloud kms`.
//!
//! Invariant: key material never comes here. Plaintext and ciphertext pass between files and the server, each
//! with its checksum.

mod authorize;
mod crypt;
mod ekm_connections;
mod iam;
mod import_jobs;
mod keyrings;
mod keys;
mod versions;

use clap::Subcommand;

pub(crate) use keys::LabelChanges;

use crate::client::Session;
use crate::failure::Failure;

/// `claviger kms ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Groups of keys, each in one location
    #[command(subcommand)]
    Keyrings(keyrings::Command),
    /// Keys
    #[command(subcommand)]
    Keys(keys::Command),
    /// Jobs through which keys made elsewhere are imported
    #[command(subcommand)]
    ImportJobs(import_jobs::Command),
    /// Ways to external key managers
    #[command(subcommand)]
    EkmConnections(ekm_connections::Command),
    /// Encrypt a file under the primary version of a key
    #[command(after_help = crypt::EXAMPLES)]
    Encrypt(crypt::EncryptWithKey),
    /// Decrypt a file
    #[command(after_help = crypt::EXAMPLES)]
    Decrypt(crypt::DecryptWithKey),
}

/// Runs a command.
///
/// # Errors
/// What the server refuses, and what cannot be read or written here.
pub(crate) async fn run(session: &Session, command: Command) -> Result<(), Failure> {
    match command {
        Command::Keyrings(command) => keyrings::run(session, command).await,
        Command::Keys(command) => keys::run(session, command).await,
        Command::ImportJobs(command) => import_jobs::run(session, command).await,
        Command::EkmConnections(command) => ekm_connections::run(session, command).await,
        Command::Encrypt(options) => crypt::encrypt_with_key(session, options).await,
        Command::Decrypt(options) => crypt::decrypt_with_key(session, options).await,
    }
}

/// All items of a list that comes in pages, at most `limit`. The request's page token and page size are set
/// by `$page`.
macro_rules! all_pages {
    ($limit:expr, |$token:ident, $size:ident| $call:expr, $items:ident) => {{
        let limit: usize = $limit.unwrap_or(usize::MAX);
        let mut items = Vec::new();
        let mut $token = String::new();
        while items.len() < limit {
            let $size = i32::try_from((limit - items.len()).min(crate::kms::PAGE)).unwrap_or(i32::MAX);
            let page = $call.await?.into_inner();
            items.extend(page.$items);
            $token = page.next_page_token;
            if $token.is_empty() {
                break;
            }
        }
        items.truncate(limit);
        items
    }};
}
pub(crate) use all_pages;

/// Items asked for at a time.
pub(crate) const PAGE: usize = 500;

#[cfg(test)]
mod tests {
    use clap::Parser;

    use crate::args::Cli;

    #[test]
    fn the_lines_of_the_manual_are_understood() {
        for line in [
            "kms keyrings create ring --location us-east1",
            "kms keyrings list --location us-east1 --limit 3",
            "kms keyrings add-iam-policy-binding ring --location us-east1 --member user:a@b --role roles/x",
            "kms keys create k --keyring r --location l --purpose encryption --rotation-period 30d \
             --next-rotation-time +30d --destroy-scheduled-duration 1d --labels a=b,c=d --protection-level software",
            "kms keys list --keyring r --location l",
            "kms keys update k --keyring r --location l --rotation-period 60d --update-labels a=b --remove-labels c",
            "kms keys update k --keyring r --location l --remove-rotation-schedule --clear-labels",
            "kms keys set-primary-version k --keyring r --location l --version 2",
            "kms keys encrypt k --keyring r --location l --plaintext-file a --ciphertext-file b",
            "kms encrypt --key k --keyring r --location l --plaintext-file a --ciphertext-file b",
            "kms decrypt --key k --keyring r --location l --plaintext-file a --ciphertext-file b",
            "kms keys authorize projects/p/locations/l/keyRings/r/cryptoKeys/k --service bigtable",
            "kms keys rotate k --keyring r --location l",
            "kms keys disable k --keyring r --location l",
            "kms keys destroy k --keyring r --location l --quiet",
            "kms keys versions list --key k --keyring r --location l",
            "kms keys versions create --key k --keyring r --location l --primary",
            "kms import-jobs create j --keyring r --location l --import-method rsa-oaep-4096-sha256",
            "kms import-jobs list --keyring r --location l --filter state=ACTIVE",
            "kms keys create k --keyring r --location l --purpose encryption --import-only \
             --skip-initial-version-creation",
            "kms keys versions import --key k --keyring r --location l --import-job j --target-key-file f",
            "kms keys versions import 3 --key k --keyring r --location l --import-job j --wrapped-key-file f",
            "kms keys versions disable 1 --key k --keyring r --location l",
        ] {
            let words = ["claviger"].into_iter().chain(line.split_whitespace());
            Cli::try_parse_from(words).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
    }

    #[test]
    fn contradictions_and_unknown_words_are_refused() {
        for line in [
            "kms keys update k --remove-rotation-schedule --rotation-period 60d",
            "kms keys update k --clear-labels --update-labels a=b",
            "kms keys create k --purpose signing-things",
            "kms keys create k --purpose encryption --rotation-period soon",
            "kms keys create k --purpose encryption --labels a",
            "kms import-jobs create j --import-method rot13",
            "kms keys versions import --key k --import-job j",
            "kms keys versions import --key k --import-job j --target-key-file f --wrapped-key-file g",
            "kms keys create k --purpose encryption --import-only",
            "kms keys authorize k --service mail",
            "kms keys authorize k",
        ] {
            let words = ["claviger"].into_iter().chain(line.split_whitespace());
            assert_eq!(Cli::try_parse_from(words).unwrap_err().exit_code(), 2, "{line}");
        }
    }
}
