//! `claviger kms ekm-connections`: ways to external key managers.
//!
//! Invariant: a connection is never deleted; neither is there a command for it.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use claviger_crypto::certificate;
use claviger_proto::google::cloud::kms::v1::ekm_connection::{KeyManagementMode, ServiceResolver};
use claviger_proto::google::cloud::kms::v1::{
    Certificate, CreateEkmConnectionRequest, EkmConnection, GetEkmConnectionRequest,
    ListEkmConnectionsRequest, UpdateEkmConnectionRequest, VerifyConnectivityRequest,
};
use prost_types::FieldMask;

use super::all_pages;
use crate::client::Session;
use crate::failure::Failure;
use crate::flags::read_file;
use crate::names::InLocation;
use crate::output::{Cell, Column};

const COLUMNS: [Column; 3] = [
    Column::new("NAME", Cell::Path("name")),
    Column::new("KEY_MANAGEMENT_MODE", Cell::Path("keyManagementMode")),
    Column::new("CREATED", Cell::Path("createTime")),
];

/// The longest file of a certificate, bytes.
const MAX_CERTIFICATE: u64 = 64 * 1024;

const EXAMPLES: &str = "\
Examples:
  claviger kms ekm-connections create c --location us-east1 --hostname ekm.example.com \\
      --server-certificates-files ekm.pem
  claviger kms ekm-connections verify c --location us-east1

The host may have a port. It is trusted by these certificates alone: its own, or that of its authority.";

/// `claviger kms ekm-connections ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create a connection to an external key manager
    #[command(after_help = EXAMPLES)]
    Create {
        #[command(flatten)]
        one: One,
        /// The host of the key manager, with a port unless that is 443
        #[arg(long, value_name = "HOST")]
        hostname: String,
        /// Files of the certificates that the host is trusted by, in PEM or DER
        #[arg(long, value_name = "FILE", value_delimiter = ',', required = true)]
        server_certificates_files: Vec<PathBuf>,
    },
    /// List the connections of a location
    List {
        #[command(flatten)]
        at: InLocation,
        /// List at most so many
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
    },
    /// Show a connection
    Describe(One),
    /// Name another host or other certificates
    Update {
        #[command(flatten)]
        one: One,
        /// The host of the key manager
        #[arg(long, value_name = "HOST", required_unless_present = "server_certificates_files")]
        hostname: Option<String>,
        /// Files of the certificates that the host is trusted by, in PEM or DER
        #[arg(long, value_name = "FILE", value_delimiter = ',')]
        server_certificates_files: Vec<PathBuf>,
    },
    /// Try whether the key manager can be reached and shows the right certificate
    Verify(One),
}

/// One connection.
#[derive(Debug, Args)]
pub(crate) struct One {
    /// The connection: an id, or its full name
    #[arg(value_name = "CONNECTION")]
    connection: String,
    #[command(flatten)]
    at: InLocation,
}

impl One {
    fn name(&self, session: &Session) -> Result<String, Failure> {
        if self.connection.contains('/') {
            return Ok(self.connection.clone());
        }
        Ok(format!("{}/ekmConnections/{}", self.at.parent(&session.project)?, self.connection))
    }
}

/// Runs a command.
///
/// # Errors
/// What the server refuses, and what cannot be read here.
pub(crate) async fn run(session: &Session, command: Command) -> Result<(), Failure> {
    let mut ekm = session.ekm();
    match command {
        Command::Create { one, hostname, server_certificates_files } => {
            let name = one.name(session)?;
            let (parent, id) = name
                .split_once("/ekmConnections/")
                .ok_or_else(|| Failure::usage(format!("'{name}' is not the name of a connection")))?;
            let resolver = ServiceResolver {
                hostname,
                server_certificates: certificates(&server_certificates_files)?,
                ..Default::default()
            };
            let connection = EkmConnection {
                service_resolvers: vec![resolver],
                key_management_mode: KeyManagementMode::Manual.into(),
                ..Default::default()
            };
            let request = CreateEkmConnectionRequest {
                parent: parent.to_owned(),
                ekm_connection_id: id.to_owned(),
                ekm_connection: Some(connection),
            };
            let made = ekm.create_ekm_connection(request).await?.into_inner();
            session.out.done(&made, &format!("Created connection [{}].", made.name))
        }
        Command::List { at, limit } => {
            let parent = at.parent(&session.project)?.to_string();
            let connections = all_pages!(
                limit,
                |page_token, page_size| ekm.list_ekm_connections(ListEkmConnectionsRequest {
                    parent: parent.clone(),
                    page_token: page_token.clone(),
                    page_size,
                    ..Default::default()
                }),
                ekm_connections
            );
            session.out.list(&connections, &COLUMNS)
        }
        Command::Describe(one) => {
            let request = GetEkmConnectionRequest { name: one.name(session)? };
            session.out.one(&ekm.get_ekm_connection(request).await?.into_inner())
        }
        Command::Update { one, hostname, server_certificates_files } => {
            let request = GetEkmConnectionRequest { name: one.name(session)? };
            let mut connection = ekm.get_ekm_connection(request).await?.into_inner();
            for resolver in &mut connection.service_resolvers {
                if let Some(hostname) = &hostname {
                    resolver.hostname.clone_from(hostname);
                }
                if !server_certificates_files.is_empty() {
                    resolver.server_certificates = certificates(&server_certificates_files)?;
                }
            }
            let request = UpdateEkmConnectionRequest {
                ekm_connection: Some(connection),
                update_mask: Some(FieldMask { paths: vec!["service_resolvers".into()] }),
            };
            let changed = ekm.update_ekm_connection(request).await?.into_inner();
            session.out.done(&changed, &format!("Updated connection [{}].", changed.name))
        }
        Command::Verify(one) => {
            let name = one.name(session)?;
            let request = VerifyConnectivityRequest { name: name.clone() };
            let reached = ekm.verify_connectivity(request).await?.into_inner();
            session.out.done(&reached, &format!("The key manager of [{name}] was reached."))
        }
    }
}

fn certificates(files: &[PathBuf]) -> Result<Vec<Certificate>, Failure> {
    let mut found = Vec::new();
    for file in files {
        for der in certificates_of(file)? {
            found.push(Certificate { raw_der: der.into(), ..Default::default() });
        }
    }
    Ok(found)
}

fn certificates_of(file: &Path) -> Result<Vec<Vec<u8>>, Failure> {
    let bytes = read_file(file, MAX_CERTIFICATE)?;
    let from_pem = std::str::from_utf8(&bytes).ok().and_then(|text| certificate::from_pem(text).ok());
    match from_pem {
        Some(found) => Ok(found),
        None if certificate::details(&bytes).is_ok() => Ok(vec![bytes]),
        None => Err(Failure::local(format!("{} holds no certificate in PEM or DER", file.display()))),
    }
}
