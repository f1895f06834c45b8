//! What every crate of Claviger shares: resource names, error kinds, the clock, limits.
//!
//! Invariant: no I/O here, and nothing that knows a service, a cipher or a wire format.

pub mod caller;
pub mod clock;
pub mod duration;
pub mod error;
pub mod gather;
pub mod home;
pub mod limits;
pub mod names;

pub use caller::Caller;
pub use clock::{Clock, ManualClock, SystemClock, Timestamp};
pub use error::{Error, ErrorKind, Result};
