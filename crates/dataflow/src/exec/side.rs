//! Side inputs: the elements of complete collections, found by window, or by window and key.
//!
//! Invariant: a side input is complete before its stage starts, so an answer never changes. What is held in
//! memory is counted for the job; an iterable one that does not fit is read from its sealed log in pages,
//! a multimap one that does not fit is refused.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{BufMut, Bytes, BytesMut};
use claviger_beam::side::SideInput as Reader;
use claviger_beam::urn::side_input;
use claviger_beam_proto::fn_execution::{StateKey, state_key};
use claviger_beam_proto::pipeline::Components;
use claviger_core::{Error, ErrorKind, Result};
use claviger_fusion::{Access, SideInput};
use claviger_shuffle::LogReader;
use tokio::sync::Mutex;

use super::element::put_varint;
use super::graph::LogStore;
use super::limits::{SIDE_CURSORS, STATE_PAGE_BYTES};
use super::state::{page, position};

/// What a key of a multimap costs besides its bytes: two handles and its share of the map. Small keys must
/// not hide.
const KEY_OVERHEAD_BYTES: usize = 160;

/// Counts the bytes of side inputs that a job holds in memory.
#[derive(Debug)]
pub(super) struct SideBytes {
    held: AtomicUsize,
    limit: usize,
}

impl SideBytes {
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { held: AtomicUsize::new(0), limit })
    }

    fn fits(&self, bytes: u64) -> bool {
        let free = self.limit.saturating_sub(self.held.load(Ordering::Acquire));
        bytes <= free as u64
    }
}

/// Room that an index takes, given back when it goes.
struct Room {
    counter: Arc<SideBytes>,
    bytes: usize,
}

impl Room {
    fn grow(&mut self, bytes: usize) -> Result<()> {
        let held = self.counter.held.fetch_add(bytes, Ordering::AcqRel) + bytes;
        self.bytes += bytes;
        if held > self.counter.limit {
            return Err(Error::new(
                ErrorKind::ResourceExhausted,
                format!(
                    "The side inputs in use hold more than {} bytes of keys and values.",
                    self.counter.limit
                ),
            ));
        }
        Ok(())
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.counter.held.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

/// The side inputs of a stage.
#[derive(Default)]
pub(super) struct SideInputs {
    by_tag: HashMap<(String, String), SideIndex>,
}

impl fmt::Debug for SideInputs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SideInputs").field("tags", &self.by_tag.keys()).finish_non_exhaustive()
    }
}

enum SideIndex {
    /// Values of each window, in pieces of whole elements.
    Iterable { windows: HashMap<Bytes, Pieces>, _room: Room },
    /// Values of each window and key.
    Multimap { windows: HashMap<Bytes, Keys>, _room: Room },
    /// Values in the log, read again for each who asks.
    Paged { store: Arc<LogStore>, values: Reader, cursors: Mutex<Vec<Cursor>> },
}

#[derive(Default)]
struct Pieces {
    whole: Vec<Bytes>,
    open: BytesMut,
}

impl Pieces {
    fn push(&mut self, value: &[u8]) {
        self.open.extend_from_slice(value);
        if self.open.len() >= STATE_PAGE_BYTES {
            self.close();
        }
    }

    fn close(&mut self) {
        if !self.open.is_empty() {
            self.whole.push(std::mem::take(&mut self.open).freeze());
        }
    }
}

#[derive(Default)]
struct Keys {
    /// In the order in which they came.
    order: Vec<Bytes>,
    values: HashMap<Bytes, (Pieces, u32)>,
}

/// A reader of the log that stands before the chunk `next`.
struct Cursor {
    window: Bytes,
    next: usize,
    reader: LogReader,
}

