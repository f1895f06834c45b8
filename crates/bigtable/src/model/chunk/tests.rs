//! Tests of the chunker against a decoder written from the public rules of ReadRows.

use super::*;
use crate::model::{Family, FamilyId};

/// A row as a client puts it together: key, then (family, qualifier, timestamp, label, value).
type ClientRow = (Bytes, Vec<(String, Bytes, i64, Option<String>, Bytes)>);

/// What a strict client makes of chunks; an error names the rule that was broken.
fn decode(chunks: impl IntoIterator<Item = Chunk>) -> Result<Vec<ClientRow>, &'static str> {
    let mut rows: Vec<ClientRow> = Vec::new();
    let mut row: Option<ClientRow> = None;
    let (mut family, mut qualifier) = (None::<String>, None::<Bytes>);
    let mut split: Option<(u32, Vec<u8>, i64, Option<String>)> = None;
    for chunk in chunks {
        let label = chunk.label.as_deref().map(str::to_owned);
        if let Some((size, mut value, timestamp, first_label)) = split.take() {
            if !chunk.row_key.is_empty()
                || chunk.family.is_some()
                || chunk.qualifier.is_some()
                || label.is_some()
            {
                return Err("a piece of a value names a row or a column again");
            }
            value.extend_from_slice(&chunk.value);
            if chunk.value_size > 0 {
                if chunk.value_size != size || chunk.commit_row {
                    return Err("a piece tells another length, or ends the row within a value");
                }
                split = Some((size, value, timestamp, first_label));
                continue;
            }
            if value.len() != size as usize {
                return Err("the pieces are not of the length that they tell");
            }
            let row = row.as_mut().ok_or("a piece without a row")?;
            let (family, qualifier) = (family.clone().unwrap(), qualifier.clone().unwrap());
            row.1.push((family, qualifier, timestamp, first_label, value.into()));
        } else {
            if row.is_none() {
                if chunk.row_key.is_empty() || chunk.family.is_none() || chunk.qualifier.is_none() {
                    return Err("a row begins without a key, a family or a qualifier");
                }
                if rows.last().is_some_and(|(last, _)| *last >= chunk.row_key) {
                    return Err("keys do not increase");
                }
                row = Some((chunk.row_key.clone(), Vec::new()));
            } else if row.as_ref().is_some_and(|(key, _)| !chunk.row_key.is_empty() && *key != chunk.row_key)
            {
                return Err("a row begins within a row");
            }
            if chunk.family.is_some() && chunk.qualifier.is_none() {
                return Err("a family without a qualifier");
            }
            family = chunk.family.as_deref().map(str::to_owned).or(family);
            qualifier = chunk.qualifier.or(qualifier);
            if chunk.value_size > 0 {
                if chunk.commit_row {
                    return Err("a row ends within a value");
                }
                split = Some((chunk.value_size, chunk.value.to_vec(), chunk.timestamp_micros, label));
                continue;
            }
            let row = row.as_mut().ok_or("a cell without a row")?;
            let (family, qualifier) = (family.clone().unwrap(), qualifier.clone().unwrap());
            row.1.push((family, qualifier, chunk.timestamp_micros, label, chunk.value));
        }
        if chunk.commit_row {
            rows.extend(row.take());
            (family, qualifier) = (None, None);
        }
    }
    if row.is_some() || split.is_some() { Err("the stream ends within a row") } else { Ok(rows) }
}

fn families() -> Arc<Families> {
    let family = |id, name: &str| Family { id: FamilyId(id), name: name.into(), gc: None };
    Arc::new(Families::new(vec![family(1, "a"), family(2, "b")]).unwrap())
}

fn cell(family: u32, qualifier: &'static str, timestamp_micros: i64, value: impl Into<Bytes>) -> Cell {
    Cell {
        family: FamilyRank(family),
        qualifier: qualifier.into(),
        timestamp_micros,
        value: value.into(),
        label: None,
    }
}

fn client_row(key: &'static str, cells: &[Cell]) -> ClientRow {
    let names = ["a", "b"];
    let cells = cells.iter().map(|c| {
        let name = names[c.family.0 as usize].to_owned();
        (
            name,
            c.qualifier.clone(),
            c.timestamp_micros,
            c.label.as_deref().map(str::to_owned),
            c.value.clone(),
        )
    });
    (key.into(), cells.collect())
}

fn all(mut chunker: Chunker) -> Vec<Vec<Chunk>> {
    let mut messages = chunker.take_full();
    messages.extend(chunker.take_rest());
    messages
}

