//! One contract for every store: what `ObjectStore` promises, on ours and on the one that comes with it.

mod common;

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use claviger_sealed::LocalStore;
use common::content;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyMode, CopyOptions, Error, GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutMode, PutPayload,
    RenameOptions, RenameTargetMode, UpdateVersion,
};

type Store = Arc<dyn ObjectStore>;

async fn stores() -> Vec<(&'static str, Store, tempfile::TempDir)> {
    let dir = || tempfile::tempdir().unwrap();
    let (a, b) = (dir(), dir());
    let local: Store = Arc::new(LocalStore::open(a.path()).await.unwrap());
    let under: Store = Arc::new(LocalStore::open(b.path()).await.unwrap());
    let sealed_local: Store = Arc::new(common::open(under).await.unwrap());
    let sealed_memory: Store = Arc::new(common::open(Arc::new(InMemory::new())).await.unwrap());
    vec![
        ("memory", Arc::new(InMemory::new()), dir()),
        ("local", local, a),
        ("sealed memory", sealed_memory, dir()),
        ("sealed local", sealed_local, b),
    ]
}

async fn bytes(store: &Store, path: &str) -> Bytes {
    store.get(&Path::from(path)).await.unwrap().bytes().await.unwrap()
}

async fn put(store: &Store, path: &str, bytes: impl Into<PutPayload>) {
    store.put(&Path::from(path), bytes.into()).await.unwrap();
}

