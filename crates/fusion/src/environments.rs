//! Where transforms run: alternatives are resolved and equal environments become one, so that a job
//! starts no more workers than it needs.
//!
//! Invariant: after [`settle`], each environment that is named exists, and all others are gone, and no two are equal
//! but for their resource hints (a local worker has no pools to choose from) and display data.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use claviger_beam::urn;
use claviger_beam_proto::pipeline;
use claviger_core::error::{Error, Result};
use prost::Message;

use crate::PlanOptions;

/// Resolves any-of environments and merges equal ones; transforms and strategies are renamed.
pub(crate) fn settle(components: &mut pipeline::Components, options: &PlanOptions) -> Result<()> {
    for (id, environment) in &mut components.environments {
        if environment.urn == urn::environment::ANYOF {
            *environment = choose(id, environment, options)?;
        }
    }
    let mut first: BTreeMap<Bytes, String> = BTreeMap::new();
    let mut renamed: BTreeMap<String, String> = BTreeMap::new();
    for (id, environment) in &components.environments {
        let same = first.entry(essence(environment)).or_insert_with(|| id.clone());
        renamed.insert(id.clone(), same.clone());
    }
    for transform in components.transforms.values_mut() {
        if transform.environment_id.is_empty() {
            continue;
        }
        let Some(id) = renamed.get(&transform.environment_id) else {
            return Err(Error::invalid(format!(
                "Step {:?} wants environment {:?}, which the pipeline does not have.",
                transform.unique_name, transform.environment_id
            )));
        };
        transform.environment_id.clone_from(id);
    }
    for strategy in components.windowing_strategies.values_mut() {
        if let Some(id) = renamed.get(&strategy.environment_id) {
            strategy.environment_id.clone_from(id);
        }
    }
    let mut used: BTreeSet<String> =
        components.transforms.values().map(|t| t.environment_id.clone()).collect();
    used.extend(components.windowing_strategies.values().map(|s| s.environment_id.clone()));
    used.remove("");
    if used.is_empty() {
        used.extend(renamed.into_values());
    }
    components.environments.retain(|id, _| used.contains(id));
    Ok(())
}

/// One of the alternatives, by the order of preference.
fn choose(
    id: &str,
    environment: &pipeline::Environment,
    options: &PlanOptions,
) -> Result<pipeline::Environment> {
    let payload = pipeline::AnyOfEnvironmentPayload::decode(environment.payload.clone()).map_err(|e| {
        Error::invalid(format!("Environment {id:?}: its alternatives do not parse.")).because(e)
    })?;
    let preferred = options
        .environments
        .iter()
        .find_map(|urn| payload.environments.iter().find(|candidate| candidate.urn == *urn));
    preferred
        .or_else(|| payload.environments.iter().find(|e| e.urn != urn::environment::ANYOF))
        .cloned()
        .ok_or_else(|| Error::invalid(format!("Environment {id:?} has no alternative that can be taken.")))
}

/// What makes two environments the same.
fn essence(environment: &pipeline::Environment) -> Bytes {
    let mut copy = environment.clone();
    copy.resource_hints.clear();
    copy.display_data.clear();
    copy.encode_to_vec().into()
}
