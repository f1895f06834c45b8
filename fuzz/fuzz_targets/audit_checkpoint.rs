//! Reading any bytes as a signed checkpoint, a verifier key or a note: no panic, and what is read is written the same.
#![no_main]

use claviger_audit::tlog::{Checkpoint, LogKey, Note, SignedCheckpoint, VerifierKey};
use claviger_crypto::SecretKey;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(note) = Note::parse(data) {
        assert_eq!(note.to_string().as_bytes(), data);
        if let Ok(checkpoint) = Checkpoint::parse(&note.text) {
            assert_eq!(checkpoint.to_string(), note.text);
        }
        let Ok(seed) = SecretKey::from_slice(&[7; 32]) else { return };
        let Ok(log) = LogKey::new(&seed) else { return };
        let _ = SignedCheckpoint::open(data, log.verifier());
    }
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(key) = VerifierKey::parse(text)
    {
        assert_eq!(key.to_string(), text.trim_end_matches('\n'));
    }
});
