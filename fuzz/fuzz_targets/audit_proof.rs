//! Reading any bytes as the proof of an entry, and any hashes as proofs: no panic, and nothing is proven by chance.
#![no_main]

use claviger_audit::tlog::{Evidence, Hash, LogKey, Proof};
use claviger_crypto::SecretKey;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(evidence) = Evidence::parse(data) {
        assert_eq!(evidence.to_string().as_bytes(), data);
        let Ok(seed) = SecretKey::from_slice(&[7; 32]) else { return };
        let Ok(log) = LogKey::new(&seed) else { return };
        assert!(evidence.check(log.verifier()).is_err());
    }
    let Some((sizes, hashes)) = data.split_first_chunk::<16>() else { return };
    let (old, new) = sizes.split_at(8);
    let number = |bytes: &[u8]| bytes.iter().fold(0u64, |number, byte| number << 8 | u64::from(*byte));
    let (old, new) = (number(old), number(new));
    let hashes = hashes.as_chunks::<32>().0.iter().map(|hash| Hash(*hash)).collect();
    let (proof, root) = (Proof(hashes), Hash::leaf(b"root"));
    assert!(!proof.includes(Hash::leaf(b"entry"), old, new, root));
    assert!(old == new || !proof.is_consistent((old, Hash::leaf(b"old")), (new, root)));
});
