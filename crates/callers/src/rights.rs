//! What a caller may ask for, coarsely: a set of rights, from Google's roles, scopes and audiences.
//!
//! Invariant: a role, scope or audience that is not known gives nothing. A token has the rights of its owner within
//! those of its scopes and of whom it is for, never more.

/// One thing that may be asked for. Keys have finer rules of their own, in the KMS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Right {
    /// To ask the KMS, whose policies decide.
    Keys = 1,
    /// To see whether the keys are sealed, and to unseal them with what opens them.
    Unseal = 1 << 1,
    /// To change what opens the keys.
    Seals = 1 << 2,
    /// To set and read organization policies.
    Policies = 1 << 3,
    /// To read the audit log.
    Logs = 1 << 4,
    /// To look projects up.
    Projects = 1 << 5,
    /// To read measurements.
    Metrics = 1 << 6,
    /// To read rows.
    RowsRead = 1 << 7,
    /// To write rows, and to change them by what is in them.
    RowsWrite = 1 << 8,
    /// To see instances, clusters and tables.
    TablesRead = 1 << 9,
    /// To change them.
    TablesChange = 1 << 10,
    /// To list and read objects.
    ObjectsRead = 1 << 11,
    /// To write and delete objects.
    ObjectsWrite = 1 << 12,
    /// To list and see buckets.
    BucketsRead = 1 << 13,
    /// To change them and their policies.
    BucketsChange = 1 << 14,
    /// To see jobs.
    JobsRead = 1 << 15,
    /// To run jobs: to run programs as the server's user.
    JobsRun = 1 << 16,
}

/// A set of rights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rights(u32);

impl Rights {
    /// None.
    pub const NONE: Self = Self(0);
    /// All: an administrator's.
    pub const ALL: Self = Self((1 << 17) - 1);
    /// What everybody has whose token is right.
    pub const KNOWN: Self = Self::of(&[Right::Keys, Right::Unseal]);
    const ROWS: Self = Self::of(&[Right::RowsRead, Right::RowsWrite]);
    const TABLES: Self = Self::of(&[Right::TablesRead, Right::TablesChange]);
    const OBJECTS: Self = Self::of(&[Right::ObjectsRead, Right::ObjectsWrite]);
    const BUCKETS: Self = Self::of(&[Right::BucketsRead, Right::BucketsChange]);
    const JOBS: Self = Self::of(&[Right::JobsRead, Right::JobsRun]);

    const fn of(rights: &[Right]) -> Self {
        let (mut bits, mut at) = (0, 0);
        while at < rights.len() {
            bits |= rights[at] as u32;
            at += 1;
        }
        Self(bits)
    }

    /// Whether a right is among them.
    #[must_use]
    pub const fn has(self, right: Right) -> bool {
        self.0 & right as u32 != 0
    }

    pub(crate) const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(crate) const fn within(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    pub(crate) const fn bits(self) -> u32 {
        self.0
    }

    pub(crate) const fn of_bits(bits: u32) -> Self {
        Self(bits & Self::ALL.0)
    }
}

/// What a role of Google's gives here; nothing for one that is not known.
pub(crate) fn of_role(role: &str) -> Option<Rights> {
    use Right::{BucketsRead, JobsRead, Logs, Metrics, ObjectsRead, Projects, RowsRead, TablesRead};
    Some(match role {
        "roles/bigtable.admin" => Rights::ROWS.and(Rights::TABLES),
        "roles/bigtable.user" => Rights::ROWS.and(Rights::of(&[TablesRead])),
        "roles/bigtable.reader" => Rights::of(&[RowsRead, TablesRead]),
        "roles/bigtable.viewer" => Rights::of(&[TablesRead]),
        "roles/storage.admin" => Rights::OBJECTS.and(Rights::BUCKETS),
        "roles/storage.objectAdmin" | "roles/storage.objectUser" => Rights::OBJECTS,
        "roles/storage.objectViewer" => Rights::of(&[ObjectsRead]),
        "roles/storage.bucketViewer" => Rights::of(&[BucketsRead]),
        "roles/dataflow.admin" | "roles/dataflow.developer" => Rights::JOBS,
        "roles/dataflow.viewer" => Rights::of(&[JobsRead]),
        "roles/logging.admin" | "roles/logging.privateLogViewer" => Rights::of(&[Logs]),
        "roles/monitoring.viewer" => Rights::of(&[Metrics]),
        "roles/browser" => Rights::of(&[Projects]),
        _ => return None,
    })
}

/// What the scopes of a token let it ask for.
pub(crate) fn of_scopes(scopes: &str) -> Rights {
    scopes.split_ascii_whitespace().map(of_scope).fold(Rights::NONE, Rights::and)
}

fn of_scope(scope: &str) -> Rights {
    use Right::{BucketsRead, JobsRead, Keys, Logs, Metrics, ObjectsRead, Projects, RowsRead, TablesRead};
    let Some(scope) = scope.strip_prefix("https://www.googleapis.com/auth/") else { return Rights::NONE };
    match scope {
        "cloud-platform" => Rights::ALL,
        "cloud-platform.read-only" => {
            Rights::of(&[Projects, Logs, Metrics, RowsRead, TablesRead, ObjectsRead, BucketsRead, JobsRead])
        }
        "cloudkms" => Rights::of(&[Keys]),
        "bigtable.data" | "cloud-bigtable.data" => Rights::ROWS,
        "bigtable.data.readonly" | "cloud-bigtable.data.readonly" => Rights::of(&[RowsRead]),
        "bigtable.admin"
        | "bigtable.admin.cluster"
        | "bigtable.admin.instance"
        | "bigtable.admin.table"
        | "cloud-bigtable.admin"
        | "cloud-bigtable.admin.cluster"
        | "cloud-bigtable.admin.table" => Rights::TABLES,
        "devstorage.full_control" => Rights::OBJECTS.and(Rights::BUCKETS),
        "devstorage.read_write" => Rights::OBJECTS.and(Rights::of(&[BucketsRead])),
        "devstorage.read_only" => Rights::of(&[ObjectsRead, BucketsRead]),
        "logging.admin" | "logging.read" => Rights::of(&[Logs]),
        "monitoring" | "monitoring.read" => Rights::of(&[Metrics]),
        "cloudplatformprojects" | "cloudplatformprojects.readonly" => Rights::of(&[Projects]),
        _ => Rights::NONE,
    }
}

/// What a token may ask for that is for one of Google's services, by the service's host: unmodified clients make such.
pub(crate) fn of_google_host(host: &str) -> Rights {
    match host {
        "cloudkms.googleapis.com" => Rights::of(&[Right::Keys]),
        "bigtable.googleapis.com" => Rights::ROWS,
        "bigtableadmin.googleapis.com" => Rights::TABLES,
        "storage.googleapis.com" => Rights::OBJECTS.and(Rights::BUCKETS),
        "dataflow.googleapis.com" => Rights::JOBS,
        "logging.googleapis.com" => Rights::of(&[Right::Logs]),
        "orgpolicy.googleapis.com" => Rights::of(&[Right::Policies]),
        "cloudresourcemanager.googleapis.com" => Rights::of(&[Right::Projects]),
        _ => Rights::NONE,
    }
}
