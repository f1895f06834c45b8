//! User state of the keys of a bundle, and the answers to a worker's questions about state and side inputs.
//!
//! Invariant: what a bundle changes is seen by that bundle alone until it is committed; one that fails changes
//! nothing. The bytes that a job holds are counted, and more than the limit is refused.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use claviger_beam_proto::fn_execution::{
    StateAppendResponse, StateClearResponse, StateGetResponse, StateKey, StateRequest, StateResponse,
    state_key, state_request, state_response,
};
use claviger_core::{Error, ErrorKind, Result};
use claviger_harness::StateHandler;
use prost::Message as _;
use tokio::sync::Mutex;

use super::element::{consumed, damaged, take, take_varint};
use super::limits::STATE_PAGE_BYTES;
use super::side::SideInputs;

/// Counts the bytes of state that a job holds.
#[derive(Debug)]
pub(super) struct StateBytes {
    held: AtomicUsize,
    limit: usize,
}

impl StateBytes {
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { held: AtomicUsize::new(0), limit })
    }

    fn add(&self, bytes: usize) -> Result<()> {
        let held = self.held.fetch_add(bytes, Ordering::AcqRel) + bytes;
        if held > self.limit {
            self.held.fetch_sub(bytes, Ordering::AcqRel);
            return Err(Error::new(
                ErrorKind::ResourceExhausted,
                format!("The keys in work hold more than {} bytes of user state.", self.limit),
            ));
        }
        Ok(())
    }

    fn remove(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Ordering::AcqRel);
    }
}

/// One piece of state.
#[derive(Clone, Debug)]
enum Cell {
    /// Whole elements, as they were appended.
    Bag(Vec<Bytes>),
    /// By map key.
    Multimap(BTreeMap<Bytes, Vec<Bytes>>),
    /// By sort key.
    Ordered(BTreeMap<i64, Vec<Bytes>>),
}

impl Cell {
    fn bytes(&self) -> usize {
        fn sum(values: &[Bytes]) -> usize {
            values.iter().map(Bytes::len).sum()
        }
        match self {
            Self::Bag(values) => sum(values),
            Self::Multimap(values) => values.iter().map(|(key, values)| key.len() + sum(values)).sum(),
            Self::Ordered(values) => values.values().map(|values| sum(values)).sum(),
        }
    }
}

/// The committed state of a batch of keys.
#[derive(Debug)]
pub(super) struct UserState {
    cells: HashMap<Vec<u8>, Cell>,
    counter: Arc<StateBytes>,
    bytes: usize,
}

impl UserState {
    pub(super) fn new(counter: Arc<StateBytes>) -> Self {
        Self { cells: HashMap::new(), counter, bytes: 0 }
    }
}

impl Drop for UserState {
    fn drop(&mut self) {
        self.counter.remove(self.bytes);
    }
}

/// State and side inputs as one bundle sees them.
pub(super) struct BundleState {
    sides: Arc<SideInputs>,
    user: Option<Mutex<Overlay>>,
}

/// The committed state under what this bundle changed.
struct Overlay {
    base: UserState,
    changed: HashMap<Vec<u8>, Cell>,
    /// Bytes that this bundle added, given back when it ends.
    added: usize,
}

impl Drop for Overlay {
    fn drop(&mut self) {
        self.base.counter.remove(self.added);
    }
}

impl BundleState {
    /// For a stage without user state.
    pub(super) fn without_user_state(sides: Arc<SideInputs>) -> Arc<Self> {
        Arc::new(Self { sides, user: None })
    }

    /// For a batch of keys.
    pub(super) fn new(sides: Arc<SideInputs>, base: UserState) -> Arc<Self> {
        Arc::new(Self { sides, user: Some(Mutex::new(Overlay { base, changed: HashMap::new(), added: 0 })) })
    }

