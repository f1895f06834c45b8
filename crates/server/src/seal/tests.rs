//! The API of the seals on a store in memory, with a clock that the tests move.

use claviger_core::{ManualClock, Timestamp};
use claviger_crypto::SecretBytes;
use claviger_kms::{KmsConfig, open_or_make};
use http_body_util::BodyExt;
use object_store::ObjectStore;
use object_store::memory::InMemory;

use super::*;
use crate::auth::Identity;

struct Fixture {
    store: Arc<dyn ObjectStore>,
    clock: Arc<ManualClock>,
}

impl Fixture {
    fn new() -> Self {
        let clock = Arc::new(ManualClock::at(Timestamp(1_700_000_000_000_000)));
        Self { store: Arc::new(InMemory::new()), clock }
    }

    /// A KMS under a passphrase, closed again; with shares when they are asked for.
    async fn closed(&self, shares: Option<(u8, u8)>) -> Vec<String> {
        let secret = RootSecret::Passphrase(SecretBytes::new(b"right".to_vec()));
        let root = open_or_make(&self.store, &secret, Params::FLOOR, Timestamp(0)).await.unwrap();
        let kms = Kms::open_with(KmsConfig::default(), root, self.store.clone(), self.clock.clone());
        let kms = kms.await.unwrap();
        let mut texts = Vec::new();
        if let Some((shares, threshold)) = shares {
            let new = NewSeal::Shares { shares, threshold };
            let added = kms.add_seal(&Caller::local_admin(), new, None).await.unwrap();
            texts = added.shares.iter().map(|share| text(share.expose_text().expose())).collect();
        }
        kms.close().await.unwrap();
        texts
    }

    async fn sealed(&self) -> (SealApi, mpsc::Receiver<Unsealed>) {
        let root = SealedRoot::read(self.store.clone()).await.unwrap().unwrap();
        SealApi::sealed(root, Vec::new(), self.clock.clone())
    }

    async fn open(&self) -> (SealApi, Arc<Kms>) {
        let kms = Kms::open(KmsConfig::default(), self.store.clone(), self.clock.clone()).await.unwrap();
        let api = SealApi::starting(Vec::new(), self.clock.clone());
        api.open(kms.clone());
        (api, kms)
    }
}

async fn ask(api: &SealApi, method: Method, path: &str, body: Value) -> (u16, Value) {
    let request = Request::builder().method(method).uri(format!("{PREFIX}{path}"));
    let request = request.extension(Identity::Local);
    let request = request.header(CONTENT_TYPE, "application/json").body(Body::from(body.to_string()));
    let (parts, body) = api.call(request.unwrap()).await.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (parts.status.as_u16(), serde_json::from_slice(&body).unwrap())
}

async fn unseal(api: &SealApi, body: Value) -> (u16, Value) {
    ask(api, Method::POST, "unseal", body).await
}

fn message(told: &(u16, Value)) -> &str {
    told.1["error"]["message"].as_str().unwrap()
}

#[tokio::test]
async fn the_right_passphrase_opens_and_hands_the_root_on() {
    let fixture = Fixture::new();
    fixture.closed(None).await;
    let (api, mut unsealed) = fixture.sealed().await;
    let (status, told) = ask(&api, Method::GET, "status", json!({})).await;
    assert_eq!(
        (status, &told["state"], &told["seals"][0]["kind"]),
        (200, &json!("sealed"), &json!("passphrase"))
    );
    assert_eq!(api.refusal().message(), SEALED);
    let (status, told) = unseal(&api, json!({"passphrase": "right"})).await;
    assert_eq!((status, &told["state"]), (200, &json!("starting")));
    assert_eq!(api.refusal().message(), STARTING);
    let root = unsealed.try_recv().unwrap().root;
    Kms::open_with(KmsConfig::default(), root, fixture.store.clone(), fixture.clock.clone()).await.unwrap();
    let again = unseal(&api, json!({"passphrase": "right"})).await;
    assert_eq!(message(&again), "The server is not sealed.");
}

#[tokio::test]
async fn a_wrong_passphrase_makes_the_next_one_wait_longer_each_time() {
    let fixture = Fixture::new();
    fixture.closed(None).await;
    let (api, mut unsealed) = fixture.sealed().await;
    for wait in [1, 2, 4] {
        let wrong = unseal(&api, json!({"passphrase": "wrong"})).await;
        assert_eq!(wrong.0, 400);
        assert!(message(&wrong).starts_with("the passphrase does not open this KMS"), "{wrong:?}");
        fixture.clock.advance(Duration::from_millis(wait * 1_000 - 1));
        let early = unseal(&api, json!({"passphrase": "right"})).await;
        assert_eq!(early.0, 429);
        assert!(message(&early).contains("try again in 1 s"), "{early:?}");
        fixture.clock.advance(Duration::from_millis(1));
    }
    assert_eq!(unseal(&api, json!({"passphrase": "right"})).await.0, 200);
    unsealed.try_recv().unwrap();
}

#[tokio::test]
async fn the_wait_after_a_wrong_passphrase_has_an_end() {
    let mut attempts = Attempts { wrong: 40, ..Attempts::default() };
    attempts.was_wrong(Duration::ZERO);
    assert!(attempts.admit(LONGEST_WAIT - Duration::from_nanos(1)).is_err());
    attempts.admit(LONGEST_WAIT).unwrap();
}

