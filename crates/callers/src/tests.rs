//! Callers of a file on disk, with tokens made here.

mod refusals;

use std::path::Path;
use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use claviger_core::{ManualClock, Timestamp};
use claviger_crypto::rs256::SigningKey;
use serde_json::{Value, json};

use super::*;

const NOW: u64 = 1_800_000_000;
const APP: &str = "app@p.iam.gserviceaccount.com";
const OPS: &str = "ops@p.iam.gserviceaccount.com";
const ISSUER: &str = "https://login.example.com";
const OWN: &str = "http://127.0.0.1:9700";
const ALL_SCOPES: &str = "https://www.googleapis.com/auth/cloud-platform";

static APPS: LazyLock<SigningKey> = LazyLock::new(|| SigningKey::generate().unwrap());
static OPSS: LazyLock<SigningKey> = LazyLock::new(|| SigningKey::generate().unwrap());
static LOGINS: LazyLock<SigningKey> = LazyLock::new(|| SigningKey::generate().unwrap());
static STRANGERS: LazyLock<SigningKey> = LazyLock::new(|| SigningKey::generate().unwrap());

fn jwk(key: &SigningKey, kid: &str) -> Value {
    let public = key.public_key().unwrap();
    json!({"kty": "RSA", "use": "sig", "alg": "RS256", "kid": kid,
        "n": BASE64URL.encode(&public.n), "e": BASE64URL.encode(&public.e)})
}

fn set(keys: &[Value]) -> String {
    json!({ "keys": keys }).to_string()
}

struct World {
    folder: tempfile::TempDir,
    clock: Arc<ManualClock>,
    callers: Arc<Callers>,
}

const FILE: &str = r#"
administrators = ["serviceAccount:ops@p.iam.gserviceaccount.com", "user:ada@example.com"]
service_accounts = "accounts"

[[issuers]]
issuer = "https://login.example.com"
audiences = ["claviger"]
keys = "login.json"
email_domains = ["Example.com", "p.iam.gserviceaccount.com"]

[[bindings]]
role = "roles/bigtable.user"
members = ["serviceAccount:app@p.iam.gserviceaccount.com", "domain:example.com"]

[[bindings]]
role = "roles/storage.objectViewer"
members = ["principal://login.example.com/subject/repo:a/b", "serviceAccount:app@p.iam.gserviceaccount.com"]
"#;

fn write(folder: &Path, name: &str, text: &str) {
    std::fs::create_dir_all(folder.join(name).parent().unwrap()).unwrap();
    std::fs::write(folder.join(name), text).unwrap();
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "callers.toml", FILE);
        write(folder.path(), &format!("accounts/{APP}.json"), &set(&[jwk(&APPS, "a1")]));
        write(folder.path(), &format!("accounts/{OPS}.pem"), &OPSS.public_pem().unwrap());
        write(folder.path(), "accounts/.hidden", "not looked at");
        write(folder.path(), "login.json", &set(&[jwk(&LOGINS, "l1")]));
        let clock = Arc::new(ManualClock::at(Timestamp(i64::try_from(NOW).unwrap() * 1_000_000)));
        let callers = Callers::open(folder.path().join("callers.toml"), vec![OWN.into()], clock.clone());
        Self { folder, clock, callers: callers.unwrap() }
    }

    fn at(&self, seconds: u64) {
        self.clock.jump_to(Timestamp(i64::try_from(seconds).unwrap() * 1_000_000));
    }

    fn refusal(&self, token: &str) -> String {
        let error = self.callers.check(token).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{error}");
        let message = error.message().to_owned();
        for part in token.split('.').filter(|part| part.len() > 8) {
            assert!(!message.contains(part), "an error repeats a token");
        }
        message
    }
}

fn part(value: &Value) -> String {
    BASE64URL.encode(value.to_string())
}

