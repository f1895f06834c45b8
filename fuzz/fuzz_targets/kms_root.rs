//! Reading any bytes as a `root.json`, a key file or a share: no panic, and nothing opens that was not sealed.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| claviger_kms::fuzzing::root(data));
