//! Opening any bytes: an error or a plaintext of the length that the arithmetic says, never a panic.
//! Bytes that were sealed open, and not once one of them was changed.
#![no_main]

use claviger_crypto::SecretKey;
use claviger_crypto::cobblestone::{hazmat, open, plain_len};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(key) = SecretKey::from_slice(&[7; 32]) else { return };
    if let Ok(plain) = open(&key, b"fuzz", data) {
        assert_eq!(plain_len(data.len() as u64).ok(), Some(plain.len() as u64));
    }
    let Some((&[position, mask], plain)) = data.split_first_chunk::<2>() else { return };
    let Ok(mut sealed) = hazmat::seal_with_salt(&key, b"fuzz", &[1; 24], plain) else { return };
    assert_eq!(open(&key, b"fuzz", &sealed).as_deref(), Ok(plain));
    let position = usize::from(position) * sealed.len() / 256;
    if mask != 0
        && let Some(byte) = sealed.get_mut(position)
    {
        *byte ^= mask;
        assert!(open(&key, b"fuzz", &sealed).is_err());
    }
});