fn signed(key: &SigningKey, header: &Value, claims: &Value) -> String {
    let signed = format!("{}.{}", part(header), part(claims));
    format!("{signed}.{}", BASE64URL.encode(key.sign(signed.as_bytes()).unwrap()))
}

fn header(kid: &str) -> Value {
    json!({"alg": "RS256", "typ": "JWT", "kid": kid})
}

/// What an account signs itself for this server, with changes.
fn claims(email: &str, more: Value) -> Value {
    let mut claims = json!({"iss": email, "sub": email, "aud": OWN, "iat": NOW, "exp": NOW + 3600});
    for (name, value) in more.as_object().unwrap() {
        if value.is_null() {
            claims.as_object_mut().unwrap().remove(name);
        } else {
            claims[name] = value.clone();
        }
    }
    claims
}

fn app(more: Value) -> String {
    signed(&APPS, &header("a1"), &claims(APP, more))
}

/// What the identity provider says, with changes.
fn id_token(more: Value) -> String {
    let base = json!({"iss": ISSUER, "sub": "repo:a/b", "aud": "claviger"});
    let mut claims = claims(APP, base);
    for (name, value) in more.as_object().unwrap() {
        claims[name] = value.clone();
    }
    signed(&LOGINS, &header("l1"), &claims)
}

fn has(known: &Known, rights: &[Right]) -> bool {
    rights.iter().all(|right| known.rights.has(*right))
}

#[test]
fn a_service_account_is_known_by_what_it_signs_itself() {
    let world = World::new();
    let known = world.callers.check(&app(json!({}))).unwrap();
    assert_eq!(known.caller, Caller::new(format!("serviceAccount:{APP}")));
    assert!(has(
        &known,
        &[Right::Keys, Right::RowsRead, Right::RowsWrite, Right::TablesRead, Right::ObjectsRead]
    ));
    for right in
        [Right::TablesChange, Right::ObjectsWrite, Right::JobsRun, Right::Logs, Right::Seals, Right::Policies]
    {
        assert!(!known.rights.has(right), "{right:?}");
    }
    // From a file in PEM, whose key has no id.
    let ops = signed(&OPSS, &header("whatever"), &claims(OPS, json!({})));
    let known = world.callers.check(&ops).unwrap();
    assert!(known.caller.is_administrator() && known.rights == Rights::ALL);
    assert_eq!(known.caller.principal, format!("serviceAccount:{OPS}"));
}

#[test]
fn a_token_asks_within_its_audience_and_scopes_alone() {
    let world = World::new();
    let rights = |more| world.callers.check(&app(more)).unwrap().rights;
    let of = |more, right: Right| rights(more).has(right);
    let kms = json!({"aud": "https://cloudkms.googleapis.com/"});
    assert!(of(kms.clone(), Right::Keys) && !of(kms, Right::RowsRead));
    let rows = json!({"aud": "https://bigtable.googleapis.com/google.bigtable.v2.Bigtable"});
    assert!(of(rows.clone(), Right::RowsRead) && !of(rows, Right::Keys));
    let scope = |scope: &str| json!({"aud": null, "scope": format!("openid https://www.googleapis.com/auth/{scope}")});
    assert!(of(scope("cloud-platform"), Right::ObjectsRead) && of(scope("cloud-platform"), Right::Keys));
    assert!(of(scope("bigtable.data.readonly"), Right::RowsRead));
    assert!(
        !of(scope("bigtable.data.readonly"), Right::RowsWrite)
            && !of(scope("devstorage.read_only"), Right::Keys)
    );
    let both = json!({"scope": "https://www.googleapis.com/auth/cloudkms"});
    assert!(of(both.clone(), Right::Keys) && !of(both, Right::RowsRead));
    // No token gives what its owner has not.
    assert!(!of(scope("devstorage.full_control"), Right::ObjectsWrite));
    let ours = json!({"aud": format!("{OWN}/google.cloud.kms.v1.KeyManagementService")});
    assert!(of(ours, Right::RowsRead));
    assert!(of(json!({"aud": ["https://elsewhere.example.com", format!("{OWN}/")]}), Right::RowsRead));
    // An administrator with a token for one service is one for that service.
    let ops = signed(&OPSS, &header("x"), &claims(OPS, json!({"aud": "https://cloudkms.googleapis.com/"})));
    let known = world.callers.check(&ops).unwrap();
    assert!(known.caller.is_administrator() && known.rights.has(Right::Keys));
    assert!(!known.rights.has(Right::Policies) && !known.rights.has(Right::Seals));
}

