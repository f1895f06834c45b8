//! Timers in a batch: all input comes first, then time runs to its end and timers fire in their order.
//!
//! Invariant: a timer is known by family, key, tag and window; the last one set wins, a cleared one is gone.
//! Within one key and window none fires before an earlier one. Event time runs to its end before
//! processing time moves at all, as nothing else is left to wait for.

use std::collections::{BTreeMap, HashMap};

use bytes::{Bytes, BytesMut};
use claviger_beam::timer::TimerCoder;
use claviger_beam_proto::pipeline::Components;
use claviger_core::{Error, ErrorKind, Result};
use claviger_fusion::{TimeDomain, TimerFamily};

use super::element::consumed;

/// How one family's timers are read.
#[derive(Debug)]
struct Family {
    transform: String,
    name: String,
    event_time: bool,
    coder: TimerCoder,
}

/// The families of a stage.
#[derive(Debug, Default)]
pub(super) struct Families {
    families: Vec<Family>,
}

/// Timers of a batch of keys that have not fired.
#[derive(Debug, Default)]
pub(super) struct Timers {
    /// By key and window, event time and processing time apart.
    groups: HashMap<Group, [BTreeMap<Slot, Timer>; 2]>,
    bytes: usize,
}

/// A key and a timer's windows, of which there is one as a rule.
type Group = (Bytes, Vec<Bytes>);

/// Which timer within a key and window.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Slot {
    family: usize,
    tag: Bytes,
}

#[derive(Debug)]
struct Timer {
    fire_millis: i64,
    /// As the worker sent it; it gets it back like this.
    encoded: Bytes,
}

/// Timers for a worker: transform, family, encoded timers.
pub(super) type Fired = Vec<(String, String, Bytes)>;

impl Families {
    /// Reads the families' coders.
    pub(super) fn new(families: &[TimerFamily], components: &Components) -> Result<Self> {
        let families = families.iter().map(|family| {
            Ok(Family {
                transform: family.transform_id.clone(),
                name: family.family.clone(),
                event_time: family.time_domain == TimeDomain::EventTime,
                coder: TimerCoder::new(&family.timer_coder_id, components)?,
            })
        });
        Ok(Self { families: families.collect::<Result<_>>()? })
    }

    fn find(&self, transform: &str, name: &str) -> Result<(usize, &Family)> {
        let found =
            self.families.iter().position(|family| family.transform == transform && family.name == name);
        found.and_then(|index| Some((index, self.families.get(index)?))).ok_or_else(|| {
            Error::invalid(format!(
                "A worker set timers of the family {name} of {transform}, which its stage does not have."
            ))
        })
    }
}

impl Timers {
    /// Are none left?
    pub(super) fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// Takes what a bundle set and cleared, in its order.
    pub(super) fn apply(
        &mut self,
        families: &Families,
        transform: &str,
        name: &str,
        data: &Bytes,
        limit: usize,
    ) -> Result<()> {
        let (index, family) = families.find(transform, name)?;
        let mut input = &data[..];
        while !input.is_empty() {
            let start = input;
            let read = family.coder.read(&mut input)?;
            let slot = Slot { family: index, tag: read.tag };
            let group = (read.key, read.windows);
            let domain = usize::from(!family.event_time);
            match read.set {
                Some(set) => {
                    let encoded = data.slice_ref(consumed(start, input));
                    let timer = Timer { fire_millis: set.fire_millis, encoded };
                    self.bytes += timer.encoded.len();
                    let slots = self.groups.entry(group).or_default();
                    if let Some(slots) = slots.get_mut(domain)
                        && let Some(old) = slots.insert(slot, timer)
                    {
                        self.bytes -= old.encoded.len();
                    }
                }
                None => {
                    if let Some(slots) = self.groups.get_mut(&group) {
                        if let Some(old) = slots.get_mut(domain).and_then(|slots| slots.remove(&slot)) {
                            self.bytes -= old.encoded.len();
                        }
                        if slots.iter().all(BTreeMap::is_empty) {
                            self.groups.remove(&group);
                        }
                    }
                }
            }
            if self.bytes > limit {
                return Err(Error::new(
                    ErrorKind::ResourceExhausted,
                    format!("The keys of one bundle set timers of more than {limit} bytes."),
                ));
            }
        }
        Ok(())
    }

