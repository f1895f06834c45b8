//! `claviger iam` and `claviger auth`: keys of service accounts and the tokens that they sign, for those who have no
//! `gcloud` that makes them.
//!
//! Invariant: a private key is written once, to a file that only its owner may read, and shown nowhere else. No
//! server is asked: it knows an account by the public key that its operator gives it.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD as BASE64URL};
use clap::{Args, Subcommand};
use claviger_core::{Clock as _, SystemClock};
use claviger_crypto::SecretBytes;
use claviger_crypto::rs256::{PublicKey, SigningKey};
use claviger_crypto::sha256;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::args::Global;
use crate::failure::Failure;
use crate::output;

/// The longest file of a key, bytes.
const MAX_FILE: u64 = 64 * 1024;
/// Seconds that a token is good for: as long as servers take one.
const LIFE: u64 = 3600;
/// Characters of a line of base64 in PEM.
const PEM_LINE: usize = 64;
const PEM_BEGIN: &str = "-----BEGIN PRIVATE KEY-----";
const PEM_END: &str = "-----END PRIVATE KEY-----";

const CREATE_EXAMPLES: &str = "\
The public key goes into the directory of service accounts of the server's file of
callers (claviger serve --callers FILE). Google's libraries take the private one as
GOOGLE_APPLICATION_CREDENTIALS.

Examples:
  claviger iam service-accounts keys create ops.json --iam-account ops@example.iam.gserviceaccount.com \\
      --public-key-file accounts/ops@example.iam.gserviceaccount.com.json";

const TOKEN_EXAMPLES: &str = "\
Examples:
  claviger auth print-access-token --key-file ops.json > token
  claviger kms keyrings list --location us-east1 --token-file token";

/// `claviger iam`.
#[derive(Debug, Subcommand)]
pub(crate) enum Iam {
    /// Service accounts
    #[command(subcommand)]
    ServiceAccounts(ServiceAccounts),
}

/// `claviger iam service-accounts`.
#[derive(Debug, Subcommand)]
pub(crate) enum ServiceAccounts {
    /// Keys that service accounts sign with
    #[command(subcommand)]
    Keys(Keys),
}

/// `claviger iam service-accounts keys`.
#[derive(Debug, Subcommand)]
pub(crate) enum Keys {
    /// Make a key: the private one for the account, the public one for the server
    #[command(after_help = CREATE_EXAMPLES)]
    Create(Create),
}

/// `claviger iam service-accounts keys create`.
#[derive(Debug, Args)]
pub(crate) struct Create {
    /// Where the private key goes, in JSON as gcloud writes it; '-' is standard output
    #[arg(value_name = "FILE")]
    output: PathBuf,
    /// The address of the account
    #[arg(long, value_name = "EMAIL")]
    iam_account: String,
    /// Where the public key goes, as a JSON Web Key Set
    #[arg(long, value_name = "FILE")]
    public_key_file: PathBuf,
}

/// `claviger auth`.
#[derive(Debug, Subcommand)]
pub(crate) enum Auth {
    /// Print a token for the server, signed with a service account's key and good for an hour
    #[command(after_help = TOKEN_EXAMPLES)]
    PrintAccessToken(Print),
}

/// `claviger auth print-access-token`.
#[derive(Debug, Args)]
pub(crate) struct Print {
    /// The account's private key, in JSON
    #[arg(long, value_name = "FILE")]
    key_file: PathBuf,
    /// For whom the token is: a URL that the server knows itself by [default: that of --endpoint]
    #[arg(long, value_name = "URL")]
    audience: Option<String>,
}

/// A service account's key as Google writes it.
#[derive(Serialize)]
struct Written<'a> {
    r#type: &'static str,
    project_id: &'a str,
    private_key_id: &'a str,
    private_key: &'a str,
    client_email: &'a str,
    token_uri: String,
}

/// What is read of it.
#[derive(Deserialize)]
struct Read {
    private_key_id: String,
    private_key: String,
    client_email: String,
}

/// Runs `claviger iam`.
///
/// # Errors
/// When a file cannot be written.
pub(crate) fn iam(global: &Global, command: Iam) -> Result<(), Failure> {
    let Iam::ServiceAccounts(ServiceAccounts::Keys(Keys::Create(create))) = command;
    let url = crate::client::url(&global.endpoint)?;
    let key = SigningKey::generate().map_err(fault)?;
    let public = key.public_key().map_err(fault)?;
    let kid = key_id(&public);
    crate::flags::write_file(&create.public_key_file, output::json(&key_set(&public, &kid)).as_bytes())?;
    let file = written(&key, &kid, &create.iam_account, &url)?;
    crate::flags::write_file(&create.output, file.expose())?;
    if !global.quiet {
        output::say(&format!(
            "Created key [{kid}] of [{}]: private in {}, public in {}.",
            create.iam_account,
            create.output.display(),
            create.public_key_file.display()
        ));
    }
    Ok(())
}

/// Runs `claviger auth`.
///
/// # Errors
/// When the key cannot be read, or standard output cannot be written.
pub(crate) fn auth(global: &Global, command: &Auth) -> Result<(), Failure> {
    let Auth::PrintAccessToken(print) = command;
    let audience = match &print.audience {
        Some(audience) => audience.clone(),
        None => crate::client::url(&global.endpoint)?,
    };
    let now = u64::try_from(SystemClock::new().now().seconds_and_nanos().0).unwrap_or(0);
    let token = token(&print.key_file, &audience, now)?;
    output::write_bytes(format!("{token}\n").as_bytes())
}

