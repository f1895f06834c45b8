//! Fixtures: files as version 1 writes them. They must open for ever. They were made by an
//! implementation of their own, from the text of docs/formats.md.

use bytes::Bytes;
use claviger_crypto::SecretKey;
use claviger_crypto::cobblestone::hazmat;
use object_store::memory::InMemory;
use object_store::path::Path;
use std::sync::Arc;

use super::header::Header;
use super::ledger::{Entry, Ledger, UNKNOWN, Version};
use super::place::{Place, seal};
use crate::scope::{KeyId, ScopeId, ScopeKey, ScopeKeys};

const FILE: &str = "434c56475345414c010000000300000007000000050000000000000000000000000000000000000000000000\
    00000000000102030405060708090a0b0c0d0e0f10111213141516174b41614afe5784ffc7009224932ba115f059c1277c2b699e\
    56ecb412927c929bd3fe21c380b34a289d2c456170d2bbb0882ff5ba967757180c816331897d7657";
const LEDGER: &str = "010900000001000000040001610802000680010009636f6d706163746564030179000977616c2f31\
    2e73737401808080802089010405322e73737401048901";

#[derive(Debug)]
struct Third(ScopeId, SecretKey);

impl ScopeKeys for Third {
    fn scope(&self) -> &ScopeId {
        &self.0
    }

    fn current(&self) -> claviger_core::Result<Arc<ScopeKey>> {
        Ok(Arc::new(ScopeKey::new(KeyId(3), SecretKey::from_slice(self.1.expose()).unwrap())))
    }

    fn by_id(&self, id: KeyId) -> claviger_core::Result<Arc<ScopeKey>> {
        assert_eq!(id, KeyId(3));
        self.current()
    }
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.chars().filter_map(|c| c.to_digit(16)).map(|digit| digit as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

#[test]
fn a_sealed_file_of_version_1_opens_and_is_written_the_same() {
    let key = || SecretKey::from_slice(&[0x42; 32]).unwrap();
    let (scope, path) = (ScopeId::new("bigtable/golden"), "wal/1.sst");
    let header = Header { key: KeyId(3), sequence: (5 << 32) + 7, log: false };
    let salt = std::array::from_fn(|i| i as u8);
    let (message, prefix) = hazmat::message_key(&key(), &header.context(&scope, path), &salt).unwrap();
    let content = b"a row of a table";
    assert_eq!(seal(&header, &message, &prefix, &content.to_vec().into()).unwrap(), bytes(FILE));

    let keys = Arc::new(Third(scope, key()));
    let place = Place { inner: Arc::new(InMemory::new()), prefix: Path::default(), keys };
    let (found, plain) = place.open_whole(path, &Bytes::from(bytes(FILE))).unwrap();
    assert_eq!((found, plain.as_ref()), (header, &content[..]));
}

#[test]
fn a_ledger_of_version_1_decodes_and_is_written_the_same() {
    let version = |sequence, len| Version { sequence, len };
    let entries = [
        ("a", Entry { doubtful: vec![version(1, UNKNOWN), version(4, 127)], ..Entry::default() }),
        ("compacted", Entry { settled: Some(version(3, 120)), may_be_absent: true, ..Entry::default() }),
        ("wal/1.sst", Entry { settled: Some(version((1 << 32) + 3, 136)), ..Entry::default() }),
        ("wal/2.sst", Entry { settled: Some(version((1 << 32) + 5, 136)), ..Entry::default() }),
    ];
    let entries = entries.into_iter().map(|(path, entry)| (path.into(), entry)).collect();
    let ledger = Ledger { next: (1 << 32) + 9, entries };
    assert_eq!(Ledger::decode(&bytes(LEDGER)).as_ref(), Some(&ledger));
    assert_eq!(ledger.encode(), bytes(LEDGER));
}