#[test]
fn an_identity_provider_vouches_for_its_subjects_and_for_addresses_of_its_domains() {
    let world = World::new();
    let known = |more| world.callers.check(&id_token(more)).unwrap();
    let repository = known(json!({}));
    assert_eq!(repository.caller.principal, "principal://login.example.com/subject/repo:a/b");
    assert!(has(&repository, &[Right::ObjectsRead, Right::Keys]) && !repository.rights.has(Right::RowsRead));
    let ada = known(json!({"email": "Ada@Example.com", "email_verified": true}));
    assert!(ada.caller.is_administrator() && ada.caller.principal == "user:ada@example.com");
    let bob = known(json!({"email": "bob@example.com", "email_verified": true}));
    assert!(bob.rights.has(Right::RowsWrite) && !bob.caller.is_administrator());
    let account = known(json!({"email": APP, "email_verified": true}));
    assert_eq!(account.caller.principal, format!("serviceAccount:{APP}"));
    // An address that is not vouched for is not believed: the caller is their subject.
    for more in [
        json!({"email": "ada@example.com"}),
        json!({"email": "ada@example.com", "email_verified": false}),
        json!({"email": "ada@example.com", "email_verified": "true"}),
        json!({"email": "ada@other.example.com", "email_verified": true}),
        json!({"email": "ada@example.com@evil.com", "email_verified": true}),
    ] {
        let known = known(more.clone());
        assert!(
            known.caller.principal.starts_with("principal://") && !known.caller.is_administrator(),
            "{more}"
        );
    }
    // A domain is of users alone, whatever a subject looks like.
    let posing = known(json!({"sub": "eve@example.com"}));
    assert!(!posing.rights.has(Right::RowsRead));
    assert!(known(json!({"exp": NOW + 24 * 3600})).rights.has(Right::Keys));
}

#[test]
fn an_assertion_is_exchanged_for_a_token_that_ends_with_its_key() {
    let world = World::new();
    let assertion = |more: Value| {
        let mut base =
            json!({"aud": "https://oauth2.googleapis.com/token", "scope": ALL_SCOPES, "sub": null});
        base.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        app(base)
    };
    let issued = world.callers.exchange(&assertion(json!({}))).unwrap();
    assert_eq!(issued.expires_in, 3600);
    assert!(!format!("{issued:?}").contains(&issued.access_token));
    let token = issued.access_token;
    let known = world.callers.check(&token).unwrap();
    assert_eq!(known.caller.principal, format!("serviceAccount:{APP}"));
    assert!(known.rights.has(Right::RowsRead) && !known.rights.has(Right::JobsRun));
    let own = world.callers.exchange(&assertion(json!({"aud": format!("{OWN}/token")}))).unwrap();
    assert!(world.callers.check(&own.access_token).is_ok());
    let narrow = json!({"scope": "https://www.googleapis.com/auth/devstorage.read_only"});
    let narrow = world.callers.exchange(&assertion(narrow)).unwrap();
    let narrow = world.callers.check(&narrow.access_token).unwrap().rights;
    assert!(narrow.has(Right::ObjectsRead) && !narrow.has(Right::RowsRead) && !narrow.has(Right::Keys));
    for more in [json!({"aud": OWN}), json!({"aud": "https://cloudkms.googleapis.com/"}), json!({"sub": OPS})]
    {
        let error = world.callers.exchange(&assertion(more.clone())).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{more}");
    }
    let nothing = world.callers.exchange(&assertion(json!({"scope": "openid email"}))).unwrap_err();
    assert_eq!(nothing.kind(), ErrorKind::InvalidArgument);
    // An assertion is no token, but where it is for the same place as tokens are: it names another one.
    assert!(world.refusal(&assertion(json!({"sub": APP}))).contains("audience"));
    assert!(world.refusal(&assertion(json!({}))).contains("lacks a claim: sub"));
    assert!(world.callers.exchange(&assertion(json!({"sub": APP}))).is_ok());
    // Each changed byte is noticed.
    for at in 0..token.len() {
        let mut bytes = token.clone().into_bytes();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        world.refusal(&String::from_utf8(bytes).unwrap());
    }
    // Another process did not give it.
    assert!(World::new().refusal(&token).contains("started anew"));
    write(world.folder.path(), &format!("accounts/{APP}.json"), &set(&[jwk(&STRANGERS, "a1")]));
    world.callers.reload().unwrap();
    assert!(world.refusal(&token).contains("not known any more"));
    write(world.folder.path(), &format!("accounts/{APP}.json"), &set(&[jwk(&APPS, "a2")]));
    world.callers.reload().unwrap();
    assert!(world.callers.check(&token).is_ok());
    world.at(NOW + 3600 + LEEWAY_SECONDS);
    assert!(world.refusal(&token).contains("expired"));
}

