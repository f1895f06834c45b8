//! Tests of what is taken, how it comes out, and what is refused.

use claviger_bigtable::model::{Family, FamilyId, Filter};
use claviger_core::ErrorKind;
use pb::row_filter::{Chain, Condition, Filter as Kind, Interleave};

use super::*;

fn families() -> Families {
    Families::new(vec![Family { id: FamilyId(7), name: "cf".into(), gc: None }]).unwrap()
}

fn spec(kind: Kind) -> Result<FilterSpec> {
    filter(wrap(kind))
}

fn wrap(kind: Kind) -> pb::RowFilter {
    pb::RowFilter { filter: Some(kind) }
}

#[test]
fn all_twenty_filters_come_through() {
    use pb::column_range::{EndQualifier, StartQualifier};
    use pb::value_range::{EndValue, StartValue};
    let columns = pb::ColumnRange {
        family_name: "cf".into(),
        start_qualifier: Some(StartQualifier::StartQualifierOpen("a".into())),
        end_qualifier: Some(EndQualifier::EndQualifierClosed("b".into())),
    };
    let values = pb::ValueRange {
        start_value: Some(StartValue::StartValueClosed("a".into())),
        end_value: Some(EndValue::EndValueOpen(Bytes::new())),
    };
    let times = pb::TimestampRange { start_timestamp_micros: 1000, end_timestamp_micros: 0 };
    let condition =
        Condition { predicate_filter: Some(Box::new(wrap(Kind::PassAllFilter(true)))), ..Default::default() };
    let simple = [
        (Kind::Sink(true), FilterSpec::Sink),
        (Kind::PassAllFilter(true), FilterSpec::PassAll),
        (Kind::BlockAllFilter(true), FilterSpec::BlockAll),
        (Kind::RowKeyRegexFilter("k".into()), FilterSpec::RowKeyRegex("k".into())),
        (Kind::RowSampleFilter(0.5), FilterSpec::RowSample(0.5)),
        (Kind::FamilyNameRegexFilter("cf".into()), FilterSpec::FamilyNameRegex("cf".into())),
        (Kind::ColumnQualifierRegexFilter("q".into()), FilterSpec::ColumnQualifierRegex("q".into())),
        (
            Kind::ColumnRangeFilter(columns),
            FilterSpec::ColumnRange {
                family: "cf".into(),
                start: Bound::Excluded("a".into()),
                end: Bound::Included("b".into()),
            },
        ),
        (
            Kind::TimestampRangeFilter(times),
            FilterSpec::TimestampRange(TimestampRange { start_micros: 1000, end_micros: 0 }),
        ),
        (Kind::ValueRegexFilter("v".into()), FilterSpec::ValueRegex("v".into())),
        (
            Kind::ValueRangeFilter(values),
            FilterSpec::ValueRange { start: Bound::Included("a".into()), end: Bound::Unbounded },
        ),
        (Kind::CellsPerRowOffsetFilter(1), FilterSpec::CellsPerRowOffset(1)),
        (Kind::CellsPerRowLimitFilter(2), FilterSpec::CellsPerRowLimit(2)),
        (Kind::CellsPerColumnLimitFilter(3), FilterSpec::CellsPerColumnLimit(3)),
        (Kind::StripValueTransformer(true), FilterSpec::StripValue),
        (Kind::ApplyLabelTransformer("l".into()), FilterSpec::Label("l".into())),
        (
            Kind::ValueBitmaskFilter(pb::ValueBitmask { mask: "m".into() }),
            FilterSpec::ValueBitmask("m".into()),
        ),
        (
            Kind::Condition(Box::new(condition)),
            FilterSpec::Condition { predicate: Box::new(FilterSpec::PassAll), on_true: None, on_false: None },
        ),
    ];
    for (message, want) in simple.clone() {
        assert_eq!(spec(message).unwrap(), want);
        Filter::compile(&want, &families(), 0).unwrap();
    }
    let (messages, wants): (Vec<_>, Vec<_>) =
        simple.into_iter().map(|(kind, want)| (wrap(kind), want)).unzip();
    assert_eq!(
        spec(Kind::Chain(Chain { filters: messages.clone() })).unwrap(),
        FilterSpec::Chain(wants.clone())
    );
    assert_eq!(
        spec(Kind::Interleave(Interleave { filters: messages })).unwrap(),
        FilterSpec::Interleave(wants)
    );
    assert_eq!(filter(pb::RowFilter::default()).unwrap(), FilterSpec::PassAll);
}

