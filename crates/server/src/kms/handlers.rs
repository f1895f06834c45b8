//! One function for each method of `KeyManagementService` and `Locations`.
//!
//! Invariant: names are parsed before anything else is looked at.

use std::time::Duration;

use bytes::Bytes;
use claviger_core::names::{CryptoKeyName, CryptoKeyVersionName, KeyRingName, LocationName, ProjectName};
use claviger_core::{Caller, Error, Result};
use claviger_crypto::SecretBytes;
use claviger_kms::locations::LOCATIONS;
use claviger_kms::model::{CryptoKeyUpdate, NewVersion, Page, PageRequest, VersionState, VersionUpdate};
use claviger_kms::{DecryptRequest, EncryptRequest, KeyOrVersion, Kms};
use claviger_proto::google::cloud::kms::v1 as pb;
use claviger_proto::google::cloud::location as places;
use prost_types::{Any, FieldMask};

use super::convert;

pub(super) fn page(size: i32, token: String, filter: String, order_by: String) -> PageRequest {
    PageRequest { size, token, filter, order_by }
}

pub(super) fn total<T>(page: &Page<T>) -> i32 {
    i32::try_from(page.total).unwrap_or(i32::MAX)
}

pub(super) async fn list_key_rings(
    kms: &Kms,
    caller: &Caller,
    request: pb::ListKeyRingsRequest,
) -> Result<pb::ListKeyRingsResponse> {
    let pb::ListKeyRingsRequest { parent, page_size, page_token, filter, order_by } = request;
    let parent = LocationName::parse(&parent)?;
    let rings = kms.list_key_rings(caller, &parent, &page(page_size, page_token, filter, order_by))?;
    Ok(pb::ListKeyRingsResponse {
        total_size: total(&rings),
        key_rings: rings.items.into_iter().map(convert::key_ring).collect(),
        next_page_token: rings.next_token,
    })
}

pub(super) async fn list_crypto_keys(
    kms: &Kms,
    caller: &Caller,
    request: pb::ListCryptoKeysRequest,
) -> Result<pb::ListCryptoKeysResponse> {
    let pb::ListCryptoKeysRequest { parent, page_size, page_token, version_view: _, filter, order_by } =
        request;
    let parent = KeyRingName::parse(&parent)?;
    let keys = kms.list_crypto_keys(caller, &parent, &page(page_size, page_token, filter, order_by))?;
    Ok(pb::ListCryptoKeysResponse {
        total_size: total(&keys),
        crypto_keys: keys.items.into_iter().map(convert::crypto_key).collect(),
        next_page_token: keys.next_token,
    })
}

pub(super) async fn list_crypto_key_versions(
    kms: &Kms,
    caller: &Caller,
    request: pb::ListCryptoKeyVersionsRequest,
) -> Result<pb::ListCryptoKeyVersionsResponse> {
    let pb::ListCryptoKeyVersionsRequest { parent, page_size, page_token, view: _, filter, order_by } =
        request;
    let parent = CryptoKeyName::parse(&parent)?;
    let versions = kms.list_versions(caller, &parent, &page(page_size, page_token, filter, order_by))?;
    Ok(pb::ListCryptoKeyVersionsResponse {
        total_size: total(&versions),
        crypto_key_versions: versions.items.into_iter().map(convert::version).collect(),
        next_page_token: versions.next_token,
    })
}

pub(super) async fn get_key_ring(
    kms: &Kms,
    caller: &Caller,
    request: pb::GetKeyRingRequest,
) -> Result<pb::KeyRing> {
    kms.get_key_ring(caller, &KeyRingName::parse(&request.name)?).map(convert::key_ring)
}

pub(super) async fn get_crypto_key(
    kms: &Kms,
    caller: &Caller,
    request: pb::GetCryptoKeyRequest,
) -> Result<pb::CryptoKey> {
    kms.get_crypto_key(caller, &CryptoKeyName::parse(&request.name)?).map(convert::crypto_key)
}

pub(super) async fn get_crypto_key_version(
    kms: &Kms,
    caller: &Caller,
    request: pb::GetCryptoKeyVersionRequest,
) -> Result<pb::CryptoKeyVersion> {
    kms.get_version(caller, &CryptoKeyVersionName::parse(&request.name)?).map(convert::version)
}

pub(super) async fn create_key_ring(
    kms: &Kms,
    caller: &Caller,
    request: pb::CreateKeyRingRequest,
) -> Result<pb::KeyRing> {
    let parent = LocationName::parse(&request.parent)?;
    kms.create_key_ring(caller, &parent, &request.key_ring_id).await.map(convert::key_ring)
}

