//! The locations that ListLocations names. Keys may live in any other place as well.
//!
//! Invariant: the list is in order, which its pages depend on.

/// Google's regions and multi-regions with Cloud KMS, and `global`.
pub const LOCATIONS: &[&str] = &[
    "africa-south1",
    "asia",
    "asia-east1",
    "asia-east2",
    "asia-northeast1",
    "asia-northeast2",
    "asia-northeast3",
    "asia-south1",
    "asia-south2",
    "asia-southeast1",
    "asia-southeast2",
    "australia-southeast1",
    "australia-southeast2",
    "europe",
    "europe-central2",
    "europe-north1",
    "europe-southwest1",
    "europe-west1",
    "europe-west10",
    "europe-west12",
    "europe-west2",
    "europe-west3",
    "europe-west4",
    "europe-west6",
    "europe-west8",
    "europe-west9",
    "global",
    "me-central1",
    "me-central2",
    "me-west1",
    "northamerica-northeast1",
    "northamerica-northeast2",
    "southamerica-east1",
    "southamerica-west1",
    "us",
    "us-central1",
    "us-east1",
    "us-east4",
    "us-east5",
    "us-south1",
    "us-west1",
    "us-west2",
    "us-west3",
    "us-west4",
];

#[cfg(test)]
mod tests {
    use super::LOCATIONS;

    #[test]
    fn the_list_is_in_order() {
        assert!(LOCATIONS.is_sorted());
    }
}