fn fault(error: claviger_crypto::Error) -> Failure {
    Failure::local(error.to_string())
}

/// A key's id, as long as Google's are.
fn key_id(public: &PublicKey) -> String {
    sha256(&[&public.n, b"/", &public.e]).iter().take(20).map(|byte| format!("{byte:02x}")).collect()
}

fn key_set(public: &PublicKey, kid: &str) -> serde_json::Value {
    json!({ "keys": [{
        "kty": "RSA",
        "alg": "RS256",
        "use": "sig",
        "kid": kid,
        "n": BASE64URL.encode(&public.n),
        "e": BASE64URL.encode(&public.e),
    }]})
}

fn written(key: &SigningKey, kid: &str, email: &str, url: &str) -> Result<SecretBytes, Failure> {
    let der = key.to_pkcs8().map_err(fault)?;
    // Large enough not to grow, which would leave a copy behind.
    let mut pem = Vec::with_capacity(8 * 1024);
    let mut base64 = vec![0; der.len() * 2];
    let length = STANDARD.encode_slice(der.expose(), &mut base64).unwrap_or(0);
    let base64 = SecretBytes::new(base64);
    pem.extend_from_slice(PEM_BEGIN.as_bytes());
    pem.push(b'\n');
    for line in base64.expose().get(..length).unwrap_or_default().chunks(PEM_LINE) {
        pem.extend_from_slice(line);
        pem.push(b'\n');
    }
    pem.extend_from_slice(PEM_END.as_bytes());
    pem.push(b'\n');
    let pem = SecretBytes::new(pem);
    let domain = email.rsplit_once('@').map_or(email, |(_, domain)| domain);
    let file = Written {
        r#type: "service_account",
        project_id: domain.split('.').next().unwrap_or_default(),
        private_key_id: kid,
        private_key: std::str::from_utf8(pem.expose()).unwrap_or_default(),
        client_email: email,
        token_uri: format!("{url}/token"),
    };
    let mut json = Vec::with_capacity(16 * 1024);
    serde_json::to_writer_pretty(&mut json, &file)
        .map_err(|error| Failure::local(format!("the key cannot be written: {error}")))?;
    json.push(b'\n');
    Ok(SecretBytes::new(json))
}

fn token(key_file: &Path, audience: &str, now: u64) -> Result<String, Failure> {
    let wrong = || Failure::local(format!("{} is no private key of a service account", key_file.display()));
    let bytes = SecretBytes::new(crate::flags::read_file(key_file, MAX_FILE)?);
    let Read { private_key_id, private_key, client_email } =
        serde_json::from_slice(bytes.expose()).map_err(|_| wrong())?;
    let pem = SecretBytes::new(private_key.into_bytes());
    let key = signing_key(pem.expose()).ok_or_else(wrong)?;
    let part = |value: serde_json::Value| BASE64URL.encode(value.to_string());
    let header = part(json!({ "alg": "RS256", "typ": "JWT", "kid": private_key_id }));
    let claims = part(json!({
        "iss": client_email,
        "sub": client_email,
        "aud": audience,
        "iat": now,
        "exp": now + LIFE,
    }));
    let signed = format!("{header}.{claims}");
    let signature = key.sign(signed.as_bytes()).map_err(fault)?;
    Ok(format!("{signed}.{}", BASE64URL.encode(signature)))
}

fn signing_key(pem: &[u8]) -> Option<SigningKey> {
    let text = std::str::from_utf8(pem).ok()?;
    let (_, rest) = text.split_once(PEM_BEGIN)?;
    let (body, _) = rest.split_once(PEM_END)?;
    let base64: Vec<u8> = body.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let base64 = SecretBytes::new(base64);
    let der = SecretBytes::new(STANDARD.decode(base64.expose()).ok()?);
    SigningKey::from_pkcs8(&der).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_was_made_signs_tokens() {
        let key = SigningKey::generate().unwrap();
        let public = key.public_key().unwrap();
        let kid = key_id(&public);
        let email = "ops@example.iam.gserviceaccount.com";
        let file = written(&key, &kid, email, "http://127.0.0.1:9700").unwrap();
        let told: serde_json::Value = serde_json::from_slice(file.expose()).unwrap();
        assert_eq!((&told["type"], &told["project_id"]), (&"service_account".into(), &"example".into()));
        assert_eq!(told["token_uri"], "http://127.0.0.1:9700/token");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.json");
        std::fs::write(&path, file.expose()).unwrap();
        let token = token(&path, "http://127.0.0.1:9700", 1_800_000_000).unwrap();
        let (signed, signature) = token.rsplit_once('.').unwrap();
        assert!(public.verify(signed.as_bytes(), &BASE64URL.decode(signature).unwrap()));
        let claims = BASE64URL.decode(signed.split_once('.').unwrap().1).unwrap();
        let claims: serde_json::Value = serde_json::from_slice(&claims).unwrap();
        assert_eq!((&claims["iss"], &claims["sub"]), (&email.into(), &email.into()));
        assert_eq!(claims["exp"], 1_800_003_600_u64);
        std::fs::write(&path, "{}").unwrap();
        assert!(super::token(&path, "x", 0).unwrap_err().text().contains("no private key"));
    }
}
