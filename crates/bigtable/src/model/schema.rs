//! Column families as the data path sees them, and the cell that filters and clients see.
//!
//! Invariant: rows are stored by [`FamilyId`], which a table never uses twice, and read by
//! [`FamilyRank`], the family's place among the table's names in order; the two never mix.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use claviger_core::{Error, Result, limits};
use serde::{Deserialize, Serialize};

use super::gc::GcRule;

/// A family's number within its table, never used again after the family is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FamilyId(pub u32);

/// A family's place among its table's families in the order of their names, from 0.
///
/// Only meaningful together with the [`Families`] that it came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FamilyRank(pub u32);

/// A column family.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Family {
    /// Its number in stored rows.
    pub id: FamilyId,
    /// Its name.
    pub name: Arc<str>,
    /// Which of its cells may be dropped; none: all are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gc: Option<GcRule>,
}

/// The families of a table at one moment. A request takes one and uses it to its end.
#[derive(Clone, Debug, Default)]
pub struct Families {
    /// In the order of names: the index is the rank.
    by_name: Vec<Family>,
    ranks: HashMap<FamilyId, FamilyRank>,
    ids_follow_names: bool,
}

impl Families {
    /// Sorts the families by name.
    ///
    /// # Errors
    /// `Internal` when two share a name or an id: the caller's catalog is wrong.
    pub fn new(mut families: Vec<Family>) -> Result<Self> {
        families.sort_by(|a, b| a.name.cmp(&b.name));
        let mut ranks = HashMap::with_capacity(families.len());
        for (rank, family) in (0..).map(FamilyRank).zip(&families) {
            if ranks.insert(family.id, rank).is_some() {
                return Err(Error::internal("Two column families of a table have the same id."));
            }
        }
        if families.windows(2).any(|pair| matches!(pair, [a, b] if a.name == b.name)) {
            return Err(Error::internal("Two column families of a table have the same name."));
        }
        let ids_follow_names = families.is_sorted_by(|a, b| a.id < b.id);
        Ok(Self { by_name: families, ranks, ids_follow_names })
    }

    /// The families in the order of their names.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Family> {
        self.by_name.iter()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// The family of that name.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<&Family> {
        self.rank_of_name(name).and_then(|rank| self.at(rank))
    }

    /// The place of the family of that name.
    #[must_use]
    pub fn rank_of_name(&self, name: &str) -> Option<FamilyRank> {
        let index = self.by_name.binary_search_by(|family| (*family.name).cmp(name)).ok()?;
        u32::try_from(index).ok().map(FamilyRank)
    }

    /// The id of the family of that name, for a mutation.
    ///
    /// # Errors
    /// `NotFound` that names the family.
    pub fn id_of(&self, name: &str) -> Result<FamilyId> {
        self.named(name).map(|family| family.id).ok_or_else(|| family_not_found(name))
    }

    /// The family with that id, unless it was dropped.
    #[must_use]
    pub fn with_id(&self, id: FamilyId) -> Option<&Family> {
        self.rank_of(id).and_then(|rank| self.at(rank))
    }

    /// The place of the family with that id, unless it was dropped.
    #[must_use]
    #[inline]
    pub fn rank_of(&self, id: FamilyId) -> Option<FamilyRank> {
        if self.by_name.len() <= 8 {
            // The usual table: a short walk beats hashing.
            let index = self.by_name.iter().position(|family| family.id == id)?;
            return u32::try_from(index).ok().map(FamilyRank);
        }
        self.ranks.get(&id).copied()
    }

    /// The family at that place.
    #[must_use]
    pub fn at(&self, rank: FamilyRank) -> Option<&Family> {
        self.by_name.get(rank.0 as usize)
    }

    /// The name of the family at that place; empty when there is none.
    #[must_use]
    pub fn name_at(&self, rank: FamilyRank) -> &str {
        self.at(rank).map_or("", |family| &family.name)
    }

    /// Whether the order of ids is the order of names, so that stored cells need no sorting.
    pub(crate) fn ids_follow_names(&self) -> bool {
        self.ids_follow_names
    }
}

