//! Reading any bytes as the path of a tile, as a tile and as a bundle of entries: no panic, and what is read whole is
//! written the same.
#![no_main]

use bytes::Bytes;
use claviger_audit::tlog::{Bundle, Hash, Tile, encode_bundle};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(path) = std::str::from_utf8(data)
        && let Some(tile) = Tile::parse(path)
    {
        assert_eq!(tile.path(), path);
    }
    if let Some(hashes) = Hash::split(data) {
        assert_eq!(Hash::join(&hashes), data);
    }
    let bundle = Bundle::decode(Bytes::copy_from_slice(data));
    let again = encode_bundle(bundle.entries.iter().map(AsRef::as_ref)).unwrap_or_default();
    assert!(data.starts_with(&again));
    assert_eq!(bundle.whole, again.len() == data.len());
});
