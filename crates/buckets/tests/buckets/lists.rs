//! Listings, compared with what a plain sort of the names gives.

use std::collections::BTreeSet;

use claviger_buckets::ListRequest;
use claviger_core::ErrorKind;

use crate::world::World;

async fn filled(names: &[&str]) -> World {
    let world = World::new().await;
    world.bucket("bucket", None).await;
    for name in names {
        world.put("bucket", name, "x").await.unwrap();
    }
    world
}

/// All pages of a listing: names and prefixes.
async fn pages(world: &World, request: ListRequest) -> (Vec<String>, Vec<String>) {
    let (mut names, mut prefixes) = (Vec::new(), Vec::new());
    let mut request = ListRequest { bucket: "bucket".into(), ..request };
    for _ in 0..1000 {
        let page = world.list(request.clone()).await.unwrap();
        names.extend(page.objects.into_iter().map(|object| object.name));
        prefixes.extend(page.prefixes);
        match page.next {
            Some(next) => request.page_token = Some(next),
            None => return (names, prefixes),
        }
    }
    panic!("the pages have no end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_of_any_length_make_the_same_listing() {
    let names = ["a", "a/", "a/1", "a/2", "a/b/1", "a0", "b", "c/1", "c/2", "z", "é/1"];
    let world = filled(&names).await;
    for limit in [1, 2, 3, 1000] {
        let request = ListRequest { max_results: Some(limit), ..ListRequest::default() };
        assert_eq!(pages(&world, request).await.0, names, "{limit}");
        let request =
            ListRequest { max_results: Some(limit), delimiter: Some("/".into()), ..ListRequest::default() };
        let (found, prefixes) = pages(&world, request).await;
        assert_eq!(found, ["a", "a0", "b", "z"], "{limit}");
        assert_eq!(prefixes, ["a/", "c/", "é/"], "{limit}");
        let request = ListRequest {
            max_results: Some(limit),
            prefix: "a/".into(),
            delimiter: Some("/".into()),
            include_trailing_delimiter: true,
            ..ListRequest::default()
        };
        let (found, prefixes) = pages(&world, request).await;
        assert_eq!((found, prefixes), (vec!["a/".into(), "a/1".into(), "a/2".into()], vec!["a/b/".into()]));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn offsets_and_patterns_narrow_a_listing() {
    let world = filled(&["a", "b", "c.txt", "d/e.txt", "f"]).await;
    let from = |start: &str, end: &str| ListRequest {
        start_offset: Some(start.into()),
        end_offset: Some(end.into()),
        ..ListRequest::default()
    };
    assert_eq!(pages(&world, from("b", "d/z")).await.0, ["b", "c.txt", "d/e.txt"]);
    assert_eq!(pages(&world, from("b", "b")).await.0, Vec::<String>::new());
    let glob = |pattern: &str| ListRequest { match_glob: Some(pattern.into()), ..ListRequest::default() };
    assert_eq!(pages(&world, glob("*.txt")).await.0, ["c.txt"]);
    assert_eq!(pages(&world, glob("**.txt")).await.0, ["c.txt", "d/e.txt"]);
    let request =
        ListRequest { bucket: "bucket".into(), page_token: Some("?".into()), ..ListRequest::default() };
    assert_eq!(world.list(request).await.unwrap_err().kind(), ErrorKind::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn versions_come_by_name_and_generation_on_all_pages() {
    let world = filled(&["b"]).await;
    world.change("bucket", |config| config.versioning = true).await;
    let mut expected = BTreeSet::new();
    for name in ["a", "b", "a", "c/1", "b", "c/2", "a"] {
        let object = world.put("bucket", name, "x").await.unwrap();
        expected.insert((object.name, object.generation));
    }
    let first = world.list(ListRequest { bucket: "bucket".into(), versions: true, ..Default::default() });
    let first = first.await.unwrap().objects;
    assert_eq!(first.len(), expected.len() + 1, "the one from before versioning was on");
    for limit in [1, 2, 5] {
        let mut request = ListRequest {
            bucket: "bucket".into(),
            versions: true,
            max_results: Some(limit),
            ..ListRequest::default()
        };
        let mut found = Vec::new();
        loop {
            let page = world.list(request.clone()).await.unwrap();
            found.extend(page.objects);
            match page.next {
                Some(next) => request.page_token = Some(next),
                None => break,
            }
        }
        assert_eq!(found, first, "{limit}");
    }
}
