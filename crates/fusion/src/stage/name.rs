//! Names of stages, for errors, metrics and job pages.
//!
//! Invariant: unique in a plan, since an operation is in one stage only and the first ones are always told.

use crate::fuse::{Edge, Fused};
use crate::leaves::{Kind, Op};

/// How many operations a name tells; of longer stages the middle is left out.
const TOLD: usize = 8;

/// As `Group/Read+Format+Write/Group/Write`: the steps, and the groupings at its edges.
pub(super) fn of_stage(fused: &Fused, at: usize, ops: &[&Op], edge: &Edge) -> String {
    let grouping = |op: &&Op| op.kind == Kind::GroupByKey;
    let mut parts: Vec<String> = Vec::new();
    let maker = fused.producer.get(&edge.input).and_then(|maker| fused.ops.get(*maker));
    parts.extend(maker.filter(grouping).map(|op| format!("{}/Read", op.name())));
    parts.extend(ops.iter().map(|op| op.name().to_owned()));
    for reader in ops.iter().flat_map(|op| op.outputs()).filter_map(|o| fused.consumers.get(o)) {
        let outside = reader.iter().filter(|reader| fused.group_of.get(**reader) != Some(&at));
        let groups = outside.filter_map(|reader| fused.ops.get(*reader)).filter(grouping);
        parts.extend(groups.map(|op| format!("{}/Write", op.name())));
    }
    if parts.len() > TOLD {
        let left_out = parts.len() - TOLD;
        let rest = parts.split_off(parts.len() - 2);
        parts.truncate(TOLD - 2);
        parts.push(format!("({left_out} more)"));
        parts.extend(rest);
    }
    parts.join("+")
}