#[test]
fn what_was_found_right_is_cached_until_the_token_ends_or_the_file_changes() {
    let world = World::new();
    let token = app(json!({}));
    let first = world.callers.check(&token).unwrap();
    assert!(Arc::ptr_eq(&first, &world.callers.check(&token).unwrap()), "not cached");
    assert_eq!(world.callers.cache.len(), 1);
    world.at(NOW + 3599 + LEEWAY_SECONDS);
    assert!(Arc::ptr_eq(&first, &world.callers.check(&token).unwrap()));
    world.at(NOW + 3600 + LEEWAY_SECONDS);
    assert!(world.refusal(&token).contains("expired"));
    world.at(NOW);
    // What is refused is not kept.
    for number in 0..40 {
        world.refusal(&app(json!({"aud": format!("https://{number}")})));
    }
    assert_eq!(world.callers.cache.len(), 1);
    // The same files: nothing changes.
    world.callers.reload().unwrap();
    assert!(Arc::ptr_eq(&first, &world.callers.check(&token).unwrap()));
    write(world.folder.path(), "callers.toml", &FILE.replace("roles/bigtable.user", "roles/bigtable.reader"));
    world.callers.reload().unwrap();
    let again = world.callers.check(&token).unwrap();
    assert!(again.rights.has(Right::RowsRead) && !again.rights.has(Right::RowsWrite));
    // A file that cannot be read changes nothing.
    write(world.folder.path(), "callers.toml", "bindings = 7");
    assert!(world.callers.reload().is_err());
    assert!(world.callers.check(&token).is_ok());
    write(world.folder.path(), "callers.toml", FILE);
    std::fs::remove_file(world.folder.path().join(format!("accounts/{APP}.json"))).unwrap();
    world.callers.reload().unwrap();
    assert!(world.refusal(&token).contains("nobody"));
}

#[test]
fn the_cache_has_a_limit() {
    let cache = Cache::default();
    let known = Arc::new(Known { caller: Caller::new("user:a@b"), rights: Rights::KNOWN, expires: NOW + 9 });
    for number in 0..40_000 {
        cache.put(Cache::hash(&number.to_string()), 0, known.clone(), NOW);
    }
    assert!(cache.len() <= 32 * 512, "{}", cache.len());
    let hash = Cache::hash("x");
    cache.put(hash, 3, known, NOW);
    assert!(cache.get(&hash, 3, NOW).is_some());
    assert!(cache.get(&hash, 4, NOW).is_none() && cache.get(&hash, 3, NOW + 9 + LEEWAY_SECONDS).is_none());
}
