//! Listings: objects by name, cut into pages, with common prefixes.
//!
//! Invariant: a page costs what it shows: what lies below a common prefix is skipped, not read.

use std::collections::VecDeque;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use claviger_core::{Error, Result};
use claviger_sealed::engine::from_slatedb;
use serde::{Deserialize, Serialize};
use slatedb::DbIterator;

use crate::Buckets;
use crate::glob::Glob;
use crate::index::{self, ARCHIVED, LIVE};
use crate::model::Object;
use crate::vault::OpenVault;

/// The most entries of a page.
pub(crate) const PAGE: usize = 1000;
/// Rows between two looks at the key.
const GUARD_EVERY: usize = 64;

/// What to list.
#[derive(Clone, Debug, Default)]
pub struct ListRequest {
    /// The bucket.
    pub bucket: String,
    /// Only names that begin so.
    pub prefix: String,
    /// Names are cut after the first of these past the prefix.
    pub delimiter: Option<String>,
    /// Only names from this one on.
    pub start_offset: Option<String>,
    /// Only names before this one.
    pub end_offset: Option<String>,
    /// Also noncurrent versions.
    pub versions: bool,
    /// Objects whose names end at their only delimiter are shown as objects too.
    pub include_trailing_delimiter: bool,
    /// Only names that match.
    pub match_glob: Option<String>,
    /// Entries of the page; at most 1000.
    pub max_results: Option<usize>,
    /// Where the page before ended.
    pub page_token: Option<String>,
}

/// One page.
#[derive(Clone, Debug, Default)]
pub struct ListPage {
    /// Objects, by name and generation.
    pub objects: Vec<Object>,
    /// Common prefixes, in order.
    pub prefixes: Vec<String>,
    /// Where the next page begins; none after the last.
    pub next: Option<String>,
}

/// The last entry of a page.
#[derive(Debug, Serialize, Deserialize)]
enum Mark {
    Prefix(String),
    Object(String, i64),
}

impl Mark {
    fn encode(&self) -> Result<String> {
        index::encode(self).map(|json| URL_SAFE_NO_PAD.encode(json))
    }

    fn decode(token: &str) -> Result<Self> {
        let json = URL_SAFE_NO_PAD.decode(token).ok();
        json.and_then(|json| serde_json::from_slice(&json).ok())
            .ok_or_else(|| Error::invalid("Invalid argument: pageToken is not one that a listing gave."))
    }
}

/// One range of the index, in order.
struct Cursor {
    rows: DbIterator,
    kind: &'static [u8],
    next: Option<Object>,
}

impl Cursor {
    async fn open(home: &OpenVault, kind: &'static [u8], start: &[u8], end: &[u8]) -> Result<Self> {
        let (start, end) =
            ([kind, start].concat(), if end.is_empty() { index::after(kind) } else { [kind, end].concat() });
        let rows = home.engine.scan_range(&start, Some(&end), false).await.map_err(|e| home.explain(e))?;
        let mut cursor = Self { rows, kind, next: None };
        cursor.advance(home).await?;
        Ok(cursor)
    }

    async fn advance(&mut self, home: &OpenVault) -> Result<()> {
        let row = self.rows.next().await.map_err(|e| home.explain(from_slatedb(e)))?;
        self.next = row.map(|row| index::decode(&row.value)).transpose()?;
        Ok(())
    }

    /// Skips all names below a prefix.
    async fn skip(&mut self, home: &OpenVault, prefix: &str) -> Result<()> {
        if self.next.as_ref().is_some_and(|object| object.name.starts_with(prefix)) {
            let to = [self.kind, &index::after(prefix.as_bytes())].concat();
            self.rows.seek(&to).await.map_err(|e| home.explain(from_slatedb(e)))?;
            self.advance(home).await?;
        }
        Ok(())
    }
}

/// The live and, if asked for, the noncurrent versions, merged.
struct Walk<'a> {
    home: &'a OpenVault,
    live: Cursor,
    archived: Option<Cursor>,
}

impl Walk<'_> {
    fn first_is_archived(&self) -> bool {
        let archived = self.archived.as_ref().and_then(|cursor| cursor.next.as_ref());
        match (&self.live.next, archived) {
            (Some(live), Some(archived)) => {
                (&archived.name, archived.generation) < (&live.name, live.generation)
            }
            (None, Some(_)) => true,
            _ => false,
        }
    }

    async fn next(&mut self) -> Result<Option<Object>> {
        let archived = self.first_is_archived();
        let cursor = match &mut self.archived {
            Some(cursor) if archived => cursor,
            _ => &mut self.live,
        };
        let object = cursor.next.take();
        if object.is_some() {
            cursor.advance(self.home).await?;
        }
        Ok(object)
    }

    async fn skip(&mut self, prefix: &str) -> Result<()> {
        self.live.skip(self.home, prefix).await?;
        match &mut self.archived {
            Some(cursor) => cursor.skip(self.home, prefix).await,
            None => Ok(()),
        }
    }
}

