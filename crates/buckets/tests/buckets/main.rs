//! Buckets over a real KMS and real sealed storage, in memory, on a clock that the test moves.

mod keys;
mod lists;
mod objects;
mod uploads;
mod world;
