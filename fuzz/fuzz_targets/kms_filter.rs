//! Reading any text as the filter of a list of keys: no panic.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| claviger_kms::fuzzing::filter(text));
