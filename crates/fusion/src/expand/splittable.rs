//! Splittable DoFns: pair each element with its restriction, split and size the restrictions, and process
//! them from the edge of a stage, so that they spread over bundles and what is left can come back.
//!
//! Invariant: the coder of what `Process` reads is `KV<KV<element, restriction>, double>`.

use claviger_beam::urn;
use claviger_core::error::{Error, Result};

use crate::PlanOptions;
use crate::expand::Draft;
use crate::leaves::{Kind, Leaf, Op};

/// The parts of a splittable ParDo.
pub(super) fn expand(
    draft: &mut Draft,
    leaf: &Leaf,
    step: usize,
    options: &PlanOptions,
    ops: &mut Vec<Op>,
) -> Result<()> {
    let name = &leaf.proto.unique_name;
    let payload = leaf.par_do.clone().unwrap_or_default();
    if !payload.state_specs.is_empty() || !payload.timer_family_specs.is_empty() {
        return Err(Error::invalid(format!(
            "Step {name:?} is splittable, and has state or timers: it cannot have both."
        )));
    }
    let mut mains = leaf.proto.inputs.iter().filter(|(tag, _)| !payload.side_inputs.contains_key(*tag));
    let (Some((tag, input)), None) = (mains.next(), mains.next()) else {
        return Err(Error::invalid(format!("Step {name:?} must have one main input.")));
    };
    let (tag, input) = (tag.clone(), input.clone());

    let element = draft.pcollection(&input)?.coder_id.clone();
    let restriction = payload.restriction_coder_id.clone();
    let pair = draft.coder("element_restriction", urn::coder::KV, vec![element, restriction]);
    let size = draft.coder("size", urn::coder::DOUBLE, Vec::new());
    let sized = draft.coder("sized_restriction", urn::coder::KV, vec![pair.clone(), size]);

    let paired = draft.like(&input, "/Paired", pair)?;
    let split = draft.like(&input, "/Split", sized.clone())?;
    let mut parts = vec![
        (
            "/PairWithRestriction",
            urn::transform::SDF_PAIR_WITH_RESTRICTION,
            input.clone(),
            Some(paired.clone()),
        ),
        (
            "/SplitAndSizeRestriction",
            urn::transform::SDF_SPLIT_AND_SIZE_RESTRICTIONS,
            paired,
            Some(split.clone()),
        ),
    ];
    let mut last = split;
    if options.drain {
        let cut = draft.like(&input, "/Truncated", sized)?;
        draft.wire_pcollection(&cut)?;
        parts.push((
            "/TruncateAndSizeRestriction",
            urn::transform::SDF_TRUNCATE_SIZED_RESTRICTIONS,
            last,
            Some(cut.clone()),
        ));
        last = cut;
    }
    parts.push(("/Process", urn::transform::SDF_PROCESS_SIZED_ELEMENTS_AND_RESTRICTIONS, last, None));
    let edge = parts.len() - if options.drain { 2 } else { 1 };
    for (at, (suffix, urn, from, to)) in parts.into_iter().enumerate() {
        let mut op = draft.part(leaf, step, suffix, Kind::Sdk, urn);
        op.proto.inputs.insert(tag.clone(), from);
        if let Some(to) = to {
            op.proto.outputs = [("out".to_owned(), to)].into();
        }
        op.root = at == edge;
        ops.push(op);
    }
    Ok(())
}
