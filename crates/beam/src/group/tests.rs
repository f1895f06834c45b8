//! Grouping, from elements to groups, with a sorted list in the shuffle's place.

use bytes::{Bytes, BytesMut};
use claviger_beam_proto::pipeline;
use pipeline::trigger::Trigger as TriggerProto;
use prost::Message;

use super::*;
use crate::coder::value::{Value, decode};
use crate::merge::Merged;
use crate::testing::{coder, components};
use crate::urn::{coder as urns, window_fn};
use crate::window::put_windows;
use crate::windowed::{Pane, Timing};

const CUSTOM: &str = "beam:window_fn:pickled_python:v1";

/// Components with the coder `wire` of `KV<bytes, varint>` in windows of `window`, and an empty strategy `s`.
fn words(window: &str, function: &str) -> pipeline::Components {
    let mut words = components(&[
        ("bytes", urns::BYTES, &[]),
        ("int", urns::VARINT, &[]),
        ("own", "beam:coder:pickled_python:v1", &[]),
        ("prefixed", urns::LENGTH_PREFIX, &["own"]),
        ("w", window, if window == urns::CUSTOM_WINDOW { &["prefixed"] } else { &[] }),
        ("kv", urns::KV, &["bytes", "int"]),
        ("ints", urns::ITERABLE, &["int"]),
        ("grouped", urns::KV, &["bytes", "ints"]),
        ("wire", urns::WINDOWED_VALUE, &["kv", "w"]),
        ("out", urns::WINDOWED_VALUE, &["grouped", "w"]),
    ]);
    let payload =
        pipeline::SessionWindowsPayload { gap_size: Some(prost_types::Duration { seconds: 1, nanos: 0 }) };
    let fixed = pipeline::FixedWindowsPayload { size: payload.gap_size, offset: None };
    let payload = match function {
        window_fn::SESSIONS => payload.encode_to_vec(),
        window_fn::FIXED => fixed.encode_to_vec(),
        _ => Vec::new(),
    };
    let spec = pipeline::FunctionSpec { urn: function.to_owned(), payload: payload.into() };
    let strategy = pipeline::WindowingStrategy { window_fn: Some(spec), ..Default::default() };
    words.windowing_strategies.insert("s".to_owned(), strategy);
    words
}

fn strategy(words: &mut pipeline::Components) -> &mut pipeline::WindowingStrategy {
    words.windowing_strategies.get_mut("s").expect("a strategy")
}

fn element(timestamp: i64, windows: &[&[u8]], key: &[u8], value: u8) -> Vec<u8> {
    let mut out = time::encode(timestamp).to_vec();
    put_windows(&mut out, windows.iter().copied()).expect("windows");
    Pane::NO_FIRING.write(&mut out);
    out.push(u8::try_from(key.len()).expect("a short key"));
    out.extend(key);
    out.push(value);
    out
}

fn interval(start: i64, end: i64) -> Bytes {
    IntervalWindow { start, end }.encode()
}

/// A group: key, window, time, pane, sorted values.
type Group = (String, IntervalWindow, i64, Pane, Vec<i64>);

const GLOBAL: IntervalWindow = IntervalWindow { start: 0, end: 0 };

fn run(words: &pipeline::Components, chunk: &[u8]) -> Vec<Group> {
    let group = GroupByKey::new("s", "wire", words).expect("grouping");
    let mut out = BytesMut::new();
    for (key, values) in sorted(&group, chunk) {
        let mut keyed = group.key(key);
        for (sort, value) in values {
            keyed.push(&sort, value).expect("push");
        }
        keyed.drain(&mut out);
        keyed.finish(None, &mut out).expect("finish");
    }
    groups(words, &out)
}

type Sorted = Vec<(Bytes, Vec<(Vec<u8>, Bytes)>)>;

fn sorted(group: &GroupByKey, chunk: &[u8]) -> Sorted {
    let mut records = Vec::new();
    group
        .records(chunk, &mut |record| {
            let (key, value) = (Bytes::copy_from_slice(record.key), Bytes::copy_from_slice(record.value));
            records.push((key, record.sort.to_vec(), value));
            Ok(())
        })
        .expect("records");
    records.sort_by(|a, b| (&a.0, &a.1).cmp(&(&b.0, &b.1)));
    let mut keys = Sorted::new();
    for (key, sort, value) in records {
        match keys.last_mut() {
            Some((last, values)) if *last == key => values.push((sort, value)),
            _ => keys.push((key, vec![(sort, value)])),
        }
    }
    keys
}

