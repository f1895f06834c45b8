//! The file of callers, in TOML, and the files of keys that it names.
//!
//! ```toml
//! audiences = ["https://claviger.example.com"]       # URLs of this server, beside the one that it listens on
//! google_audiences = true                            # tokens may be for Google's services, as unmodified clients' are
//! administrators = ["user:ada@example.com"]
//! service_accounts = "accounts"                      # a directory of EMAIL.json and EMAIL.pem: public keys
//!
//! [[issuers]]
//! issuer = "https://login.example.com"
//! audiences = ["claviger"]
//! keys = "login.jwks.json"
//! email_domains = ["example.com"]                    # whose addresses are believed; all else is known by its subject
//!
//! [[bindings]]
//! role = "roles/bigtable.user"
//! members = ["serviceAccount:app@p.iam.gserviceaccount.com"]
//! ```
//! Paths are as seen from the file's directory.
//!
//! Invariant: what cannot be honoured (an unknown key, role or kind of member) is refused, not passed over.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use claviger_core::{Error, Result};
use claviger_crypto::sha256;
use serde::Deserialize;

use crate::keys::Keys;
use crate::principal;
use crate::rights::{self, Rights};
use crate::rules::{Provider, Rules};

/// What tells what was read from what is there now.
pub(crate) type Digest = [u8; 32];

/// Bytes of one file, at most.
const MAX_FILE: u64 = 1 << 20;
/// Service accounts, at most.
const MAX_ACCOUNTS: usize = 10_000;
/// Identity providers, at most.
const MAX_ISSUERS: usize = 32;
/// Members of all bindings, at most.
const MAX_MEMBERS: usize = 10_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    audiences: Vec<String>,
    #[serde(default = "yes")]
    google_audiences: bool,
    #[serde(default)]
    administrators: Vec<String>,
    #[serde(default)]
    service_accounts: Option<PathBuf>,
    #[serde(default)]
    issuers: Vec<IssuerEntry>,
    #[serde(default)]
    bindings: Vec<Binding>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct IssuerEntry {
    issuer: String,
    audiences: Vec<String>,
    keys: PathBuf,
    #[serde(default)]
    email_domains: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Binding {
    role: String,
    members: Vec<String>,
}

fn yes() -> bool {
    true
}

/// Reads files, and what tells one state of all of them from another.
struct Reader {
    digest: Digest,
}

impl Reader {
    fn read(&mut self, path: &Path) -> Result<Vec<u8>> {
        let failed = |e: std::io::Error| Error::invalid(format!("{}: {e}", path.display()));
        let file = fs::File::open(path).map_err(failed)?;
        let mut bytes = Vec::new();
        file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() as u64 > MAX_FILE {
            return Err(Error::invalid(format!("{} has more than {MAX_FILE} bytes", path.display())));
        }
        let name = path.as_os_str().as_encoded_bytes();
        self.digest = sha256(&[&self.digest, &sha256(&[name]), &sha256(&[&bytes])]);
        Ok(bytes)
    }

    fn keys(&mut self, path: &Path) -> Result<Keys> {
        let bytes = self.read(path)?;
        Keys::parse(&bytes)
            .map_err(|e| Error::invalid(format!("{} {}", path.display(), e.message())).because(e))
    }
}

/// Reads a file of callers and what it names. `own` are further URLs of this server.
///
/// # Errors
/// `InvalidArgument` that says what is wrong with which file.
pub(crate) fn read(path: &Path, own: &[String]) -> Result<(Rules, Digest)> {
    let mut reader = Reader { digest: Digest::default() };
    let wrong = |why: String| Error::invalid(format!("{}: {why}", path.display()));
    let bytes = reader.read(path)?;
    let text = String::from_utf8(bytes).map_err(|_| wrong("is not text in UTF-8".to_owned()))?;
    let file: File = toml::from_str(&text).map_err(|e| wrong(e.to_string().trim_end().to_owned()))?;
    let folder = path.parent().unwrap_or(Path::new("."));
    let bare = |url: &String| url.trim_end_matches('/').to_owned();
    let mut rules = Rules {
        audiences: file.audiences.iter().chain(own).map(bare).filter(|url| !url.is_empty()).collect(),
        google: file.google_audiences,
        ..Rules::default()
    };
    for named in &file.administrators {
        rules.administrators.insert(principal::parse(named).map_err(|e| wrong(e.message().to_owned()))?);
    }
    if let Some(dir) = &file.service_accounts {
        accounts(&mut rules, &mut reader, &folder.join(dir))?;
    }
    if file.issuers.len() > MAX_ISSUERS {
        return Err(wrong(format!("has more than {MAX_ISSUERS} issuers")));
    }
    for entry in file.issuers {
        let IssuerEntry { issuer, audiences, keys, email_domains } = entry;
        check_issuer(&issuer).map_err(|why| wrong(format!("the issuer '{issuer}' {why}")))?;
        if audiences.is_empty() || audiences.iter().any(String::is_empty) {
            return Err(wrong(format!("the issuer '{issuer}' needs audiences, none of them empty")));
        }
        let provider = Provider {
            audiences: audiences.into_iter().collect(),
            keys: reader.keys(&folder.join(keys))?,
            email_domains: email_domains.iter().map(|domain| domain.to_ascii_lowercase()).collect(),
        };
        if rules.issuers.insert(issuer.clone(), provider).is_some() {
            return Err(wrong(format!("the issuer '{issuer}' is there twice")));
        }
    }
    if rules.accounts.is_empty() && rules.issuers.is_empty() {
        return Err(wrong("names neither service accounts nor issuers: nobody could call".to_owned()));
    }
    grant(&mut rules, &file.bindings).map_err(|e| wrong(e.message().to_owned()))?;
    Ok((rules, reader.digest))
}

/// Reads a directory of service accounts: a file for each, named by the account's address.
fn accounts(rules: &mut Rules, reader: &mut Reader, dir: &Path) -> Result<()> {
    let failed = |e: std::io::Error| Error::invalid(format!("{}: {e}", dir.display()));
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        paths.push(entry.map_err(failed)?.path());
        if paths.len() > MAX_ACCOUNTS {
            return Err(Error::invalid(format!("{} has more than {MAX_ACCOUNTS} files", dir.display())));
        }
    }
    paths.sort();
    for path in paths {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        // What editors and mounts of secrets leave beside files.
        if name.starts_with('.') {
            continue;
        }
        let address =
            name.strip_suffix(".json").or_else(|| name.strip_suffix(".pem")).and_then(principal::email);
        let address = address.ok_or_else(|| {
            Error::invalid(format!(
                "{} is not named by a service account's address, as in app@example.iam.gserviceaccount.com.json",
                path.display()
            ))
        })?;
        let keys = reader.keys(&path)?;
        if rules.accounts.insert(address.clone(), keys).is_some() {
            return Err(Error::invalid(format!("{}: {address} is there twice", dir.display())));
        }
    }
    Ok(())
}

