//! Tests of each kind of filter on one row, of what is refused, and of a filter's limits.

use claviger_core::limits;

use super::*;
use crate::model::TimestampRange as TimeBounds;
use crate::model::{Family, FamilyId, FamilyRank};
use FilterSpec::*;

fn families() -> Families {
    let family = |id, name: &str| Family { id: FamilyId(id), name: name.into(), gc: None };
    Families::new(vec![family(1, "a"), family(2, "b"), family(3, "cc")]).unwrap()
}

fn cell(family: u32, qualifier: &'static str, millis: i64, value: &'static str) -> Cell {
    let (qualifier, value) = (qualifier.into(), value.into());
    Cell { family: FamilyRank(family), qualifier, timestamp_micros: millis * 1000, value, label: None }
}

fn row() -> Vec<Cell> {
    vec![
        cell(0, "x", 3, "three"),
        cell(0, "x", 2, "two"),
        cell(0, "x", 1, "one"),
        cell(0, "y", 2, "two"),
        cell(1, "x", 1, "one"),
        cell(2, "", 1, ""),
    ]
}

/// The cells as text: `family:qualifier@millis=value[label]`.
fn show(cells: &[Cell]) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let families = families();
    let show = |c: &Cell| {
        let label = c.label.as_ref().map(|label| format!("[{label}]")).unwrap_or_default();
        let (family, millis) = (families.name_at(c.family), c.timestamp_micros / 1000);
        format!("{family}:{}@{millis}={}{label}", text(&c.qualifier), text(&c.value))
    };
    cells.iter().map(show).collect::<Vec<_>>().join(" ")
}

/// Checks what a filter leaves of [`row`], whose key is `key-1`, and that as a predicate it agrees.
fn check(spec: FilterSpec, want: &str) {
    let filter = Filter::compile(&spec, &families(), 1).unwrap_or_else(|error| panic!("{spec:?}: {error}"));
    let got = filter.apply(b"key-1", row()).unwrap();
    assert_eq!(show(&got), want, "{spec:?}");
    assert!(got.is_sorted_by(|a, b| a.order(b).is_le()), "{spec:?}");
    assert_eq!(filter.matches(b"key-1", &row()).unwrap(), !got.is_empty(), "as a predicate: {spec:?}");
    assert!(!filter.rejects_row(b"key-1") || got.is_empty(), "{spec:?}");
}

const ALL: &str = "a:x@3=three a:x@2=two a:x@1=one a:y@2=two b:x@1=one cc:@1=";

#[test]
fn each_simple_filter_lets_through_what_it_should() {
    check(PassAll, ALL);
    check(BlockAll, "");
    check(RowKeyRegex("key-.".into()), ALL);
    check(RowKeyRegex("key".into()), "");
    check(FamilyNameRegex("a|cc".into()), "a:x@3=three a:x@2=two a:x@1=one a:y@2=two cc:@1=");
    check(FamilyNameRegex("b".into()), "b:x@1=one");
    check(FamilyNameRegex(".*".into()), ALL);
    check(FamilyNameRegex("z.*".into()), "");
    check(ColumnQualifierRegex("x".into()), "a:x@3=three a:x@2=two a:x@1=one b:x@1=one");
    check(ColumnQualifierRegex("".into()), "cc:@1=");
    check(ValueRegex("t.*".into()), "a:x@3=three a:x@2=two a:y@2=two");
    check(ValueRegex("".into()), "cc:@1=");
    check(CellsPerRowOffset(4), "b:x@1=one cc:@1=");
    check(CellsPerRowOffset(99), "");
    check(CellsPerRowLimit(2), "a:x@3=three a:x@2=two");
    check(CellsPerRowLimit(99), ALL);
    check(CellsPerColumnLimit(1), "a:x@3=three a:y@2=two b:x@1=one cc:@1=");
    check(CellsPerColumnLimit(2), "a:x@3=three a:x@2=two a:y@2=two b:x@1=one cc:@1=");
    check(CellsPerColumnLimit(0), "");
    check(StripValue, "a:x@3= a:x@2= a:x@1= a:y@2= b:x@1= cc:@1=");
    check(ValueBitmask("one".into()), "a:x@1=one b:x@1=one");
    check(ValueBitmask(Bytes::from_static(&[0x60, 0, 0])), "a:x@2=two a:x@1=one a:y@2=two b:x@1=one");
    check(ValueBitmask(Bytes::from_static(&[0x10, 0, 0])), "a:x@2=two a:y@2=two");
    check(ValueBitmask(Bytes::new()), "cc:@1=");
}

