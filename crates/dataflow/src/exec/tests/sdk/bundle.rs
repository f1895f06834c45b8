//! One bundle on the tests' worker: the functions, and how elements go from one to the next.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use claviger_beam::elements::Elements as ElementCoder;
use claviger_beam::timer::{Set, Timer, TimerCoder};
use claviger_beam::windowed::{Header, Pane};
use claviger_beam_proto::fn_execution::process_bundle_request::{CacheToken, cache_token};
use claviger_beam_proto::fn_execution::{
    BundleApplication, DelayedBundleApplication, Elements, ProcessBundleDescriptor, ProcessBundleResponse,
    RemoteGrpcPort, StateAppendRequest, StateClearRequest, StateKey, elements, state_key, state_request,
};
use claviger_beam_proto::pipeline::{Components, MonitoringInfo, PTransform, ParDoPayload};
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use prost::Message as _;

use super::{Position, Side, nested, pair, unnest, unpair};
use crate::exec::element;

#[derive(Clone)]
struct Element {
    header: Header,
    value: Vec<u8>,
}

/// One bundle on the worker.
struct Work {
    side: Arc<Side>,
    id: String,
    descriptor: Arc<ProcessBundleDescriptor>,
    components: Components,
    outputs: BTreeMap<String, Vec<u8>>,
    timers: BTreeMap<(String, String), Vec<u8>>,
    residuals: Vec<DelayedBundleApplication>,
    wants_finalization: bool,
    counted: u64,
}

pub(super) async fn run(
    side: Arc<Side>,
    id: String,
    descriptor: Arc<ProcessBundleDescriptor>,
    tokens: Vec<CacheToken>,
) -> Result<ProcessBundleResponse, String> {
    for token in tokens {
        if let Some(cache_token::Type::UserState(_)) = token.r#type {
            side.world.user_tokens.lock().unwrap().insert(token.token);
        }
    }
    let mut input = side.input(&id);
    let components = Components { coders: descriptor.coders.clone(), ..Components::default() };
    let mut open = BTreeSet::new();
    let mut work = Work {
        side: side.clone(),
        id: id.clone(),
        descriptor: descriptor.clone(),
        components,
        outputs: BTreeMap::new(),
        timers: BTreeMap::new(),
        residuals: Vec::new(),
        wants_finalization: false,
        counted: 0,
    };
    for (name, transform) in &descriptor.transforms {
        let spec = transform.spec.as_ref().unwrap();
        match spec.urn.as_str() {
            "beam:runner:source:v1" => {
                open.insert((name.clone(), String::new()));
            }
            "beam:runner:sink:v1" => {
                work.outputs.insert(name.clone(), Vec::new());
            }
            _ => {
                if let Ok(payload) = ParDoPayload::decode(spec.payload.clone()) {
                    for family in payload.timer_family_specs.keys() {
                        open.insert((name.clone(), family.clone()));
                        work.timers.insert((name.clone(), family.clone()), Vec::new());
                    }
                }
            }
        }
    }
    let port = open.iter().find(|(_, family)| family.is_empty()).unwrap().0.clone();
    let position = Arc::new(Mutex::new(Position { port, index: -1, stop: i64::MAX }));
    side.splits.lock().unwrap().insert(id.clone(), position.clone());
    while !open.is_empty() {
        let elements = input.next().await.ok_or("the data stream ended")?;
        for data in elements.data {
            if !data.data.is_empty() {
                work.read(&data.transform_id, &data.data, &position).await?;
            }
            if data.is_last {
                open.remove(&(data.transform_id, String::new()));
            }
        }
        for timers in elements.timers {
            if !timers.timers.is_empty() {
                work.fire(&timers.transform_id, &timers.timer_family_id, &timers.timers).await?;
            }
            if timers.is_last {
                open.remove(&(timers.transform_id, timers.timer_family_id));
            }
        }
    }
    side.splits.lock().unwrap().remove(&id);
    let data = work.outputs.into_iter().flat_map(|(transform_id, data)| {
        let part = |data: Vec<u8>, is_last| elements::Data {
            instruction_id: id.clone(),
            transform_id: transform_id.clone(),
            data: data.into(),
            is_last,
        };
        [part(data, false), part(Vec::new(), true)]
    });
    let timers = work.timers.into_iter().flat_map(|((transform_id, timer_family_id), data)| {
        let part = |data: Vec<u8>, is_last| elements::Timers {
            instruction_id: id.clone(),
            transform_id: transform_id.clone(),
            timer_family_id: timer_family_id.clone(),
            timers: data.into(),
            is_last,
        };
        [part(data, false), part(Vec::new(), true)]
    });
    let elements = Elements { data: data.collect(), timers: timers.collect() };
    let _ = side.data.unbounded_send(Ok(elements));
    let mut payload = Vec::new();
    element::put_varint(&mut payload, work.counted);
    Ok(ProcessBundleResponse {
        residual_roots: work.residuals,
        requires_finalization: work.wants_finalization,
        monitoring_infos: vec![MonitoringInfo {
            urn: "beam:metric:user:sum_int64:v1".into(),
            r#type: "beam:metrics:sum_int64:v1".into(),
            payload: payload.into(),
            labels: BTreeMap::from([("NAME".to_owned(), "calls".to_owned())]),
            start_time: None,
        }],
        ..ProcessBundleResponse::default()
    })
}

