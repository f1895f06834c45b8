//! Reading any bytes as a ciphertext of any kind of key, and opening it: no panic.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| claviger_kms::fuzzing::ciphertext(data));