#[test]
fn ranges_hold_their_closed_ends_and_not_their_open_ones() {
    use Bound::{Excluded, Included, Unbounded};
    let columns = |start: Bound<&'static str>, end: Bound<&'static str>| ColumnRange {
        family: "a".into(),
        start: start.map(Bytes::from),
        end: end.map(Bytes::from),
    };
    check(columns(Unbounded, Unbounded), "a:x@3=three a:x@2=two a:x@1=one a:y@2=two");
    check(columns(Included("x"), Excluded("y")), "a:x@3=three a:x@2=two a:x@1=one");
    check(columns(Excluded("x"), Included("y")), "a:y@2=two");
    check(columns(Excluded("x"), Excluded("x")), "");
    let values = |start: Bound<&'static str>, end: Bound<&'static str>| ValueRange {
        start: start.map(Bytes::from),
        end: end.map(Bytes::from),
    };
    check(values(Unbounded, Included("one")), "a:x@1=one b:x@1=one cc:@1=");
    check(values(Unbounded, Excluded("one")), "cc:@1=");
    check(values(Included("three"), Unbounded), "a:x@3=three a:x@2=two a:y@2=two");
    check(values(Excluded("three"), Excluded("z")), "a:x@2=two a:y@2=two");
    let times = |start_micros, end_micros| TimestampRange(TimeBounds { start_micros, end_micros });
    check(times(2000, 3000), "a:x@2=two a:y@2=two");
    check(times(2000, 0), "a:x@3=three a:x@2=two a:y@2=two");
    check(times(0, 2000), "a:x@1=one b:x@1=one cc:@1=");
}

#[test]
fn a_chain_applies_its_filters_in_order() {
    check(Chain(vec![CellsPerRowOffset(1), CellsPerRowLimit(2)]), "a:x@2=two a:x@1=one");
    check(Chain(vec![CellsPerRowLimit(2), CellsPerRowOffset(1)]), "a:x@2=two");
    check(
        Chain(vec![ColumnQualifierRegex("x".into()), CellsPerColumnLimit(1), Label("l-1".into())]),
        "a:x@3=three[l-1] b:x@1=one[l-1]",
    );
    check(Chain(vec![StripValue, ValueRegex("two".into())]), "");
    check(Chain(vec![PassAll, PassAll]), ALL);
}

#[test]
fn an_interleave_pools_results_in_order_and_keeps_duplicates() {
    check(
        Interleave(vec![ColumnQualifierRegex("y".into()), CellsPerRowLimit(1), FamilyNameRegex("b".into())]),
        "a:x@3=three a:y@2=two b:x@1=one",
    );
    let twice = Interleave(vec![
        Chain(vec![ValueRegex("one".into()), Label("one".into())]),
        Chain(vec![TimestampRange(TimeBounds { start_micros: 1000, end_micros: 2000 }), Label("old".into())]),
    ]);
    check(twice.clone(), "a:x@1=one[one] a:x@1=one[old] b:x@1=one[one] b:x@1=one[old] cc:@1=[old]");
    // Copies count, each by itself.
    check(Chain(vec![twice.clone(), CellsPerColumnLimit(1)]), "a:x@1=one[one] b:x@1=one[one] cc:@1=[old]");
    check(Chain(vec![twice, CellsPerRowOffset(3)]), "b:x@1=one[old] cc:@1=[old]");
    check(Interleave(vec![BlockAll, BlockAll]), "");
}

#[test]
fn a_condition_applies_one_of_its_filters_to_the_whole_input() {
    let condition =
        |predicate: FilterSpec, on_true: Option<FilterSpec>, on_false: Option<FilterSpec>| Condition {
            predicate: Box::new(predicate),
            on_true: on_true.map(Box::new),
            on_false: on_false.map(Box::new),
        };
    let has = || ValueRegex("three".into());
    let has_not = || ValueRegex("four".into());
    check(condition(has(), Some(CellsPerRowLimit(1)), Some(BlockAll)), "a:x@3=three");
    check(condition(has_not(), Some(BlockAll), Some(FamilyNameRegex("b".into()))), "b:x@1=one");
    check(condition(has(), None, Some(PassAll)), "");
    check(condition(has_not(), Some(PassAll), None), "");
    let both = Chain(vec![ColumnQualifierRegex("y".into()), ValueRegex("two".into())]);
    check(condition(both, Some(StripValue), None), "a:x@3= a:x@2= a:x@1= a:y@2= b:x@1= cc:@1=");
    check(condition(CellsPerRowOffset(6), Some(PassAll), None), "");
    check(condition(condition(has(), Some(PassAll), None), Some(CellsPerRowLimit(1)), None), "a:x@3=three");
}

#[test]
fn a_sink_sends_cells_past_all_other_filters() {
    let spec = Chain(vec![
        FamilyNameRegex("a".into()),
        Interleave(vec![PassAll, Chain(vec![Label("foo".into()), Sink])]),
        ColumnQualifierRegex("y".into()),
    ]);
    check(spec, "a:x@3=three[foo] a:x@2=two[foo] a:x@1=one[foo] a:y@2=two a:y@2=two[foo]");
    check(Sink, ALL);
    check(Chain(vec![Sink, BlockAll]), ALL);
    check(Chain(vec![BlockAll, Sink]), "");
}

