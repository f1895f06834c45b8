//! The root seals on a store in memory.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD as BASE64, URL_SAFE_NO_PAD};
use claviger_crypto::SecretBytes;
use object_store::memory::InMemory;

use super::secret::parse_key;
use super::*;

const NOW: Timestamp = Timestamp(1_700_000_000_000_000);

fn store() -> Arc<dyn ObjectStore> {
    Arc::new(InMemory::new())
}

fn phrase(text: &str) -> RootSecret {
    RootSecret::Passphrase(SecretBytes::new(text.into()))
}

fn file(byte: u8) -> RootSecret {
    RootSecret::KeyFile(SecretBytes::new(vec![byte; 32]))
}

fn new_phrase(text: &str) -> NewSeal {
    NewSeal::Passphrase(SecretBytes::new(text.into()))
}

async fn root(store: &Arc<dyn ObjectStore>, secret: &RootSecret) -> Result<OpenedRoot> {
    open_or_make(store, secret, Params::FLOOR, NOW).await
}

async fn opens(store: &Arc<dyn ObjectStore>, secret: &RootSecret) -> Result<[u8; 32]> {
    Ok(*root(store, secret).await?.keys.take(Use::Records)?.expose())
}

async fn add(root: &OpenedRoot, new: NewSeal, replace: Option<u32>) -> Result<AddedSeal> {
    let turn = root.seals.turn().await;
    let change = turn.add(&new, replace, NOW).await?;
    turn.commit(change).await
}

async fn remove(root: &OpenedRoot, id: u32) -> Result<()> {
    let turn = root.seals.turn().await;
    let change = turn.remove(id)?;
    turn.commit(change).await
}

async fn text_of(store: &Arc<dyn ObjectStore>) -> String {
    let bytes = storage::get(store, &Path::from(ROOT)).await.unwrap().unwrap();
    String::from_utf8(bytes.to_vec()).unwrap()
}

async fn set_text(store: &Arc<dyn ObjectStore>, text: &str) {
    storage::put(store, &Path::from(ROOT), text.into(), PutMode::Overwrite).await.unwrap();
}

fn sent(shares: &[Share]) -> Vec<Share> {
    let read = |share: &Share| std::str::from_utf8(share.expose_text().expose()).unwrap().parse().unwrap();
    shares.iter().map(read).collect()
}

/// A key elsewhere: wraps by adding a mark, and can be made to fall silent.
#[derive(Debug)]
struct Elsewhere {
    name: &'static str,
    silent: bool,
}

#[async_trait::async_trait]
impl RootWrap for Elsewhere {
    fn place(&self) -> WrapPlace {
        WrapPlace::CloudKms { key: self.name.to_owned() }
    }

    async fn wrap(&self, key: &SecretBytes, aad: &[u8]) -> Result<Vec<u8>> {
        Ok([aad, key.expose()].concat())
    }

    async fn unwrap(&self, wrapped: &[u8], aad: &[u8]) -> Result<SecretBytes> {
        if self.silent {
            return Err(Error::new(ErrorKind::Unavailable, "nothing answers"));
        }
        let key = wrapped.strip_prefix(aad).ok_or_else(|| Error::invalid("other additional data"))?;
        Ok(SecretBytes::new(key.to_vec()))
    }
}

fn elsewhere(name: &'static str, silent: bool) -> RootSecret {
    RootSecret::Wrapped(Arc::new(Elsewhere { name, silent }))
}

