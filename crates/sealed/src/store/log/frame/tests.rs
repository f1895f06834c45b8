use super::super::super::header::FRONT;
use super::*;
use claviger_crypto::SecretKey;
use claviger_crypto::cobblestone::PREFIX;
use claviger_crypto::cobblestone::hazmat;

const FIRST: u64 = 40;

fn key() -> (MessageKey, [u8; PREFIX]) {
    let key = SecretKey::from_slice(&[0x42; 32]).unwrap();
    hazmat::message_key(&key, b"log", &[9; 24]).unwrap()
}

fn body(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|i| (i % 251) as u8 ^ seed).collect()
}

/// A segment of those bodies, and where each frame begins; the last one is the end.
fn segment(bodies: &[Vec<u8>]) -> (Vec<u8>, Vec<u64>) {
    let (message, prefix) = key();
    let mut file = vec![1; FRONT];
    file[FRONT - PREFIX..].copy_from_slice(&prefix);
    file.resize(START as usize, 0);
    let mut starts = vec![START];
    let mut frame = Vec::new();
    for (body, number) in bodies.iter().zip(FIRST..) {
        let (position, mut start) = (file.len() as u64, Vec::new());
        let next = seal_frame(&message, position, number, body, &mut frame, |piece| {
            start.extend_from_slice(piece);
            Ok(())
        });
        let next = next.unwrap();
        file.extend_from_slice(&start);
        file.extend_from_slice(&frame);
        assert_eq!(file.len() as u64, next);
        starts.push(next);
    }
    (file, starts)
}

type Read = std::result::Result<(Vec<Vec<u8>>, u64), Change>;

fn read(file: &[u8], expected: Expected) -> Read {
    let (frames, end) = read_frames(&key().0, file, FIRST, expected)?;
    for (frame, number) in frames.iter().zip(FIRST..) {
        assert_eq!(frame.number, number);
    }
    Ok((frames.into_iter().map(|frame| frame.body.to_vec()).collect(), end))
}

/// As a process that died left it: with zeroes after what it wrote.
fn open(file: &[u8]) -> Read {
    read(file, Expected::AtLeast(START))
}

fn sample() -> Vec<Vec<u8>> {
    [1, 15, 16, 100, 700, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, 2 * PIECE + 9, 30]
        .iter()
        .zip(1..)
        .map(|(len, seed)| body(*len, seed))
        .collect()
}

#[test]
fn frames_read_back_with_or_without_zeroes_behind_them() {
    let bodies = sample();
    let (file, starts) = segment(&bodies);
    let end = *starts.last().unwrap();
    assert_eq!(read(&file, Expected::Exactly(end)).unwrap(), (bodies.clone(), end));
    for room in [0, 1, 63, 64, 5000] {
        let mut file = file.clone();
        file.resize(file.len() + room, 0);
        assert_eq!(open(&file).unwrap(), (bodies.clone(), end));
    }
    assert_eq!(open(&file[..START as usize]).unwrap(), (Vec::new(), START));
}

#[test]
fn a_last_frame_torn_at_any_byte_is_not_there_and_all_before_it_is() {
    for last in [1, 20, 500, 2000] {
        let bodies = vec![body(100, 1), body(30, 2), body(last, 3)];
        let (file, starts) = segment(&bodies);
        let begins = starts[2] as usize;
        // The zeroes after the last mark belong to nobody.
        let whole = file.iter().rposition(|byte| *byte != 0).unwrap();
        for written in begins..file.len() {
            for room in [0, 4096] {
                let mut torn = file[..written].to_vec();
                torn.resize(written + room, 0);
                let (found, end) = open(&torn).unwrap_or_else(|e| panic!("{last}, {written}, {room}: {e:?}"));
                if written < whole {
                    assert_eq!((found.len(), end), (2, starts[2]), "{last}, {written}, {room}");
                } else {
                    assert_eq!(found.len(), 3);
                }
                assert_eq!(found, bodies[..found.len()]);
            }
        }
    }
}

#[test]
fn a_last_frame_that_lacks_a_sector_is_not_there() {
    let bodies = vec![body(100, 1), body(5000, 2)];
    let (file, starts) = segment(&bodies);
    let mut at = starts[1];
    while at < starts[2] {
        let until = (at + 1).next_multiple_of(SECTOR).min(starts[2]);
        let mut torn = file.clone();
        torn[at as usize..until as usize].fill(0);
        let (found, end) = open(&torn).unwrap();
        assert_eq!((found, end), (bodies[..1].to_vec(), starts[1]), "sector at {at}");
        at = until;
    }
}

#[test]
fn every_flipped_byte_of_any_frame_is_noticed_the_last_one_too() {
    let bodies = vec![body(100, 1), body(700, 2), body(30, 3), body(600, 4)];
    let (file, starts) = segment(&bodies);
    let end = *starts.last().unwrap();
    for position in FRONT..file.len() {
        for bit in [0, 3, 7] {
            let mut changed = file.clone();
            changed[position] ^= 1 << bit;
            assert_eq!(open(&changed), Err(Change::Content), "byte {position}");
            assert!(read(&changed, Expected::Exactly(end)).is_err(), "byte {position}");
            changed.resize(changed.len() + 4096, 0);
            assert_eq!(open(&changed), Err(Change::Content), "byte {position} with room");
        }
    }
}