pub(super) async fn create_crypto_key(
    kms: &Kms,
    caller: &Caller,
    mut request: pb::CreateCryptoKeyRequest,
) -> Result<pb::CryptoKey> {
    let parent = KeyRingName::parse(&request.parent)?;
    let id = std::mem::take(&mut request.crypto_key_id);
    let new = convert::new_key(request)?;
    kms.create_crypto_key(caller, &parent, &id, new).await.map(convert::crypto_key)
}

pub(super) async fn create_crypto_key_version(
    kms: &Kms,
    caller: &Caller,
    request: pb::CreateCryptoKeyVersionRequest,
) -> Result<pb::CryptoKeyVersion> {
    let parent = CryptoKeyName::parse(&request.parent)?;
    let version = request.crypto_key_version.unwrap_or_default();
    let state = match version.state {
        0 => VersionState::Enabled,
        state => convert::state_from(state)?,
    };
    let external =
        version.external_protection_level_options.map(convert::external_from).transpose()?.flatten();
    kms.create_version_with(caller, &parent, NewVersion { state, external }).await.map(convert::version)
}

pub(super) async fn update_crypto_key(
    kms: &Kms,
    caller: &Caller,
    request: pb::UpdateCryptoKeyRequest,
) -> Result<pb::CryptoKey> {
    let key = request.crypto_key.ok_or_else(|| Error::invalid_field("crypto_key", "must be set"))?;
    let name = CryptoKeyName::parse(&key.name)?;
    let mut update = CryptoKeyUpdate::default();
    for path in paths(request.update_mask)? {
        match path.as_str() {
            "labels" => update.labels = Some(key.labels.clone().into_iter().collect()),
            "rotation_period" | "rotation_schedule" => {
                update.rotation_period = Some(convert::rotation_from(key.rotation_schedule)?);
            }
            "next_rotation_time" => {
                let next = key.next_rotation_time.map(|at| convert::time_from("next_rotation_time", at));
                update.next_rotation_time = Some(next.transpose()?);
            }
            "version_template" | "version_template.algorithm" | "version_template.protection_level" => {
                update.template = Some(convert::template_from(key.version_template.unwrap_or_default())?);
            }
            "key_access_justifications_policy" => {
                update.justifications =
                    Some(convert::justifications_from(key.key_access_justifications_policy.clone())?);
            }
            _ if path.starts_with("labels.") => {
                return Err(Error::invalid_field(
                    "update_mask",
                    "labels are changed as a whole: name 'labels'",
                ));
            }
            _ => return Err(Error::invalid_field("update_mask", format!("'{path}' cannot be changed"))),
        }
    }
    kms.update_crypto_key(caller, &name, update).await.map(convert::crypto_key)
}

pub(super) async fn update_crypto_key_version(
    kms: &Kms,
    caller: &Caller,
    request: pb::UpdateCryptoKeyVersionRequest,
) -> Result<pb::CryptoKeyVersion> {
    let version = request.crypto_key_version;
    let version = version.ok_or_else(|| Error::invalid_field("crypto_key_version", "must be set"))?;
    let name = CryptoKeyVersionName::parse(&version.name)?;
    let mut update = VersionUpdate::default();
    for path in paths(request.update_mask)? {
        match path.as_str() {
            "state" => update.state = Some(convert::state_from(version.state)?),
            "external_protection_level_options"
            | "external_protection_level_options.external_key_uri"
            | "external_protection_level_options.ekm_connection_key_path" => {
                let options = version.external_protection_level_options.clone().unwrap_or_default();
                let external = convert::external_from(options)?;
                update.external = Some(external.ok_or_else(|| {
                    Error::invalid_field(
                        "crypto_key_version.external_protection_level_options",
                        "must be set",
                    )
                })?);
            }
            _ => return Err(Error::invalid_field("update_mask", format!("'{path}' cannot be changed"))),
        }
    }
    kms.update_version(caller, &name, update).await.map(convert::version)
}

pub(super) fn paths(mask: Option<FieldMask>) -> Result<Vec<String>> {
    match mask {
        Some(mask) if !mask.paths.is_empty() => Ok(mask.paths),
        _ => Err(Error::invalid_field("update_mask", "must name the fields to change")),
    }
}

pub(super) async fn update_crypto_key_primary_version(
    kms: &Kms,
    caller: &Caller,
    request: pb::UpdateCryptoKeyPrimaryVersionRequest,
) -> Result<pb::CryptoKey> {
    let name = CryptoKeyName::parse(&request.name)?;
    kms.update_primary_version(caller, &name, &request.crypto_key_version_id).await.map(convert::crypto_key)
}

pub(super) async fn destroy_crypto_key_version(
    kms: &Kms,
    caller: &Caller,
    request: pb::DestroyCryptoKeyVersionRequest,
) -> Result<pb::CryptoKeyVersion> {
    kms.destroy_version(caller, &CryptoKeyVersionName::parse(&request.name)?).await.map(convert::version)
}

