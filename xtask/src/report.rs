//! Numbers and tables as people read them.

use std::time::Duration;

/// `336,776`.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `12.3 MB`, in powers of ten.
pub(crate) fn bytes(number: u64) -> String {
    const UNITS: [(&str, f64); 4] = [("GB", 1e9), ("MB", 1e6), ("kB", 1e3), ("bytes", 1.0)];
    let value = number as f64;
    for (unit, size) in UNITS {
        if value >= size && size > 1.0 {
            return format!("{:.1} {unit}", value / size);
        }
    }
    format!("{number} bytes")
}

/// `1.2 s`, `84 ms`, `2 min 3 s`.
pub(crate) fn time(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds >= 120.0 {
        format!("{} min {} s", duration.as_secs() / 60, duration.as_secs() % 60)
    } else if seconds >= 1.0 {
        format!("{seconds:.1} s")
    } else {
        format!("{:.0} ms", seconds * 1000.0)
    }
}

/// Rows of text in columns, the first row a heading with a line under it.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for (number, row) in rows.iter().enumerate() {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{cell:<width$}   "));
        }
        out.push_str(line.trim_end());
        out.push('\n');
        if number == 0 {
            out.push_str(&"-".repeat(widths.iter().sum::<usize>() + 3 * columns.saturating_sub(1)));
            out.push('\n');
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_as_people_write_them() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(336_776), "336,776");
        assert_eq!(count(1_000_000), "1,000,000");
        assert_eq!(bytes(12), "12 bytes");
        assert_eq!(bytes(1_500), "1.5 kB");
        assert_eq!(bytes(31_053_850), "31.1 MB");
        assert_eq!(time(Duration::from_millis(84)), "84 ms");
        assert_eq!(time(Duration::from_millis(1_240)), "1.2 s");
        assert_eq!(time(Duration::from_secs(123)), "2 min 3 s");
    }

    #[test]
    fn columns_of_a_table_line_up_under_their_heading() {
        let rows = vec![vec!["a".into(), "long heading".into()], vec!["wider".into(), "x".into()]];
        assert_eq!(table(&rows), "a       long heading\n--------------------\nwider   x\n");
    }
}
