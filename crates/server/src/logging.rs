//! Cloud Logging over gRPC, `google.logging.v2.LoggingServiceV2`: the audit log of keys, to be read. REST (`/v2/...`)
//! is made from the same service.
//!
//! Invariant: an entry is shown with the project of the key that it is about, and with no other. One call looks at a
//! bounded part of the log; its page token says where the next one goes on, even when the page is empty.

mod shown;
mod token;

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use claviger_audit::{AuditLog, Entry, Filter, Order, Scan};
use claviger_core::names::ProjectName;
use claviger_core::{Error, Result};
use claviger_kms::agents::MANAGED_PROJECT;
use claviger_proto::google::logging::v2 as pb;
use claviger_proto::google::logging::v2::logging_service_v2_server::LoggingServiceV2;
use prost::Message;
use tonic::{Request, Response, Status};

use self::shown::{Log, Shown, project};
use self::token::Token;
use crate::auth;
use crate::status::status;

/// Entries on a page when the request does not say, as in the public API.
const DEFAULT_PAGE: usize = 50;
/// Entries on a page, at most.
const MAX_PAGE: usize = 1000;
/// Entries that one call looks at, at most.
const MAX_SCAN: usize = 10_000;
/// A page ends when its entries are this large, bytes: clients take messages of 4 MiB.
const PAGE_BYTES: usize = 2 * 1024 * 1024;
/// Resource names in a request, at most, as in the public API.
const MAX_RESOURCES: usize = 100;

/// The logs of the KMS in this process.
#[derive(Clone, Debug)]
pub(crate) struct LoggingApi {
    audit: Arc<AuditLog>,
}

impl LoggingApi {
    /// Serves an audit log.
    pub(crate) fn new(audit: Arc<AuditLog>) -> Self {
        Self { audit }
    }

    async fn entries(&self, request: pb::ListLogEntriesRequest) -> Result<pb::ListLogEntriesResponse> {
        let projects = projects(&request.resource_names)?;
        let filter = Filter::parse(&request.filter)?;
        let order = order(&request.order_by)?;
        let size = page_size(request.page_size)?;
        let list = Token::list(["entries", &request.filter, &format!("{order:?}")], &projects);
        let token = Token::read(&request.page_token, list)?;
        let (since, until) = filter.span();
        let scan = Scan { order, past: token.past(), since, until, most: MAX_SCAN };
        let mut entries = Vec::new();
        let mut bytes = 0;
        let see = |number: u64, entry: Entry| {
            if project(&entry).is_some_and(|project| projects.contains(project)) {
                let shown = Shown::new(number, &entry);
                if filter.matches(&shown) {
                    let shown = shown.into_entry();
                    bytes += shown.encoded_len();
                    entries.push(shown);
                }
            }
            enough(entries.len() >= size || bytes >= PAGE_BYTES)
        };
        let next = self.audit.scan(&scan, see).await?;
        let next_page_token = next.map(|number| Token::after(number, list).write()).unwrap_or_default();
        Ok(pb::ListLogEntriesResponse { entries, next_page_token })
    }

    /// The newest entries come first: both logs of a project that is in use are soon found.
    async fn logs(&self, request: pb::ListLogsRequest) -> Result<pb::ListLogsResponse> {
        let mut names = request.resource_names;
        names.extend(Some(request.parent).filter(|parent| !parent.is_empty()));
        let projects = projects(&names)?;
        let size = page_size(request.page_size)?;
        let list = Token::list(["logs"], &projects);
        let token = Token::read(&request.page_token, list)?;
        let all: Vec<String> =
            projects.iter().flat_map(|project| Log::ALL.map(|log| log.name(project))).collect();
        let mut told = token.told(all.len());
        let mut fresh = Vec::new();
        let scan = Scan { order: Order::NewestFirst, past: token.past(), most: MAX_SCAN, ..Scan::default() };
        let see = |_: u64, entry: Entry| {
            let name = project(&entry)
                .filter(|project| projects.contains(*project))
                .map(|project| Log::of(&entry).name(project));
            let index = name.as_ref().and_then(|name| all.iter().position(|known| known == name));
            if let (Some(name), Some(told)) = (name, index.and_then(|index| told.get_mut(index)))
                && !std::mem::replace(told, true)
            {
                fresh.push(name);
            }
            enough(fresh.len() >= size || told.iter().all(|told| *told))
        };
        let next = self.audit.scan(&scan, see).await?;
        let next = next.filter(|_| !told.iter().all(|told| *told));
        let next_page_token = next.map(|number| Token::after_logs(number, list, &told).write());
        fresh.sort_unstable();
        Ok(pb::ListLogsResponse { log_names: fresh, next_page_token: next_page_token.unwrap_or_default() })
    }
}