#[tokio::test]
async fn attempts_at_the_same_time_are_refused_but_one() {
    let fixture = Fixture::new();
    fixture.closed(None).await;
    let (api, _unsealed) = fixture.sealed().await;
    let attempts = (0..8).map(|_| unseal(&api, json!({"passphrase": "wrong"})));
    let mut statuses: Vec<u16> = futures::future::join_all(attempts).await.iter().map(|(s, _)| *s).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [400, 429, 429, 429, 429, 429, 429, 429]);
}

#[tokio::test]
async fn shares_are_given_one_by_one_and_told_by_number() {
    let fixture = Fixture::new();
    let shares = fixture.closed(Some((5, 3))).await;
    let (api, mut unsealed) = fixture.sealed().await;
    let give = async |text: &str| unseal(&api, json!({"share": text})).await;
    assert_eq!(give(&shares[4]).await.1["shares"]["given"], json!([5]));
    let twice = give(&shares[4]).await;
    assert_eq!((twice.0, message(&twice)), (409, "Share 5 was given already."));
    let mistyped = give(&format!("{}0", shares[1])).await;
    assert!(message(&mistyped).starts_with("share 2 was not read as it was written"), "{mistyped:?}");
    let others = Fixture::new().closed(Some((3, 2))).await;
    let mixed = give(&others[2]).await;
    assert!(message(&mixed).starts_with("share 3 is of the set"), "{mixed:?}");
    assert_eq!(give(&shares[0]).await.1["shares"]["given"], json!([1, 5]));
    assert_eq!(unseal(&api, json!({"forgetShares": true})).await.0, 200);
    for share in &shares[..2] {
        assert_eq!(give(share).await.1["state"], "sealed");
    }
    let (_, told) = ask(&api, Method::GET, "status", json!({})).await;
    assert_eq!((&told["shares"]["given"], &told["shares"]["needed"]), (&json!([1, 2]), &json!(3)));
    assert_eq!(give(&shares[2]).await.1["openedBy"]["kind"], "shares");
    unsealed.try_recv().unwrap();
}

#[tokio::test]
async fn seals_are_added_replaced_and_removed_but_not_the_last() {
    let fixture = Fixture::new();
    let (api, kms) = fixture.open().await;
    let add = async |body: Value| ask(&api, Method::POST, "seals", body).await;
    let (_, added) = add(json!({"keyFile": base64_of(&[7; 32])})).await;
    assert_eq!((&added["seal"]["id"], &added["seal"]["kind"]), (&json!(2), &json!("key-file")));
    let (_, added) = add(json!({"shares": {"count": 3, "threshold": 2}, "replace": 1})).await;
    assert_eq!(added["shares"].as_array().unwrap().len(), 3);
    assert_eq!(add(json!({"localKey": true, "replace": 9})).await.0, 404);
    let unknown = add(json!({"wrappedBy": "cloud-kms"})).await;
    assert!(message(&unknown).contains("--root-kms-key"), "{unknown:?}");
    assert_eq!(ask(&api, Method::DELETE, "seals/2", json!({})).await.0, 200);
    let last = ask(&api, Method::DELETE, "seals/3", json!({})).await;
    assert!(message(&last).contains("the last one"), "{last:?}");
    let (_, told) = ask(&api, Method::GET, "status", json!({})).await;
    assert_eq!((&told["state"], told["seals"].as_array().unwrap().len()), (&json!("open"), 1));
    kms.close().await.unwrap();
}

fn base64_of(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

#[tokio::test]
async fn what_is_not_expected_is_refused_without_repeating_it() {
    let fixture = Fixture::new();
    fixture.closed(None).await;
    let (api, _unsealed) = fixture.sealed().await;
    for body in [
        json!({}),
        json!({"passphrase": 20_482_048}),
        json!({"passphrase": "20482048", "share": "x"}),
        json!({"pass": "20482048"}),
        json!({"keyFile": "20482048!"}),
        json!({"share": "20482048"}),
        json!({"passphrase": "20482048".repeat(10_000)}),
    ] {
        let (status, told) = unseal(&api, body).await;
        assert_eq!(status, 400, "{told}");
        assert!(!told.to_string().contains("20482048"), "{told}");
    }
    for (method, path, expected) in [
        (Method::GET, "unseal", 405),
        (Method::POST, "status", 405),
        (Method::GET, "seals", 405),
        (Method::GET, "seals/1", 405),
        (Method::GET, "nothing", 404),
        (Method::DELETE, "seals/x", 404),
        (Method::DELETE, "seals/1", 503),
    ] {
        assert_eq!(ask(&api, method, path, json!({})).await.0, expected, "{path}");
    }
    // What a page in a browser may send without being asked whether it may.
    let request = Request::post(format!("{PREFIX}unseal")).extension(Identity::Local);
    let request = request.header(CONTENT_TYPE, "text/plain");
    let response = api.call(request.body(Body::from(r#"{"passphrase": "right"}"#)).unwrap()).await;
    assert_eq!(response.status(), 400);
}