fn groups(words: &pipeline::Components, mut out: &[u8]) -> Vec<Group> {
    let coder = coder("out", words);
    let mut groups = Vec::new();
    while !out.is_empty() {
        let Value::Windowed(element) = decode(&coder, &mut out, true).expect("a group") else {
            panic!("a value")
        };
        let (Value::Kv(key, values), [window]) = (&element.value, &element.windows[..]) else {
            panic!("a pair")
        };
        let (Value::Bytes(key), Value::Iterable(values, None)) = (&**key, &**values) else { panic!("a key") };
        let mut values: Vec<i64> = values
            .iter()
            .map(|value| if let Value::Int(value) = value { *value } else { panic!("an integer") })
            .collect();
        values.sort_unstable();
        let window = match window {
            Value::IntervalWindow(window) => *window,
            Value::CustomWindow(end, _) => IntervalWindow { start: 0, end: end + 1 },
            _ => GLOBAL,
        };
        let key = String::from_utf8(key.to_vec()).expect("text");
        groups.push((key, window, element.timestamp_millis, element.pane, values));
    }
    groups
}

#[test]
fn values_of_a_key_come_together_in_the_global_window() {
    let words = words(urns::GLOBAL_WINDOW, window_fn::GLOBAL);
    let chunk: Vec<u8> = [(b"a", 1), (b"b", 2), (b"a", 3)]
        .iter()
        .flat_map(|(key, value)| element(time::MIN_TIMESTAMP_MILLIS, &[b""], *key, *value))
        .collect();
    let end = time::GLOBAL_WINDOW_MAX_TIMESTAMP_MILLIS;
    let expected = [
        ("a".to_owned(), GLOBAL, end, Pane::ONLY, vec![1, 3]),
        ("b".to_owned(), GLOBAL, end, Pane::ONLY, vec![2]),
    ];
    assert_eq!(run(&words, &chunk), expected);
}

#[test]
fn a_reused_group_gives_the_same_bytes_in_chunks() {
    let words = words(urns::GLOBAL_WINDOW, window_fn::GLOBAL);
    let group = GroupByKey::new("s", "wire", &words).expect("grouping");
    let chunk: Vec<u8> = (0..200u8).flat_map(|n| element(0, &[b""], &[n % 7], n % 100)).collect();
    let keys = sorted(&group, &chunk);
    let (mut whole, mut pieces) = (BytesMut::new(), Vec::new());
    let mut reused = group.key(Bytes::new());
    for (key, values) in keys {
        let mut fresh = group.key(key.clone());
        reused.begin(key);
        for (sort, value) in values {
            fresh.push(&sort, &value).expect("push");
            reused.push(&sort, &value).expect("push");
            // What is taken between values is whole groups only.
            pieces.extend(reused.take());
        }
        fresh.finish(None, &mut whole).expect("finish");
        reused.end(None).expect("end");
        assert!(reused.ready() > 0);
    }
    pieces.extend(reused.take());
    assert_eq!(pieces, whole);
    assert_eq!(groups(&words, &whole).iter().map(|group| group.4.len()).sum::<usize>(), 200);
}

#[test]
fn an_element_counts_in_each_of_its_windows() {
    let words = words(urns::INTERVAL_WINDOW, window_fn::FIXED);
    let (a, b) = (interval(0, 10), interval(5, 15));
    let chunk =
        [element(7, &[&a, &b], b"k", 1), element(12, &[&b], b"k", 2), element(1, &[&a], b"k", 3)].concat();
    let expected = [
        ("k".to_owned(), IntervalWindow { start: 0, end: 10 }, 9, Pane::ONLY, vec![1, 3]),
        ("k".to_owned(), IntervalWindow { start: 5, end: 15 }, 14, Pane::ONLY, vec![1, 2]),
    ];
    assert_eq!(run(&words, &chunk), expected);
}

#[test]
fn the_output_time_is_the_earliest_or_latest_where_the_strategy_says_so() {
    let mut words = words(urns::INTERVAL_WINDOW, window_fn::FIXED);
    let a = interval(-10, 10);
    let chunk =
        [element(7, &[&a], b"k", 1), element(-3, &[&a], b"k", 2), element(1, &[&a], b"k", 3)].concat();
    for (output_time, expected) in [
        (pipeline::output_time::Enum::EarliestInPane, -3),
        (pipeline::output_time::Enum::LatestInPane, 7),
        (pipeline::output_time::Enum::EndOfWindow, 9),
    ] {
        strategy(&mut words).set_output_time(output_time);
        let groups = run(&words, &chunk);
        assert_eq!((groups.len(), groups[0].2), (1, expected), "{output_time:?}");
        assert_eq!(groups[0].4, [1, 2, 3]);
    }
}