#[test]
fn filters_that_say_nothing_or_nest_too_deep_are_refused() {
    for kind in [
        Kind::Sink(false),
        Kind::PassAllFilter(false),
        Kind::BlockAllFilter(false),
        Kind::StripValueTransformer(false),
    ] {
        assert!(spec(kind).unwrap_err().message().contains("must be true if set"));
    }
    let empty =
        Kind::Chain(Chain { filters: vec![wrap(Kind::PassAllFilter(true)), pb::RowFilter::default()] });
    let error = spec(empty).unwrap_err();
    assert!(error.message().starts_with("Error in field 'chain' : Error in element #1 : "), "{error}");
    let error = spec(Kind::Condition(Box::default())).unwrap_err();
    assert!(error.message().contains("predicate_filter must be set"), "{error}");
    let deep = (0..90).fold(wrap(Kind::PassAllFilter(true)), |inner, _| {
        wrap(Kind::Chain(Chain { filters: vec![wrap(Kind::PassAllFilter(true)), inner] }))
    });
    assert!(filter(deep).unwrap_err().message().contains("deeper than 20"));
}

#[test]
fn mutations_find_their_families_and_what_is_not_built_says_so() {
    use pb::mutation::{
        AddToCell, DeleteFromColumn, DeleteFromFamily, DeleteFromRow, MergeToCell, Mutation as Change,
        SetCell,
    };
    let convert = |changes: Vec<Option<Change>>| {
        let changes =
            changes.into_iter().map(|mutation| pb::Mutation { mutation, ..Default::default() }).collect();
        mutations(changes, &families())
    };
    let set = |family: &str| {
        let (family_name, column_qualifier) = (family.to_owned(), "q".into());
        Change::SetCell(SetCell { family_name, column_qualifier, timestamp_micros: -1, value: "v".into() })
    };
    let time_range = Some(pb::TimestampRange { start_timestamp_micros: 1000, end_timestamp_micros: 2000 });
    let delete = DeleteFromColumn { family_name: "cf".into(), column_qualifier: "q".into(), time_range };
    let all = vec![
        Some(set("cf")),
        Some(Change::DeleteFromColumn(delete.clone())),
        Some(Change::DeleteFromColumn(DeleteFromColumn { time_range: None, ..delete })),
        Some(Change::DeleteFromFamily(DeleteFromFamily { family_name: "cf".into() })),
        Some(Change::DeleteFromRow(DeleteFromRow {})),
    ];
    let family = FamilyId(7);
    let range = TimestampRange { start_micros: 1000, end_micros: 2000 };
    let want = [
        Mutation::SetCell { family, qualifier: "q".into(), timestamp_micros: -1, value: "v".into() },
        Mutation::DeleteFromColumn { family, qualifier: "q".into(), range },
        Mutation::DeleteFromColumn { family, qualifier: "q".into(), range: TimestampRange::default() },
        Mutation::DeleteFromFamily { family },
        Mutation::DeleteFromRow,
    ];
    assert_eq!(convert(all).unwrap(), want);

    let error = convert(vec![Some(set("cf")), Some(set("nope"))]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(
        error.message().starts_with("Error in field 'Mutation list' : Error in element #1 : "),
        "{error}"
    );
    assert!(error.message().ends_with("Requested column family not found."), "{error}");
    assert_eq!(convert(vec![None]).unwrap_err().kind(), ErrorKind::InvalidArgument);
    for aggregate in [Change::AddToCell(AddToCell::default()), Change::MergeToCell(MergeToCell::default())] {
        assert_eq!(convert(vec![Some(aggregate)]).unwrap_err().kind(), ErrorKind::Unimplemented);
    }
}

#[test]
fn rules_come_through() {
    use pb::read_modify_write_rule::Rule as Change;
    let message = |family: &str, rule| pb::ReadModifyWriteRule {
        family_name: family.into(),
        column_qualifier: "q".into(),
        rule,
    };
    let got = rules(
        vec![
            message("cf", Some(Change::AppendValue("x".into()))),
            message("cf", Some(Change::IncrementAmount(-1))),
        ],
        &families(),
    );
    let want = [RuleChange::Append("x".into()), RuleChange::Increment(-1)];
    assert_eq!(got.unwrap().into_iter().map(|rule| rule.change).collect::<Vec<_>>(), want);
    assert_eq!(rules(vec![message("cf", None)], &families()).unwrap_err().kind(), ErrorKind::InvalidArgument);
    let unknown = rules(vec![message("x", Some(Change::IncrementAmount(1)))], &families()).unwrap_err();
    assert_eq!(unknown.kind(), ErrorKind::NotFound);
}

#[test]
fn row_sets_come_through() {
    use pb::row_range::{EndKey, StartKey};
    assert!(row_set(None).unwrap().is_all() && row_set(Some(pb::RowSet::default())).unwrap().is_all());
    let range = pb::RowRange {
        start_key: Some(StartKey::StartKeyOpen("a".into())),
        end_key: Some(EndKey::EndKeyClosed("c".into())),
    };
    let rows = row_set(Some(pb::RowSet { row_keys: vec!["x".into()], row_ranges: vec![range] })).unwrap();
    for (key, inside) in [("a", false), ("b", true), ("c", true), ("d", false), ("x", true)] {
        assert_eq!(rows.contains(key.as_bytes()), inside, "{key}");
    }
    let wrong = pb::RowSet { row_keys: vec![Bytes::new()], row_ranges: vec![] };
    assert_eq!(row_set(Some(wrong)).unwrap_err().kind(), ErrorKind::InvalidArgument);
}

#[test]
fn garbage_collection_rules_go_there_and_back() {
    use admin::gc_rule::{Rule as Kind, Union};
    let rule = GcRule::Union(vec![
        GcRule::MaxVersions(3),
        GcRule::Intersection(vec![GcRule::MaxAge(Duration::from_millis(1500)), GcRule::MaxVersions(1)]),
    ]);
    let family = Family { id: FamilyId(1), name: "cf".into(), gc: Some(rule.clone()) };
    assert_eq!(family_from_pb("cf", family_to_pb(&family)).unwrap(), Some(rule));
    let none = Family { gc: None, ..family };
    assert_eq!(family_from_pb("cf", family_to_pb(&none)).unwrap(), None);
    assert_eq!(gc_rule(Some(admin::GcRule::default())).unwrap(), None);

    let wrap = |kind| admin::GcRule { rule: Some(kind) };
    let age = |seconds, nanos| wrap(Kind::MaxAge(prost_types::Duration { seconds, nanos }));
    let many = wrap(Kind::Union(Union { rules: vec![age(1, 0); 200] }));
    let hollow = wrap(Kind::Union(Union { rules: vec![admin::GcRule::default()] }));
    for wrong in [
        wrap(Kind::MaxNumVersions(0)),
        wrap(Kind::MaxNumVersions(-1)),
        age(0, 0),
        age(-1, 0),
        age(1, -1),
        age(0, 999_999),
        many,
        hollow,
    ] {
        let error = gc_rule(Some(wrong)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.message().contains("gc_rule"), "{error}");
    }
    assert!(family_from_pb("a:b", admin::ColumnFamily::default()).is_err());
    let kind = Some(admin::r#type::Kind::AggregateType(Box::default()));
    let aggregate = admin::ColumnFamily { value_type: Some(admin::Type { kind }), ..Default::default() };
    assert_eq!(family_from_pb("cf", aggregate).unwrap_err().kind(), ErrorKind::Unimplemented);
}
