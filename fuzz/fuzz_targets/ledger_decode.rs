//! Reading any bytes as a ledger: there is one encoding, so what is read is written the same.
#![no_main]

use claviger_sealed::store::ledger::Ledger;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Some(ledger) = Ledger::decode(data) {
        assert_eq!(ledger.encode(), data);
    }
});
