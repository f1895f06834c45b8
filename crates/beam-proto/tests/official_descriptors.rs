//! Our Beam `.proto` files say the same as the official ones, in all that they say.
//!
//! The official descriptors come from the wheel that `clients/python/descriptors/beam.txt` pins: `dump_beam.py`
//! there writes them to a file, and `CLAVIGER_OFFICIAL_BEAM_DESCRIPTORS` names it. No field of a message that we
//! have is left out. What we do without as a whole: enums that only list URNs, and services of older SDKs.

use std::fs;

#[path = "../../proto/tests/official_descriptors/facts.rs"]
mod facts;
use facts::{Facts, differences};

const OURS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/beam.binpb"));

#[test]
#[ignore = "needs the official descriptors: `cargo xtask test` fetches them"]
fn ours_say_the_same_as_the_official_descriptors() {
    let path = std::env::var("CLAVIGER_OFFICIAL_BEAM_DESCRIPTORS")
        .expect("set CLAVIGER_OFFICIAL_BEAM_DESCRIPTORS to what dump_beam.py wrote");
    let official = Facts::read(&fs::read(&path).expect("a readable file"));
    let ours = Facts::read(OURS);
    assert!(ours.said.len() > 700 && official.said.len() > ours.said.len(), "one of the sets is not whole");
    let found = differences(&ours, &official, &[], &[]);
    assert!(found.is_empty(), "{} differences:\n{}", found.len(), found.join("\n"));
}

#[test]
fn a_changed_word_is_named() {
    let official = Facts::read(OURS);
    assert!(differences(&Facts::read(OURS), &official, &[], &[]).is_empty());
    let cases = [
        ("field org.apache.beam.model.fn_execution.v1.Elements.Data.data", "number 3", "number 4"),
        ("field org.apache.beam.model.pipeline.v1.Trigger.always", "oneof trigger", "oneof -"),
        ("value org.apache.beam.model.job_management.v1.JobState.Enum.DONE", "number 3", "number 4"),
        ("method org.apache.beam.model.fn_execution.v1.BeamFnData.Data", "(stream true)", "(stream false)"),
    ];
    for (thing, word, other) in cases {
        let mut broken = Facts::read(OURS);
        let said = broken.said.get_mut(thing).unwrap_or_else(|| panic!("{thing} is not there"));
        assert!(said.contains(word), "{thing}: {said}");
        *said = said.replace(word, other);
        let found = differences(&broken, &official, &[], &[]);
        assert!(found.len() == 1 && found[0].starts_with(thing), "{found:?}");
    }
}
