//! The stream of changes of a KMS elsewhere, which goes on where it broke.
//!
//! Invariant: whenever a change may have been missed, all keys are asked about. A stream that breaks says nothing about
//! a key; a KMS that refuses it may refuse the keys too, so that these are asked about at once.

use std::sync::Arc;

use claviger_core::names::CryptoKeyName;
use claviger_core::{ErrorKind, Result};
use claviger_kms::KeyChange;
use claviger_proto::claviger::kms::v1 as pb;
use claviger_proto::claviger::kms::v1::data_servers_client::DataServersClient;

use super::{Elsewhere, FIRST_WAIT, LONGEST_WAIT};

/// How it stood at the last attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    New,
    Heard,
    Silent,
    Refused,
}

impl Elsewhere {
    /// Follows the changes, until it is dropped; one such call for a KMS.
    pub(crate) async fn follow(self: Arc<Self>) {
        let mut client = DataServersClient::new(self.dial.line(true));
        let (mut position, mut standing, mut wait) = (String::new(), Standing::New, FIRST_WAIT);
        loop {
            let before = standing;
            let broke = self.listen(&mut client, &mut position, &mut standing).await;
            self.memory.set_live(false);
            if standing == Standing::Heard && before != Standing::Heard {
                wait = FIRST_WAIT;
            }
            let Err(error) = broke else {
                standing = Standing::Silent;
                self.clock.sleep(wait).await;
                continue;
            };
            let silent = matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Internal);
            let now = if silent { Standing::Silent } else { Standing::Refused };
            if now != before || standing == Standing::Heard {
                tracing::warn!(%error, kms = self.dial.place(), "changes of keys are not heard of");
                if now == Standing::Refused {
                    self.tell(KeyChange::OfAny);
                }
            }
            standing = now;
            self.clock.sleep(wait).await;
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }

    /// Listens until the stream ends or breaks.
    async fn listen(
        &self,
        client: &mut DataServersClient<super::Line>,
        position: &mut String,
        standing: &mut Standing,
    ) -> Result<()> {
        let request = pb::WatchKeysRequest { position: position.clone() };
        let stream = client.watch_keys(request).await;
        let mut stream = stream.map_err(|status| self.dial.failed(status))?.into_inner();
        while let Some(message) = stream.message().await.map_err(|status| self.dial.failed(status))? {
            self.take(&message);
            if !matches!(*standing, Standing::New | Standing::Heard) {
                tracing::info!(kms = self.dial.place(), "changes of keys are heard of again");
                self.tell(KeyChange::Reachable);
            }
            *standing = Standing::Heard;
            self.memory.set_live(true);
            *position = message.position;
        }
        Ok(())
    }

    fn take(&self, message: &pb::WatchKeysResponse) {
        if message.policies || message.missed {
            self.memory.forget_leaves();
        }
        if message.missed {
            self.tell(KeyChange::OfAny);
        }
        for name in &message.keys {
            match CryptoKeyName::parse(name) {
                Ok(key) => self.tell(KeyChange::Of(key)),
                Err(_) => self.tell(KeyChange::OfAny),
            }
        }
    }

    fn tell(&self, change: KeyChange) {
        // Nobody listens: nobody has to be told.
        let _ = self.changes.send(change);
    }
}