    /// Ends the bundle: its state as it is now, with the changes if it succeeded.
    pub(super) async fn end(&self, succeeded: bool) -> Result<Option<UserState>> {
        let Some(user) = &self.user else { return Ok(None) };
        let mut user = user.lock().await;
        let counter = user.base.counter.clone();
        let changed = std::mem::take(&mut user.changed);
        let mut base = std::mem::replace(&mut user.base, UserState::new(counter.clone()));
        counter.remove(std::mem::take(&mut user.added));
        if succeeded {
            for (key, cell) in changed {
                let bytes = cell.bytes();
                counter.add(bytes)?;
                base.bytes += bytes;
                let old = if bytes == 0 { base.cells.remove(&key) } else { base.cells.insert(key, cell) };
                if let Some(old) = old {
                    let old = old.bytes();
                    base.bytes -= old;
                    counter.remove(old);
                }
            }
        }
        Ok(Some(base))
    }

    async fn user(
        &self,
        key: &StateKey,
        request: &state_request::Request,
    ) -> Result<state_response::Response> {
        let Some(user) = &self.user else {
            return Err(Error::invalid("A worker asked for user state in a stage that has none."));
        };
        let address = Address::new(key)?;
        let mut user = user.lock().await;
        match request {
            state_request::Request::Get(get) => {
                let (data, token) = user.get(&address, &get.continuation_token)?;
                Ok(state_response::Response::Get(StateGetResponse { continuation_token: token, data }))
            }
            state_request::Request::Append(append) => {
                user.append(&address, &append.data)?;
                Ok(state_response::Response::Append(StateAppendResponse {}))
            }
            state_request::Request::Clear(_) => {
                user.clear(&address);
                Ok(state_response::Response::Clear(StateClearResponse {}))
            }
        }
    }
}

#[async_trait]
impl StateHandler for BundleState {
    async fn handle(&self, request: &StateRequest) -> Result<StateResponse> {
        let (Some(key), Some(question)) = (&request.state_key, &request.request) else {
            return Err(Error::invalid("A worker asked for state without saying which or what."));
        };
        let response = match (&key.r#type, question) {
            (
                Some(
                    state_key::Type::IterableSideInput(_)
                    | state_key::Type::MultimapSideInput(_)
                    | state_key::Type::MultimapKeysSideInput(_)
                    | state_key::Type::MultimapKeysValuesSideInput(_),
                ),
                state_request::Request::Get(get),
            ) => {
                let (data, token) = self.sides.get(key, &get.continuation_token).await?;
                state_response::Response::Get(StateGetResponse { continuation_token: token, data })
            }
            _ => self.user(key, question).await?,
        };
        Ok(StateResponse { id: String::new(), error: String::new(), response: Some(response) })
    }
}

/// Which cell a question is about, and which part of it.
struct Address {
    cell: Vec<u8>,
    part: Part,
}

enum Part {
    Bag,
    MapKey(Bytes),
    MapKeys,
    Range(i64, i64),
}

