//! The binary as its users run it.
//!
//! Invariant: servers of tests listen on free ports of this machine and keep their files in folders of their own.

mod alone;
mod audit;
mod common;
mod cost;
mod data;
mod jobs;
mod keys;
mod log;
mod policies;
mod serve;
mod storage;
