//! Lists: which things, in which order, and a page at a time.
//!
//! Invariant: nothing that is listed is ever deleted, so a page goes on behind the item that the page before ended
//! with, whatever has changed meanwhile. A token is taken only by the list that gave it: the same parent, filter and
//! order. Names of fields are those of the API.

mod fields;
mod filter;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use claviger_core::{Error, Result};
use claviger_crypto::crc32c;

pub(crate) use fields::Listed;
use fields::{FieldName, Value};
pub(crate) use filter::Filter;

use crate::model::{Page, PageRequest};

/// Items of a page when the request does not say.
const DEFAULT_PAGE: usize = 100;
/// Items of a page, at most.
const MAX_PAGE: usize = 1000;
/// Fields that a list can be ordered by at a time.
const MAX_ORDER_FIELDS: usize = 8;
/// Bytes at the front of a token that say which list gave it.
const LIST_MARK: usize = 4;

/// Cuts a page out of the items of `list`, which come in their natural order, each with the id that is its own there.
pub(crate) fn paginate<'a, T: 'a, V: Listed>(
    request: &PageRequest,
    list: &str,
    items: impl Iterator<Item = (impl AsRef<str> + 'a, &'a T)>,
    view: impl Fn(&T) -> V,
) -> Result<Page<V>> {
    let filter = Filter::parse(&request.filter, V::FIELDS)?;
    let order = Order::parse(&request.order_by, V::FIELDS)?;
    let size = match usize::try_from(request.size) {
        Ok(0) => DEFAULT_PAGE,
        Ok(size) => size.min(MAX_PAGE),
        Err(_) => return Err(Error::invalid_field("page_size", "must not be negative")),
    };
    let items = order.sort(items.collect(), |item| view(item));
    let mark = crc32c([list, &request.filter, &request.order_by].join("\0").as_bytes()).to_be_bytes();
    let start = if request.token.is_empty() {
        0
    } else {
        let wrong = || Error::invalid_field("page_token", "is not one that this list gave");
        let token = URL_SAFE_NO_PAD.decode(&request.token).map_err(|_| wrong())?;
        let (of, last) = token.split_first_chunk::<LIST_MARK>().ok_or_else(wrong)?;
        let found = items.iter().position(|(id, _)| id.as_ref().as_bytes() == last);
        found.filter(|_| *of == mark).ok_or_else(wrong)? + 1
    };
    let (mut shown, mut total, mut last, mut more) = (Vec::new(), 0, None, false);
    for (index, (id, item)) in items.iter().enumerate() {
        // Without a filter, what is on other pages is only counted.
        let on_page = index >= start && shown.len() < size;
        if filter.is_all() {
            if on_page {
                shown.push(view(item));
                last = Some(id);
            }
        } else {
            let seen = view(item);
            if !filter.matches(&seen) {
                continue;
            }
            if on_page {
                shown.push(seen);
                last = Some(id);
            }
        }
        total += 1;
        more |= index >= start && !on_page;
    }
    let next_token = last.filter(|_| more).map_or_else(String::new, |id| {
        URL_SAFE_NO_PAD.encode([mark.as_slice(), id.as_ref().as_bytes()].concat())
    });
    Ok(Page { items: shown, next_token, total })
}

/// An order that was read: fields, and whether each goes down.
struct Order(Vec<(FieldName, bool)>);

impl Order {
    fn parse(text: &str, fields: fields::Fields) -> Result<Self> {
        if text.trim().is_empty() {
            return Ok(Self(Vec::new()));
        }
        let wrong = |why: String| Error::invalid_field("order_by", why);
        let parts: Vec<_> = text.split(',').collect();
        if parts.len() > MAX_ORDER_FIELDS {
            return Err(wrong(format!("at most {MAX_ORDER_FIELDS} fields are allowed")));
        }
        let read = parts.into_iter().map(|part| {
            let mut words = part.split_whitespace();
            let name = words.next().ok_or_else(|| wrong("a field is missing".into()))?;
            let down = match (words.next(), words.next()) {
                (None | Some("asc"), None) => false,
                (Some("desc"), None) => true,
                _ => return Err(wrong(format!("'{}' is not a field with asc or desc", part.trim()))),
            };
            let field = FieldName::find(name, fields);
            Ok((field.ok_or_else(|| wrong(format!("there is no field '{name}' to order by")))?, down))
        });
        read.collect::<Result<_>>().map(Self)
    }

    /// Sorts items that come in the order of their names.
    fn sort<K, T, V: Listed>(&self, items: Vec<(K, T)>, view: impl Fn(&T) -> V) -> Vec<(K, T)> {
        if self.0.is_empty() {
            return items;
        }
        let keyed = items.into_iter().enumerate().map(|(index, item)| {
            let seen = view(&item.1);
            let keys = self.0.iter().map(|(field, _)| match field.is_name() {
                // Version 10 comes after version 9, though its name does not.
                true => Value::Number(i128::try_from(index).unwrap_or(i128::MAX)),
                false => field.of(&seen),
            });
            (keys.collect::<Vec<_>>(), item)
        });
        let mut keyed: Vec<_> = keyed.collect();
        keyed.sort_by(|(a, _), (b, _)| {
            let by_field = a.iter().zip(b).zip(&self.0).map(|((a, b), (_, down))| {
                let ordering = a.cmp(b);
                if *down { ordering.reverse() } else { ordering }
            });
            by_field.fold(std::cmp::Ordering::Equal, std::cmp::Ordering::then)
        });
        keyed.into_iter().map(|(_, item)| item).collect()
    }
}
