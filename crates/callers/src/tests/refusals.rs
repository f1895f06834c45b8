//! What is refused: tokens, keys and files.

use super::*;
use crate::keys::Keys;
use crate::principal;

#[test]
fn another_algorithm_is_never_taken() {
    let world = World::new();
    for alg in ["none", "None", "HS256", "RS512", "PS256", "EdDSA", ""] {
        let token = signed(&APPS, &json!({"alg": alg, "kid": "a1"}), &claims(APP, json!({})));
        assert!(world.refusal(&token).contains("RS256 or ES256"), "{alg}");
    }
    // No algorithm and no signature; and the public key as the secret of an HMAC, whose bytes do not matter here.
    let unsigned = format!("{}.{}.", part(&json!({"alg": "none"})), part(&claims(APP, json!({}))));
    world.refusal(&unsigned);
    let hmac = format!(
        "{}.{}.{}",
        part(&json!({"alg": "HS256", "kid": "a1"})),
        part(&claims(APP, json!({}))),
        "A".repeat(43)
    );
    world.refusal(&hmac);
    // The key is of RSA, whatever the header says.
    let es = signed(&APPS, &json!({"alg": "ES256", "kid": "a1"}), &claims(APP, json!({})));
    assert!(world.refusal(&es).contains("nobody"));
    let crit = json!({"alg": "RS256", "kid": "a1", "crit": ["b64"], "b64": false});
    assert!(world.refusal(&signed(&APPS, &crit, &claims(APP, json!({})))).contains("crit"));
}

#[test]
fn another_key_is_never_taken() {
    let world = World::new();
    let by_stranger = signed(&STRANGERS, &header("a1"), &claims(APP, json!({})));
    assert!(world.refusal(&by_stranger).contains("does not fit"));
    for kid in ["a2", "", "A1"] {
        assert!(
            world.refusal(&signed(&APPS, &header(kid), &claims(APP, json!({})))).contains("nobody"),
            "{kid}"
        );
    }
    let without = signed(&APPS, &json!({"alg": "RS256"}), &claims(APP, json!({})));
    assert!(world.refusal(&without).contains("nobody"));
    // A key that the token brings along is not looked at.
    let mut brought = header("s1");
    brought["jwk"] = jwk(&STRANGERS, "s1");
    brought["jku"] = "https://evil.example.com/keys".into();
    assert!(world.refusal(&signed(&STRANGERS, &brought, &claims(APP, json!({})))).contains("nobody"));
    // One account does not speak for another, nor for a provider, nor a provider for an account.
    assert!(world.refusal(&signed(&APPS, &header("x"), &claims(OPS, json!({})))).contains("does not fit"));
    assert!(world.refusal(&app(json!({"sub": OPS}))).contains("another subject"));
    assert!(world.refusal(&app(json!({"iss": ISSUER}))).contains("nobody"));
    let posing = signed(&LOGINS, &header("l1"), &claims(APP, json!({"aud": "claviger"})));
    assert!(world.refusal(&posing).contains("nobody"));
    // An account that there is and one that there is not are told the same.
    let nobody = "nobody@p.iam.gserviceaccount.com";
    let unknown = world.refusal(&signed(&APPS, &header("a1"), &claims(nobody, json!({}))));
    assert_eq!(unknown, world.refusal(&signed(&APPS, &header("a2"), &claims(APP, json!({})))));
}

#[test]
fn wrong_claims_of_accounts_are_refused() {
    let world = World::new();
    let refusal = |more: Value| world.refusal(&app(more));
    assert!(refusal(json!({"exp": NOW - LEEWAY_SECONDS, "iat": NOW - 60})).contains("expired"));
    assert!(refusal(json!({"iat": NOW + LEEWAY_SECONDS + 1})).contains("yet"));
    assert!(refusal(json!({"nbf": NOW + LEEWAY_SECONDS + 1})).contains("yet"));
    assert!(refusal(json!({"exp": NOW + 3601})).contains("too long"));
    assert!(refusal(json!({"exp": NOW, "iat": NOW})).contains("too long"));
    assert!(
        refusal(json!({"exp": 1e300})).contains("claim") && refusal(json!({"exp": -1})).contains("claim")
    );
    for missing in ["iss", "sub", "iat", "exp"] {
        assert!(refusal(json!({ missing: null })).contains("lacks a claim"), "{missing}");
    }
    assert!(refusal(json!({"exp": "soon"})).contains("lacks a claim"));
    for audience in [
        "https://other.example.com",
        "http://127.0.0.1:97000",
        "http://127.0.0.1:9700.evil.com",
        "http://127.0.0.1:9700/token",
        "https://cloudkms.googleapis.com.evil.com/",
        "http://cloudkms.googleapis.com/",
        "https://compute.googleapis.com/",
        "",
    ] {
        assert!(refusal(json!({ "aud": audience })).contains("another audience"), "{audience}");
    }
    assert!(refusal(json!({"aud": null})).contains("for nobody"));
    assert!(refusal(json!({"aud": []})).contains("for nobody"));
    assert!(refusal(json!({"aud": null, "scope": "openid"})).contains("another audience"));
    assert!(refusal(json!({"aud": vec![OWN; 17]})).contains("too many"));
    assert!(refusal(json!({"target_audience": "https://x"})).contains("ID token"));
    // Within the leeway of clocks, and with a fraction of a second.
    world.callers.check(&app(json!({"iat": NOW + LEEWAY_SECONDS, "nbf": NOW}))).unwrap();
    world.callers.check(&app(json!({"exp": NOW + 1 - LEEWAY_SECONDS, "iat": NOW - 3000}))).unwrap();
    world.callers.check(&app(json!({"iat": 1_800_000_000.5, "exp": 1_800_000_100.5}))).unwrap();
}

