//! A stage's descriptor as one worker sees it: with the address of our services in it, and with the list of
//! the ports over which elements and timers pass.
//!
//! Invariant: the graph in it is not changed, only addresses are.

use std::collections::BTreeSet;

use bytes::Bytes;
use claviger_beam::urn::transform as urn;
use claviger_beam_proto::fn_execution::{ProcessBundleDescriptor, RemoteGrpcPort};
use claviger_beam_proto::pipeline::{ApiServiceDescriptor, ParDoPayload};
use claviger_core::{Error, Result};
use prost::Message as _;

/// Transforms whose payload is a `ParDoPayload`.
const PAR_DO: [&str; 5] = [
    urn::PAR_DO,
    urn::SDF_PAIR_WITH_RESTRICTION,
    urn::SDF_SPLIT_AND_SIZE_RESTRICTIONS,
    urn::SDF_PROCESS_SIZED_ELEMENTS_AND_RESTRICTIONS,
    urn::SDF_TRUNCATE_SIZED_RESTRICTIONS,
];

/// Where elements pass: a transform of the descriptor and, for timers, their family.
pub(crate) type Port = (String, Option<String>);

/// A descriptor that a worker can use.
#[derive(Debug)]
pub(crate) struct Connected {
    pub(crate) descriptor: ProcessBundleDescriptor,
    /// Ports that the runner must close: elements and timers in.
    pub(crate) inputs: Vec<Port>,
    /// Ports that the worker closes: elements and timers out.
    pub(crate) outputs: BTreeSet<Port>,
}

/// An address, as messages hold it.
pub(crate) fn service(url: &str) -> ApiServiceDescriptor {
    ApiServiceDescriptor { url: url.to_owned(), authentication: None }
}

/// Puts `endpoint` into a descriptor.
///
/// # Errors
/// `InvalidArgument` for a payload that is none.
pub(crate) fn connect(descriptor: &ProcessBundleDescriptor, endpoint: &str) -> Result<Connected> {
    let mut descriptor = descriptor.clone();
    descriptor.state_api_service_descriptor = Some(service(endpoint));
    let mut inputs = Vec::new();
    let mut outputs = BTreeSet::new();
    let mut has_timers = false;
    for (id, transform) in &mut descriptor.transforms {
        let Some(spec) = &mut transform.spec else { continue };
        let unreadable = |error: prost::DecodeError| {
            Error::invalid(format!("the payload of transform '{}' cannot be read", transform.unique_name))
                .because(error)
        };
        match spec.urn.as_str() {
            urn::DATA_SOURCE | urn::DATA_SINK => {
                let mut port = RemoteGrpcPort::decode(spec.payload.clone()).map_err(unreadable)?;
                port.api_service_descriptor = Some(service(endpoint));
                if spec.urn == urn::DATA_SOURCE {
                    inputs.push((id.clone(), None));
                } else {
                    outputs.insert((id.clone(), None));
                }
                spec.payload = Bytes::from(port.encode_to_vec());
            }
            kind if PAR_DO.contains(&kind) => {
                let pardo = ParDoPayload::decode(spec.payload.clone()).map_err(unreadable)?;
                for family in pardo.timer_family_specs.into_keys() {
                    has_timers = true;
                    inputs.push((id.clone(), Some(family.clone())));
                    outputs.insert((id.clone(), Some(family)));
                }
            }
            _ => {}
        }
    }
    if has_timers {
        descriptor.timer_api_service_descriptor = Some(service(endpoint));
    }
    Ok(Connected { descriptor, inputs, outputs })
}

#[cfg(test)]
mod tests {
    use super::*;
    use claviger_beam_proto::pipeline::{FunctionSpec, PTransform, TimerFamilySpec};

    fn transform(urn: &str, payload: Vec<u8>) -> PTransform {
        let spec = Some(FunctionSpec { urn: urn.into(), payload: payload.into() });
        PTransform { unique_name: "named".into(), spec, ..PTransform::default() }
    }

    #[test]
    fn ports_get_the_address_and_keep_their_coder() {
        let port = RemoteGrpcPort { coder_id: "c".into(), ..RemoteGrpcPort::default() }.encode_to_vec();
        let mut descriptor = ProcessBundleDescriptor::default();
        descriptor.transforms.insert("in".into(), transform(urn::DATA_SOURCE, port.clone()));
        descriptor.transforms.insert("out".into(), transform(urn::DATA_SINK, port));
        let timers = ParDoPayload {
            timer_family_specs: [("f".to_owned(), TimerFamilySpec::default())].into(),
            ..ParDoPayload::default()
        };
        descriptor.transforms.insert("do".into(), transform(PAR_DO[0], timers.encode_to_vec()));
        let connected = connect(&descriptor, "127.0.0.1:1").expect("a descriptor");
        let timer = ("do".to_owned(), Some("f".to_owned()));
        assert_eq!(connected.inputs, [timer.clone(), ("in".to_owned(), None)]);
        assert_eq!(connected.outputs, BTreeSet::from([timer, ("out".to_owned(), None)]));
        let spec = connected.descriptor.transforms["in"].spec.as_ref().expect("a spec");
        let port = RemoteGrpcPort::decode(spec.payload.clone()).expect("a port");
        assert_eq!(
            (port.coder_id.as_str(), port.api_service_descriptor),
            ("c", Some(service("127.0.0.1:1")))
        );
        assert!(connected.descriptor.timer_api_service_descriptor.is_some());
    }

    #[test]
    fn a_payload_that_is_none_is_refused_with_the_transforms_name() {
        let mut descriptor = ProcessBundleDescriptor::default();
        descriptor.transforms.insert("in".into(), transform(urn::DATA_SOURCE, vec![0xff]));
        let error = connect(&descriptor, "e").expect_err("refused");
        assert!(error.message().contains("'named'"), "{error}");
    }
}
