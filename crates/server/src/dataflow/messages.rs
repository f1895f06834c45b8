//! `google.dataflow.v1beta3.MessagesV1Beta3`.

use claviger_core::{Error, Result};
use claviger_dataflow::{Importance, JobMessage};
use claviger_proto::google::dataflow::v1beta3 as pb;
use pb::messages_v1_beta3_server::MessagesV1Beta3;
use tonic::{Request, Response, Status};

use super::{DataflowApi, convert};
use crate::operations::timestamp;
use crate::status::status;

/// Messages of a page, and the most that one may ask for.
const PAGE: usize = 100;
const MAX_PAGE: usize = 1_000;

fn importance(importance: Importance) -> pb::JobMessageImportance {
    match importance {
        Importance::Debug => pb::JobMessageImportance::JobMessageDebug,
        Importance::Detailed => pb::JobMessageImportance::JobMessageDetailed,
        Importance::Basic => pb::JobMessageImportance::JobMessageBasic,
        Importance::Warning => pb::JobMessageImportance::JobMessageWarning,
        Importance::Error => pb::JobMessageImportance::JobMessageError,
    }
}

fn least(least: pb::JobMessageImportance) -> Importance {
    match least {
        pb::JobMessageImportance::Unknown | pb::JobMessageImportance::JobMessageDebug => Importance::Debug,
        pb::JobMessageImportance::JobMessageDetailed => Importance::Detailed,
        pb::JobMessageImportance::JobMessageBasic => Importance::Basic,
        pb::JobMessageImportance::JobMessageWarning => Importance::Warning,
        pb::JobMessageImportance::JobMessageError => Importance::Error,
    }
}

fn shown(message: JobMessage) -> pb::JobMessage {
    pb::JobMessage {
        id: format!("JOB_MESSAGE_{:08}", message.sequence),
        time: Some(timestamp(message.time())),
        message_importance: importance(message.importance()).into(),
        message_text: message.text,
    }
}

impl DataflowApi {
    async fn messages(&self, request: pb::ListJobMessagesRequest) -> Result<pb::ListJobMessagesResponse> {
        let job = self.find(&request.project_id, &request.location, &request.job_id)?;
        let least = least(request.minimum_importance());
        let size =
            usize::try_from(request.page_size).ok().filter(|size| *size > 0).unwrap_or(PAGE).min(MAX_PAGE);
        let from: u64 = match request.page_token.as_str() {
            "" => 0,
            token => {
                token.parse().map_err(|_| Error::invalid_field("page_token", "is not one of this list"))?
            }
        };
        let start = request.start_time.map(convert::time);
        let end = request.end_time.map(convert::time);
        let wanted = |message: &JobMessage| {
            message.importance() >= least
                && start.is_none_or(|start| message.time() >= start)
                && end.is_none_or(|end| message.time() < end)
        };
        let mut found = job.messages(from, size + 1, wanted).await?;
        let next = found.get(size).map(|message| message.sequence.to_string());
        found.truncate(size);
        Ok(pb::ListJobMessagesResponse {
            job_messages: found.into_iter().map(shown).collect(),
            next_page_token: next.unwrap_or_default(),
            autoscaling_events: Vec::new(),
        })
    }
}

#[tonic::async_trait]
impl MessagesV1Beta3 for DataflowApi {
    async fn list_job_messages(
        &self,
        request: Request<pb::ListJobMessagesRequest>,
    ) -> Result<Response<pb::ListJobMessagesResponse>, Status> {
        self.messages(request.into_inner()).await.map(Response::new).map_err(status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn importance_is_ordered_by_meaning_and_not_by_number() {
        for own in [
            Importance::Debug,
            Importance::Detailed,
            Importance::Basic,
            Importance::Warning,
            Importance::Error,
        ] {
            assert_eq!(least(importance(own)), own);
        }
        assert!(
            least(pb::JobMessageImportance::JobMessageBasic)
                < least(pb::JobMessageImportance::JobMessageWarning)
        );
    }
}