#[test]
fn sessions_that_overlap_become_one() {
    let mut words = words(urns::INTERVAL_WINDOW, window_fn::SESSIONS);
    strategy(&mut words).set_output_time(pipeline::output_time::Enum::EarliestInPane);
    let windows = [(0, 10), (9, 19), (19, 29), (100, 110), (3, 40), (50, 60)].map(|(a, b)| interval(a, b));
    let chunk: Vec<u8> = (1..)
        .zip(&windows)
        .rev_if_possible()
        .into_iter()
        .flat_map(|(value, window)| element(i64::from(value), &[window], b"k", value))
        .collect();
    let found: Vec<_> = run(&words, &chunk).into_iter().map(|group| (group.1, group.2, group.4)).collect();
    let window = |start, end| IntervalWindow { start, end };
    let expected =
        [(window(0, 40), 1, vec![1, 2, 3, 5]), (window(50, 60), 6, vec![6]), (window(100, 110), 4, vec![4])];
    assert_eq!(found, expected);
}

/// Elements in an order that is not theirs.
trait Shuffled: Iterator + Sized {
    fn rev_if_possible(self) -> Vec<Self::Item> {
        let mut items: Vec<_> = self.collect();
        items.reverse();
        items
    }
}

impl<I: Iterator> Shuffled for I {}

#[test]
fn windows_that_only_touch_stay_apart() {
    let words = words(urns::INTERVAL_WINDOW, window_fn::SESSIONS);
    let chunk =
        [element(0, &[&interval(0, 10)], b"k", 1), element(10, &[&interval(10, 20)], b"k", 2)].concat();
    assert_eq!(run(&words, &chunk).len(), 2);
}

#[test]
fn windows_of_a_users_merging_wait_for_the_sdk() {
    let mut words = words(urns::CUSTOM_WINDOW, CUSTOM);
    strategy(&mut words).set_merge_status(pipeline::merge_status::Enum::NeedsMerge);
    let window = |last: i64| {
        let mut out = time::encode(last).to_vec();
        out.extend([2, b'w', u8::try_from(last).expect("small")]);
        Bytes::from(out)
    };
    let chunk: Vec<u8> = (1..=4u8).flat_map(|n| element(0, &[&window(n.into())], b"k", n)).collect();
    let group = GroupByKey::new("s", "wire", &words).expect("grouping");
    assert_eq!(group.needs_merge().map(|spec| spec.urn.as_str()), Some(CUSTOM));
    let (key, values) = sorted(&group, &chunk).pop().expect("a key");
    let make = || {
        let mut keyed = group.key(key.clone());
        values.iter().for_each(|(sort, value)| keyed.push(sort, value).expect("push"));
        keyed
    };
    let keyed = make();
    assert_eq!(keyed.windows(), [1, 2, 3, 4].map(window));
    let mut out = BytesMut::new();
    // One result is new, one is a window that no merge names.
    let merged = vec![
        Merged { result: window(9), originals: vec![window(1), window(3)] },
        Merged { result: window(4), originals: vec![window(2)] },
    ];
    keyed.finish(Some(merged), &mut out).expect("finish");
    let found: Vec<_> = groups(&words, &out).into_iter().map(|group| (group.2, group.4)).collect();
    assert_eq!(found, [(4, vec![2, 4]), (9, vec![1, 3])]);

    let twice = Merged { result: window(9), originals: vec![window(1), window(1)] };
    assert!(make().finish(Some(vec![twice]), &mut BytesMut::new()).is_err());
}

