//! Listings: what the store below has, with the objects' lengths, without what is deleted.
//!
//! Invariant: a file that the book does not know shows as an error, not as an object.

use std::sync::Arc;

use futures::stream::{BoxStream, StreamExt};
use object_store::path::Path;
use object_store::{Error, ListResult, ObjectMeta, ObjectStore, ObjectStoreExt, Result};

use super::book::Found;
use super::header::object_len;
use super::log::is_log;
use super::{LEDGER, Shared};
use crate::error::Change;

pub(super) fn list(
    shared: Arc<Shared>,
    prefix: Option<&Path>,
    offset: Option<&Path>,
) -> BoxStream<'static, Result<ObjectMeta>> {
    let listed = shared.place.guard().and_then(|()| {
        let prefix = shared.place.full(prefix.map_or("", AsRef::as_ref))?;
        Ok(match offset {
            Some(offset) => {
                shared.place.inner.list_with_offset(Some(&prefix), &shared.place.full(offset.as_ref())?)
            }
            None => shared.place.inner.list(Some(&prefix)),
        })
    });
    match listed {
        Ok(files) => files
            .filter_map(move |file| {
                let shared = shared.clone();
                async move {
                    match file {
                        Ok(file) => shared.object(file).await.transpose(),
                        Err(error) => Some(Err(error)),
                    }
                }
            })
            .boxed(),
        Err(error) => futures::stream::once(async { Err(error) }).boxed(),
    }
}

pub(super) async fn level(shared: &Shared, prefix: Option<&Path>) -> Result<ListResult> {
    shared.place.guard()?;
    let prefix = shared.place.full(prefix.map_or("", AsRef::as_ref))?;
    let found = shared.place.inner.list_with_delimiter(Some(&prefix)).await?;
    let mut objects = Vec::with_capacity(found.objects.len());
    for file in found.objects {
        objects.extend(shared.object(file).await?);
    }
    let common_prefixes = found.common_prefixes.iter().filter_map(|full| shared.place.relative(full));
    let common_prefixes = common_prefixes
        .filter(|path| !is_log(path.as_ref()) && shared.book().any_below(path.as_ref()))
        .collect();
    Ok(ListResult { common_prefixes, objects, extensions: found.extensions })
}

impl Shared {
    /// The object of a listed file; none when it is no object, or not any more.
    async fn object(&self, file: ObjectMeta) -> Result<Option<ObjectMeta>> {
        let Some(location) = self.place.relative(&file.location) else { return Ok(None) };
        let path = location.as_ref();
        if path == LEDGER || is_log(path) {
            return Ok(None);
        }
        let certain = self.book().certain(path);
        if certain.is_none_or(|version| version.len != file.size) {
            match self.look_again(path, &file).await? {
                Some(file) => return self.mapped(location, file).map(Some),
                None => return Ok(None),
            }
        }
        self.mapped(location, file).map(Some)
    }

    fn mapped(&self, location: Path, file: ObjectMeta) -> Result<ObjectMeta> {
        let size =
            object_len(file.size).ok_or_else(|| self.place.tampered(location.as_ref(), Change::Length))?;
        Ok(ObjectMeta { location, size, ..file })
    }

    /// The listing and the book disagree. A write or delete in between looks the same, so both are
    /// asked again while there is none.
    async fn look_again(&self, path: &str, file: &ObjectMeta) -> Result<Option<ObjectMeta>> {
        if self.book().find(path) == Found::Deleting {
            return Ok(None);
        }
        let _turn = self.turn(path).await?;
        let found = match self.place.inner.head(&file.location).await {
            Ok(found) => found,
            Err(Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        match self.book().find(path) {
            Found::Deleting => Ok(None),
            Found::Nothing => Err(self.place.tampered(path, Change::Old)),
            Found::Entry(entry)
                if entry.versions().any(|version| version.fits(version.sequence, found.size)) =>
            {
                Ok(Some(found))
            }
            Found::Entry(_) => Err(self.place.tampered(path, Change::Length)),
        }
    }
}
