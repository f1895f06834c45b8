//! The binary as its users run it.
//!
//! Invariant: servers of tests listen on free ports of this machine and keep their files in folders of their own.

mod alone;
mod common;
mod data;
mod jobs;
mod keys;
mod log;
mod serve;
mod storage;
