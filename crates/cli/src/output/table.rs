//! Tables: aligned columns under a header row.
//!
//! Invariant: a cell never breaks its line, whatever the value holds.

use std::fmt::Write as _;

use serde_json::Value;

/// Blanks between columns.
const GAP: usize = 2;

/// A column: its heading, and where its cells come from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Column {
    heading: &'static str,
    cell: Cell,
}

/// Where a cell comes from in a message's JSON.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Cell {
    /// A field, by its dotted path.
    Path(&'static str),
    /// The last part of the name in that field.
    Id(&'static str),
    /// Something made from the message.
    Made(fn(&Value) -> String),
}

impl Column {
    /// A column.
    pub(crate) const fn new(heading: &'static str, cell: Cell) -> Self {
        Self { heading, cell }
    }

    fn cell(&self, value: &Value) -> String {
        match self.cell {
            Cell::Path(path) => at(value, path).map(plain).unwrap_or_default(),
            Cell::Id(path) => {
                let name = at(value, path).map(plain).unwrap_or_default();
                name.rsplit('/').next().unwrap_or_default().to_owned()
            }
            Cell::Made(make) => make(value),
        }
    }
}

/// The value at a dotted path.
pub(crate) fn at<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(value, |value, key| value.get(key))
}

/// A value on one line: text as it is, a map as `k=v,k=v`, a list parted by commas.
pub(crate) fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(","),
        Value::Object(map) => {
            map.iter().map(|(key, value)| format!("{key}={}", plain(value))).collect::<Vec<_>>().join(",")
        }
        other => other.to_string(),
    }
}

/// The rows of a list.
pub(crate) fn render(values: &[Value], columns: &[Column]) -> String {
    let header = columns.iter().map(|column| column.heading.to_owned()).collect();
    let rows = values.iter().map(|value| columns.iter().map(|column| column.cell(value)).collect());
    aligned(std::iter::once(header).chain(rows).collect())
}

/// The fields of one thing, each with its path.
pub(crate) fn fields(value: &Value) -> String {
    let mut rows = vec![vec!["FIELD".to_owned(), "VALUE".to_owned()]];
    flatten(value, "", &mut rows);
    aligned(rows)
}

fn flatten(value: &Value, path: &str, rows: &mut Vec<Vec<String>>) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            // The name comes first: it says what the rest is about.
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by_key(|(key, _)| (path.is_empty() && key.as_str() != "name", (*key).clone()));
            for (key, value) in entries {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                flatten(value, &path, rows);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for (index, value) in items.iter().enumerate() {
                flatten(value, &format!("{path}[{index}]"), rows);
            }
        }
        // An empty message is there or not; that is what it says.
        Value::Object(_) => rows.push(vec![path.to_owned(), "{}".to_owned()]),
        other => rows.push(vec![path.to_owned(), plain(other)]),
    }
}

fn aligned(mut rows: Vec<Vec<String>>) -> String {
    for cell in rows.iter_mut().flatten() {
        if cell.chars().any(char::is_control) {
            *cell = cell.escape_default().to_string();
        }
    }
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:<width$}", width = width + GAP);
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const COLUMNS: [Column; 3] = [
        Column::new("NAME", Cell::Id("name")),
        Column::new("STATE", Cell::Path("primary.state")),
        Column::new("LABELS", Cell::Path("labels")),
    ];

    #[test]
    fn columns_are_aligned_under_their_headings() {
        let values = [
            json!({"name": "a/b/long-name", "primary": {"state": "ENABLED"}, "labels": {"x": "1", "y": "2"}}),
            json!({"name": "ü"}),
        ];
        assert_eq!(render(&values, &COLUMNS), "NAME       STATE    LABELS\nlong-name  ENABLED  x=1,y=2\nü\n");
    }

    #[test]
    fn one_thing_shows_every_field_with_its_name_first() {
        let value = json!({"create": "t", "name": "n", "list": [{"a": 1}, {"a": 2}], "raw": {}});
        assert_eq!(
            fields(&value),
            "FIELD      VALUE\nname       n\ncreate     t\nlist[0].a  1\nlist[1].a  2\nraw        {}\n"
        );
    }

    #[test]
    fn a_value_with_line_ends_stays_on_its_line() {
        let text = render(&[json!({"name": "a\nb\u{1b}[31m"})], &COLUMNS);
        assert_eq!(text.lines().count(), 2);
        assert!(!text.contains('\u{1b}'));
    }
}