#[test]
fn rows_are_rejected_by_their_key_before_they_are_decoded() {
    let filter = |spec| Filter::compile(&spec, &families(), 1).unwrap();
    let by_key = filter(Chain(vec![CellsPerColumnLimit(1), RowKeyRegex("a.*".into())]));
    assert!(by_key.rejects_row(b"b") && !by_key.rejects_row(b"ab"));
    let either = filter(Interleave(vec![RowKeyRegex("a".into()), RowKeyRegex("b".into())]));
    assert!(either.rejects_row(b"c") && !either.rejects_row(b"b"));
    let sunk = filter(Chain(vec![Sink, RowKeyRegex("a".into())]));
    assert!(!sunk.rejects_row(b"b"));
    assert!(Filter::pass_all().is_pass_all() && !Filter::pass_all().rejects_row(b"x"));
}

#[test]
fn a_row_sample_takes_its_share_and_depends_on_the_seed() {
    let taken = |seed: u64, spec: &FilterSpec| -> Vec<u32> {
        let filter = Filter::compile(spec, &families(), seed).unwrap();
        (0..10_000_u32).filter(|n| !filter.rejects_row(&n.to_be_bytes())).collect()
    };
    let quarter = RowSample(0.25);
    let first = taken(1, &quarter);
    assert!((2300..2700).contains(&first.len()), "{}", first.len());
    assert_eq!(first, taken(1, &quarter));
    assert_ne!(first, taken(2, &quarter));
    let twice = taken(1, &Chain(vec![RowSample(0.5), RowSample(0.5)])).len();
    assert!((2300..2700).contains(&twice), "two samples draw apart: {twice}");
}

#[test]
fn filters_that_break_a_rule_are_refused_with_their_place() {
    let sink_within = Condition {
        predicate: Box::new(PassAll),
        on_true: Some(Box::new(Chain(vec![PassAll, Sink]))),
        on_false: None,
    };
    let range = |start: &'static str, end: &'static str, family: &str| ColumnRange {
        family: family.to_owned(),
        start: Bound::Included(start.into()),
        end: Bound::Excluded(end.into()),
    };
    let label = || Label("l".into());
    let wrong = [
        (Chain(vec![]), "Error in field 'chain' : Chain must contain at least two RowFilters"),
        (Chain(vec![PassAll]), "at least two"),
        (
            Interleave(vec![PassAll]),
            "Error in field 'interleave' : Interleave must contain at least two RowFilters",
        ),
        (
            sink_within,
            "Error in field 'condition' : Error in field 'true_filter' : Error in field 'chain' : Error in element #1 : Error in field 'sink' : ",
        ),
        (RowSample(0.0), "'row_sample_filter'"),
        (RowSample(1.0), "'row_sample_filter'"),
        (RowSample(f64::NAN), "'row_sample_filter'"),
        (FamilyNameRegex("a:b".into()), "':'"),
        (ColumnQualifierRegex("(".into()), "RE2"),
        (ValueRegex("((a{100}){100}){100}".into()), "memory"),
        (range("b", "a", "a"), "start_qualifier must be less than end_qualifier"),
        (range("a", "b", ""), "Length should be between [1,64], but found 0"),
        (
            TimestampRange(TimeBounds { start_micros: 1, end_micros: 0 }),
            "Error in field 'timestamp_range_filter' : Timestamp granularity mismatch",
        ),
        (TimestampRange(TimeBounds { start_micros: 2000, end_micros: 1000 }), "less than"),
        (ValueRange { start: Bound::Included("b".into()), end: Bound::Included("a".into()) }, "start_value"),
        (CellsPerRowOffset(-1), "negative"),
        (CellsPerRowLimit(-1), "negative"),
        (CellsPerColumnLimit(i32::MIN), "negative"),
        (Label(String::new()), "label"),
        (Label("Upper".into()), "label"),
        (Label("sixteen-letters-".into()), "label"),
        (Chain(vec![label(), label()]), "one filter at most"),
        (Chain(vec![label(), Interleave(vec![PassAll, label()])]), "one filter at most"),
    ];
    for (spec, text) in wrong {
        for spec in [spec.clone(), Chain(vec![PassAll, spec])] {
            let error = Filter::compile(&spec, &families(), 0).expect_err(text);
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
            assert!(error.message().contains(text), "{error}");
        }
    }
    for spec in [FamilyNameRegex("nope".into()), range("a", "b", "nope")] {
        let error = Filter::compile(&spec, &families(), 0).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.message().contains("Requested column family not found"), "{error}");
    }
}

#[test]
fn the_depth_of_a_filter_is_limited() {
    let nested = |depth: usize| (1..depth).fold(PassAll, |inner, _| Chain(vec![PassAll, inner]));
    Filter::compile(&nested(limits::FILTER_DEPTH), &families(), 0).unwrap();
    let error = Filter::compile(&nested(limits::FILTER_DEPTH + 1), &families(), 0).unwrap_err();
    assert!(error.message().contains("deeper than 20"), "{error}");
}

#[test]
fn filters_that_multiply_cells_without_end_are_stopped() {
    let double = Interleave(vec![PassAll, CellsPerRowLimit(i32::MAX)]);
    let filter = Filter::compile(&Chain(vec![double; 60]), &families(), 0).unwrap();
    assert_eq!(filter.apply(b"k", row()).unwrap_err().kind(), ErrorKind::ResourceExhausted);
}