fn enough(enough: bool) -> ControlFlow<()> {
    if enough { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}

/// The ids of the projects whose logs are asked for.
fn projects(names: &[String]) -> Result<BTreeSet<String>> {
    let wrong = |why: String| Error::invalid_field("resource_names", why);
    if names.is_empty() {
        return Err(wrong("must name a project, as projects/PROJECT".into()));
    }
    if names.len() > MAX_RESOURCES {
        return Err(wrong(format!("must not have more than {MAX_RESOURCES} names")));
    }
    let mut projects = BTreeSet::new();
    for name in names {
        let kind = name.split('/').next().unwrap_or_default();
        if matches!(kind, "billingAccounts" | "folders" | "organizations") {
            return Err(Error::unimplemented(
                "Logs of folders and organizations are not built: name projects.",
            ));
        }
        if kind == "projects" && name.contains("/locations/") {
            return Err(Error::unimplemented("Buckets and views of logs are not built: name projects."));
        }
        let parsed = ProjectName::parse(name)?;
        let id = parsed.project();
        if id == MANAGED_PROJECT {
            return Err(Error::permission_denied(format!(
                "Permission 'logging.logEntries.list' denied on resource '{name}' (or it may not exist)."
            )));
        }
        if id.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(Error::unimplemented(format!(
                "Looking a project up by its number is not built yet ('{name}'): name it by its id"
            )));
        }
        projects.insert(id.to_owned());
    }
    Ok(projects)
}

fn order(text: &str) -> Result<Order> {
    let words: Vec<String> = text.split_whitespace().map(str::to_lowercase).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] | ["timestamp"] | ["timestamp", "asc"] => Ok(Order::OldestFirst),
        ["timestamp", "desc"] => Ok(Order::NewestFirst),
        _ => Err(Error::invalid_field("order_by", "must be 'timestamp asc' or 'timestamp desc'")),
    }
}

fn page_size(size: i32) -> Result<usize> {
    match usize::try_from(size) {
        Ok(0) => Ok(DEFAULT_PAGE),
        Ok(size) => Ok(size.min(MAX_PAGE)),
        Err(_) => Err(Error::invalid_field("page_size", "must not be negative")),
    }
}

#[tonic::async_trait]
impl LoggingServiceV2 for LoggingApi {
    async fn list_log_entries(
        &self,
        request: Request<pb::ListLogEntriesRequest>,
    ) -> Result<Response<pb::ListLogEntriesResponse>, Status> {
        auth::caller(request.extensions()).map_err(status)?;
        self.entries(request.into_inner()).await.map(Response::new).map_err(status)
    }

    async fn list_logs(
        &self,
        request: Request<pb::ListLogsRequest>,
    ) -> Result<Response<pb::ListLogsResponse>, Status> {
        auth::caller(request.extensions()).map_err(status)?;
        self.logs(request.into_inner()).await.map(Response::new).map_err(status)
    }

    async fn write_log_entries(
        &self,
        _: Request<pb::WriteLogEntriesRequest>,
    ) -> Result<Response<pb::WriteLogEntriesResponse>, Status> {
        Err(status(Error::unimplemented("Writing entries is not built: the log tells of keys alone.")))
    }

    async fn delete_log(&self, _: Request<pb::DeleteLogRequest>) -> Result<Response<()>, Status> {
        Err(status(Error::unimplemented("Deleting logs is not built: the audit log is never cut.")))
    }
}

#[cfg(test)]
mod tests;
