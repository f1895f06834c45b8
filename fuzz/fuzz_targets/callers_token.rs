//! Reading any text as a token of a caller: no panic.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| claviger_callers::fuzzing::token(text));
