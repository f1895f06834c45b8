//! Scopes, intermediate keys, and what happens to them when a customer's key changes.
//!
//! A *scope* is what one intermediate key protects: a table in a cluster, a job, a bucket. The
//! intermediate key is wrapped by the customer's key in the KMS and lives unwrapped only in memory. The
//! [`Manager`] makes scopes, unwraps them at first use, asks the KMS about them at an interval and at
//! every push, and locks or unlocks them by one state machine ([`lifecycle`]).
//!
//! Invariants: nothing here knows a service that has scopes. No key leaves this crate except through
//! [`claviger_sealed::scope::ScopeKeys`]. A wrapped key is durable before it is used, and forgotten
//! durably when its scope is deleted. All state is per scope; there is no task per scope.

mod answer;
mod keyring;
pub mod lifecycle;
mod manager;
pub mod platform;
pub mod record;
mod resident;
mod scope;

pub use lifecycle::{KeyState, Reason, Refusal};
pub use manager::{Config, Manager};
pub use resident::{Opened, Resident};
pub use scope::{Lock, LockEvent, Scope, ScopeSpec, Status};