    /// Takes out the timers that fire next: of each key and window the earliest, and all that are as early.
    /// Processing time moves only when no event-time timer is left anywhere.
    pub(super) fn fire(&mut self, families: &Families) -> Fired {
        let domain = usize::from(self.groups.values().all(|[event, _]| event.is_empty()));
        let mut fired: Vec<(i64, usize, Bytes)> = Vec::new();
        self.groups.retain(|_, domains| {
            if let Some(slots) = domains.get_mut(domain) {
                let Some(earliest) = slots.values().map(|timer| timer.fire_millis).min() else {
                    return true;
                };
                slots.retain(|slot, timer| {
                    let stays = timer.fire_millis > earliest;
                    if !stays {
                        self.bytes -= timer.encoded.len();
                        fired.push((timer.fire_millis, slot.family, timer.encoded.clone()));
                    }
                    stays
                });
            }
            domains.iter().any(|slots| !slots.is_empty())
        });
        fired.sort();
        let mut by_family: BTreeMap<usize, BytesMut> = BTreeMap::new();
        for (_, family, encoded) in fired {
            by_family.entry(family).or_default().extend_from_slice(&encoded);
        }
        let named = by_family.into_iter().filter_map(|(index, data)| {
            let family = families.families.get(index)?;
            Some((family.transform.clone(), family.name.clone(), data.freeze()))
        });
        named.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use claviger_beam::timer::{Set, Timer as Encoded};
    use claviger_beam::windowed::Pane;
    use claviger_beam_proto::pipeline::{Coder, FunctionSpec};

    const LIMIT: usize = 1 << 20;

    fn families() -> Families {
        let mut components = Components::default();
        let coders: [(&str, &str, &[&str]); 3] = [
            ("bytes", "beam:coder:bytes:v1", &[]),
            ("global", "beam:coder:global_window:v1", &[]),
            ("timer", "beam:coder:timer:v1", &["bytes", "global"]),
        ];
        for (id, urn, parts) in coders {
            let spec = Some(FunctionSpec { urn: urn.into(), payload: Bytes::new() });
            let component_coder_ids = parts.iter().map(|part| (*part).to_owned()).collect();
            components.coders.insert(id.into(), Coder { spec, component_coder_ids });
        }
        let family = |name: &str, time_domain| TimerFamily {
            transform_id: "t".into(),
            family: name.into(),
            time_domain,
            timer_coder_id: "timer".into(),
        };
        let families = [family("event", TimeDomain::EventTime), family("clock", TimeDomain::ProcessingTime)];
        Families::new(&families, &components).unwrap()
    }

    fn timer(key: &str, tag: &str, at: Option<i64>) -> Bytes {
        let mut out = Vec::new();
        let set = at.map(|at| Set { fire_millis: at, hold_millis: at, pane: Pane::NO_FIRING });
        let key = [&[key.len() as u8][..], key.as_bytes()].concat();
        Encoded {
            key: key.into(),
            tag: Bytes::copy_from_slice(tag.as_bytes()),
            windows: vec![Bytes::new()],
            set,
        }
        .write(&mut out)
        .unwrap();
        out.into()
    }

    fn set(timers: &mut Timers, family: &str, key: &str, tag: &str, at: Option<i64>) {
        timers.apply(&families(), "t", family, &timer(key, tag, at), LIMIT).unwrap();
    }

    #[test]
    fn each_key_fires_its_earliest_timers_and_processing_time_waits_for_event_time() {
        let families = families();
        let mut timers = Timers::default();
        set(&mut timers, "clock", "a", "", Some(1));
        set(&mut timers, "event", "a", "x", Some(30));
        set(&mut timers, "event", "a", "y", Some(20));
        set(&mut timers, "event", "a", "z", Some(20));
        set(&mut timers, "event", "b", "", Some(500));
        let fired = timers.fire(&families);
        let expected =
            [timer("a", "y", Some(20)), timer("a", "z", Some(20)), timer("b", "", Some(500))].concat();
        assert_eq!(fired, [("t".to_owned(), "event".to_owned(), Bytes::from(expected))]);
        assert_eq!(timers.fire(&families), [("t".to_owned(), "event".to_owned(), timer("a", "x", Some(30)))]);
        assert!(!timers.is_empty());
        assert_eq!(timers.fire(&families), [("t".to_owned(), "clock".to_owned(), timer("a", "", Some(1)))]);
        assert!(timers.is_empty());
        assert_eq!(timers.bytes, 0);
    }

    #[test]
    fn the_last_setting_of_a_timer_wins_and_a_cleared_one_is_gone() {
        let families = families();
        let mut timers = Timers::default();
        set(&mut timers, "event", "a", "", Some(10));
        set(&mut timers, "event", "a", "", Some(5));
        set(&mut timers, "event", "b", "", Some(5));
        set(&mut timers, "event", "b", "", None);
        set(&mut timers, "event", "c", "", None);
        assert_eq!(timers.fire(&families), [("t".to_owned(), "event".to_owned(), timer("a", "", Some(5)))]);
        assert!(timers.is_empty() && timers.bytes == 0);
    }

    #[test]
    fn unknown_families_damaged_bytes_and_too_many_timers_are_refused() {
        let families = families();
        let mut timers = Timers::default();
        let one = timer("a", "", Some(1));
        assert!(timers.apply(&families, "t", "other", &one, LIMIT).is_err());
        assert!(timers.apply(&families, "t", "event", &one.slice(..one.len() - 1), LIMIT).is_err());
        let error = timers.apply(&families, "t", "event", &one, one.len() - 1).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ResourceExhausted);
    }
}
