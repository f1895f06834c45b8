//! A unit of a stage's input: one bundle, tried again when its worker is lost, split while it is slow.
//!
//! Invariant: what a split gave away is no longer in the unit, also when the unit is tried again. A split under
//! way is over before an attempt begins.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use claviger_beam_proto::fn_execution::ProcessBundleSplitResponse;
use claviger_core::{Error, Result};
use tokio::sync::Mutex;

use super::bundle::Failure;
use super::graph::Input;
use super::limits::WORKER_RETRIES;
use super::residual::{Residual, residuals};
use super::source::{UnitFeed, Work};
use super::stage::{BundleInput, StageRun};
use super::state::BundleState;

/// A unit while it runs.
#[derive(Debug)]
pub(super) struct Unit {
    work: Mutex<Work>,
    /// Whether the attempt under way can be split: its elements are those of the range alone.
    is_splittable: AtomicBool,
}

impl Unit {
    pub(super) fn new(work: Work) -> Arc<Self> {
        Arc::new(Self { work: Mutex::new(work), is_splittable: AtomicBool::new(false) })
    }

    /// Runs the unit until it is committed; what it put off.
    pub(super) async fn run(self: &Arc<Self>, stage: &Arc<StageRun>) -> Result<Vec<Residual>> {
        let environment = &stage.stage.environment_id;
        let slots = stage.run.workers.slots(environment)?;
        let _slot =
            slots.acquire().await.map_err(|error| Error::internal("The slots are closed.").because(error))?;
        let mut attempts = 0;
        loop {
            attempts += 1;
            let worker = stage.run.workers.get(environment).await?;
            let work = self.work.lock().await.clone();
            self.is_splittable.store(work.extra.is_empty(), Ordering::Release);
            let input = BundleInput {
                feed: Box::new(UnitFeed {
                    input: stage.input.clone(),
                    coder: stage.coder.clone(),
                    merger: stage.merger.clone(),
                    work,
                }),
                timers: Vec::new(),
                state: BundleState::without_user_state(stage.sides.clone()),
                user_token: None,
                unit: Some(self.clone()),
            };
            let result = stage.process(&worker, input).await;
            self.is_splittable.store(false, Ordering::Release);
            match result {
                Ok(mut finished) => {
                    // A split whose answer is on its way is a part of what was done.
                    let _work = self.work.lock().await;
                    let residuals = residuals(std::mem::take(&mut finished.response.residual_roots));
                    stage.commit(finished).await?;
                    return Ok(residuals);
                }
                Err(Failure::Lost(_)) if attempts < WORKER_RETRIES => {}
                Err(failure) => return Err(stage.error(failure)),
            }
        }
    }

    /// Whether it makes sense to ask.
    pub(super) fn may_split(&self) -> bool {
        self.is_splittable.load(Ordering::Acquire)
    }

    /// Asks the worker to give a part of the unit away, and takes that part out of it.
    pub(super) async fn split<F>(
        &self,
        input: &Input,
        port: &str,
        ask: impl FnOnce(u64) -> F,
    ) -> (Vec<Work>, Vec<Residual>)
    where
        F: Future<Output = Result<ProcessBundleSplitResponse>>,
    {
        // Held until the answer is worked in: see the invariant.
        let mut work = self.work.lock().await;
        if !self.may_split() {
            return (Vec::new(), Vec::new());
        }
        match ask(work.elements(input)).await {
            Ok(response) => apply(&mut work, port, response),
            // The bundle ended, or its worker did: whoever runs it sees to that.
            Err(_) => (Vec::new(), Vec::new()),
        }
    }
}

/// Takes what a split gave away out of the work.
fn apply(work: &mut Work, port: &str, response: ProcessBundleSplitResponse) -> (Vec<Work>, Vec<Residual>) {
    let mut works = Vec::new();
    if let Some(split) = response.channel_splits.iter().find(|split| split.transform_id == port) {
        let residual = work.first.saturating_add_signed(split.first_residual_element);
        if work.end.is_none_or(|end| residual < end) {
            works.push(Work { range: work.range.clone(), first: residual, end: work.end, extra: Vec::new() });
        }
        work.end = Some(work.first.saturating_add_signed(split.last_primary_element.saturating_add(1)));
        work.extra = response.primary_roots.into_iter().map(|root| root.element).collect();
    }
    (works, residuals(response.residual_roots))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::source::WorkRange;
    use bytes::Bytes;
    use claviger_beam_proto::fn_execution::process_bundle_split_response::ChannelSplit;
    use claviger_beam_proto::fn_execution::{BundleApplication, DelayedBundleApplication};

    fn work(first: u64, end: Option<u64>) -> Work {
        Work { range: WorkRange::Parts(0..1, 1), first, end, extra: Vec::new() }
    }

    fn response(
        last: i64,
        first: i64,
        roots: Option<(&'static str, &'static str)>,
    ) -> ProcessBundleSplitResponse {
        let application = |element: &'static str| BundleApplication {
            element: Bytes::from_static(element.as_bytes()),
            ..BundleApplication::default()
        };
        ProcessBundleSplitResponse {
            primary_roots: roots.iter().map(|(primary, _)| application(primary)).collect(),
            residual_roots: roots
                .iter()
                .map(|(_, residual)| DelayedBundleApplication {
                    application: Some(application(residual)),
                    requested_time_delay: None,
                })
                .collect(),
            channel_splits: vec![ChannelSplit {
                transform_id: "in".into(),
                last_primary_element: last,
                first_residual_element: first,
            }],
        }
    }

    #[test]
    fn a_split_between_elements_leaves_the_first_and_gives_the_rest() {
        let mut kept = work(100, None);
        let (given, put_off) = apply(&mut kept, "in", response(9, 10, None));
        assert_eq!((kept.first, kept.end, kept.extra.len()), (100, Some(110), 0));
        assert_eq!((given.len(), given[0].first, given[0].end), (1, 110, None));
        assert!(put_off.is_empty());
        // Again, nearer: the rest of this one ends where the first one began.
        let (given, _) = apply(&mut kept, "in", response(4, 5, None));
        assert_eq!((kept.end, given[0].first, given[0].end), (Some(105), 105, Some(110)));
    }

    #[test]
    fn a_split_within_an_element_keeps_what_is_done_of_it() {
        let mut kept = work(0, None);
        let (given, put_off) = apply(&mut kept, "in", response(2, 4, Some(("half", "other"))));
        assert_eq!((kept.end, kept.extra.clone()), (Some(3), vec![Bytes::from_static(b"half")]));
        assert_eq!((given[0].first, given[0].end), (4, None));
        assert_eq!(put_off[0].element, "other");
        // The same element is split once more: nothing lies between.
        let (given, put_off) = apply(&mut kept, "in", response(2, 4, Some(("quarter", "third"))));
        assert!(given.is_empty());
        assert_eq!((kept.end, kept.extra.clone()), (Some(3), vec![Bytes::from_static(b"quarter")]));
        assert_eq!(put_off[0].element, "third");
    }

    #[test]
    fn an_empty_answer_changes_nothing() {
        let mut kept = work(3, Some(9));
        let (given, put_off) = apply(&mut kept, "in", ProcessBundleSplitResponse::default());
        assert_eq!((kept.first, kept.end, given.len(), put_off.len()), (3, Some(9), 0, 0));
    }
}
