//! Reading any bytes as the blocks of a run: an error or records that lie inside, never a panic. Records
//! that were read are written and read again the same.
#![no_main]

use bytes::Bytes;
use claviger_shuffle::block::{Records, encode};
use libfuzzer_sys::fuzz_target;

type Owned = (Vec<u8>, Vec<u8>, Vec<u8>);

fn read(bytes: Bytes) -> (Vec<Owned>, bool) {
    let mut records = Records::new(bytes);
    let mut found = Vec::new();
    loop {
        match records.advance() {
            Ok(Some(_)) => {
                found.push((records.key().to_vec(), records.sort().to_vec(), records.value().to_vec()));
            }
            Ok(None) => return (found, true),
            Err(_) => return (found, false),
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let (found, _) = read(Bytes::copy_from_slice(data));
    // Any order will do here: with one partition a key is written wherever it changes.
    let again = encode(found.iter().map(|(key, sort, value)| (&key[..], &sort[..], &value[..])));
    assert_eq!(read(again.into()), (found, true));
});