#[test]
fn a_row_names_family_and_column_only_where_they_change() {
    let cells =
        vec![cell(0, "x", 2000, "1"), cell(0, "x", 1000, "2"), cell(0, "y", 0, "3"), cell(1, "y", 0, "4")];
    let mut chunker = Chunker::new(families());
    chunker.push("k".into(), cells.clone());
    assert!(!chunker.has_full());
    let chunks = all(chunker).concat();
    let named: Vec<_> =
        chunks.iter().map(|c| (c.family.as_deref(), c.qualifier.as_deref(), c.commit_row)).collect();
    assert_eq!(
        named,
        [
            (Some("a"), Some(&b"x"[..]), false),
            (None, None, false),
            (None, Some(b"y"), false),
            (Some("b"), Some(b"y"), true),
        ]
    );
    assert_eq!(decode(chunks).unwrap(), [client_row("k", &cells)]);
}

#[test]
fn a_long_value_is_cut_into_pieces_and_put_together_again() {
    let long: Bytes = (0..10_000_u32).map(|n| n as u8).collect::<Vec<_>>().into();
    let mut labelled = cell(0, "x", 5000, long.clone());
    labelled.label = Some("l".into());
    for length in [0, 1, 99, 100, 101, 150, 400, 401, 10_000] {
        labelled.value = long.slice(..length);
        for cells in [vec![labelled.clone()], vec![labelled.clone(), cell(0, "x", 0, "after")]] {
            let mut chunker = Chunker::with_target(families(), 100);
            chunker.push("k".into(), cells.clone());
            let messages = all(chunker);
            // A row of up to three messages' size is not cut at all.
            let pieces = if length < 400 { 1 } else { length.div_ceil(100) } + cells.len() - 1;
            assert_eq!(messages.concat().len(), pieces, "{length}");
            assert_eq!(decode(messages.concat()).unwrap(), [client_row("k", &cells)], "{length}");
        }
    }
}

#[test]
fn messages_stay_near_their_target_and_rows_without_cells_do_not_show() {
    let mut chunker = Chunker::with_target(families(), 1000);
    let keys = ["a", "b", "c", "d", "e"];
    let cells =
        |n: usize| (0..n).map(|i| cell(1, "q", 1000 * (100 - i as i64), vec![7; 90 * n])).collect::<Vec<_>>();
    for (n, key) in keys.iter().enumerate() {
        chunker.push((*key).into(), cells(n));
    }
    assert!(chunker.has_full());
    let messages = all(chunker);
    assert!(messages.len() > 2);
    for message in &messages {
        let bytes: usize = message.iter().map(Chunk::wire_bytes).sum();
        let rows = message.iter().filter(|chunk| chunk.commit_row).count();
        assert!(bytes <= 1000 || (rows == 1 && bytes <= 3000), "{bytes}");
    }
    let want: Vec<_> = keys.iter().enumerate().skip(1).map(|(n, key)| client_row(key, &cells(n))).collect();
    assert_eq!(decode(messages.concat()).unwrap(), want);
}

#[test]
fn the_rest_can_be_taken_early_within_a_stream() {
    let mut chunker = Chunker::new(families());
    assert_eq!(chunker.take_rest(), None);
    chunker.push("a".into(), vec![cell(0, "x", 0, "1")]);
    let mut chunks = chunker.take_rest().unwrap();
    chunker.push("b".into(), vec![cell(0, "x", 0, "2")]);
    chunks.extend(chunker.take_rest().unwrap());
    assert_eq!(decode(chunks).unwrap().len(), 2);
}

#[test]
fn any_rows_come_through_at_any_message_size() {
    use rand::{Rng, SeedableRng};
    for seed in 0..2000 {
        let mut rng = rand::rngs::StdRng::seed_from_u64(seed);
        let mut chunker = Chunker::with_target(families(), rng.random_range(1..300));
        let mut want = Vec::new();
        for key in ["a", "b", "c"] {
            let mut cells: Vec<Cell> = (0..rng.random_range(0..6))
                .map(|_| {
                    let qualifier = ["", "x", "y"][rng.random_range(0..3)];
                    cell(
                        rng.random_range(0..2),
                        qualifier,
                        rng.random_range(0..3) * 1000,
                        vec![1; rng.random_range(0..200)],
                    )
                })
                .collect();
            cells.sort_by(Cell::order);
            if !cells.is_empty() {
                want.push(client_row(key, &cells));
            }
            chunker.push(key.into(), cells);
        }
        assert_eq!(decode(all(chunker).concat()).unwrap(), want, "seed {seed}");
    }
}

#[test]
fn a_message_begins_with_a_key_unless_it_begins_within_a_value() {
    let mut chunker = Chunker::with_target(families(), 1000);
    let cells: Vec<_> =
        (0..20).map(|n| cell(1, "q", 1000 * (100 - n), vec![7; if n == 9 { 2500 } else { 300 }])).collect();
    chunker.push("a".into(), vec![cell(1, "q", 1000, "x")]);
    chunker.push("b".into(), cells.clone());
    let messages = all(chunker);
    let mut within = false;
    for message in &messages {
        assert_ne!(message[0].row_key.is_empty(), !within, "{message:?}");
        within = message.last().unwrap().value_size > 0;
    }
    assert!(messages.len() > 5);
    assert_eq!(decode(messages.concat()).unwrap()[1], client_row("b", &cells));
}
