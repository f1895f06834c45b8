//! External keys: the client of a partner's key manager, and a small key manager of our own that can be such a partner.
//!
//! Invariant: all that is said to a manager goes over TLS to a server that was checked, and is signed. A manager that
//! says no is told apart from one that says nothing. No data of a user is in clear in what a manager is given: it is
//! sealed under a key of the KMS before.

mod client;
mod http1;
pub mod manager;
pub mod token;
mod wire;

pub use client::{Client, ClientConfig, machine_roots};
