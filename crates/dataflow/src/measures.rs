//! What a metric's bytes say: the values that SDKs encode in monitoring infos.
//!
//! Invariant: the bytes come from a worker; what cannot be read is no value, never a panic.

use claviger_beam_proto::pipeline::MonitoringInfo;

/// Texts of a set that are read.
const STRINGS: usize = 10_000;

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub enum Measure {
    /// A sum, or the latest value of a gauge.
    Number(f64),
    /// What many values amount to.
    Distribution {
        /// How many.
        count: i64,
        /// Their sum.
        sum: f64,
        /// The least.
        min: f64,
        /// The greatest.
        max: f64,
    },
    /// A set of texts.
    Strings(Vec<String>),
}

impl Measure {
    /// The value of a metric; none for a type that has no form here.
    #[must_use]
    pub fn of(info: &MonitoringInfo) -> Option<Self> {
        let input = &mut &info.payload[..];
        match info.r#type.as_str() {
            "beam:metrics:sum_int64:v1" => Some(Self::Number(int(input)? as f64)),
            "beam:metrics:sum_double:v1" => Some(Self::Number(double(input)?)),
            "beam:metrics:latest_int64:v1" => {
                int(input)?;
                Some(Self::Number(int(input)? as f64))
            }
            "beam:metrics:latest_double:v1" => {
                int(input)?;
                Some(Self::Number(double(input)?))
            }
            "beam:metrics:distribution_int64:v1" => {
                let (count, sum, min, max) = (int(input)?, int(input)?, int(input)?, int(input)?);
                Some(Self::Distribution { count, sum: sum as f64, min: min as f64, max: max as f64 })
            }
            "beam:metrics:distribution_double:v1" => {
                let count = int(input)?;
                let (sum, min, max) = (double(input)?, double(input)?, double(input)?);
                Some(Self::Distribution { count, sum, min, max })
            }
            "beam:metrics:set_string:v1" => strings(input).map(Self::Strings),
            _ => None,
        }
    }
}

fn take<'a>(input: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (head, tail) = input.split_at_checked(length)?;
    *input = tail;
    Some(head)
}

fn int(input: &mut &[u8]) -> Option<i64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = take(input, 1)?.first().copied()?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value.cast_signed());
        }
    }
    None
}

fn double(input: &mut &[u8]) -> Option<f64> {
    Some(f64::from_be_bytes(take(input, 8)?.try_into().ok()?))
}

/// An iterable of texts: their number in four bytes, or minus one and then blocks with their numbers.
fn strings(input: &mut &[u8]) -> Option<Vec<String>> {
    let count = i32::from_be_bytes(take(input, 4)?.try_into().ok()?);
    let mut left = if count < 0 { int(input)? } else { i64::from(count) };
    let mut found = Vec::new();
    while left > 0 {
        for _ in 0..left {
            let length = usize::try_from(int(input)?).ok()?;
            let text = String::from_utf8_lossy(take(input, length)?).into_owned();
            if found.len() < STRINGS {
                found.push(text);
            }
        }
        left = if count < 0 { int(input)? } else { 0 };
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(kind: &str, payload: &[u8]) -> MonitoringInfo {
        let r#type = format!("beam:metrics:{kind}:v1");
        MonitoringInfo { r#type, payload: payload.to_vec().into(), ..MonitoringInfo::default() }
    }

    #[test]
    fn values_are_read_by_their_type() {
        assert_eq!(Measure::of(&info("sum_int64", &[0xac, 2])), Some(Measure::Number(300.0)));
        assert_eq!(Measure::of(&info("latest_int64", &[9, 7])), Some(Measure::Number(7.0)));
        let negative = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
        assert_eq!(Measure::of(&info("sum_int64", &negative)), Some(Measure::Number(-1.0)));
        let four = Measure::Distribution { count: 2, sum: 5.0, min: 1.0, max: 4.0 };
        assert_eq!(Measure::of(&info("distribution_int64", &[2, 5, 1, 4])), Some(four));
        let set = [0, 0, 0, 2, 1, b'a', 1, b'b'];
        let texts = Measure::Strings(vec!["a".into(), "b".into()]);
        assert_eq!(Measure::of(&info("set_string", &set)), Some(texts));
    }

    #[test]
    fn broken_bytes_and_unknown_types_are_no_value() {
        for (kind, payload) in [
            ("sum_int64", &[][..]),
            ("sum_int64", &[0x80; 11]),
            ("sum_double", &[1, 2]),
            ("distribution_int64", &[1, 2]),
            ("set_string", &[0, 0, 0, 9, 1]),
            ("set_string", &[0xff, 0xff, 0xff, 0xff, 1, 0x7f]),
            ("bounded_trie", &[1]),
        ] {
            assert_eq!(Measure::of(&info(kind, payload)), None, "{kind}");
        }
    }
}
