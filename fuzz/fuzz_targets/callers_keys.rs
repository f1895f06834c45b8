//! Reading any bytes as a file of a caller's public keys: no panic.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| claviger_callers::fuzzing::keys(bytes));