impl Work {
    async fn read(&mut self, port: &str, data: &[u8], position: &Mutex<Position>) -> Result<(), String> {
        let descriptor = self.descriptor.clone();
        let transform = &descriptor.transforms[port];
        let output = transform.outputs.values().next().unwrap();
        for element in self.decode(transform, data) {
            {
                let mut position = position.lock().unwrap();
                if position.index + 1 >= position.stop {
                    return Ok(());
                }
                position.index += 1;
            }
            self.emit(output.clone(), element).await?;
        }
        Ok(())
    }

    fn coder(&self, transform: &PTransform) -> ElementCoder {
        let port = RemoteGrpcPort::decode(transform.spec.as_ref().unwrap().payload.clone()).unwrap();
        ElementCoder::new(&port.coder_id, &self.components).unwrap()
    }

    fn decode(&self, transform: &PTransform, data: &[u8]) -> Vec<Element> {
        let coder = self.coder(transform);
        let mut elements = Vec::new();
        coder
            .for_each(data, &mut |mut element| {
                let header = Header::read(coder.window(), &mut element)?;
                elements.push(Element { header, value: element.to_vec() });
                Ok(())
            })
            .unwrap();
        elements
    }

    /// Hands an element to all that read its collection.
    fn emit(&mut self, collection: String, element: Element) -> BoxFuture<'_, Result<(), String>> {
        async move {
            let descriptor = self.descriptor.clone();
            for (name, transform) in &descriptor.transforms {
                let spec = transform.spec.as_ref().unwrap();
                let side_inputs = match spec.urn.as_str() {
                    "beam:runner:source:v1" => continue,
                    "beam:runner:sink:v1"
                    | "beam:transform:merge_windows:v1"
                    | "beam:transform:flatten:v1" => BTreeMap::new(),
                    _ => ParDoPayload::decode(spec.payload.clone()).unwrap().side_inputs,
                };
                let is_main =
                    |(tag, id): (&String, &String)| *id == collection && !side_inputs.contains_key(tag);
                if transform.inputs.iter().any(is_main) {
                    for (output, made) in self.call(name, transform, element.clone()).await? {
                        self.emit(output, made).await?;
                    }
                }
            }
            Ok(())
        }
        .boxed()
    }

    /// Runs a function on an element; the outputs and their collections.
    async fn call(
        &mut self,
        name: &str,
        transform: &PTransform,
        element: Element,
    ) -> Result<Vec<(String, Element)>, String> {
        let spec = transform.spec.as_ref().unwrap();
        if spec.urn == "beam:runner:sink:v1" {
            let out = self.outputs.get_mut(name).unwrap();
            element.header.write(out).unwrap();
            out.extend_from_slice(&element.value);
            return Ok(Vec::new());
        }
        let output = transform.outputs.values().next().cloned().unwrap_or_default();
        let with = |value: Vec<u8>| (output.clone(), Element { header: element.header.clone(), value });
        if spec.urn == "beam:transform:merge_windows:v1" {
            return Ok(vec![with(merge(&element.value))]);
        }
        if spec.urn == "beam:transform:flatten:v1" {
            return Ok(vec![with(element.value.clone())]);
        }
        let par_do = ParDoPayload::decode(spec.payload.clone()).unwrap();
        match spec.urn.as_str() {
            "beam:transform:sdf_pair_with_restriction:v1" => {
                return Ok(vec![with([&element.value[..], &nested(b"3")].concat())]);
            }
            "beam:transform:sdf_split_and_size_restrictions:v1" => {
                return Ok(vec![with([&element.value[..], &1_f64.to_be_bytes()].concat())]);
            }
            "beam:transform:sdf_process_sized_element_and_restrictions:v1" => {
                return Ok(vec![with(self.process_one(name, transform, &element))]);
            }
            _ => {}
        }
        let function = par_do.do_fn.unwrap();
        let payload = String::from_utf8(function.payload.to_vec()).unwrap();
        let mut value = &element.value[..];
        self.counted += 1;
        let world = self.side.world.clone();
        let made = match function.urn.as_str() {
            "test:same" => vec![element.value.clone()],
            "test:explode" => {
                let (count, keys) = payload.split_once(' ').unwrap();
                let (count, keys): (u64, u64) = (count.parse().unwrap(), keys.parse().unwrap());
                let made = (0..count)
                    .map(|i| pair(format!("k{:03}", i % keys).as_bytes(), i.to_string().as_bytes()));
                made.collect()
            }
            "test:pairs" => {
                let pairs = payload.split(' ').map(|text| text.split_once('=').unwrap());
                pairs.map(|(key, value)| pair(key.as_bytes(), value.as_bytes())).collect()
            }
            "test:count" => {
                let key = unnest(&mut value).unwrap();
                let count = u32::from_be_bytes(value[..4].try_into().unwrap());
                vec![pair(key, count.to_string().as_bytes())]
            }
            "test:collect" => {
                let step = transform.unique_name.clone();
                world.collected.lock().unwrap().push((step, element.value.clone()));
                vec![element.value.clone()]
            }
            "test:raise" => {
                return Err(format!(
                    "Traceback\nValueError: boom [while running '{}']\n",
                    transform.unique_name
                ));
            }
            "test:gate" => {
                world.at_gate.fetch_add(1, Ordering::SeqCst);
                world.arrived.notify_waiters();
                world.gate.acquire().await.unwrap().forget();
                vec![element.value.clone()]
            }
            "test:die" => {
                if world.deaths.fetch_sub(1, Ordering::SeqCst) > 0 {
                    self.side.die.notify_one();
                    std::future::pending::<()>().await;
                }
                vec![element.value.clone()]
            }
            "test:finalize" => {
                self.wants_finalization = true;
                vec![element.value.clone()]
            }
            "test:window" => {
                // The value is the window's start; windows are a hundred milliseconds long.
                let (_, start) = unpair(value).unwrap();
                let start: i64 = std::str::from_utf8(start).unwrap().parse().unwrap();
                let window = claviger_beam::window::IntervalWindow { start, end: start + 100 }.encode();
                let header = Header { timestamp_millis: start, windows: vec![window], pane: Pane::NO_FIRING };
                return Ok(vec![(output, Element { header, value: element.value.clone() })]);
            }
            "test:side" => {
                let key = state_key::IterableSideInput {
                    transform_id: name.to_owned(),
                    side_input_id: "side".into(),
                    window: Bytes::new(),
                };
                let all = self.side.get(&self.id, state_key::Type::IterableSideInput(key)).await?;
                let mut all = &all[..];
                let mut count = 0;
                while !all.is_empty() {
                    unnest(&mut all).unwrap();
                    unnest(&mut all).unwrap();
                    count += 1;
                }
                vec![nested(format!("saw {count}").as_bytes())]
            }
            "test:lookup" => {
                let (key, _) = unpair(value).unwrap();
                let wanted = state_key::MultimapSideInput {
                    transform_id: name.to_owned(),
                    side_input_id: "side".into(),
                    window: Bytes::new(),
                    key: nested(key).into(),
                };
                let all = self.side.get(&self.id, state_key::Type::MultimapSideInput(wanted)).await?;
                let mut found = Vec::new();
                let mut all = &all[..];
                while let Some(one) = (!all.is_empty()).then(|| unnest(&mut all)).flatten() {
                    found.push(String::from_utf8(one.to_vec()).unwrap());
                }
                found.sort();
                vec![pair(key, found.join("+").as_bytes())]
            }
            "test:bag" => {
                let (key, added) = unpair(value).unwrap();
                let bag = |key: &[u8]| {
                    state_key::Type::BagUserState(state_key::BagUserState {
                        transform_id: name.to_owned(),
                        user_state_id: "bag".into(),
                        window: Bytes::new(),
                        key: nested(key).into(),
                    })
                };
                let append =
                    state_request::Request::Append(StateAppendRequest { data: nested(added).into() });
                self.side.ask(&self.id, StateKey { r#type: Some(bag(key)) }, append).await?;
                let all = self.side.get(&self.id, bag(key)).await?;
                let mut all = &all[..];
                let mut held = Vec::new();
                while let Some(one) = (!all.is_empty()).then(|| unnest(&mut all)).flatten() {
                    held.push(String::from_utf8(one.to_vec()).unwrap());
                }
                if held.len() == 3 {
                    let clear = state_request::Request::Clear(StateClearRequest {});
                    self.side.ask(&self.id, StateKey { r#type: Some(bag(key)) }, clear).await?;
                }
                vec![pair(key, held.join("+").as_bytes())]
            }
            "test:timer" => {
                // `at` sets, `at-` clears, each under the tag of its key.
                let (key, at) = unpair(value).unwrap();
                let at = std::str::from_utf8(at).unwrap();
                let (tag, at) = at.split_once(':').unwrap_or(("", at));
                self.set_timer(name, key, tag, at.parse().ok());
                Vec::new()
            }
            other => panic!("no function {other}"),
        };
        Ok(made.into_iter().map(with).collect())
    }

    fn set_timer(&mut self, transform: &str, key: &[u8], tag: &str, at: Option<i64>) {
        let timer = Timer {
            key: nested(key).into(),
            tag: Bytes::copy_from_slice(tag.as_bytes()),
            windows: vec![Bytes::new()],
            set: at.map(|at| Set { fire_millis: at, hold_millis: at, pane: Pane::NO_FIRING }),
        };
        let out = self.timers.get_mut(&(transform.to_owned(), "timer".to_owned())).unwrap();
        timer.write(out).unwrap();
    }

    /// A timer fires: its key, tag and time go out. One at 10 sets another at 15, of another tag.
    async fn fire(&mut self, name: &str, family: &str, data: &[u8]) -> Result<(), String> {
        let descriptor = self.descriptor.clone();
        let transform = &descriptor.transforms[name];
        let par_do = ParDoPayload::decode(transform.spec.as_ref().unwrap().payload.clone()).unwrap();
        let coder = &par_do.timer_family_specs[family].timer_family_coder_id;
        let coder = TimerCoder::new(coder, &self.components).unwrap();
        let mut input = data;
        while !input.is_empty() {
            let timer = coder.read(&mut input).unwrap();
            let key = unnest(&mut &timer.key[..]).unwrap().to_vec();
            let at = timer.set.unwrap().fire_millis;
            if at == 10 {
                self.set_timer(name, &key, "more", Some(15));
            }
            let order = self.side.next.fetch_add(1, Ordering::SeqCst);
            let value =
                pair(&key, format!("{order:04} {} {at}", String::from_utf8_lossy(&timer.tag)).as_bytes());
            let header = Header { timestamp_millis: at, windows: vec![Bytes::new()], pane: Pane::NO_FIRING };
            let output = transform.outputs.values().next().unwrap().clone();
            self.emit(output, Element { header, value }).await?;
        }
        Ok(())
    }

    /// One step of a restriction, and the rest for later.
    fn process_one(&mut self, name: &str, transform: &PTransform, element: &Element) -> Vec<u8> {
        let mut value = &element.value[..];
        let own = unnest(&mut value).unwrap().to_vec();
        let left: u64 = std::str::from_utf8(unnest(&mut value).unwrap()).unwrap().parse().unwrap();
        if left > 1 {
            let mut rest = Vec::new();
            element.header.write(&mut rest).unwrap();
            rest.extend(nested(&own));
            rest.extend(nested((left - 1).to_string().as_bytes()));
            rest.extend(1_f64.to_be_bytes());
            let application = BundleApplication {
                transform_id: name.to_owned(),
                input_id: transform.inputs.keys().next().unwrap().clone(),
                element: rest.into(),
                ..BundleApplication::default()
            };
            // The last step waits a minute.
            let delay = (left == 2).then_some(prost_types::Duration { seconds: 60, nanos: 0 });
            self.residuals.push(DelayedBundleApplication {
                application: Some(application),
                requested_time_delay: delay,
            });
        }
        nested(left.to_string().as_bytes())
    }
}

/// Merges windows of intervals that start below a thousand; the others stay.
fn merge(value: &[u8]) -> Vec<u8> {
    let nonce_length = usize::from(value[0]) + 1;
    let windows: Vec<&[u8]> = value[nonce_length + 4..].chunks(window_length(value, nonce_length)).collect();
    let read = |window: &&[u8]| claviger_beam::window::IntervalWindow::read(&mut { *window }).unwrap();
    let (merging, staying): (Vec<&[u8]>, Vec<&[u8]>) =
        windows.into_iter().partition(|window| read(window).start < 1000);
    let iterable = |windows: &[&[u8]]| {
        [&u32::try_from(windows.len()).unwrap().to_be_bytes()[..], &windows.concat()].concat()
    };
    let mut out = value[..nonce_length].to_vec();
    out.extend(iterable(&staying));
    if merging.is_empty() {
        out.extend(0_u32.to_be_bytes());
    } else {
        let start = merging.iter().map(|window| read(window).start).min().unwrap();
        let end = merging.iter().map(|window| read(window).end).max().unwrap();
        out.extend(1_u32.to_be_bytes());
        out.extend(claviger_beam::window::IntervalWindow { start, end }.encode());
        out.extend(iterable(&merging));
    }
    out
}

/// Windows of one question have one length here: eight bytes and a two-byte span or less.
fn window_length(value: &[u8], nonce_length: usize) -> usize {
    let count = u32::from_be_bytes(value[nonce_length..nonce_length + 4].try_into().unwrap()) as usize;
    (value.len() - nonce_length - 4) / count
}
