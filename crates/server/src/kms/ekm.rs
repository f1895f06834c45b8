//! One function for each method of `EkmService`.
//!
//! Invariant: names are parsed before anything else is looked at.

use bytes::Bytes;
use claviger_core::names::LocationName;
use claviger_core::{Caller, Error, Result, Timestamp};
use claviger_crypto::certificate;
use claviger_kms::Kms;
use claviger_kms::external::{EkmConnection, EkmConnectionName, Resolver};
use claviger_proto::google::cloud::kms::v1 as pb;
use pb::ekm_connection::{KeyManagementMode, ServiceResolver};

use super::convert::time;
use super::handlers::{page, paths, total};

/// The end of the name of a location's settings.
const CONFIG: &str = "/ekmConfig";

pub(super) async fn list_ekm_connections(
    kms: &Kms,
    caller: &Caller,
    request: pb::ListEkmConnectionsRequest,
) -> Result<pb::ListEkmConnectionsResponse> {
    let pb::ListEkmConnectionsRequest { parent, page_size, page_token, filter, order_by } = request;
    let parent = LocationName::parse(&parent)?;
    let found = kms.list_ekm_connections(caller, &parent, &page(page_size, page_token, filter, order_by))?;
    Ok(pb::ListEkmConnectionsResponse {
        total_size: total(&found),
        ekm_connections: found.items.into_iter().map(connection).collect(),
        next_page_token: found.next_token,
    })
}

pub(super) async fn get_ekm_connection(
    kms: &Kms,
    caller: &Caller,
    request: pb::GetEkmConnectionRequest,
) -> Result<pb::EkmConnection> {
    kms.get_ekm_connection(caller, &EkmConnectionName::parse(&request.name)?).map(connection)
}

pub(super) async fn create_ekm_connection(
    kms: &Kms,
    caller: &Caller,
    request: pb::CreateEkmConnectionRequest,
) -> Result<pb::EkmConnection> {
    let parent = LocationName::parse(&request.parent)?;
    let asked = request.ekm_connection.unwrap_or_default();
    mode(&asked)?;
    let resolver = resolver(asked.service_resolvers)?;
    kms.create_ekm_connection(caller, &parent, &request.ekm_connection_id, resolver).await.map(connection)
}

pub(super) async fn update_ekm_connection(
    kms: &Kms,
    caller: &Caller,
    request: pb::UpdateEkmConnectionRequest,
) -> Result<pb::EkmConnection> {
    let asked = request.ekm_connection;
    let asked = asked.ok_or_else(|| Error::invalid_field("ekm_connection", "must be set"))?;
    let name = EkmConnectionName::parse(&asked.name)?;
    let mut changes = false;
    for path in paths(request.update_mask)? {
        match path.as_str() {
            "service_resolvers" => changes = true,
            "etag" => {}
            "key_management_mode" | "crypto_space_path" => mode(&asked)?,
            _ => return Err(Error::invalid_field("update_mask", format!("'{path}' cannot be changed"))),
        }
    }
    if !changes {
        return kms.get_ekm_connection(caller, &name).map(connection);
    }
    let resolver = resolver(asked.service_resolvers)?;
    kms.update_ekm_connection(caller, &name, resolver, asked.etag).await.map(connection)
}

pub(super) async fn get_ekm_config(
    kms: &Kms,
    caller: &Caller,
    request: pb::GetEkmConfigRequest,
) -> Result<pb::EkmConfig> {
    let place = place(&request.name)?;
    Ok(config(&place, kms.get_ekm_config(caller, &place)?))
}

pub(super) async fn update_ekm_config(
    kms: &Kms,
    caller: &Caller,
    request: pb::UpdateEkmConfigRequest,
) -> Result<pb::EkmConfig> {
    let asked = request.ekm_config.ok_or_else(|| Error::invalid_field("ekm_config", "must be set"))?;
    let place = place(&asked.name)?;
    for path in paths(request.update_mask)? {
        if path != "default_ekm_connection" {
            return Err(Error::invalid_field("update_mask", format!("'{path}' cannot be changed")));
        }
    }
    let default = match asked.default_ekm_connection.as_str() {
        "" => None,
        name => Some(EkmConnectionName::parse(name)?),
    };
    let default = kms.update_ekm_config(caller, &place, default).await?;
    Ok(config(&place, default))
}

