//! Reading any bytes as the header of a sealed file: what is read is written the same.
#![no_main]

use claviger_sealed::ScopeId;
use claviger_sealed::store::header::{HEADER, Header, file_len, object_len};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Some(header) = Header::decode(data) {
        assert_eq!(data.get(..HEADER), Some(&header.encode()[..]));
        assert!(header.context(&ScopeId::new("fuzz"), "path").len() > HEADER);
    }
    if let Some(bytes) = data.first_chunk::<8>() {
        let len = u64::from_le_bytes(*bytes);
        if let Some(plain) = object_len(len) {
            assert_eq!(file_len(plain), len);
        }
    }
});