/// An issuer is an https URL (OpenID Connect), or http on this machine.
fn check_issuer(issuer: &str) -> Result<(), &'static str> {
    let rest = issuer.strip_prefix("https://").or_else(|| {
        let rest = issuer.strip_prefix("http://")?;
        let host = rest.split(['/', ':']).next().unwrap_or_default();
        matches!(host, "localhost" | "127.0.0.1").then_some(rest)
    });
    match rest {
        None | Some("") => Err("is no URL with https://"),
        Some(rest) if rest.contains(['?', '#']) || !rest.bytes().all(|b| b.is_ascii_graphic()) => {
            Err("has a query, a fragment or odd characters")
        }
        // A principal could be read in two ways.
        Some(rest) if format!("{rest}/").contains("/subject/") => Err("has a path with 'subject'"),
        Some(_) => Ok(()),
    }
}

fn grant(rules: &mut Rules, bindings: &[Binding]) -> Result<()> {
    let mut left = MAX_MEMBERS;
    for Binding { role, members } in bindings {
        let rights = rights::of_role(role)
            .ok_or_else(|| Error::invalid(format!("the role '{role}' is not known for a whole server")))?;
        left = left
            .checked_sub(members.len())
            .ok_or_else(|| Error::invalid(format!("the bindings have more than {MAX_MEMBERS} members")))?;
        for member in members {
            let held = match (member.as_str(), member.split_once(':')) {
                ("allAuthenticatedUsers", _) => &mut rules.granted_to_all,
                (_, Some(("domain", domain)))
                    if !domain.is_empty() && !domain.contains(char::is_whitespace) =>
                {
                    rules.granted_to_domains.entry(domain.to_ascii_lowercase()).or_insert(Rights::NONE)
                }
                _ => rules.granted.entry(principal::parse(member)?).or_insert(Rights::NONE),
            };
            *held = held.and(rights);
        }
    }
    Ok(())
}