pub(super) async fn verify_connectivity(
    kms: &Kms,
    caller: &Caller,
    request: pb::VerifyConnectivityRequest,
) -> Result<pb::VerifyConnectivityResponse> {
    kms.verify_ekm_connectivity(caller, &EkmConnectionName::parse(&request.name)?).await?;
    Ok(pb::VerifyConnectivityResponse {})
}

fn place(name: &str) -> Result<LocationName> {
    let place = name.strip_suffix(CONFIG).and_then(|place| LocationName::parse(place).ok());
    place.ok_or_else(|| {
        Error::invalid(format!("Invalid resource name '{name}': expected {}{CONFIG}", LocationName::SHAPE))
    })
}

fn config(place: &LocationName, default: Option<EkmConnectionName>) -> pb::EkmConfig {
    pb::EkmConfig {
        name: format!("{place}{CONFIG}"),
        default_ekm_connection: default.map(String::from).unwrap_or_default(),
    }
}

fn mode(asked: &pb::EkmConnection) -> Result<()> {
    match KeyManagementMode::try_from(asked.key_management_mode) {
        Ok(KeyManagementMode::Unspecified | KeyManagementMode::Manual) => {}
        Ok(KeyManagementMode::CloudKms) => {
            return Err(Error::unimplemented(
                "Keys that the KMS makes at an external key manager are not built.",
            ));
        }
        Err(_) => return Err(Error::invalid_field("ekm_connection.key_management_mode", "is not a mode")),
    }
    if asked.crypto_space_path.is_empty() {
        return Ok(());
    }
    Err(Error::invalid_field("ekm_connection.crypto_space_path", "can be set in the mode CLOUD_KMS only"))
}

fn resolver(resolvers: Vec<ServiceResolver>) -> Result<Resolver> {
    let [one] = <[_; 1]>::try_from(resolvers).map_err(|given| {
        let why = format!("must have one entry, and has {}", given.len());
        Error::invalid_field("ekm_connection.service_resolvers", why)
    })?;
    Ok(Resolver {
        hostname: one.hostname,
        certificates: one.server_certificates.into_iter().map(|given| given.raw_der.into()).collect(),
        service_directory_service: one.service_directory_service,
        endpoint_filter: one.endpoint_filter,
    })
}

fn connection(connection: EkmConnection) -> pb::EkmConnection {
    let Resolver { hostname, certificates, service_directory_service, endpoint_filter } = connection.resolver;
    let resolver = ServiceResolver {
        service_directory_service,
        endpoint_filter,
        hostname,
        server_certificates: certificates.into_iter().map(shown).collect(),
    };
    pb::EkmConnection {
        name: connection.name.into(),
        create_time: Some(time(connection.create_time)),
        service_resolvers: vec![resolver],
        etag: connection.etag,
        key_management_mode: KeyManagementMode::Manual.into(),
        crypto_space_path: String::new(),
    }
}

fn shown(der: Vec<u8>) -> pb::Certificate {
    let Ok(details) = certificate::details(&der) else {
        return pb::Certificate { raw_der: Bytes::from(der), ..Default::default() };
    };
    let at = |seconds: u64| {
        let micros = i64::try_from(seconds).ok().and_then(|seconds| seconds.checked_mul(1_000_000));
        micros.map(|micros| time(Timestamp(micros)))
    };
    pb::Certificate {
        raw_der: Bytes::from(der),
        parsed: true,
        issuer: details.issuer,
        subject: details.subject,
        subject_alternative_dns_names: details.dns_names,
        not_before_time: at(details.not_before),
        not_after_time: at(details.not_after),
        serial_number: details.serial,
        sha256_fingerprint: details.sha256,
    }
}
