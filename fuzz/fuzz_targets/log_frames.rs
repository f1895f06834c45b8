//! Reading any bytes as a segment of a log, and as the rows of a frame: no panic, and what is read of rows is
//! written the same.
#![no_main]

use bytes::Bytes;
use claviger_crypto::SecretKey;
use claviger_crypto::cobblestone::hazmat;
use claviger_sealed::engine::rows::{Before, decode, encode};
use claviger_sealed::store::log::frame::{Expected, START, read_frames, seal_frame};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let body = Bytes::copy_from_slice(data);
    if let Some(rows) = decode(&body) {
        let mut again = Vec::new();
        encode(&rows, &mut Before::default(), &mut again);
        assert_eq!(again, data);
    }
    let Some((change, data)) = data.split_first_chunk::<4>() else { return };
    let Ok(key) = SecretKey::from_slice(&[7; 32]) else { return };
    let Ok((message, _)) = hazmat::message_key(&key, b"fuzz", &[9; 24]) else { return };
    // Two authentic frames, then whatever comes, with one byte of it all changed.
    let mut segment = vec![0; START as usize];
    for number in 0..2 {
        let mut frame = Vec::new();
        let position = segment.len() as u64;
        if seal_frame(&message, position, number, &[1; 40], &mut frame, |_| Ok(())).is_err() {
            return;
        }
        segment.extend_from_slice(&frame);
    }
    segment.extend_from_slice(data);
    let position = u32::from_le_bytes(*change) as usize % segment.len();
    if let Some(byte) = segment.get_mut(position) {
        *byte ^= change[3];
    }
    for expected in [Expected::AtLeast(START), Expected::Exactly(segment.len() as u64)] {
        if let Ok((frames, end)) = read_frames(&message, &segment, 0, expected) {
            assert!(frames.len() <= 2 && end >= START);
        }
    }
});