impl SideInputs {
    /// Reads the logs of a stage's side inputs.
    pub(super) async fn load(
        sides: &[SideInput],
        stores: &[Arc<LogStore>],
        components: &Components,
        counter: &Arc<SideBytes>,
    ) -> Result<Arc<Self>> {
        let mut by_tag = HashMap::new();
        for (side, store) in sides.iter().zip(stores) {
            let access = match side.access {
                Access::Iterable => side_input::ITERABLE,
                Access::Multimap => side_input::MULTIMAP,
            };
            let values = Reader::new(access, &side.wire_coder_id, components)?;
            let index = match side.access {
                Access::Iterable if !counter.fits(store.log.bytes()) => {
                    SideIndex::Paged { store: store.clone(), values, cursors: Mutex::new(Vec::new()) }
                }
                Access::Iterable => iterable(store, &values, counter).await?,
                Access::Multimap => multimap(store, &values, counter).await?,
            };
            by_tag.insert((side.transform_id.clone(), side.tag.clone()), index);
        }
        Ok(Arc::new(Self { by_tag }))
    }

    /// A page of what a worker asks for, and the token of the next page.
    pub(super) async fn get(&self, key: &StateKey, token: &[u8]) -> Result<(Bytes, Bytes)> {
        use state_key::Type;
        match &key.r#type {
            Some(Type::IterableSideInput(key)) => match self.index(&key.transform_id, &key.side_input_id)? {
                SideIndex::Iterable { windows, .. } => match find(windows, &key.window) {
                    Some(pieces) => page(pieces.whole.iter(), token),
                    None => Ok((Bytes::new(), Bytes::new())),
                },
                SideIndex::Paged { store, values, cursors } => {
                    paged(store, values, cursors, &key.window, token).await
                }
                SideIndex::Multimap { .. } => Err(wrong_access()),
            },
            Some(Type::MultimapSideInput(key)) => {
                let keys = self.keys(&key.transform_id, &key.side_input_id, &key.window)?;
                match keys.and_then(|keys| find(&keys.values, &key.key)) {
                    Some((pieces, _)) => page(pieces.whole.iter(), token),
                    None => Ok((Bytes::new(), Bytes::new())),
                }
            }
            Some(Type::MultimapKeysSideInput(key)) => {
                let keys = self.keys(&key.transform_id, &key.side_input_id, &key.window)?;
                page(keys.iter().flat_map(|keys| &keys.order), token)
            }
            Some(Type::MultimapKeysValuesSideInput(key)) => {
                let keys = self.keys(&key.transform_id, &key.side_input_id, &key.window)?;
                entries(keys, token)
            }
            _ => Err(Error::invalid("A worker asked for a side input of an unknown kind.")),
        }
    }

    fn index(&self, transform: &str, tag: &str) -> Result<&SideIndex> {
        self.by_tag.get(&(transform.to_owned(), tag.to_owned())).ok_or_else(|| {
            Error::invalid(format!(
                "A worker asked for the side input {tag} of {transform}, which its stage does not have."
            ))
        })
    }

    fn keys(&self, transform: &str, tag: &str, window: &[u8]) -> Result<Option<&Keys>> {
        match self.index(transform, tag)? {
            SideIndex::Multimap { windows, .. } => Ok(find(windows, window)),
            SideIndex::Iterable { .. } | SideIndex::Paged { .. } => Err(wrong_access()),
        }
    }
}

/// Looks a window or key up. SDKs name windows in the outer context, where a coder behind a length prefix
/// has none; elements have them nested.
fn find<'a, V>(map: &'a HashMap<Bytes, V>, wanted: &[u8]) -> Option<&'a V> {
    map.get(wanted).or_else(|| map.get(&prefixed(wanted)[..]))
}

fn prefixed(bytes: &[u8]) -> Vec<u8> {
    let mut nested = Vec::with_capacity(bytes.len() + 2);
    put_varint(&mut nested, bytes.len() as u64);
    nested.extend_from_slice(bytes);
    nested
}

fn wrong_access() -> Error {
    Error::invalid("A worker asked for a side input in another way than its transform declared.")
}

async fn iterable(store: &LogStore, values: &Reader, counter: &Arc<SideBytes>) -> Result<SideIndex> {
    let mut room = Room { counter: counter.clone(), bytes: 0 };
    let mut windows: HashMap<Bytes, Pieces> = HashMap::new();
    let mut reader = store.log.reader(0, 1)?;
    while let Some(chunk) = reader.next().await? {
        values.for_each(&chunk, &mut |entry| {
            room.grow(entry.value.len())?;
            match windows.get_mut(entry.window) {
                Some(pieces) => pieces.push(entry.value),
                None => {
                    room.grow(entry.window.len())?;
                    windows.entry(Bytes::copy_from_slice(entry.window)).or_default().push(entry.value);
                }
            }
            Ok(())
        })?;
    }
    windows.values_mut().for_each(Pieces::close);
    Ok(SideIndex::Iterable { windows, _room: room })
}

