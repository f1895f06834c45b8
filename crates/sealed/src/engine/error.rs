//! SlateDB's errors as Claviger's. The cause decides: a locked key and changed bytes are told apart
//! from a fault of the engine, however deep SlateDB wrapped them.

use claviger_core::{Error, ErrorKind};
use slatedb::{CloseReason, ErrorKind as Slate};

/// The error that a service passes on for one of SlateDB's.
#[must_use]
pub fn from_slatedb(error: slatedb::Error) -> Error {
    if let Some(locked) = crate::lock_error(&error) {
        return locked;
    }
    if let Some(tamper) = crate::tamper(&error) {
        return Error::new(ErrorKind::DataLoss, tamper.to_string()).because(error);
    }
    if crate::is_no_space(&error) {
        return Error::new(ErrorKind::ResourceExhausted, "no space left on the server's disk").because(error);
    }
    let (kind, message) = match error.kind() {
        Slate::Transaction => (ErrorKind::Aborted, "the write conflicts with another one"),
        Slate::Closed(CloseReason::Fenced) => (ErrorKind::Aborted, "another server took over this data"),
        Slate::Closed(_) => (ErrorKind::Unavailable, "the data is being closed; try again"),
        Slate::Unavailable => (ErrorKind::Unavailable, "the storage does not answer"),
        Slate::Data => (ErrorKind::DataLoss, "stored data is not in a state that the store can read"),
        _ => (ErrorKind::Internal, "the storage engine failed"),
    };
    Error::new(kind, message).because(error)
}