#[test]
fn googles_audiences_can_be_refused() {
    let world = World::new();
    write(world.folder.path(), "callers.toml", &format!("google_audiences = false\n{FILE}"));
    world.callers.reload().unwrap();
    assert!(world.callers.check(&app(json!({}))).is_ok());
    assert!(world.refusal(&app(json!({"aud": "https://cloudkms.googleapis.com/"}))).contains("audience"));
    assert!(world.refusal(&app(json!({"aud": null, "scope": ALL_SCOPES}))).contains("nobody"));
    let google = app(json!({"aud": "https://oauth2.googleapis.com/token", "scope": ALL_SCOPES}));
    assert!(world.callers.exchange(&google).is_err());
    let own = app(json!({"aud": format!("{OWN}/token"), "scope": ALL_SCOPES}));
    assert!(world.callers.exchange(&own).is_ok());
}

#[test]
fn wrong_claims_of_providers_are_refused() {
    let world = World::new();
    let refusal = |more: Value| world.refusal(&id_token(more));
    assert!(refusal(json!({"aud": "other"})).contains("audience"));
    assert!(refusal(json!({"aud": ["other"]})).contains("audience"));
    assert!(refusal(json!({"aud": []})).contains("audience"));
    assert!(refusal(json!({"iss": "https://login.example.com/"})).contains("nobody"));
    assert!(refusal(json!({"exp": NOW + 24 * 3600 + 1})).contains("too long"));
    assert!(refusal(json!({"exp": NOW - LEEWAY_SECONDS, "iat": NOW - 100})).contains("expired"));
    assert!(refusal(json!({"sub": ""})).contains("whose"));
    assert!(refusal(json!({"sub": "a b"})).contains("whose"));
    assert!(refusal(json!({"sub": "x".repeat(256)})).contains("whose"));
}

#[test]
fn no_token_is_of_a_service_agent_or_of_the_server_itself() {
    for reserved in [
        "admin@claviger.local",
        "ADMIN@CLAVIGER.LOCAL",
        "kms@claviger.local",
        "x@sub.claviger.local",
        "admin@claviger.local.",
        "service-1@gcp-sa-bigtable.iam.gserviceaccount.com",
        "service-1@gs-project-accounts.iam.gserviceaccount.com",
        "service-1@dataflow-service-producer-prod.iam.gserviceaccount.com",
    ] {
        assert_eq!(principal::email(reserved), None, "{reserved}");
        assert!(principal::parse(&format!("user:{reserved}")).is_err(), "{reserved}");
    }
    for none in ["", "@", "a@", "@b", "a@b@c", "a b@c", "a@b c", "a@b\n", "<a@b>", "a@b/c"] {
        assert_eq!(principal::email(none), None, "{none}");
    }
    assert_eq!(principal::email("a@notclaviger.local").as_deref(), Some("a@notclaviger.local"));
    let world = World::new();
    write(world.folder.path(), "callers.toml", &FILE.replace("Example.com", "claviger.local"));
    world.callers.reload().unwrap();
    let posing = id_token(json!({"email": "admin@claviger.local", "email_verified": true}));
    assert!(world.refusal(&posing).contains("whose"));
}

#[test]
fn texts_that_are_no_tokens_are_refused() {
    let world = World::new();
    let good = app(json!({}));
    let long = format!("{good}{}", "A".repeat(MAX_TOKEN_BYTES));
    for text in ["", ".", "..", "...", "a.b", "a.b.c", "claviger1.", "claviger1..", "claviger1.e30.AA", &long]
    {
        world.refusal(text);
    }
    for text in [&good[..good.len() - 1], &format!("{good}.x"), &format!("x.{good}"), &format!("{good}=")] {
        world.refusal(text);
    }
    let parts = format!("{}a", "a.".repeat(4000));
    world.refusal(&parts);
    let deep = format!("{}.{}.AA", BASE64URL.encode("[".repeat(3000)), BASE64URL.encode("{}"));
    world.refusal(&deep);
    for at in 0..good.len() {
        let mut bytes = good.clone().into_bytes();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        world.refusal(&String::from_utf8(bytes).unwrap());
    }
}

