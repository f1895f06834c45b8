//! Prices: the public list prices of Cloud KMS, or a file's.
//!
//! Invariant: no price is negative, and a file's unknown words are refused, so that a mistake is not a price.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::failure::Failure;
use crate::flags;

/// The longest file of prices.
const MAX_FILE: u64 = 64 * 1024;
/// The protection levels of the public API, and what a version of each costs a month.
const VERSION_MONTH: [(&str, f64); 4] =
    [("SOFTWARE", 0.06), ("HSM", 1.0), ("EXTERNAL", 3.0), ("EXTERNAL_VPC", 3.0)];
/// What 10,000 operations cost, on every level.
const OPERATIONS: f64 = 0.03;

/// What things cost.
#[derive(Debug)]
pub(super) struct Prices {
    pub(super) currency: String,
    version_month: BTreeMap<String, f64>,
    per_10000_operations: BTreeMap<String, f64>,
    file: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Given {
    currency: Option<String>,
    #[serde(default)]
    version_month: BTreeMap<String, f64>,
    #[serde(default, rename = "per10000Operations")]
    per_10000_operations: BTreeMap<String, f64>,
}

impl Default for Prices {
    fn default() -> Self {
        let levels = VERSION_MONTH.iter().map(|(level, _)| ((*level).to_owned(), OPERATIONS));
        Self {
            currency: "USD".to_owned(),
            version_month: VERSION_MONTH.map(|(level, price)| (level.to_owned(), price)).into(),
            per_10000_operations: levels.collect(),
            file: None,
        }
    }
}

impl Prices {
    /// The public prices, with those of a file instead where it has some.
    ///
    /// # Errors
    /// When the file cannot be read or says what is no price.
    pub(super) fn read(file: &Path) -> Result<Self, Failure> {
        let text = flags::read_file(file, MAX_FILE)?;
        // JSON is YAML as well.
        let given: Given = serde_yaml_ng::from_slice(&text)
            .map_err(|error| Failure::usage(format!("{}: {error}", file.display())))?;
        let mut prices = Self { file: Some(file.to_owned()), ..Self::default() };
        prices.currency = given.currency.unwrap_or(prices.currency);
        for (of, known) in [
            (given.version_month, &mut prices.version_month),
            (given.per_10000_operations, &mut prices.per_10000_operations),
        ] {
            for (level, price) in of {
                let place = known.get_mut(&level).ok_or_else(|| {
                    Failure::usage(format!("{}: there is no protection level '{level}'", file.display()))
                })?;
                if !price.is_finite() || price < 0.0 {
                    return Err(Failure::usage(format!("{}: {price} is no price", file.display())));
                }
                *place = price;
            }
        }
        Ok(prices)
    }

    /// Where the prices come from.
    pub(super) fn source(&self) -> String {
        match &self.file {
            Some(file) => format!("prices of {}", file.display()),
            None => "public list prices".to_owned(),
        }
    }

    /// The price of a version of a level for months.
    pub(super) fn versions(&self, level: &str, months: f64) -> f64 {
        self.version_month.get(level).copied().unwrap_or_default() * months
    }

    /// The price of operations on a level.
    pub(super) fn operations(&self, level: &str, count: f64) -> f64 {
        self.per_10000_operations.get(level).copied().unwrap_or_default() * count / 10_000.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Prices, Failure> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Prices::read(file.path())
    }

    #[test]
    fn a_file_replaces_what_it_names_and_nothing_else() {
        let prices = read("{\"currency\": \"EUR\", \"versionMonth\": {\"HSM\": 0.5}}").unwrap();
        assert_eq!(prices.currency, "EUR");
        assert!((prices.versions("HSM", 2.0) - 1.0).abs() < 1e-12);
        assert!((prices.versions("SOFTWARE", 2.0) - 0.12).abs() < 1e-12);
        assert!((prices.operations("SOFTWARE", 20_000.0) - 0.06).abs() < 1e-12);
        assert!(
            read("per10000Operations:\n  EXTERNAL: 0\n").unwrap().operations("EXTERNAL", 1e9).abs() < 1e-12
        );
    }

    #[test]
    fn what_is_no_price_is_refused() {
        for text in [
            "{\"versionMonth\": {\"GOLD\": 1}}",
            "{\"versionMonth\": {\"HSM\": -1}}",
            "{\"version\": {}}",
            "[1",
            "versionMonth: {HSM: .nan}",
        ] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
