//! Combiner lifting: combine before the shuffle, merge after it.
//!
//! Invariant: done only where the result is the same. A trigger that counts elements must see each of them.

use claviger_beam::urn;
use claviger_beam_proto::pipeline;
use claviger_beam_proto::pipeline::trigger::Trigger as Kind;
use claviger_core::error::{Error, Result};
use prost::Message;

use crate::coders;
use crate::expand::Draft;
use crate::leaves::{self, Leaf, Op};

/// Can this composite run as precombine, group, merge and extract.
pub(crate) fn can_lift(
    name: &str,
    transform: &pipeline::PTransform,
    components: &pipeline::Components,
) -> Result<bool> {
    let (mut inputs, mut outputs) = (transform.inputs.values(), transform.outputs.values());
    let (Some(input), None, Some(_), None) = (inputs.next(), inputs.next(), outputs.next(), outputs.next())
    else {
        return Ok(false);
    };
    let payload = payload(name, transform)?;
    let Some(collection) = components.pcollections.get(input) else { return Ok(false) };
    let Some(strategy) = components.windowing_strategies.get(&collection.windowing_strategy_id) else {
        return Ok(false);
    };
    Ok(components.coders.contains_key(&payload.accumulator_coder_id)
        && coders::kv(&components.coders, &collection.coder_id).is_some()
        && trigger_allows(strategy.trigger.as_ref()))
}

fn payload(name: &str, transform: &pipeline::PTransform) -> Result<pipeline::CombinePayload> {
    let bytes = transform.spec.clone().unwrap_or_default().payload;
    pipeline::CombinePayload::decode(bytes)
        .map_err(|e| Error::invalid(format!("Step {name:?}: its payload does not parse.")).because(e))
}

/// Does the trigger fire in the same way when elements are combined before it sees them. The depth is that
/// of a parsed message, which the parser bounds.
fn trigger_allows(trigger: Option<&pipeline::Trigger>) -> bool {
    let Some(trigger) = trigger else { return true };
    match &trigger.trigger {
        None => true,
        Some(kind) => match kind {
            Kind::Default(_)
            | Kind::Always(_)
            | Kind::Never(_)
            | Kind::AfterProcessingTime(_)
            | Kind::AfterSynchronizedProcessingTime(_) => true,
            Kind::ElementCount(count) => count.element_count == 1,
            Kind::AfterEndOfWindow(end) => {
                trigger_allows(end.early_firings.as_deref()) && trigger_allows(end.late_firings.as_deref())
            }
            Kind::AfterAny(any) => any.subtriggers.iter().all(|one| trigger_allows(Some(one))),
            Kind::Repeat(repeat) => trigger_allows(repeat.subtrigger.as_deref()),
            Kind::AfterAll(_) | Kind::AfterEach(_) | Kind::OrFinally(_) => false,
        },
    }
}

/// The four parts of a lifted combiner.
pub(super) fn expand(draft: &mut Draft, leaf: &Leaf, step: usize, ops: &mut Vec<Op>) -> Result<()> {
    let name = &leaf.proto.unique_name;
    let missing = || Error::invalid(format!("Step {name:?} has no input or no output."));
    let input = leaf.proto.inputs.values().next().ok_or_else(missing)?.clone();
    let output = leaf.proto.outputs.values().next().ok_or_else(missing)?.clone();
    let accumulator = payload(name, &leaf.proto)?.accumulator_coder_id;
    let element = draft.pcollection(&input)?.coder_id.clone();
    let (key, _) = coders::kv(&draft.components.coders, &element).ok_or_else(|| {
        Error::invalid(format!("Step {name:?} combines by key, but its input has no keys."))
    })?;

    let partial = draft.coder("combine", urn::coder::KV, vec![key.clone(), accumulator.clone()]);
    let many = draft.coder("combine_many", urn::coder::ITERABLE, vec![accumulator]);
    let grouped = draft.coder("combine_grouped", urn::coder::KV, vec![key, many]);
    draft.pcollection(&output).map_err(|e| leaves::at_step(name, &e))?;
    let before = draft.like(&input, "/Precombined", partial.clone())?;
    let together = draft.like(&output, "/Grouped", grouped)?;
    let merged = draft.like(&output, "/Merged", partial)?;

    let sdk = leaves::Kind::Sdk;
    let group = leaves::Kind::GroupByKey;
    let parts = [
        ("/Precombine", sdk, urn::transform::COMBINE_PER_KEY_PRECOMBINE, input, before.clone()),
        ("/Group", group, urn::transform::GROUP_BY_KEY, before, together.clone()),
        ("/Merge", sdk, urn::transform::COMBINE_PER_KEY_MERGE_ACCUMULATORS, together, merged.clone()),
        ("/ExtractOutputs", sdk, urn::transform::COMBINE_PER_KEY_EXTRACT_OUTPUTS, merged, output),
    ];
    for (suffix, kind, urn, from, to) in parts {
        let mut op = draft.part(leaf, step, suffix, kind, urn);
        op.proto.inputs = [("in".to_owned(), from)].into();
        op.proto.outputs = [("out".to_owned(), to)].into();
        ops.push(op);
    }
    Ok(())
}