#[test]
fn a_frame_that_another_one_follows_was_not_torn() {
    let bodies = sample();
    let (file, starts) = segment(&bodies);
    for frame in 0..bodies.len() - 1 {
        let (start, end) = (starts[frame] as usize, starts[frame + 1] as usize);
        for range in [start..end, start..start + HEAD, start + BEFORE..end, end - 64..end] {
            let mut changed = file.clone();
            changed[range.clone()].fill(0);
            if changed != file {
                assert!(open(&changed) == Err(Change::Content), "frame {frame}, {range:?}");
            }
        }
    }
}

#[test]
fn frames_swapped_moved_repeated_or_of_another_segment_are_noticed() {
    let bodies = vec![body(100, 1), body(100, 2), body(100, 3)];
    let (file, starts) = segment(&bodies);
    let frame = |n: usize| file[starts[n] as usize..starts[n + 1] as usize].to_vec();
    let front = file[..START as usize].to_vec();
    let lists: [&[usize]; 5] = [&[1, 0, 2], &[0, 2], &[1, 2], &[0, 0, 1, 2], &[0, 1, 1, 2]];
    for order in lists {
        let changed: Vec<u8> = front.iter().copied().chain(order.iter().flat_map(|n| frame(*n))).collect();
        assert_eq!(open(&changed), Err(Change::Content), "{order:?}");
    }
    let (message, _) =
        hazmat::message_key(&SecretKey::from_slice(&[1; 32]).unwrap(), b"log", &[9; 24]).unwrap();
    let mut other = Vec::new();
    seal_frame(&message, starts[2], FIRST + 2, &body(100, 3), &mut other, |_| Ok(())).unwrap();
    let changed = [&file[..starts[2] as usize], &other].concat();
    assert_eq!(open(&changed), Err(Change::Content));
    // A number that was given to another frame.
    assert_eq!(read_frames(&key().0, &file, FIRST + 1, Expected::AtLeast(START)), Err(Change::Content));
}

#[test]
fn a_cut_below_what_the_ledger_knows_is_noticed_and_of_a_finished_segment_every_one() {
    let bodies = vec![body(100, 1), body(100, 2), body(100, 3)];
    let (file, starts) = segment(&bodies);
    for cut in START as usize..file.len() {
        assert!(read(&file[..cut], Expected::Exactly(starts[3])).is_err(), "{cut}");
        let mut zeroed = file[..cut].to_vec();
        zeroed.resize(file.len(), 0);
        let noticed = read(&zeroed, Expected::AtLeast(starts[2]));
        let second_is_whole = cut as u64 >= starts[2] - ALIGN && open(&zeroed).unwrap().0.len() >= 2;
        assert_eq!(noticed.is_ok(), second_is_whole, "{cut}");
    }
    let longer = [&file[..], &[0; 64]].concat();
    assert_eq!(read(&longer, Expected::Exactly(starts[3])), Err(Change::Length));
}

#[test]
fn frames_that_cannot_be_are_refused() {
    let (message, _) = key();
    let mut out = Vec::new();
    assert!(seal_frame(&message, START, 1, &[], &mut out, |_| Ok(())).is_err());
    for len in [u64::MAX, MAX_BODY + 1, 0] {
        let mut head = [0; PLAIN_HEAD];
        head[..8].copy_from_slice(&FIRST.to_le_bytes());
        head[8..].copy_from_slice(&len.to_le_bytes());
        let mut sealed = [0; HEAD];
        message.seal_chunk_to(index(Kind::Head, START), &head, &mut sealed).unwrap();
        let (mut file, _) = segment(&[]);
        file.extend_from_slice(&sealed);
        file.push(MARK);
        assert_eq!(open(&file), Err(Change::Content));
    }
}

/// A segment as version 1 writes it. It must read for ever. Made by an implementation of its own, from the
/// text of docs/formats.md.
#[test]
fn a_frame_of_version_1_reads_and_is_written_the_same() {
    let (message, _) = key();
    let mut frame = Vec::new();
    let next = seal_frame(&message, 192, 7, b"rows of a table", &mut frame, |_| Ok(())).unwrap();
    let hex: String = frame.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!((hex.as_str(), next), (GOLDEN, 320));
}

const GOLDEN: &str = "d6ec7fa3488294b4bf6b64d43e39393f0307066189623ced5f47b3ce03f217095a5789e46871ccae50f41323\
    b346f5996ffcf2a06ea5e3cc7df3ab11474584ae5a0000000000000000000000000000000000000000000000\
    00000000000000000000000000000000000000000000000000000000000000000000000000000000";