/// The error for a family that a request names and the table does not have. Its end is Google's own text,
/// which clients look for.
#[must_use]
pub fn family_not_found(name: &str) -> Error {
    // A request may name anything; the message shows no more than a name could have.
    let shown: String = name.chars().take(limits::FAMILY_NAME_CHARS).collect();
    Error::not_found(format!("Error in column family '{shown}' : Requested column family not found."))
}

/// Checks the name of a family to be created.
///
/// # Errors
/// `InvalidArgument` that says what a name may be.
pub fn check_family_name(name: &str) -> Result<()> {
    let length = name.chars().count();
    if length == 0 || length > limits::FAMILY_NAME_CHARS {
        return Err(Error::invalid(format!(
            "Invalid id for collection columnFamilies : Length should be between [1,{}], but found {length}",
            limits::FAMILY_NAME_CHARS
        )));
    }
    let starts_well = name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
    if !starts_well || !name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.')) {
        return Err(Error::invalid(format!(
            "Invalid id for collection columnFamilies : '{name}' should match [_a-zA-Z0-9][-_.a-zA-Z0-9]*"
        )));
    }
    Ok(())
}

/// One version of one column of a row, as filters and clients see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell {
    /// The family, by its place in the request's [`Families`].
    pub family: FamilyRank,
    /// The column within the family.
    pub qualifier: Bytes,
    /// The version, microseconds since the epoch; never negative.
    pub timestamp_micros: i64,
    /// The value.
    pub value: Bytes,
    /// The label that a filter gave it. A cell has one at most: filters that could give two are refused.
    pub label: Option<Arc<str>>,
}

impl Cell {
    /// The order in which a row's cells are sent: family, qualifier, newest first.
    #[must_use]
    pub fn order(&self, other: &Self) -> std::cmp::Ordering {
        (self.family.cmp(&other.family))
            .then_with(|| self.qualifier.cmp(&other.qualifier))
            .then_with(|| other.timestamp_micros.cmp(&self.timestamp_micros))
    }

    /// Whether both are versions of one column.
    #[must_use]
    pub fn same_column(&self, other: &Self) -> bool {
        self.family == other.family && self.qualifier == other.qualifier
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn family(id: u32, name: &str) -> Family {
        Family { id: FamilyId(id), name: name.into(), gc: None }
    }

    #[test]
    fn families_are_ranked_by_name_and_found_by_id_and_name() {
        for extra in [0, 20] {
            let mut all = vec![family(3, "b"), family(1, "c"), family(2, "a")];
            all.extend((0..extra).map(|n| family(100 + n, &format!("z{n:02}"))));
            let families = Families::new(all).unwrap();
            assert_eq!(families.iter().take(3).map(|f| &*f.name).collect::<Vec<_>>(), ["a", "b", "c"]);
            assert_eq!(families.rank_of(FamilyId(3)), Some(FamilyRank(1)));
            assert_eq!(families.rank_of(FamilyId(9)), None);
            assert_eq!(families.id_of("c").unwrap(), FamilyId(1));
            assert!(families.id_of("d").unwrap_err().message().contains("'d'"));
            assert!(!families.ids_follow_names());
        }
        assert!(Families::new(vec![family(1, "a"), family(2, "b")]).unwrap().ids_follow_names());
    }

    #[test]
    fn a_name_or_an_id_twice_is_refused() {
        assert!(Families::new(vec![family(1, "a"), family(1, "b")]).is_err());
        assert!(Families::new(vec![family(1, "a"), family(2, "a")]).is_err());
    }

    #[test]
    fn names_of_families_are_checked() {
        for name in ["cf", "_x", "0-a.b", &"f".repeat(64)] {
            check_family_name(name).unwrap();
        }
        for name in ["", "-x", ".x", "a b", "a:b", "é", &"f".repeat(65)] {
            assert!(check_family_name(name).is_err(), "{name}");
        }
    }
}
