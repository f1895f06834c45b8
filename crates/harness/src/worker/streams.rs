//! The streams of a worker: control, elements, state, log.
//!
//! Invariant: a stream is read no faster than what came is taken, and it ends with its worker. A control or
//! element stream that breaks is the end of the worker.

use std::sync::{Arc, Mutex, PoisonError};

use claviger_beam_proto::fn_execution::{
    Elements, InstructionRequest, InstructionResponse, StateRequest, StateResponse, log_entry,
};
use claviger_core::{Error, ErrorKind, Result};
use futures::stream::BoxStream;
use futures::{StreamExt as _, stream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Core, Life, unavailable};
use crate::limits;
use crate::logging::LogEntry;

/// Messages for a worker: they wait until its stream is there, and then for the stream.
pub(crate) struct Outgoing<T> {
    sender: mpsc::Sender<T>,
    waiting: Mutex<Option<mpsc::Receiver<T>>>,
    ended: CancellationToken,
}

impl<T: Send + 'static> Outgoing<T> {
    pub(crate) fn new(messages: usize, ended: CancellationToken) -> Self {
        let (sender, waiting) = mpsc::channel(messages);
        Self { sender, waiting: Mutex::new(Some(waiting)), ended }
    }

    /// Sends once there is room; fails once the worker ended.
    pub(crate) async fn send(&self, message: T) -> Result<(), ()> {
        tokio::select! {
            biased;
            () = self.ended.cancelled() => Err(()),
            sent = self.sender.send(message) => sent.map_err(drop),
        }
    }

    /// Whether the stream was ever there.
    fn is_taken(&self) -> bool {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }

    /// The stream of the messages, for the first who asks.
    fn take(&self) -> Option<BoxStream<'static, T>> {
        let receiver = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        Some(until(receiver, self.ended.clone()))
    }
}

/// What a channel delivers until the worker ends.
fn until<T: Send + 'static>(
    mut receiver: mpsc::Receiver<T>,
    ended: CancellationToken,
) -> BoxStream<'static, T> {
    stream::poll_fn(move |context| receiver.poll_recv(context)).take_until(ended.cancelled_owned()).boxed()
}

impl Core {
    /// Connects the control stream.
    pub(crate) fn connect_control(
        self: &Arc<Self>,
        responses: BoxStream<'static, Result<InstructionResponse>>,
    ) -> Result<BoxStream<'static, InstructionRequest>> {
        let requests = self.control.take().ok_or_else(|| self.twice("control"))?;
        self.life.send_if_modified(|life| {
            let starting = matches!(life, Life::Starting);
            if starting {
                *life = Life::Connected;
            }
            starting
        });
        self.read("control", responses, |core, response| {
            core.answered(response);
            std::future::ready(())
        });
        Ok(requests)
    }

    /// Whether the worker ever connected.
    pub(crate) fn was_connected(&self) -> bool {
        self.control.is_taken()
    }

    /// Connects the stream of elements.
    pub(crate) fn connect_data(
        self: &Arc<Self>,
        incoming: BoxStream<'static, Result<Elements>>,
    ) -> Result<BoxStream<'static, Elements>> {
        let outgoing = self.data.take().ok_or_else(|| self.twice("data"))?;
        self.read("data", incoming, |core, elements| async move { core.deliver(elements).await });
        Ok(outgoing)
    }

    fn twice(&self, service: &str) -> Error {
        Error::already_exists(format!("worker {} has a {service} stream already", self.id))
    }

    /// Reads a stream without which the worker is of no use.
    fn read<T, F>(
        self: &Arc<Self>,
        service: &'static str,
        mut stream: BoxStream<'static, Result<T>>,
        take: impl Fn(Arc<Self>, T) -> F + Send + Sync + 'static,
    ) where
        T: Send + 'static,
        F: Future<Output = ()> + Send,
    {
        let core = self.clone();
        tokio::spawn(async move {
            let ended = core.ended.clone();
            let reading = async {
                loop {
                    match stream.next().await {
                        Some(Ok(message)) => take(core.clone(), message).await,
                        Some(Err(error)) => return Some(error),
                        None => return None,
                    }
                }
            };
            tokio::select! {
                () = ended.cancelled() => {}
                broken = reading => core.lost(core.broke(service, broken)),
            }
        });
    }

    fn broke(&self, service: &str, error: Option<Error>) -> Error {
        let who = format!("worker {} ({})", self.id, self.environment);
        match error {
            // A message too large comes again with each retry, so it keeps its kind.
            Some(error) if error.kind() == ErrorKind::ResourceExhausted => {
                Error::new(error.kind(), format!("{who}: {error}")).because(error)
            }
            Some(error) => {
                unavailable(format!("{who} was lost: its {service} stream broke: {error}")).because(error)
            }
            None => unavailable(format!("{who} was lost: it closed its {service} stream")),
        }
    }

    /// Hands elements to their bundles, and waits where one has no room.
    async fn deliver(&self, elements: Elements) {
        for timers in elements.timers {
            if let Some(bundle) = self.bundle(&timers.instruction_id) {
                let port = (timers.transform_id, Some(timers.timer_family_id));
                bundle.deliver(port, timers.timers, timers.is_last).await;
            }
        }
        for data in elements.data {
            // Elements of a bundle that is over may still come: nobody wants them.
            if let Some(bundle) = self.bundle(&data.instruction_id) {
                bundle.deliver((data.transform_id, None), data.data, data.is_last).await;
            }
        }
    }

    /// Connects a stream of state. A worker may have several.
    pub(crate) fn connect_state(
        self: &Arc<Self>,
        mut requests: BoxStream<'static, Result<StateRequest>>,
    ) -> BoxStream<'static, StateResponse> {
        let (answers, receiver) = mpsc::channel(limits::STATE_RESPONSES);
        let core = self.clone();
        tokio::spawn(async move {
            let ended = core.ended.clone();
            let reading = async {
                while let Some(Ok(request)) = requests.next().await {
                    let Ok(room) = core.state_room.clone().acquire_owned().await else { return };
                    let Some(bundle) = core.bundle(&request.instruction_id) else {
                        let error = format!("no bundle '{}' is under way", request.instruction_id);
                        let refused = StateResponse { id: request.id, error, response: None };
                        let _ = answers.send(refused).await;
                        continue;
                    };
                    bundle.ask(request, answers.clone(), room);
                }
            };
            tokio::select! {
                () = ended.cancelled() => {}
                () = reading => {}
            }
        });
        until(receiver, self.ended.clone())
    }

    /// Reads the log until it ends.
    pub(crate) async fn read_log(&self, mut lists: BoxStream<'static, Result<log_entry::List>>) {
        let reading = async {
            while let Some(Ok(list)) = lists.next().await {
                for entry in list.log_entries.into_iter().take(limits::LOG_ENTRIES) {
                    self.logs.log(LogEntry::new(&self.id, entry));
                }
            }
        };
        // What a worker says while it ends is worth keeping, but not worth waiting for.
        let patience = async {
            self.ended.cancelled().await;
            self.clock.sleep(self.limits.stop_grace).await;
        };
        tokio::select! {
            () = reading => {}
            () = patience => {}
        }
    }
}