async fn multimap(store: &LogStore, values: &Reader, counter: &Arc<SideBytes>) -> Result<SideIndex> {
    let mut room = Room { counter: counter.clone(), bytes: 0 };
    let mut windows: HashMap<Bytes, Keys> = HashMap::new();
    let mut reader = store.log.reader(0, 1)?;
    while let Some(chunk) = reader.next().await? {
        values.for_each(&chunk, &mut |entry| {
            room.grow(entry.value.len())?;
            if !windows.contains_key(entry.window) {
                windows.insert(Bytes::copy_from_slice(entry.window), Keys::default());
            }
            let Some(keys) = windows.get_mut(entry.window) else { return Ok(()) };
            if !keys.values.contains_key(entry.key) {
                room.grow(entry.key.len() + KEY_OVERHEAD_BYTES)?;
                let key = Bytes::copy_from_slice(entry.key);
                keys.order.push(key.clone());
                keys.values.insert(key, Default::default());
            }
            if let Some((pieces, count)) = keys.values.get_mut(entry.key) {
                pieces.push(entry.value);
                *count += 1;
            }
            Ok(())
        })?;
    }
    let values = windows.values_mut().flat_map(|keys| keys.values.values_mut());
    values.for_each(|(pieces, _)| pieces.close());
    Ok(SideIndex::Multimap { windows, _room: room })
}

/// Keys with their values: key, number of values in four bytes, values.
fn entries(keys: Option<&Keys>, token: &[u8]) -> Result<(Bytes, Bytes)> {
    let Some(keys) = keys else { return Ok((Bytes::new(), Bytes::new())) };
    let mut at = position(token)?;
    let mut data = BytesMut::new();
    while let Some(key) = keys.order.get(at) {
        if let Some((pieces, count)) = keys.values.get(key) {
            data.extend_from_slice(key);
            data.put_u32(*count);
            pieces.whole.iter().for_each(|piece| data.extend_from_slice(piece));
        }
        at += 1;
        if data.len() >= STATE_PAGE_BYTES && at < keys.order.len() {
            return Ok((data.freeze(), Bytes::copy_from_slice(&(at as u64).to_be_bytes())));
        }
    }
    Ok((data.freeze(), Bytes::new()))
}

/// A page of a window's values from the log: chunks from the token on, until enough values were found.
async fn paged(
    store: &LogStore,
    values: &Reader,
    cursors: &Mutex<Vec<Cursor>>,
    window: &[u8],
    token: &[u8],
) -> Result<(Bytes, Bytes)> {
    let wanted = position(token)?;
    let nested = prefixed(window);
    let found = {
        let mut cursors = cursors.lock().await;
        let found = cursors.iter().position(|cursor| cursor.next == wanted && cursor.window == window);
        found.map(|index| cursors.swap_remove(index))
    };
    let mut cursor = match found {
        Some(cursor) => cursor,
        None => {
            let mut reader = store.log.reader(0, 1)?;
            for _ in 0..wanted {
                reader.next().await?;
            }
            Cursor { window: Bytes::copy_from_slice(window), next: wanted, reader }
        }
    };
    let mut data = BytesMut::new();
    while data.len() < STATE_PAGE_BYTES {
        let Some(chunk) = cursor.reader.next().await? else { return Ok((data.freeze(), Bytes::new())) };
        cursor.next += 1;
        values.for_each(&chunk, &mut |entry| {
            if entry.window == window || entry.window == nested {
                data.extend_from_slice(entry.value);
            }
            Ok(())
        })?;
    }
    let token = Bytes::copy_from_slice(&(cursor.next as u64).to_be_bytes());
    let mut cursors = cursors.lock().await;
    if cursors.len() >= SIDE_CURSORS {
        cursors.remove(0);
    }
    cursors.push(cursor);
    Ok((data.freeze(), token))
}