impl Address {
    fn new(key: &StateKey) -> Result<Self> {
        let (cell, part) = match &key.r#type {
            Some(state_key::Type::BagUserState(_)) => (key.clone(), Part::Bag),
            Some(state_key::Type::MultimapUserState(state)) => {
                // The cell of the whole multimap has the address of its keys.
                let cell = state_key::Type::MultimapKeysUserState(state_key::MultimapKeysUserState {
                    transform_id: state.transform_id.clone(),
                    user_state_id: state.user_state_id.clone(),
                    window: state.window.clone(),
                    key: state.key.clone(),
                });
                (StateKey { r#type: Some(cell) }, Part::MapKey(state.map_key.clone()))
            }
            Some(state_key::Type::MultimapKeysUserState(_)) => (key.clone(), Part::MapKeys),
            Some(state_key::Type::OrderedListUserState(state)) => {
                let range =
                    state.range.as_ref().map_or((i64::MIN, i64::MAX), |range| (range.start, range.end));
                let cell = state_key::OrderedListUserState { range: None, ..state.clone() };
                let cell = StateKey { r#type: Some(state_key::Type::OrderedListUserState(cell)) };
                (cell, Part::Range(range.0, range.1))
            }
            Some(state_key::Type::MultimapEntriesUserState(_)) => {
                return Err(Error::unimplemented(
                    "Reading all entries of a multimap state at once is not built.",
                ));
            }
            _ => return Err(Error::unimplemented("A worker asked for a kind of state that is not built.")),
        };
        Ok(Self { cell: cell.encode_to_vec(), part })
    }
}

impl Overlay {
    fn cell(&self, address: &Address) -> Option<&Cell> {
        self.changed.get(&address.cell).or_else(|| self.base.cells.get(&address.cell))
    }

    fn cell_to_change(&mut self, address: &Address) -> &mut Cell {
        let base = &self.base.cells;
        self.changed.entry(address.cell.clone()).or_insert_with(|| {
            base.get(&address.cell).cloned().unwrap_or_else(|| match address.part {
                Part::Bag => Cell::Bag(Vec::new()),
                Part::MapKey(_) | Part::MapKeys => Cell::Multimap(BTreeMap::new()),
                Part::Range(..) => Cell::Ordered(BTreeMap::new()),
            })
        })
    }

    fn get(&self, address: &Address, token: &[u8]) -> Result<(Bytes, Bytes)> {
        match (self.cell(address), &address.part) {
            (Some(Cell::Bag(values)), Part::Bag) => page(values.iter(), token),
            (Some(Cell::Multimap(values)), Part::MapKey(key)) => {
                page(values.get(key).into_iter().flatten(), token)
            }
            (Some(Cell::Multimap(values)), Part::MapKeys) => page(values.keys(), token),
            (Some(Cell::Ordered(values)), Part::Range(start, end)) if start < end => {
                page(values.range(*start..*end).flat_map(|(_, values)| values), token)
            }
            _ => Ok((Bytes::new(), Bytes::new())),
        }
    }

    fn append(&mut self, address: &Address, data: &Bytes) -> Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        self.base.counter.add(data.len())?;
        self.added += data.len();
        match (self.cell_to_change(address), &address.part) {
            (Cell::Bag(values), Part::Bag) => values.push(data.clone()),
            (Cell::Multimap(values), Part::MapKey(key)) => {
                values.entry(key.clone()).or_default().push(data.clone());
            }
            (Cell::Ordered(values), Part::Range(..)) => {
                // Each entry is a sort key and a value with its length.
                let mut input = &data[..];
                while !input.is_empty() {
                    let start = input;
                    let sort = take_varint(&mut input)?.cast_signed();
                    let length = usize::try_from(take_varint(&mut input)?).map_err(|_| damaged())?;
                    take(&mut input, length)?;
                    values.entry(sort).or_default().push(data.slice_ref(consumed(start, input)));
                }
            }
            _ => return Err(Error::invalid("A worker appended to the keys of a multimap state.")),
        }
        Ok(())
    }

    fn clear(&mut self, address: &Address) {
        match (self.cell_to_change(address), &address.part) {
            (Cell::Bag(values), _) => values.clear(),
            (Cell::Multimap(values), Part::MapKey(key)) => {
                values.remove(key);
            }
            (Cell::Multimap(values), _) => values.clear(),
            (Cell::Ordered(values), Part::Range(start, end)) => {
                values.retain(|sort, _| sort < start || sort >= end);
            }
            (Cell::Ordered(values), _) => values.clear(),
        }
    }
}

/// The pieces from a token on, as many as fill a page, and the token of the next page.
pub(super) fn page<'a>(pieces: impl Iterator<Item = &'a Bytes>, token: &[u8]) -> Result<(Bytes, Bytes)> {
    let from = position(token)?;
    let mut pieces = pieces.skip(from).peekable();
    let mut taken = 0_u64;
    let mut data = BytesMut::new();
    while let Some(piece) = pieces.next() {
        taken += 1;
        let more = pieces.peek().is_some();
        if data.is_empty() && (!more || piece.len() >= STATE_PAGE_BYTES) {
            // The usual case: one piece goes out as it came in.
            return Ok((piece.clone(), next_token(from, taken, more)));
        }
        data.extend_from_slice(piece);
        if data.len() >= STATE_PAGE_BYTES && more {
            return Ok((data.freeze(), next_token(from, taken, true)));
        }
    }
    Ok((data.freeze(), Bytes::new()))
}

