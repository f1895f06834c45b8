//! The connection to a server, and waiting for its long-running operations.
//!
//! Invariant: one connection per command. A server that cannot be reached is told apart from one that refuses.

use std::time::Duration;

use claviger_beam_proto::job_management::artifact_staging_service_client::ArtifactStagingServiceClient;
use claviger_beam_proto::job_management::job_service_client::JobServiceClient;
use claviger_proto::google::bigtable::admin::v2::bigtable_instance_admin_client::BigtableInstanceAdminClient;
use claviger_proto::google::bigtable::admin::v2::bigtable_table_admin_client::BigtableTableAdminClient;
use claviger_proto::google::bigtable::v2::bigtable_client::BigtableClient;
use claviger_proto::google::cloud::kms::v1::ekm_service_client::EkmServiceClient;
use claviger_proto::google::cloud::kms::v1::key_management_service_client::KeyManagementServiceClient;
use claviger_proto::google::cloud::location::locations_client::LocationsClient;
use claviger_proto::google::cloud::orgpolicy::v2::org_policy_client::OrgPolicyClient;
use claviger_proto::google::cloud::resourcemanager::v3::projects_client::ProjectsClient;
use claviger_proto::google::dataflow::v1beta3::jobs_v1_beta3_client::JobsV1Beta3Client;
use claviger_proto::google::dataflow::v1beta3::messages_v1_beta3_client::MessagesV1Beta3Client;
use claviger_proto::google::dataflow::v1beta3::metrics_v1_beta3_client::MetricsV1Beta3Client;
use claviger_proto::google::iam::v1::iam_policy_client::IamPolicyClient;
use claviger_proto::google::logging::v2::logging_service_v2_client::LoggingServiceV2Client;
use claviger_proto::google::longrunning::operations_client::OperationsClient;
use claviger_proto::google::longrunning::{GetOperationRequest, Operation, operation};
use prost::{Message, Name};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};

use crate::args::Global;
use crate::failure::Failure;
use crate::output::Output;
use crate::progress::Progress;
use crate::token::Token;

/// How long to wait for a connection.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The first wait between two looks at an operation; it doubles.
const FIRST_WAIT: Duration = Duration::from_millis(50);
/// The longest wait between two looks at an operation.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// One command's connection and manners.
#[derive(Debug)]
pub(crate) struct Session {
    /// The project of names that do not say one.
    pub(crate) project: String,
    /// How results are written.
    pub(crate) out: Output,
    /// Ask nothing, show no progress.
    pub(crate) quiet: bool,
    /// Where the server is: `http://HOST:PORT`.
    pub(crate) url: String,
    channel: Channel,
    token: Token,
}

/// A connection that shows the token with each request.
pub(crate) type Wire = InterceptedService<Channel, Token>;

impl Session {
    /// Connects.
    ///
    /// # Errors
    /// When the URL is wrong or nothing answers there.
    pub(crate) async fn connect(global: Global) -> Result<Self, Failure> {
        let url = url(&global.endpoint)?;
        let token = Token::new(global.token_file.as_deref(), &url)?;
        let endpoint = Endpoint::from_shared(url.clone())
            .map_err(|_| Failure::usage(format!("'{url}' is not a URL")))?
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_adaptive_window(true);
        let channel =
            endpoint.connect().await.map_err(|error| Failure::unreachable(&url, &innermost(&error)))?;
        let out = Output { format: global.format };
        let project = crate::names::project(&global.project)?.project().to_owned();
        Ok(Self { project, out, quiet: global.quiet, url, channel, token })
    }

    /// The connection, with the token.
    fn wire(&self) -> Wire {
        InterceptedService::new(self.channel.clone(), self.token.clone())
    }

    /// The key management service.
    pub(crate) fn kms(&self) -> KeyManagementServiceClient<Wire> {
        KeyManagementServiceClient::new(self.wire())
    }

    /// Connections to external key managers.
    pub(crate) fn ekm(&self) -> EkmServiceClient<Wire> {
        EkmServiceClient::new(self.wire())
    }

    /// Places where keys can be.
    pub(crate) fn locations(&self) -> LocationsClient<Wire> {
        LocationsClient::new(self.wire())
    }

    /// Policies of key rings and keys.
    pub(crate) fn policies(&self) -> IamPolicyClient<Wire> {
        IamPolicyClient::new(self.wire())
    }

    /// Projects.
    pub(crate) fn projects(&self) -> ProjectsClient<Wire> {
        ProjectsClient::new(self.wire())
    }

    /// Instances and clusters.
    pub(crate) fn instances(&self) -> BigtableInstanceAdminClient<Wire> {
        BigtableInstanceAdminClient::new(self.wire())
    }

    /// Tables.
    pub(crate) fn tables(&self) -> BigtableTableAdminClient<Wire> {
        BigtableTableAdminClient::new(self.wire()).max_decoding_message_size(usize::MAX)
    }

    /// Rows.
    pub(crate) fn rows(&self) -> BigtableClient<Wire> {
        BigtableClient::new(self.wire()).max_decoding_message_size(usize::MAX)
    }

