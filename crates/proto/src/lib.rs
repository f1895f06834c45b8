//! The messages and services of the Google APIs that Claviger serves, and of the one that its own servers speak among
//! themselves, made from `proto/` when this crate is built. The modules mirror the packages: `google.bigtable.v2` is
//! [`google::bigtable::v2`].
//!
//! Invariant: no logic here. `bytes` fields are [`bytes::Bytes`], so that values pass without a copy.
//!
//! `prost_types::Any::from_msg` packs any of these messages under the type URL that Google's clients expect.
//! [`pool`] holds the same descriptors at run time, with the HTTP rule of each method; the REST layer is
//! made from it.

use std::sync::LazyLock;

use prost_reflect::DescriptorPool;

mod generated {
    //! What `build.rs` made.
    #![allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all, clippy::large_futures)]

    include!(concat!(env!("OUT_DIR"), "/api.rs"));
}
mod redact;

pub use generated::{claviger, google};

/// The encoded `google.protobuf.FileDescriptorSet` of `proto/` and of the well-known types that it imports,
/// with extension options and without comments.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/claviger.binpb"));

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(FILE_DESCRIPTOR_SET).expect("the build wrote a descriptor set that it had checked")
});

/// The descriptors of [`FILE_DESCRIPTOR_SET`], decoded once.
///
/// The HTTP rule of a method is the extension `google.api.http` of its options:
/// `pool().get_extension_by_name("google.api.http")`.
#[must_use]
pub fn pool() -> &'static DescriptorPool {
    &POOL
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_rules_survive_the_build() {
        let http = pool().get_extension_by_name("google.api.http").expect("the extension is in the pool");
        let service = pool().get_service_by_name("google.cloud.kms.v1.KeyManagementService").expect("KMS");
        let encrypt = service.methods().find(|method| method.name() == "Encrypt").expect("Encrypt");
        let options = encrypt.options();
        let rule = options.get_extension(&http);
        let rule = rule.as_message().expect("a message");
        let post = rule.get_field_by_name("post").expect("a field");
        assert_eq!(post.as_str(), Some("/v1/{name=projects/*/locations/*/keyRings/*/cryptoKeys/**}:encrypt"));
    }

    #[test]
    fn a_message_packed_into_any_carries_the_url_that_clients_expect() {
        let failure = google::rpc::PreconditionFailure::default();
        let any = prost_types::Any::from_msg(&failure).expect("encodes");
        assert_eq!(any.type_url, "type.googleapis.com/google.rpc.PreconditionFailure");
    }

    #[test]
    fn bytes_fields_share_their_memory_when_decoded() {
        use prost::Message;
        let row = google::bigtable::v2::Row { key: bytes::Bytes::from_static(b"k1"), families: Vec::new() };
        let wire = bytes::Bytes::from(row.encode_to_vec());
        let back = google::bigtable::v2::Row::decode(wire.clone()).expect("valid");
        assert_eq!(back.key.as_ptr(), wire[2..].as_ptr());
    }
}
