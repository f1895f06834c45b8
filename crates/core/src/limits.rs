//! The limits that several crates check. Each is Google's documented figure unless it says otherwise.

/// Plaintext and additional data of Cloud KMS's Encrypt, bytes each.
pub const KMS_PLAINTEXT_BYTES: usize = 64 * 1024;
/// The same under an HSM key, bytes of both together.
pub const KMS_HSM_BYTES: usize = 8 * 1024;
/// A Bigtable row key, bytes.
pub const ROW_KEY_BYTES: usize = 4 * 1024;
/// A column family's name, characters.
pub const FAMILY_NAME_CHARS: usize = 64;
/// A column qualifier, bytes.
pub const QUALIFIER_BYTES: usize = 16 * 1024;
/// A cell's value, bytes.
pub const CELL_VALUE_BYTES: usize = 100 * 1024 * 1024;
/// All cells of a row, bytes.
pub const ROW_BYTES: usize = 256 * 1024 * 1024;
/// Mutations in one request.
pub const MUTATIONS_PER_REQUEST: usize = 100_000;
/// An encoded row filter, bytes.
pub const FILTER_BYTES: usize = 20_480;
/// Filters nested in filters.
pub const FILTER_DEPTH: usize = 20;
/// An encoded garbage-collection rule, bytes.
pub const GC_RULE_BYTES: usize = 500;
/// A gRPC message that the server takes, bytes.
pub const REQUEST_BYTES: usize = 256 * 1024 * 1024;
/// A ReadRows response message aims to stay under this, bytes: clients refuse more than 4 MiB.
pub const RESPONSE_CHUNK_BYTES: usize = 1024 * 1024;
