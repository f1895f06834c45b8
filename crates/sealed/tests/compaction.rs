//! What a database does with its sorted files when nobody writes.

mod common;

use std::sync::Arc;
use std::time::Duration;

use claviger_sealed::engine::{Engine, EngineOptions};
use claviger_sealed::{LocalStore, SealedOptions, SealedStore};
use common::keys;
use object_store::path::Path;
use slatedb::WriteBatch;
use slatedb::config::{FlushOptions, FlushType};

const FILES: u8 = 3;
const ROWS: u8 = 40;

/// A row of 10 kB; each file has a third of them.
fn row(number: u8) -> (String, Vec<u8>) {
    (format!("row{number:03}"), vec![number; 10_000])
}

#[tokio::test]
async fn what_a_rush_left_behind_becomes_one_run_at_rest() {
    let dir = tempfile::tempdir().unwrap();
    let files = Arc::new(LocalStore::open(dir.path()).await.unwrap());
    let options = SealedOptions { lazy_deletes: true, ..SealedOptions::default() };
    let store =
        SealedStore::open(files, Path::from("s"), keys("test"), common::clock(), options).await.unwrap();
    let engine = Engine::open(Arc::new(store), "db", EngineOptions::default()).await.unwrap();
    for file in 0..FILES {
        let mut batch = WriteBatch::new();
        for (key, value) in (0..ROWS).map(|number| row(number * FILES + file)) {
            batch.put(key, value);
        }
        engine.commit(batch).await.unwrap();
        let flush_type = FlushType::MemTable;
        engine.db().flush_with_options(FlushOptions { flush_type }).await.unwrap();
    }
    let added = engine.files().len();
    let tidy = async {
        while engine.files().len() > 1 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    // The files get their times from the engine's own clock, so this takes the rest that it says.
    tokio::time::timeout(Duration::from_secs(60), tidy).await.unwrap();
    assert_eq!(added, usize::from(FILES), "and they were not merged before");
    for number in 0..ROWS * FILES {
        let (key, value) = row(number);
        assert_eq!(engine.get(key.as_bytes()).await.unwrap().unwrap(), value);
    }
    engine.close().await.unwrap();
}