impl Buckets {
    /// Lists objects.
    ///
    /// # Errors
    /// `NotFound` for the bucket, `InvalidArgument` for a token or pattern, the lock of the default key.
    pub async fn list(&self, request: &ListRequest) -> Result<ListPage> {
        let limit = request.max_results.filter(|wanted| *wanted > 0).unwrap_or(PAGE).min(PAGE);
        let glob = request.match_glob.as_deref().map(Glob::new).transpose()?;
        let mark =
            request.page_token.as_deref().filter(|token| !token.is_empty()).map(Mark::decode).transpose()?;
        let delimiter = request.delimiter.as_deref().filter(|delimiter| !delimiter.is_empty());
        let prefix = request.prefix.as_str();
        let mut start = prefix.as_bytes().to_vec();
        if let Some(offset) = &request.start_offset {
            start = start.max(offset.as_bytes().to_vec());
        }
        match &mark {
            Some(Mark::Prefix(last)) => start = start.max(index::after(last.as_bytes())),
            Some(Mark::Object(last, _)) => start = start.max(last.as_bytes().to_vec()),
            None => {}
        }
        let mut end = index::after(prefix.as_bytes());
        if let Some(offset) = request.end_offset.as_ref().filter(|offset| !offset.is_empty()) {
            let offset = offset.as_bytes().to_vec();
            end = if end.is_empty() { offset } else { end.min(offset) };
        }
        let entered = self.enter(&request.bucket).await?;
        let home = &*entered.home;
        let mut page = ListPage::default();
        if !end.is_empty() && start >= end {
            return Ok(page);
        }
        let archived = match request.versions {
            true => Some(Cursor::open(home, ARCHIVED, &start, &end).await?),
            false => None,
        };
        let mut walk = Walk { home, live: Cursor::open(home, LIVE, &start, &end).await?, archived };
        let mut last = None;
        let mut rows = 0_usize;
        while let Some(object) = walk.next().await? {
            rows += 1;
            if rows.is_multiple_of(GUARD_EVERY) {
                home.guard()?;
            }
            if let Some(Mark::Object(name, generation)) = &mark
                && object.name == *name
                && (object.generation <= *generation || !request.versions)
            {
                continue;
            }
            let below = delimiter.and_then(|delimiter| common_prefix(&object.name, prefix, delimiter));
            let shown = glob.as_ref().is_none_or(|glob| glob.matches(below.unwrap_or(&object.name)));
            if !shown && below.is_none() {
                continue;
            }
            if page.objects.len() + page.prefixes.len() >= limit {
                page.next = last.as_ref().map(Mark::encode).transpose()?;
                break;
            }
            match below.map(str::to_owned) {
                Some(common) => {
                    if request.include_trailing_delimiter && object.name == common {
                        page.objects.push(object);
                    }
                    walk.skip(&common).await?;
                    if shown {
                        page.prefixes.push(common.clone());
                    }
                    last = Some(Mark::Prefix(common));
                }
                None => {
                    last = Some(Mark::Object(object.name.clone(), object.generation));
                    page.objects.push(object);
                }
            }
        }
        home.guard()?;
        Ok(page)
    }
}

/// The part of a name up to the first delimiter past the prefix.
fn common_prefix<'a>(name: &'a str, prefix: &str, delimiter: &str) -> Option<&'a str> {
    let at = name.get(prefix.len()..)?.find(delimiter)?;
    name.get(..prefix.len() + at + delimiter.len())
}

/// All versions of a bucket in order, for the sweep's rules.
pub(crate) async fn batch_of_versions(
    home: &OpenVault,
    after: Option<(&str, i64)>,
    limit: usize,
) -> Result<VecDeque<Object>> {
    let start = after.map_or(&b""[..], |(name, _)| name.as_bytes());
    let archived = Some(Cursor::open(home, ARCHIVED, start, b"").await?);
    let mut walk = Walk { home, live: Cursor::open(home, LIVE, start, b"").await?, archived };
    let mut found = VecDeque::new();
    while let Some(object) = walk.next().await? {
        if after.is_none_or(|last| last < (object.name.as_str(), object.generation)) {
            found.push_back(object);
        }
        if found.len() >= limit {
            break;
        }
    }
    home.guard()?;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_cut_after_the_first_delimiter_past_the_prefix() {
        assert_eq!(common_prefix("a/b/c", "", "/"), Some("a/"));
        assert_eq!(common_prefix("a/b/c", "a/", "/"), Some("a/b/"));
        assert_eq!(common_prefix("a/b", "a/", "/"), None);
        assert_eq!(common_prefix("a--b", "a", "--"), Some("a--"));
    }

    #[test]
    fn only_tokens_that_were_given_are_taken() {
        let token = Mark::Object("é".into(), 7).encode().unwrap();
        assert!(matches!(Mark::decode(&token).unwrap(), Mark::Object(name, 7) if name == "é"));
        assert!(Mark::decode("x").is_err());
    }
}