/// The position in a continuation token; the empty one is the beginning.
pub(super) fn position(token: &[u8]) -> Result<usize> {
    if token.is_empty() {
        return Ok(0);
    }
    let position =
        <[u8; 8]>::try_from(token).ok().and_then(|token| usize::try_from(u64::from_be_bytes(token)).ok());
    position.ok_or_else(|| Error::invalid("A worker sent a continuation token that it was not given."))
}

fn next_token(from: usize, taken: u64, more: bool) -> Bytes {
    if more { Bytes::copy_from_slice(&(from as u64 + taken).to_be_bytes()) } else { Bytes::new() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use claviger_beam_proto::fn_execution::{
        OrderedListRange, StateAppendRequest, StateClearRequest, StateGetRequest,
    };

    fn bag(key: &'static str) -> StateKey {
        let bag = state_key::BagUserState { key: Bytes::from_static(key.as_bytes()), ..Default::default() };
        StateKey { r#type: Some(state_key::Type::BagUserState(bag)) }
    }

    fn ordered(start: i64, end: i64) -> StateKey {
        let range = Some(OrderedListRange { start, end });
        let list = state_key::OrderedListUserState { range, ..Default::default() };
        StateKey { r#type: Some(state_key::Type::OrderedListUserState(list)) }
    }

    fn map(key: &'static str) -> StateKey {
        let map_key = Bytes::from_static(key.as_bytes());
        let map = state_key::MultimapUserState { map_key, ..Default::default() };
        StateKey { r#type: Some(state_key::Type::MultimapUserState(map)) }
    }

    fn map_keys() -> StateKey {
        StateKey { r#type: Some(state_key::Type::MultimapKeysUserState(Default::default())) }
    }

    async fn ask(
        state: &BundleState,
        key: StateKey,
        request: state_request::Request,
    ) -> Result<StateResponse> {
        let request =
            StateRequest { state_key: Some(key), request: Some(request), ..StateRequest::default() };
        state.handle(&request).await
    }

    async fn append(state: &BundleState, key: StateKey, data: &'static [u8]) {
        let request = StateAppendRequest { data: Bytes::from_static(data) };
        ask(state, key, state_request::Request::Append(request)).await.unwrap();
    }

    async fn clear(state: &BundleState, key: StateKey) {
        ask(state, key, state_request::Request::Clear(StateClearRequest {})).await.unwrap();
    }

    /// All pages; how many there were.
    async fn get(state: &BundleState, key: StateKey) -> (Vec<u8>, usize) {
        let (mut all, mut pages, mut token) = (Vec::new(), 0, Bytes::new());
        loop {
            let request = StateGetRequest { continuation_token: token };
            let response = ask(state, key.clone(), state_request::Request::Get(request)).await.unwrap();
            let Some(state_response::Response::Get(page)) = response.response else { panic!("{response:?}") };
            all.extend_from_slice(&page.data);
            pages += 1;
            if page.continuation_token.is_empty() {
                return (all, pages);
            }
            token = page.continuation_token;
        }
    }

    fn bundle(base: UserState) -> Arc<BundleState> {
        BundleState::new(Arc::new(SideInputs::default()), base)
    }

    #[tokio::test]
    async fn a_bundle_that_fails_changes_nothing_and_gives_its_bytes_back() {
        let counter = StateBytes::new(10);
        let first = bundle(UserState::new(counter.clone()));
        append(&first, bag("k"), b"one").await;
        assert_eq!(get(&first, bag("k")).await.0, b"one");
        let base = first.end(true).await.unwrap().unwrap();

        let second = bundle(base);
        append(&second, bag("k"), b"two").await;
        clear(&second, bag("other")).await;
        assert_eq!(get(&second, bag("k")).await.0, b"onetwo");
        let base = second.end(false).await.unwrap().unwrap();
        assert_eq!(counter.held.load(Ordering::Relaxed), 3);

        let third = bundle(base);
        assert_eq!(get(&third, bag("k")).await.0, b"one");
        clear(&third, bag("k")).await;
        append(&third, bag("k"), b"three").await;
        let base = third.end(true).await.unwrap().unwrap();
        assert_eq!(counter.held.load(Ordering::Relaxed), 5);
        drop(base);
        drop((first, second, third));
        assert_eq!(counter.held.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn more_than_the_limit_is_refused_before_it_is_held() {
        let counter = StateBytes::new(10);
        let state = bundle(UserState::new(counter.clone()));
        append(&state, bag("k"), b"12345678").await;
        let more = state_request::Request::Append(StateAppendRequest { data: Bytes::from_static(b"123") });
        let error = ask(&state, bag("k"), more).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ResourceExhausted);
        assert_eq!(counter.held.load(Ordering::Relaxed), 8);
    }

    #[tokio::test]
    async fn a_long_bag_comes_in_pages_of_whole_appends() {
        let state = bundle(UserState::new(StateBytes::new(1 << 30)));
        let piece: &'static [u8] = vec![7; 300_000].leak();
        for _ in 0..8 {
            append(&state, bag("k"), piece).await;
        }
        let (all, pages) = get(&state, bag("k")).await;
        assert_eq!((all.len(), pages), (2_400_000, 2));
        let odd =
            state_request::Request::Get(StateGetRequest { continuation_token: Bytes::from_static(b"odd") });
        assert!(ask(&state, bag("k"), odd).await.is_err());
    }

    #[tokio::test]
    async fn an_ordered_list_gives_and_clears_ranges_in_order() {
        let state = bundle(UserState::new(StateBytes::new(1000)));
        append(&state, ordered(0, 0), &[5, 1, b'e', 1, 1, b'a', 3, 1, b'c', 1, 1, b'A']).await;
        assert_eq!(get(&state, ordered(1, 4)).await.0, [1, 1, b'a', 1, 1, b'A', 3, 1, b'c']);
        clear(&state, ordered(2, 5)).await;
        assert_eq!(get(&state, ordered(i64::MIN, i64::MAX)).await.0, [1, 1, b'a', 1, 1, b'A', 5, 1, b'e']);
        let cut = state_request::Request::Append(StateAppendRequest { data: Bytes::from_static(&[5, 9, 1]) });
        assert!(ask(&state, ordered(0, 0), cut).await.is_err());
    }

    #[tokio::test]
    async fn a_multimap_has_its_values_by_key_and_a_list_of_keys() {
        let state = bundle(UserState::new(StateBytes::new(1000)));
        append(&state, map("b"), b"1").await;
        append(&state, map("a"), b"2").await;
        append(&state, map("b"), b"3").await;
        assert_eq!(get(&state, map("b")).await.0, b"13");
        assert_eq!(get(&state, map_keys()).await.0, b"ab");
        clear(&state, map("b")).await;
        assert_eq!(get(&state, map_keys()).await.0, b"a");
        clear(&state, map_keys()).await;
        assert_eq!(get(&state, map("a")).await.0, b"");
    }

    #[tokio::test]
    async fn what_a_stage_does_not_have_is_refused() {
        let state = BundleState::without_user_state(Arc::new(SideInputs::default()));
        let get = || state_request::Request::Get(StateGetRequest::default());
        assert!(ask(&state, bag("k"), get()).await.is_err());
        let side = state_key::Type::IterableSideInput(Default::default());
        assert!(ask(&state, StateKey { r#type: Some(side) }, get()).await.is_err());
        let runner = state_key::Type::Runner(Default::default());
        assert!(ask(&state, StateKey { r#type: Some(runner) }, get()).await.is_err());
        assert!(state.handle(&StateRequest::default()).await.is_err());
    }
}
