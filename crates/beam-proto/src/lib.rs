//! The messages and services of Apache Beam's portability APIs, made from `proto/org` when this crate is
//! built: [`pipeline`] is the graph, [`fn_execution`] is what runner and SDK worker say to each other,
//! [`job_management`] is how jobs and their artifacts come in.
//!
//! Invariant: no logic here. `bytes` fields are [`bytes::Bytes`], so that elements pass without a copy; maps
//! are ordered, so that a message has one encoding.

mod generated {
    //! What `build.rs` made.
    #![allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all, clippy::large_futures)]

    include!(concat!(env!("OUT_DIR"), "/api.rs"));
}
mod redact;

/// The package `org.apache.beam.model.pipeline.v1`: pipelines, schemas, windows, metrics.
pub use generated::org::apache::beam::model::pipeline::v1 as pipeline;

/// The package `org.apache.beam.model.fn_execution.v1`: the Fn API and the provision service.
pub use generated::org::apache::beam::model::fn_execution::v1 as fn_execution;

/// The package `org.apache.beam.model.job_management.v1`: the Job API and the artifact services.
pub use generated::org::apache::beam::model::job_management::v1 as job_management;

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use prost::Message;

    use super::*;

    #[test]
    fn elements_share_their_memory_when_decoded() {
        let data =
            fn_execution::elements::Data { data: Bytes::from_static(b"element"), ..Default::default() };
        let wire = Bytes::from(fn_execution::Elements { data: vec![data], timers: vec![] }.encode_to_vec());
        let back = fn_execution::Elements::decode(wire.clone()).expect("valid");
        assert!(wire.as_ptr_range().contains(&back.data[0].data.as_ptr()));
    }

    #[test]
    fn a_graph_has_the_same_bytes_whatever_the_order_in_which_it_was_made() {
        let names = ["c", "a", "d", "b"];
        let made = |names: &mut dyn Iterator<Item = &str>| {
            let transforms = names.map(|name| (name.to_owned(), pipeline::PTransform::default())).collect();
            pipeline::Components { transforms, ..Default::default() }.encode_to_vec()
        };
        assert_eq!(made(&mut names.into_iter()), made(&mut names.into_iter().rev()));
    }
}