#[tokio::test]
async fn objects_read_back_whole_and_in_ranges_at_every_size() {
    for (name, store, _dir) in stores().await {
        for len in [0_u64, 1, 100, 16_383, 16_384, 16_385, 40_000, 65_536, 200_000, 5_000_001] {
            let what = format!("{name}, {len} bytes");
            let data = content(usize::try_from(len).unwrap(), len);
            let path = Path::from("objects/x");
            let written = store.put(&path, data.clone().into()).await.unwrap();
            let found = store.get(&path).await.unwrap();
            assert_eq!((found.meta.size, found.range.clone()), (len, 0..len), "{what}");
            assert_eq!(found.meta.location, path, "{what}");
            assert!(written.e_tag.is_some() && found.meta.e_tag == written.e_tag, "{what}");
            assert!(found.bytes().await.unwrap() == data, "{what}");
            let head = store.head(&path).await.unwrap();
            assert_eq!((head.size, &head.e_tag), (len, &written.e_tag), "{what}");

            let edges = [0, 1, len / 3, 16_384.min(len), 16_385.min(len), len.saturating_sub(1), len];
            let pairs = edges.iter().flat_map(|start| edges.iter().map(move |end| *start..*end));
            let ranges: Vec<Range<u64>> =
                pairs.filter(|range| range.start < range.end && range.end <= len).collect();
            for range in &ranges {
                let wanted = data.slice(range.start as usize..range.end as usize);
                assert!(store.get_range(&path, range.clone()).await.unwrap() == wanted, "{what}, {range:?}");
            }
            for (range, got) in ranges.iter().zip(store.get_ranges(&path, &ranges).await.unwrap()) {
                assert!(got == data.slice(range.start as usize..range.end as usize), "{what}, {range:?}");
            }
            for (range, wanted) in [
                (GetRange::Suffix(10), len.saturating_sub(10)..len),
                (GetRange::Suffix(u64::MAX), 0..len),
                (GetRange::Offset(len / 2), len / 2..len),
                (GetRange::Bounded(len / 2..u64::MAX / 2), len / 2..len),
            ] {
                if wanted.is_empty() {
                    continue;
                }
                let found =
                    store.get_opts(&path, GetOptions::new().with_range(Some(range.clone()))).await.unwrap();
                assert_eq!(found.range, wanted, "{what}, {range:?}");
                let got = found.bytes().await.unwrap();
                assert!(got == data.slice(wanted.start as usize..wanted.end as usize), "{what}, {range:?}");
            }
            for range in [GetRange::Offset(len), GetRange::Bounded(len..len + 1), GetRange::Bounded(5..5)] {
                let options = GetOptions::new().with_range(Some(range.clone()));
                assert!(store.get_opts(&path, options).await.is_err(), "{what}, {range:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_long_object_comes_in_pieces_that_add_up() {
    for (name, store, _dir) in stores().await {
        let data = content(9_000_123, 7);
        put(&store, "long", data.clone()).await;
        for start in [0, 1, 4_000_000] {
            let options = GetOptions::new().with_range(Some(GetRange::Offset(start)));
            let found = store.get_opts(&Path::from("long"), options).await.unwrap();
            let pieces: Vec<Bytes> = found.into_stream().try_collect().await.unwrap();
            assert!(pieces.concat() == data[start as usize..], "{name} from {start}");
        }
    }
}

#[tokio::test]
async fn create_is_exclusive_and_update_compares() {
    for (name, store, _dir) in stores().await {
        let path = Path::from("a/b");
        let update = |e_tag: Option<String>| PutMode::Update(UpdateVersion { e_tag, version: None });
        let missing = store.put_opts(&path, "0".into(), update(Some("x".into())).into()).await.unwrap_err();
        assert!(
            matches!(missing, Error::Precondition { .. } | Error::NotFound { .. }),
            "{name}: {missing:?}"
        );
        let first = store.put_opts(&path, "1".into(), PutMode::Create.into()).await.unwrap();
        let again = store.put_opts(&path, "2".into(), PutMode::Create.into()).await.unwrap_err();
        assert!(matches!(again, Error::AlreadyExists { .. }), "{name}: {again:?}");
        assert_eq!(bytes(&store, "a/b").await, "1", "{name}");
        let second = store.put_opts(&path, "3".into(), update(first.e_tag.clone()).into()).await.unwrap();
        assert_ne!(first.e_tag, second.e_tag, "{name}");
        let stale = store.put_opts(&path, "4".into(), update(first.e_tag).into()).await.unwrap_err();
        assert!(matches!(stale, Error::Precondition { .. }), "{name}: {stale:?}");
        assert_eq!(bytes(&store, "a/b").await, "3", "{name}");
        store.put(&path, "5".into()).await.unwrap();
        let stale = store.put_opts(&path, "6".into(), update(second.e_tag).into()).await.unwrap_err();
        assert!(matches!(stale, Error::Precondition { .. }), "{name}: {stale:?}");
        assert_eq!(bytes(&store, "a/b").await, "5", "{name}");
    }
}

#[tokio::test]
async fn of_many_updates_at_once_with_the_same_etag_one_wins() {
    for (name, store, _dir) in stores().await {
        let path = Path::from("counter");
        let mut etag = store.put(&path, "0".into()).await.unwrap().e_tag;
        for round in 0..5 {
            let mode = PutMode::Update(UpdateVersion { e_tag: etag.clone(), version: None });
            let writers = (0..8).map(|i| {
                let (store, path, mode) = (store.clone(), path.clone(), mode.clone());
                tokio::spawn(async move { store.put_opts(&path, format!("{i}").into(), mode.into()).await })
            });
            let results = futures::future::join_all(writers).await;
            let mut won: Vec<_> = results.into_iter().filter_map(|result| result.unwrap().ok()).collect();
            assert_eq!(won.len(), 1, "{name}, round {round}");
            etag = won.remove(0).e_tag;
        }
    }
}

#[tokio::test]
async fn conditions_of_a_read_are_kept() {
    for (name, store, _dir) in stores().await {
        let path = Path::from("c");
        let etag = store.put(&path, "1".into()).await.unwrap().e_tag;
        for head in [true, false] {
            let get = |options: GetOptions| store.get_opts(&path, options.with_head(head));
            assert!(get(GetOptions::new().with_if_match(etag.clone())).await.is_ok(), "{name}");
            let same = get(GetOptions::new().with_if_none_match(etag.clone())).await.unwrap_err();
            assert!(matches!(same, Error::NotModified { .. }), "{name}: {same:?}");
            let other = get(GetOptions::new().with_if_match(Some("other"))).await.unwrap_err();
            assert!(matches!(other, Error::Precondition { .. }), "{name}: {other:?}");
        }
    }
}

#[tokio::test]
async fn what_is_not_there_is_not_found() {
    for (name, store, _dir) in stores().await {
        put(&store, "dir/x", "1").await;
        for path in ["dir", "dir/y", "dir/x/z", "other/x"] {
            let path = Path::from(path);
            let get = store.get(&path).await.unwrap_err();
            assert!(matches!(get, Error::NotFound { .. }), "{name}: {get:?}");
            let head = store.head(&path).await.unwrap_err();
            assert!(matches!(head, Error::NotFound { .. }), "{name}: {head:?}");
            let copy = store.copy(&path, &Path::from("to")).await.unwrap_err();
            assert!(matches!(copy, Error::NotFound { .. }), "{name}: {copy:?}");
            let rename = store.rename(&path, &Path::from("to")).await.unwrap_err();
            assert!(matches!(rename, Error::NotFound { .. }), "{name}: {rename:?}");
            let delete = store.delete(&path).await;
            assert!(matches!(delete, Ok(()) | Err(Error::NotFound { .. })), "{name}: {delete:?}");
        }
        assert_eq!(bytes(&store, "dir/x").await, "1", "{name}");
    }
}

#[tokio::test]
async fn listings_are_sorted_complete_and_stop_at_segments() {
    for (name, store, _dir) in stores().await {
        let paths = ["a", "b/1", "b/2", "b/c/3", "b-d/4", "bb/5", "z/y/x/w", "a b/ü", "b/c/%20"];
        let mut paths: Vec<Path> = paths.iter().map(|path| Path::from(*path)).collect();
        for (i, path) in paths.iter().enumerate() {
            store.put(path, content(i * 10_000, 1).into()).await.unwrap();
        }
        let sizes: Vec<u64> = (0..paths.len() as u64).map(|i| i * 10_000).collect();
        let mut expected: Vec<_> = paths.iter().cloned().zip(sizes).collect();
        expected.sort();
        paths.sort();
        let list = async |prefix: Option<&str>| -> Vec<(Path, u64)> {
            let prefix = prefix.map(Path::from);
            store.list(prefix.as_ref()).map_ok(|meta| (meta.location, meta.size)).try_collect().await.unwrap()
        };
        assert_eq!(list(None).await, expected, "{name}");
        let below: Vec<_> = list(Some("b")).await.into_iter().map(|(path, _)| path).collect();
        let b: Vec<Path> = ["b/1", "b/2", "b/c/%20", "b/c/3"].map(Path::from).to_vec();
        let mut b_sorted = b.clone();
        b_sorted.sort();
        assert_eq!(below, b_sorted, "{name}");
        assert!(list(Some("a")).await.is_empty() && list(Some("nothing")).await.is_empty(), "{name}");
        for offset in &paths {
            let after: Vec<Path> = store
                .list_with_offset(None, offset)
                .map_ok(|meta| meta.location)
                .try_collect()
                .await
                .unwrap();
            let wanted: Vec<Path> = paths.iter().filter(|path| *path > offset).cloned().collect();
            assert_eq!(after, wanted, "{name} after {offset}");
        }
        let level = store.list_with_delimiter(Some(&Path::from("b"))).await.unwrap();
        let objects: Vec<_> = level.objects.iter().map(|meta| meta.location.as_ref()).collect();
        assert_eq!((objects, level.common_prefixes), (vec!["b/1", "b/2"], vec![Path::from("b/c")]), "{name}");
        let level = store.list_with_delimiter(None).await.unwrap();
        let mut dirs: Vec<Path> = ["a b", "b", "b-d", "bb", "z"].map(Path::from).to_vec();
        dirs.sort();
        assert_eq!((level.objects.len(), level.common_prefixes), (1, dirs), "{name}");
        store.delete(&Path::from("z/y/x/w")).await.unwrap();
        let level = store.list_with_delimiter(None).await.unwrap();
        assert!(!level.common_prefixes.contains(&Path::from("z")), "{name}");
    }
}

#[tokio::test]
async fn deletes_of_many_answer_in_order_and_leave_the_rest() {
    for (name, store, _dir) in stores().await {
        let path = |i: usize| Path::from(format!("d{}/{i}", i % 3));
        for i in 0..20 {
            store.put(&path(i), "x".into()).await.unwrap();
        }
        let wanted: Vec<Path> = (0..20).filter(|i| i % 2 == 0).map(path).collect();
        let stream = stream::iter(wanted.clone().into_iter().map(Ok)).boxed();
        let deleted: Vec<Path> = store.delete_stream(stream).try_collect().await.unwrap();
        assert_eq!(deleted, wanted, "{name}");
        let left = store.list(None).count().await;
        assert_eq!(left, 10, "{name}");
        store.put_opts(&path(0), "new".into(), PutMode::Create.into()).await.unwrap();
        assert_eq!(bytes(&store, "d0/0").await, "new", "{name}");
    }
}

#[tokio::test]
async fn parts_make_one_object_when_complete_and_none_before() {
    for (name, store, _dir) in stores().await {
        for sizes in
            [vec![], vec![0], vec![10], vec![16_384, 16_384], vec![6_000_000, 6_000_000, 1], vec![20_000_001]]
        {
            let what = format!("{name}, {sizes:?}");
            let path = Path::from("parts/p");
            let mut upload = store.put_multipart(&path).await.unwrap();
            let (mut all, mut parts) = (Vec::new(), Vec::new());
            for (i, size) in sizes.iter().enumerate() {
                let data = content(*size, i as u64);
                all.extend_from_slice(&data);
                parts.push(upload.put_part(data.into()));
            }
            parts.reverse();
            futures::future::try_join_all(parts).await.unwrap();
            assert!(store.get(&path).await.is_err(), "{what}");
            upload.complete().await.unwrap();
            let found = store.get(&path).await.unwrap();
            assert_eq!(found.meta.size, all.len() as u64, "{what}");
            assert!(found.bytes().await.unwrap() == all, "{what}");
            store.delete(&path).await.unwrap();

            let mut upload = store.put_multipart(&path).await.unwrap();
            upload.put_part("given up".into()).await.unwrap();
            upload.abort().await.unwrap();
            assert!(store.get(&path).await.is_err(), "{what}");
        }
        put(&store, "parts/over", "old").await;
        let mut upload = store.put_multipart(&Path::from("parts/over")).await.unwrap();
        upload.put_part("new".into()).await.unwrap();
        assert_eq!(bytes(&store, "parts/over").await, "old", "{name}");
        upload.complete().await.unwrap();
        assert_eq!(bytes(&store, "parts/over").await, "new", "{name}");
        drop(store.put_multipart(&Path::from("parts/dropped")).await.unwrap());
        assert_eq!(store.list(None).count().await, 1, "{name}");
    }
}

#[tokio::test]
async fn copies_and_renames_carry_the_content_and_respect_what_is_there() {
    for (name, store, _dir) in stores().await {
        for len in [0, 10, 9_000_000] {
            let data = content(len, 3);
            let (a, b, c) = (Path::from("from/a"), Path::from("to/b"), Path::from("else/where/c"));
            store.put(&a, data.clone().into()).await.unwrap();
            store.copy(&a, &b).await.unwrap();
            assert!(bytes(&store, "to/b").await == data && bytes(&store, "from/a").await == data, "{name}");
            let create = CopyOptions::new().with_mode(CopyMode::Create);
            let exists = store.copy_opts(&a, &b, create.clone()).await.unwrap_err();
            assert!(matches!(exists, Error::AlreadyExists { .. }), "{name}: {exists:?}");
            store.copy_opts(&a, &c, create).await.unwrap();
            store.put(&a, "changed".into()).await.unwrap();
            store.rename(&a, &b).await.unwrap();
            assert_eq!(bytes(&store, "to/b").await, "changed", "{name}");
            assert!(matches!(store.get(&a).await, Err(Error::NotFound { .. })), "{name}");
            let create = RenameOptions::new().with_target_mode(RenameTargetMode::Create);
            let exists = store.rename_opts(&b, &c, create.clone()).await.unwrap_err();
            assert!(matches!(exists, Error::AlreadyExists { .. }), "{name}: {exists:?}");
            store.rename_opts(&b, &a, create).await.unwrap();
            assert!(bytes(&store, "else/where/c").await == data, "{name}");
            let names: Vec<_> = store.list(None).map_ok(|meta| meta.location).try_collect().await.unwrap();
            assert_eq!(names, [c.clone(), a], "{name}");
            store.delete(&c).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_reader_sees_the_old_or_the_new_object_while_it_is_overwritten_again_and_again() {
    for (name, store, _dir) in stores().await {
        let path = Path::from("hot");
        let data = |seed: u64| content(20_000 + (seed as usize % 7) * 9_000, seed);
        store.put(&path, data(0).into()).await.unwrap();
        let writer = tokio::spawn({
            let (store, path) = (store.clone(), path.clone());
            async move {
                for seed in 1..60 {
                    store.put(&path, data(seed).into()).await.unwrap();
                    tokio::task::yield_now().await;
                }
            }
        });
        let all: Vec<Bytes> = (0..60).map(data).collect();
        while !writer.is_finished() {
            let found =
                store.get(&path).await.unwrap_or_else(|e| panic!("{name}: {e}")).bytes().await.unwrap();
            assert!(all.contains(&found), "{name}");
            tokio::task::yield_now().await;
        }
        writer.await.unwrap();
        assert!(bytes(&store, "hot").await == all[59], "{name}");
    }
}
