//! A plan as text: one line for each node, for logs and tests.
//!
//! Invariant: names of steps, PCollections and coders only; no payloads.

use std::fmt;

use crate::plan::{Access, Node, Plan, Stage, TimeDomain};

/// How many coders a term tells.
const TERM_LIMIT: usize = 32;

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for node in &self.nodes {
            match node {
                Node::Impulse { name, output } => writeln!(f, "impulse {name}: -> {output}")?,
                Node::GroupByKey { name, input, output, input_wire_coder, .. } => {
                    let coder = self.coder(input_wire_coder);
                    writeln!(f, "group {name}: {input} {coder} -> {output}")?;
                }
                Node::Flatten { name, inputs, output } => {
                    writeln!(f, "flatten {name}: {} -> {output}", inputs.join(", "))?;
                }
                Node::Stage(stage) => self.stage(f, stage)?,
            }
        }
        Ok(())
    }
}

impl Plan {
    fn stage(&self, f: &mut fmt::Formatter<'_>, stage: &Stage) -> fmt::Result {
        writeln!(f, "stage {} @{}", stage.name, stage.environment_id)?;
        let input = &stage.input;
        let coder = self.coder(&input.wire_coder_id);
        let keyed = if input.keyed { " keyed" } else { "" };
        let sorted = if input.time_sorted { " sorted" } else { "" };
        writeln!(f, "  in {} {coder}{keyed}{sorted}", input.pcollection)?;
        for output in &stage.outputs {
            let coder = self.coder(&output.wire_coder_id);
            writeln!(f, "  out {} {coder}", output.pcollection)?;
        }
        for side in &stage.side_inputs {
            let access = match side.access {
                Access::Iterable => "iterable",
                Access::Multimap => "multimap",
            };
            let coder = self.coder(&side.wire_coder_id);
            writeln!(f, "  side {}.{} {access} {} {coder}", side.transform_id, side.tag, side.pcollection)?;
        }
        for state in &stage.states {
            writeln!(f, "  state {}.{} {:?}", state.transform_id, state.name, state.kind)?;
        }
        for timer in &stage.timers {
            let domain = match timer.time_domain {
                TimeDomain::EventTime => "event",
                TimeDomain::ProcessingTime => "processing",
            };
            let coder = self.coder(&timer.timer_coder_id);
            writeln!(f, "  timer {}.{} {domain} {coder}", timer.transform_id, timer.family)?;
        }
        if let Some(splittable) = &stage.splittable {
            writeln!(f, "  splits {}.{}", splittable.transform_id, splittable.input_tag)?;
        }
        if stage.requires_finalization {
            writeln!(f, "  finalizes")?;
        }
        if stage.stable_input {
            writeln!(f, "  stable input")?;
        }
        Ok(())
    }

    /// A coder as a term, as `windowed_value(kv(length_prefix(?), varint), global_window)`: what is inside a
    /// length prefix is not told, and of a large one the rest neither.
    #[must_use]
    pub fn coder(&self, id: &str) -> String {
        let mut text = String::new();
        self.term(id, &mut { TERM_LIMIT }, &mut text);
        text
    }

    fn term(&self, id: &str, left: &mut usize, text: &mut String) {
        let Some(coder) = self.components.coders.get(id) else { return text.push_str("none") };
        if *left == 0 {
            return text.push_str("...");
        }
        *left -= 1;
        let urn = coder.spec.as_ref().map_or("", |spec| spec.urn.as_str());
        let short = urn
            .strip_prefix("beam:coder:")
            .and_then(|rest| rest.rsplit_once(':'))
            .map_or(urn, |(name, _)| name);
        text.push_str(short);
        if short == "length_prefix" {
            return text.push_str("(?)");
        }
        for (at, part) in coder.component_coder_ids.iter().enumerate() {
            text.push_str(if at == 0 { "(" } else { ", " });
            self.term(part, left, text);
        }
        if !coder.component_coder_ids.is_empty() {
            text.push(')');
        }
    }
}