pub(super) async fn restore_crypto_key_version(
    kms: &Kms,
    caller: &Caller,
    request: pb::RestoreCryptoKeyVersionRequest,
) -> Result<pb::CryptoKeyVersion> {
    kms.restore_version(caller, &CryptoKeyVersionName::parse(&request.name)?).await.map(convert::version)
}

pub(crate) async fn encrypt(
    kms: &Kms,
    caller: &Caller,
    request: pb::EncryptRequest,
) -> Result<pb::EncryptResponse> {
    let plaintext = SecretBytes::new(request.plaintext.to_vec());
    let wanted = EncryptRequest {
        name: KeyOrVersion::parse(&request.name)?,
        plaintext: &plaintext,
        aad: &request.additional_authenticated_data,
        plaintext_crc32c: request.plaintext_crc32c,
        aad_crc32c: request.additional_authenticated_data_crc32c,
    };
    let reply = kms.encrypt_checked(caller, wanted).await?;
    let protection_level = convert::level(reply.protection).into();
    Ok(pb::EncryptResponse {
        name: reply.encrypted.version.into(),
        ciphertext: Bytes::from(reply.encrypted.ciphertext),
        ciphertext_crc32c: Some(i64::from(reply.ciphertext_crc32c)),
        verified_plaintext_crc32c: reply.verified_plaintext_crc32c,
        verified_additional_authenticated_data_crc32c: reply.verified_aad_crc32c,
        protection_level,
    })
}

pub(super) async fn decrypt(
    kms: &Kms,
    caller: &Caller,
    request: pb::DecryptRequest,
) -> Result<pb::DecryptResponse> {
    decrypt_told(kms, caller, request).await.map(|(reply, _)| reply)
}

/// As Decrypt; also gives how long an external key manager lets the plaintext be kept, if it says.
pub(crate) async fn decrypt_told(
    kms: &Kms,
    caller: &Caller,
    request: pb::DecryptRequest,
) -> Result<(pb::DecryptResponse, Option<Duration>)> {
    let wanted = DecryptRequest {
        name: CryptoKeyName::parse(&request.name)?,
        ciphertext: &request.ciphertext,
        aad: &request.additional_authenticated_data,
        ciphertext_crc32c: request.ciphertext_crc32c,
        aad_crc32c: request.additional_authenticated_data_crc32c,
    };
    let reply = kms.decrypt_checked(caller, wanted).await?;
    let told = pb::DecryptResponse {
        plaintext: Bytes::copy_from_slice(reply.decrypted.plaintext.expose()),
        plaintext_crc32c: Some(i64::from(reply.plaintext_crc32c)),
        used_primary: reply.decrypted.used_primary,
        protection_level: convert::level(reply.protection).into(),
    };
    Ok((told, reply.decrypted.cache_for))
}

pub(super) async fn list_locations(
    _: &Kms,
    _: &Caller,
    request: places::ListLocationsRequest,
) -> Result<places::ListLocationsResponse> {
    let project = ProjectName::parse(&request.name)?;
    if !request.filter.trim().is_empty() {
        return Err(Error::unimplemented("Filters of lists are not built: ask without a filter."));
    }
    let size = match usize::try_from(request.page_size) {
        Ok(0) => LOCATIONS.len(),
        Ok(size) => size,
        Err(_) => return Err(Error::invalid_field("page_size", "must not be negative")),
    };
    let token = request.page_token.as_str();
    // The token is the last location of the page before; the list is in order.
    let start = LOCATIONS.partition_point(|id| *id <= token);
    let rest = LOCATIONS.get(start..).unwrap_or_default();
    let shown = rest.get(..size).unwrap_or(rest);
    let more = shown.len() < rest.len();
    let locations =
        shown.iter().map(|id| LocationName::new(project.project(), id).map(|name| location(&name)));
    Ok(places::ListLocationsResponse {
        locations: locations.collect::<Result<_>>()?,
        next_page_token: shown.last().filter(|_| more).map(|id| (*id).to_owned()).unwrap_or_default(),
    })
}

/// Any location is served: a key may live in a place that Google does not have.
pub(super) async fn get_location(
    _: &Kms,
    _: &Caller,
    request: places::GetLocationRequest,
) -> Result<places::Location> {
    Ok(location(&LocationName::parse(&request.name)?))
}

fn location(name: &LocationName) -> places::Location {
    places::Location {
        name: name.to_string(),
        location_id: name.location().to_owned(),
        labels: [("cloud.googleapis.com/region".to_owned(), name.location().to_owned())].into(),
        metadata: Any::from_msg(&pb::LocationMetadata::default()).ok(),
        ..Default::default()
    }
}