#[test]
fn keys_are_read_in_the_forms_that_they_are_published_in() {
    let find = |keys: &Keys, kid: Option<&str>| {
        keys.find(kid, claviger_crypto::verifying::Scheme::Rs256, NOW).count()
    };
    let pem = APPS.public_pem().unwrap();
    let named = Keys::parse(json!({"k1": pem, "k2": pem}).to_string().as_bytes()).unwrap();
    assert_eq!((find(&named, Some("k1")), find(&named, Some("k3")), find(&named, None)), (1, 0, 0));
    let bare = Keys::parse(pem.as_bytes()).unwrap();
    assert_eq!((find(&bare, Some("k1")), find(&bare, None)), (1, 1));
    let many = Keys::parse(pem.repeat(9).as_bytes()).unwrap();
    assert_eq!(find(&many, None), 4, "more keys are tried than is told");
    // Keys for other ends are passed over.
    let other = json!({"kty": "OKP", "crv": "Ed25519", "kid": "o", "x": "AA"});
    let mut encrypts = jwk(&APPS, "enc");
    encrypts["use"] = "enc".into();
    let mixed = Keys::parse(set(&[other.clone(), encrypts.clone(), jwk(&APPS, "a1")]).as_bytes()).unwrap();
    assert_eq!((find(&mixed, Some("a1")), find(&mixed, Some("enc"))), (1, 0));

    let refusal = |text: &str| Keys::parse(text.as_bytes()).unwrap_err().message().to_owned();
    assert!(refusal(&set(&[other, encrypts])).contains("no key"));
    let mut private = jwk(&APPS, "a1");
    private["d"] = "AQAB".into();
    assert!(refusal(&set(&[private])).contains("private"));
    assert!(refusal(r#"{"type": "service_account", "private_key": "x"}"#).contains("private"));
    assert!(refusal("-----BEGIN PRIVATE KEY-----").contains("private"));
    let mut short = jwk(&APPS, "a1");
    short["n"] = BASE64URL.encode([0xff; 128]).into();
    assert!(refusal(&set(&[short])).contains("too short"));
    for text in ["", "[]", "{}", "7", r#"{"keys": []}"#, r#"{"keys": [7]}"#, r#"{"a": 7}"#, r#"{"a": "b"}"#] {
        refusal(text);
    }
    assert!(Keys::parse(&[0xff, 0xfe]).is_err());
    assert!(refusal(&set(&vec![jwk(&APPS, "a"); 65])).contains("more than"));
}

#[test]
fn a_file_that_cannot_be_honoured_is_refused() {
    let world = World::new();
    let refusal = |text: &str| {
        write(world.folder.path(), "callers.toml", text);
        world.callers.reload().unwrap_err().message().to_owned()
    };
    assert!(refusal("").contains("nobody could call"));
    assert!(refusal(&format!("owner = 1\n{FILE}")).contains("unknown field"));
    for (from, to, why) in [
        ("roles/bigtable.user", "roles/owner", "roles/owner"),
        ("domain:example.com", "allUsers", "no principal"),
        ("domain:example.com", "group:g@example.com", "no principal"),
        ("user:ada@example.com", "ada@example.com", "no principal"),
        ("user:ada@example.com", "user:admin@claviger.local", "no principal"),
        ("https://login.example.com", "http://login.example.com", "https"),
        ("https://login.example.com", "https://a/subject/b", "subject"),
        ("[\"claviger\"]", "[]", "audiences"),
        ("login.json", "missing.json", "missing.json"),
        ("login.json", "callers.toml", "callers.toml"),
        ("\"accounts\"", "\"nowhere\"", "nowhere"),
    ] {
        let told = refusal(&FILE.replace(from, to));
        assert!(told.contains(why), "{to}: {told}");
    }
    write(world.folder.path(), "callers.toml", FILE);
    write(world.folder.path(), &format!("accounts/{APP}.pem"), &APPS.public_pem().unwrap());
    assert!(world.callers.reload().unwrap_err().message().contains("twice"));
    std::fs::remove_file(world.folder.path().join(format!("accounts/{APP}.pem"))).unwrap();
    write(world.folder.path(), "accounts/readme.txt", "x");
    assert!(world.callers.reload().unwrap_err().message().contains("readme.txt"));
    std::fs::remove_file(world.folder.path().join("accounts/readme.txt")).unwrap();
    world.callers.reload().unwrap();
}