#[test]
fn a_trigger_that_fires_twice_gives_two_panes() {
    let mut words = words(urns::INTERVAL_WINDOW, window_fn::FIXED);
    let count = pipeline::trigger::ElementCount { element_count: 2 };
    let early = pipeline::Trigger { trigger: Some(TriggerProto::ElementCount(count)) };
    let end =
        pipeline::trigger::AfterEndOfWindow { early_firings: Some(Box::new(early)), late_firings: None };
    strategy(&mut words).trigger =
        Some(pipeline::Trigger { trigger: Some(TriggerProto::AfterEndOfWindow(Box::new(end))) });
    strategy(&mut words).set_output_time(pipeline::output_time::Enum::EarliestInPane);
    let (a, b) = (interval(0, 10), interval(10, 20));
    let chunk =
        [element(5, &[&a], b"k", 1), element(4, &[&a], b"k", 2), element(11, &[&b], b"k", 3)].concat();
    for (mode, second) in [
        (pipeline::accumulation_mode::Enum::Discarding, vec![]),
        (pipeline::accumulation_mode::Enum::Accumulating, vec![1, 2]),
    ] {
        strategy(&mut words).set_accumulation_mode(mode);
        let found: Vec<_> = run(&words, &chunk)
            .into_iter()
            .map(|group| (group.2, group.3.timing, group.3.last, group.4))
            .collect();
        let expected = [
            (4, Timing::Early, false, vec![1, 2]),
            (4, Timing::OnTime, true, second),
            (11, Timing::OnTime, true, vec![3]),
        ];
        assert_eq!(found, expected);
    }
    strategy(&mut words).set_accumulation_mode(pipeline::accumulation_mode::Enum::Retracting);
    assert!(GroupByKey::new("s", "wire", &words).is_err());
}

#[test]
fn a_group_past_its_limit_ends_with_a_clear_error() {
    for (window, function, bytes) in [
        (urns::GLOBAL_WINDOW, window_fn::GLOBAL, Bytes::new()),
        (urns::INTERVAL_WINDOW, window_fn::SESSIONS, interval(0, 10)),
    ] {
        let words = words(window, function);
        let group = GroupByKey::new("s", "wire", &words).expect("grouping").with_limit(100);
        let chunk: Vec<u8> = (0..200u8).flat_map(|_| element(0, &[&bytes], b"k", 1)).collect();
        let (key, values) = sorted(&group, &chunk).pop().expect("a key");
        let mut keyed = group.key(key);
        let error = values.iter().find_map(|(sort, value)| keyed.push(sort, value).err()).expect("too much");
        assert_eq!(error.kind(), claviger_core::ErrorKind::ResourceExhausted);
    }
}

#[test]
fn strategies_that_make_no_sense_are_refused() {
    let good = words(urns::INTERVAL_WINDOW, window_fn::FIXED);
    assert!(GroupByKey::new("none", "wire", &good).is_err());
    assert!(GroupByKey::new("s", "kv", &good).is_err());
    assert!(GroupByKey::new("s", "wire", &words("beam:coder:pickled_python:v1", CUSTOM)).is_err());
    assert!(GroupByKey::new("s", "wire", &words(urns::GLOBAL_WINDOW, window_fn::SESSIONS)).is_err());
    let group = GroupByKey::new("s", "wire", &good).expect("grouping");
    assert!(group.records(&[1, 2, 3], &mut |_| Ok(())).is_err());
}

#[test]
fn damaged_elements_are_refused_or_grouped_but_never_panic() {
    let mut words = words(urns::INTERVAL_WINDOW, window_fn::SESSIONS);
    strategy(&mut words).set_output_time(pipeline::output_time::Enum::LatestInPane);
    let group = GroupByKey::new("s", "wire", &words).expect("grouping");
    let windows = [interval(0, 10), interval(5, 15)];
    let chunk: Vec<u8> =
        (0..4u8).flat_map(|n| element(3, &[&windows[0], &windows[1]], &[n % 2], n)).collect();
    let (mut seed, mut grouped) = (7u64, 0);
    for _ in 0..20_000 {
        let mut damaged = chunk.clone();
        for _ in 0..3 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let at = usize::try_from(seed >> 33).expect("31 bits") % damaged.len();
            damaged[at] = (seed >> 20) as u8;
        }
        if group.records(&damaged, &mut |_| Ok(())).is_err() {
            continue;
        }
        let (mut out, mut values) = (BytesMut::new(), 0);
        for (key, records) in sorted(&group, &damaged) {
            let mut keyed = group.key(key);
            values += records.len();
            records.iter().for_each(|(sort, value)| keyed.push(sort, value).expect("push"));
            keyed.finish(None, &mut out).expect("finish");
        }
        let out_coder = coder("out", &words);
        let (mut rest, mut seen) = (&out[..], 0);
        while !rest.is_empty() {
            let Value::Windowed(element) = decode(&out_coder, &mut rest, true).expect("a group") else {
                panic!()
            };
            let Value::Kv(_, found) = element.value else { panic!("a pair") };
            let Value::Iterable(found, None) = *found else { panic!("values") };
            seen += found.len();
        }
        assert_eq!(seen, values);
        grouped += 1;
    }
    assert!(grouped > 1000, "only {grouped} still made sense");
}