#[tokio::test]
async fn each_kind_of_secret_opens_what_it_sealed_and_nothing_else_does() {
    let secrets = || {
        let phrases = [phrase("correct horse"), phrase("wrong horse")];
        [RootSecret::Local, file(1), file(2), elsewhere("a", false), elsewhere("b", false)]
            .into_iter()
            .chain(phrases)
            .collect::<Vec<_>>()
    };
    for (i, sealer) in secrets().iter().enumerate() {
        let store = store();
        let keys = opens(&store, sealer).await.unwrap();
        for (j, opener) in secrets().iter().enumerate() {
            let opened = opens(&store, opener).await;
            if i == j {
                assert_eq!(opened.unwrap(), keys);
            } else {
                let error = opened.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::FailedPrecondition, "{sealer:?} {opener:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_wrong_secret_is_told_from_a_secret_of_another_kind() {
    let store = store();
    opens(&store, &phrase("a")).await.unwrap();
    let wrong = opens(&store, &phrase("b")).await.unwrap_err();
    assert!(wrong.message().starts_with("the passphrase does not open this KMS: it is wrong"), "{wrong}");
    let other = opens(&store, &RootSecret::Local).await.unwrap_err();
    assert!(other.message().contains("sealed with a passphrase: start it with that"), "{other}");
}

#[tokio::test]
async fn the_keys_of_the_uses_differ() {
    let mut keys = root(&store(), &file(1)).await.unwrap().keys;
    let mut seen: Vec<_> = Use::ALL.iter().map(|of| *keys.take(*of).unwrap().expose()).collect();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), Use::ALL.len());
    assert_eq!(keys.take(Use::Audit).unwrap_err().kind(), ErrorKind::Internal);
}

#[tokio::test]
async fn any_one_of_several_seals_opens_the_same_keys() {
    let store = store();
    let first = root(&store, &RootSecret::Local).await.unwrap();
    for text in ["one", "two"] {
        add(&first, new_phrase(text), None).await.unwrap();
    }
    add(&first, NewSeal::KeyFile(SecretBytes::new(vec![1; 32])), None).await.unwrap();
    let keys = opens(&store, &RootSecret::Local).await.unwrap();
    for secret in [phrase("one"), phrase("two"), file(1)] {
        assert_eq!(opens(&store, &secret).await.unwrap(), keys, "{secret:?}");
    }
    for secret in [phrase("three"), file(2)] {
        let error = opens(&store, &secret).await.unwrap_err();
        assert!(error.message().contains("does not open this KMS"), "{error}");
    }
    let listed: Vec<_> = first.seals.list().await.into_iter().map(|seal| (seal.id, seal.kind)).collect();
    let kinds = ["local-key", "passphrase", "passphrase", "key-file"].map(str::to_owned);
    assert_eq!(listed, (1..).zip(kinds).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_replaced_seal_is_shut_out_with_one_write_and_the_keys_stay() {
    let store = store();
    let keys = opens(&store, &phrase("old")).await.unwrap();
    let opened = root(&store, &phrase("old")).await.unwrap();
    let added = add(&opened, new_phrase("new"), Some(1)).await.unwrap();
    assert_eq!((added.seal.id, added.seal.create_time), (2, Some(NOW)));
    assert_eq!(opens(&store, &phrase("new")).await.unwrap(), keys);
    assert!(opens(&store, &phrase("old")).await.is_err());
    assert_eq!(add(&opened, new_phrase("x"), Some(1)).await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_removed_seal_opens_nothing_and_the_last_one_stays() {
    let store = store();
    let opened = root(&store, &RootSecret::Local).await.unwrap();
    let last = remove(&opened, 1).await.unwrap_err();
    assert_eq!(last.kind(), ErrorKind::FailedPrecondition);
    assert!(last.message().contains("seal 1 is the last one"), "{last}");
    add(&opened, new_phrase("new"), None).await.unwrap();
    remove(&opened, 1).await.unwrap();
    assert!(storage::get(&store, &Path::from("root.key")).await.unwrap().is_none());
    assert!(opens(&store, &RootSecret::Local).await.is_err());
    opens(&store, &phrase("new")).await.unwrap();
    assert_eq!(remove(&opened, 1).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert!(remove(&opened, 2).await.is_err());
}

#[tokio::test]
async fn there_is_one_root_key_file_and_a_limit_to_seals() {
    let store = store();
    let opened = root(&store, &RootSecret::Local).await.unwrap();
    assert_eq!(add(&opened, NewSeal::Local, None).await.unwrap_err().kind(), ErrorKind::AlreadyExists);
    for byte in 2..=8 {
        add(&opened, NewSeal::KeyFile(SecretBytes::new(vec![byte; 32])), None).await.unwrap();
    }
    let over = add(&opened, NewSeal::KeyFile(SecretBytes::new(vec![9; 32])), None).await.unwrap_err();
    assert_eq!(over.kind(), ErrorKind::ResourceExhausted);
    add(&opened, NewSeal::KeyFile(SecretBytes::new(vec![9; 32])), Some(8)).await.unwrap();
    assert!(opens(&store, &file(9)).await.is_ok() && opens(&store, &file(8)).await.is_err());
}

#[tokio::test]
async fn three_of_five_shares_open_and_wrong_ones_are_told_by_number() {
    let store = store();
    let opened = root(&store, &file(1)).await.unwrap();
    let keys = opens(&store, &file(1)).await.unwrap();
    let old = add(&opened, NewSeal::Shares { shares: 5, threshold: 3 }, None).await.unwrap();
    let added = add(&opened, NewSeal::Shares { shares: 5, threshold: 3 }, Some(old.seal.id)).await.unwrap();
    assert!(added.seal.detail.starts_with("3 of 5, set "), "{:?}", added.seal);
    let mut given = sent(&added.shares);
    let rest = given.split_off(3);
    assert_eq!(opens(&store, &RootSecret::Shares(given)).await.unwrap(), keys);
    let few = opens(&store, &RootSecret::Shares(rest)).await.unwrap_err();
    assert_eq!(few.message(), "2 of 3 shares were given: 4, 5");
    let sealed = SealedRoot::read(store.clone()).await.unwrap().unwrap();
    for share in &added.shares {
        sealed.check_share(share).unwrap();
    }
    let mixed = sealed.check_share(&old.shares[1]).unwrap_err();
    assert!(mixed.message().starts_with("share 2 is of the set"), "{mixed}");
    let other = opens(&store, &RootSecret::Shares(sent(&old.shares))).await.unwrap_err();
    assert!(other.message().contains("sealed with a key file, or 3 of 5 shares"), "{other}");
    let without = self::store();
    opens(&without, &file(1)).await.unwrap();
    let sealed = SealedRoot::read(without).await.unwrap().unwrap();
    assert!(sealed.check_share(&added.shares[0]).unwrap_err().message().contains("no share opens it"));
}

#[tokio::test]
async fn shares_make_no_new_kms() {
    let error = opens(&store(), &RootSecret::Shares(Vec::new())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
}

#[tokio::test]
async fn a_key_elsewhere_that_is_silent_is_no_refusal_and_others_still_open() {
    let store = store();
    let opened = root(&store, &elsewhere("a", false)).await.unwrap();
    add(&opened, new_phrase("spare"), None).await.unwrap();
    let silent = opens(&store, &elsewhere("a", true)).await.unwrap_err();
    assert_eq!(silent.kind(), ErrorKind::Unavailable);
    opens(&store, &phrase("spare")).await.unwrap();
}

#[tokio::test]
async fn a_wrapping_of_one_kms_is_no_good_in_another() {
    let (one, two) = (store(), store());
    opens(&one, &elsewhere("a", false)).await.unwrap();
    opens(&two, &elsewhere("a", false)).await.unwrap();
    let wrapped = |text: &str| {
        let start = text.find("\"wrapped\": \"").unwrap() + 12;
        text[start..].split('"').next().unwrap().to_owned()
    };
    let (text, other) = (text_of(&two).await, text_of(&one).await);
    let body = text.replace(&wrapped(&text), &wrapped(&other));
    set_text(&two, &with_checksum(&body)).await;
    let error = opens(&two, &elsewhere("a", false)).await.unwrap_err();
    assert_eq!(error.message(), "other additional data");
}

/// The text with a checksum that fits it.
fn with_checksum(text: &str) -> String {
    let (body, _) = text.rsplit_once(",\n  \"checksum\": \"").unwrap();
    format!("{body},\n  \"checksum\": \"{:08x}\"\n}}\n", claviger_crypto::crc32c(body.as_bytes()))
}

#[tokio::test]
async fn a_new_root_is_never_put_over_keys_that_are_there() {
    let store = store();
    storage::put(&store, &Path::from("material/x"), b"m".to_vec(), PutMode::Overwrite).await.unwrap();
    let error = opens(&store, &RootSecret::Local).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
    assert!(error.message().contains("root.json is missing"), "{error}");
}

#[tokio::test]
async fn a_crash_on_either_side_of_a_write_of_root_json_leaves_a_kms_that_opens() {
    // Before the first root.json: its root.key is there already.
    let store = store();
    storage::put(&store, &Path::from("root.key"), BASE64.encode([7; 32]).into(), PutMode::Create)
        .await
        .unwrap();
    let keys = opens(&store, &RootSecret::Local).await.unwrap();
    assert_eq!(opens(&store, &RootSecret::Local).await.unwrap(), keys);
    // After the root.json without the seal of root.key, before root.key is removed.
    let key = storage::get(&store, &Path::from("root.key")).await.unwrap().unwrap().to_vec();
    let opened = root(&store, &RootSecret::Local).await.unwrap();
    add(&opened, new_phrase("p"), Some(1)).await.unwrap();
    storage::put(&store, &Path::from("root.key"), key, PutMode::Create).await.unwrap();
    assert_eq!(opens(&store, &phrase("p")).await.unwrap(), keys);
    assert!(storage::get(&store, &Path::from("root.key")).await.unwrap().is_none());
}

#[tokio::test]
async fn any_changed_byte_of_root_json_is_told_as_damage_and_not_as_a_wrong_secret() {
    let store = store();
    let keys = opens(&store, &file(1)).await.unwrap();
    let good = text_of(&store).await;
    for place in 0..good.len() {
        let mut changed = good.clone().into_bytes();
        changed[place] ^= 1;
        let changed = String::from_utf8(changed).unwrap();
        set_text(&store, &changed).await;
        let error = opens(&store, &file(1)).await.unwrap_err();
        let newer = error.message().contains("use a newer program");
        assert!(error.kind() == ErrorKind::DataLoss || newer, "{place}: {error}");
    }
    for (changed, part) in [
        (String::new(), "cannot be read"),
        ("{}".to_owned(), "does not say its format"),
        (good[..good.len() - 20].to_owned(), "cannot be read"),
        (good.replace("\"format\": 2", "\"format\": 3"), "use a newer program"),
        (good.replace("checksum", "chequesum"), "no checksum"),
        (with_checksum(&good.replace("\"audit\"", "\"other\"")), "lacks a key"),
        (with_checksum(&good.replace("\"key-file\"", "\"passphrase\"")), "a seal of the kind 'passphrase'"),
        (with_checksum(&good.replace("\"kms\": \"", "\"kms\": \"x")), "cannot be read"),
    ] {
        set_text(&store, &changed).await;
        let error = opens(&store, &file(1)).await.unwrap_err();
        assert!(error.message().contains(part), "{part}: {error}");
    }
    set_text(&store, &good).await;
    assert_eq!(opens(&store, &file(1)).await.unwrap(), keys);
}

#[tokio::test]
async fn keys_cannot_stand_in_each_others_place() {
    let store = store();
    opens(&store, &file(1)).await.unwrap();
    let good = text_of(&store).await;
    let swapped = good.replace("\"records\"", "\"tmp\"").replace("\"audit\"", "\"records\"");
    set_text(&store, &with_checksum(&swapped.replace("\"tmp\"", "\"audit\""))).await;
    assert_eq!(opens(&store, &file(1)).await.unwrap_err().kind(), ErrorKind::DataLoss);
}

#[tokio::test]
async fn a_seal_of_a_newer_program_is_kept_and_told_and_others_open() {
    let store = store();
    let opened = root(&store, &file(1)).await.unwrap();
    add(&opened, new_phrase("p"), None).await.unwrap();
    let strange = "\"kind\": \"crystal\",\n      \"facets\": 57";
    let text = with_checksum(&text_of(&store).await.replace("\"kind\": \"key-file\"", strange));
    set_text(&store, &text).await;
    let opened = root(&store, &phrase("p")).await.unwrap();
    let unknown = opens(&store, &RootSecret::Local).await.unwrap_err();
    assert!(unknown.message().contains("'crystal', which this program does not know"), "{unknown}");
    let last = remove(&opened, 2).await.unwrap_err();
    assert!(last.message().contains("the last one that opens"), "{last}");
    add(&opened, new_phrase("q"), None).await.unwrap();
    let kept = text_of(&store).await;
    assert!(kept.contains("\"crystal\"") && kept.contains("\"facets\": 57"), "{kept}");
    assert_eq!(SealedRoot::read(store).await.unwrap().unwrap().seals()[0].kind, "crystal");
}

/// Made by another implementation of the format. When this test fails, no KMS made before opens any more.
#[tokio::test]
async fn the_golden_root_of_the_first_format_opens_and_takes_further_seals() {
    let store = store();
    set_text(&store, include_str!("golden.json")).await;
    let golden = phrase("golden passphrase");
    let records = |keys: [u8; 32]| assert_eq!(BASE64.encode(keys), include_str!("golden.records").trim());
    records(opens(&store, &golden).await.unwrap());
    assert_eq!(text_of(&store).await, include_str!("golden.json"), "opening writes nothing");
    let opened = root(&store, &golden).await.unwrap();
    assert_eq!((opened.opened_by().id, opened.opened_by().create_time), (1, None));
    add(&opened, NewSeal::KeyFile(SecretBytes::new(vec![1; 32])), None).await.unwrap();
    assert!(text_of(&store).await.contains("\"format\": 2"));
    for secret in [golden, file(1)] {
        records(opens(&store, &secret).await.unwrap());
    }
    assert!(opens(&store, &phrase("another")).await.is_err());
}

/// Made by another implementation, shares included.
#[tokio::test]
async fn the_golden_root_of_the_second_format_opens_by_each_of_its_seals() {
    let store = store();
    set_text(&store, include_str!("golden_2.json")).await;
    let shares: Vec<Share> =
        include_str!("golden_2.shares").lines().map(|line| line.parse().unwrap()).collect();
    let pair = |a, b| RootSecret::Shares(two(&shares, a, b));
    for secret in [phrase("golden passphrase"), file(0x2a), pair(0, 1), pair(2, 0), pair(1, 2)] {
        let records = opens(&store, &secret).await.unwrap();
        assert_eq!(BASE64.encode(records), include_str!("golden_2.records").trim(), "{secret:?}");
    }
}

fn two(shares: &[Share], a: usize, b: usize) -> Vec<Share> {
    [&shares[a], &shares[b]].into_iter().flat_map(|share| sent(std::slice::from_ref(share))).collect()
}

/// Made by the program of before there were several seals.
#[tokio::test]
async fn a_root_made_by_an_older_program_opens() {
    let store = store();
    set_text(&store, include_str!("made_before.json")).await;
    opens(&store, &phrase("an old passphrase")).await.unwrap();
    assert!(opens(&store, &phrase("another")).await.is_err());
}

#[test]
fn a_key_file_is_read_raw_in_hexadecimal_and_in_base64() {
    let key = [0xfb; 32];
    let hex = "fb".repeat(32);
    for contents in [
        key.to_vec(),
        hex.clone().into_bytes(),
        format!(" {}\n", hex.to_uppercase()).into_bytes(),
        BASE64.encode(key).into_bytes(),
        (URL_SAFE_NO_PAD.encode(key) + "\r\n").into_bytes(),
    ] {
        assert_eq!(*parse_key(&contents).unwrap().expose(), key);
    }
    for contents in ["", "short", &"zz".repeat(32), &"fb".repeat(31), &BASE64.encode([1; 31])] {
        assert_eq!(
            parse_key(contents.as_bytes()).unwrap_err().kind(),
            ErrorKind::InvalidArgument,
            "{contents}"
        );
    }
}