    /// Jobs of pipelines.
    pub(crate) fn jobs(&self) -> JobsV1Beta3Client<Wire> {
        JobsV1Beta3Client::new(self.wire()).max_decoding_message_size(usize::MAX)
    }

    /// What jobs say.
    pub(crate) fn job_messages(&self) -> MessagesV1Beta3Client<Wire> {
        MessagesV1Beta3Client::new(self.wire()).max_decoding_message_size(usize::MAX)
    }

    /// What jobs measure.
    pub(crate) fn job_metrics(&self) -> MetricsV1Beta3Client<Wire> {
        MetricsV1Beta3Client::new(self.wire()).max_decoding_message_size(usize::MAX)
    }

    /// Beam's own service for jobs.
    pub(crate) fn beam_jobs(&self) -> JobServiceClient<Wire> {
        JobServiceClient::new(self.wire())
    }

    /// Beam's service that takes the files of jobs.
    pub(crate) fn staging(&self) -> ArtifactStagingServiceClient<Wire> {
        ArtifactStagingServiceClient::new(self.wire()).max_decoding_message_size(usize::MAX)
    }

    /// Logs.
    pub(crate) fn logging(&self) -> LoggingServiceV2Client<Wire> {
        LoggingServiceV2Client::new(self.wire())
    }

    /// Organization policies.
    pub(crate) fn org_policies(&self) -> OrgPolicyClient<Wire> {
        OrgPolicyClient::new(self.wire())
    }

    /// Waits until an operation is done and gives its result.
    ///
    /// # Errors
    /// The operation's own error, or that of asking about it.
    pub(crate) async fn wait<M: Message + Name + Default>(
        &self,
        mut operation: Operation,
        doing: &str,
    ) -> Result<M, Failure> {
        let _progress = Progress::spinner(self.quiet, doing);
        let mut operations = OperationsClient::new(self.wire());
        let mut pause = FIRST_WAIT;
        while !operation.done {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_WAIT);
            let request = GetOperationRequest { name: operation.name.clone() };
            operation = operations.get_operation(request).await?.into_inner();
        }
        match operation.result {
            Some(operation::Result::Error(status)) => Err(status.into()),
            Some(operation::Result::Response(any)) if any.type_url.ends_with(&M::full_name()) => {
                M::decode(any.value.as_slice()).map_err(|error| {
                    Failure::local(format!("the operation's result cannot be read: {error}"))
                })
            }
            _ => Err(Failure::local(format!("operation {} ended without a {}", operation.name, M::NAME))),
        }
    }

    /// Writes the operation when the user does not want to wait for it, or waits for its result.
    ///
    /// # Errors
    /// As [`Session::wait`]; and when standard output cannot be written.
    pub(crate) async fn finish<M: Message + Name + Default>(
        &self,
        operation: Operation,
        no_wait: bool,
        doing: &str,
        sentence: &str,
    ) -> Result<(), Failure> {
        if no_wait {
            let going = format!("{doing}: operation [{}] is under way.", operation.name);
            return self.out.done(&operation, &going);
        }
        let made: M = self.wait(operation, doing).await?;
        self.out.done(&made, sentence)
    }
}

/// The endpoint as a URL; `HOST:PORT` alone is one in clear.
pub(crate) fn url(endpoint: &str) -> Result<String, Failure> {
    match endpoint.split_once("://").map(|(scheme, rest)| (scheme, rest.trim_end_matches('/'))) {
        Some(("http", rest)) if !rest.is_empty() => Ok(format!("http://{rest}")),
        Some(("https", _)) => Err(Failure::advised(
            format!("{endpoint}: connections over TLS are not built yet"),
            "use a server on this machine, as in http://127.0.0.1:9700",
        )),
        None if !endpoint.is_empty() => Ok(format!("http://{}", endpoint.trim_end_matches('/'))),
        _ => {
            Err(Failure::usage(format!("--endpoint '{endpoint}' is not a URL such as http://127.0.0.1:9700")))
        }
    }
}

/// The cause at the bottom: `tonic` wraps "connection refused" in "transport error".
pub(crate) fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_may_leave_the_scheme_out() {
        assert_eq!(url("127.0.0.1:9700").unwrap(), "http://127.0.0.1:9700");
        assert_eq!(url("http://127.0.0.1:9700/").unwrap(), "http://127.0.0.1:9700");
        for wrong in ["", "ftp://x", "http://", "https://h:1"] {
            assert!(url(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_server_that_does_not_answer_is_told_with_how_to_start_one() {
        let global = Global {
            endpoint: "http://127.0.0.1:1".into(),
            project: "p".into(),
            format: crate::output::Format::Table,
            quiet: true,
            token_file: None,
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let text = runtime.block_on(Session::connect(global)).unwrap_err().text();
        assert!(text.starts_with("error: no server answers at http://127.0.0.1:1: "), "{text}");
        assert!(text.contains("claviger serve") && text.to_lowercase().contains("refused"), "{text}");
    }
}
