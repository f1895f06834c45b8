//! What a bundle writes: its output ports' elements, to logs and shuffles, committed together with the bundle.
//!
//! Invariant: nothing of a bundle can be read before [`BundleOutputs::commit`]; a dropped one leaves nothing.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use claviger_beam::group::Record;
use claviger_core::{Error, Result};
use claviger_shuffle::{LogWriter, ShuffleWriter};

use super::graph::{LogStore, ShuffleKind, ShuffleStore, Target};

/// The writers of one bundle, opened when the first element comes.
pub(super) struct BundleOutputs {
    ports: Arc<HashMap<String, Vec<Target>>>,
    /// By port, one for each of its targets.
    writers: HashMap<String, Vec<Writer>>,
}

enum Writer {
    Log { writer: LogWriter, store: Arc<LogStore> },
    Shuffle { writer: ShuffleWriter, store: Arc<ShuffleStore> },
}

impl BundleOutputs {
    pub(super) fn new(ports: Arc<HashMap<String, Vec<Target>>>) -> Self {
        Self { ports, writers: HashMap::new() }
    }

    /// Takes a piece of a port's output: whole elements.
    pub(super) async fn write(&mut self, port: &str, data: Bytes) -> Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        if !self.writers.contains_key(port) {
            let targets = self.ports.get(port).ok_or_else(|| {
                Error::invalid(format!(
                    "A worker sent elements for the output {port}, which its stage does not have."
                ))
            })?;
            self.writers.insert(port.to_owned(), targets.iter().map(Writer::open).collect());
        }
        let writers = self.writers.get_mut(port).map_or(&mut [][..], Vec::as_mut_slice);
        // A flatten has the same coder on both sides, so one count does for all logs.
        let mut elements = None;
        for writer in writers {
            match writer {
                Writer::Log { writer, store } => {
                    let elements = match elements {
                        Some(elements) => elements,
                        None => *elements.insert(store.elements.count(&data)?),
                    };
                    writer.write(data.clone(), elements).await?;
                }
                Writer::Shuffle { writer, store } => {
                    add(writer, store, &data)?;
                    writer.make_room().await?;
                }
            }
        }
        Ok(())
    }

    /// Makes all of it readable.
    pub(super) async fn commit(self) -> Result<()> {
        for writer in self.writers.into_values().flatten() {
            match writer {
                Writer::Log { writer, .. } => writer.commit().await?,
                Writer::Shuffle { writer, .. } => writer.commit().await?,
            }
        }
        Ok(())
    }
}

impl Writer {
    fn open(target: &Target) -> Self {
        match target {
            Target::Log(store) => Self::Log { writer: store.log.writer(), store: store.clone() },
            Target::Shuffle(store) => Self::Shuffle { writer: store.shuffle.writer(), store: store.clone() },
        }
    }
}

/// Adds a chunk's elements to a shuffle.
fn add(writer: &mut ShuffleWriter, store: &ShuffleStore, data: &[u8]) -> Result<()> {
    match &store.kind {
        ShuffleKind::Groups { group, .. } => {
            group
                .records(data, &mut |record: Record<'_>| writer.add(record.key, record.sort, record.value))?;
        }
        ShuffleKind::Keyed { pairs, by_time } => {
            pairs.for_each(data, |pair| {
                let timestamp = pair.header.timestamp();
                writer.add(pair.key, if *by_time { &timestamp } else { &[] }, pair.element)
            })?;
        }
    }
    Ok(())
}
