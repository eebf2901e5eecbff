//! Plans of all shapes, most of them wrong: refused with a reason or executed, and then the fast way agrees with itself.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall stop")]

use ironpost_detect::{Correlator, Explainer, RuleSet, Scratch, SourcePosition};
use ironpost_events::{EventBatch, ExtractorSet, FieldTable, Format, ParseOptions, Parser, SourceFacts};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use serde_json::{Value, json};
use std::sync::Arc;

fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(|number| json!(number)),
        ".{0,6}".prop_map(Value::from),
        prop::sample::select(vec!["10.0.0.0/8", "::/0", "(a+)+$", "[", "a{9,99999}", "(?=a)", "f", "équals"])
            .prop_map(Value::from),
        Just(json!({"wild": "*"})),
        Just(json!({"wild": "?"})),
        Just(json!({"field": "g", "match": "contains"})),
        Just(json!({"part": "hour", "compare": "gte", "number": 3})),
    ];
    leaf.prop_recursive(2, 8, 4, |inner| prop::collection::vec(inner, 0..4).prop_map(Value::from))
}

fn atoms() -> impl Strategy<Value = Value> {
    let op = prop::sample::select(vec![
        "equals",
        "contains",
        "startswith",
        "endswith",
        "wildcard",
        "regex",
        "cidr",
        "exists",
        "null",
        "lt",
        "gte",
        "fieldref",
        "timepart",
        "nonsense",
    ]);
    let field = prop::sample::select(vec![json!("f"), json!("g"), json!(""), json!("f.g"), Value::Null]);
    (field, op, values(), any::<bool>())
        .prop_map(|(field, op, value, cased)| json!({"atom": {"field": field, "op": op, "value": value, "cased": cased}}))
}

/// Atoms that are no reason to refuse a plan.
fn sound_atoms() -> impl Strategy<Value = Value> {
    let field = || prop::sample::select(vec!["f", "g", "f.g"]);
    let text = prop::sample::select(vec!["equals", "contains", "startswith", "endswith"]);
    let part = prop_oneof![
        "[aä]{1,2}".prop_map(Value::from),
        Just(json!({"wild": "*"})),
        Just(json!({"wild": "?"}))
    ];
    prop_oneof![
        (field(), text, "[aAä ]{0,3}")
            .prop_map(|(field, op, value)| json!({"field": field, "op": op, "value": value})),
        (field(), prop::collection::vec(part, 1..5))
            .prop_map(|(field, parts)| json!({"field": field, "op": "wildcard", "value": parts})),
        (field(), any::<i64>())
            .prop_map(|(field, number)| json!({"field": field, "op": "lt", "value": number})),
        (field(), prop::sample::select(vec!["exists", "null"]))
            .prop_map(|(field, op)| json!({"field": field, "op": op})),
        field().prop_map(|field| json!({"field": field, "op": "regex", "value": "(a+)+$"})),
        field().prop_map(|field| json!({"field": field, "op": "fieldref", "value": "g"})),
    ]
    .prop_map(|atom| json!({ "atom": atom }))
}

fn expressions() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        24 => sound_atoms(),
        1 => atoms(),
        1 => any::<bool>().prop_map(|flag| json!({"const": flag})),
        1 => prop::sample::select(vec!["one", "one", "one", "two"]).prop_map(|name| json!({"ref": name})),
    ];
    leaf.prop_recursive(4, 16, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(|parts| json!({"and": parts})),
            prop::collection::vec(inner.clone(), 0..3).prop_map(|parts| json!({"or": parts})),
            inner.prop_map(|part| json!({"not": part})),
        ]
    })
}

fn plans() -> impl Strategy<Value = Value> {
    let rule = (prop_oneof![3 => sound_atoms(), 1 => expressions()], expressions(), any::<bool>()).prop_map(|(one, condition, emit)| {
        json!({"detections": {"one": one}, "condition": condition, "emit": emit, "entity": ["f"], "fields": ["g", "h"]})
    });
    let kind = prop::sample::select(vec![
        "event_count",
        "event_count",
        "value_count",
        "temporal",
        "temporal_ordered",
        "value_sum",
    ]);
    let correlation = (
        kind,
        prop::sample::select(vec!["r0", "r1", "c0", "gone"]),
        any::<i64>(),
        -2.0f64..6.0,
    )
        .prop_map(|(kind, rule, timespan, limit)| {
            json!({"type": kind, "rules": [rule], "group_by": ["f"], "field": ["g"], "timespan_ns": timespan,
                   "condition": {"gte": limit}})
        });
    (
        prop::collection::vec(rule, 0..4),
        prop_oneof![2 => Just(vec![]), 1 => prop::collection::vec(correlation, 1..3)],
    )
        .prop_map(|(mut rules, mut counts)| {
            for (index, rule) in rules.iter_mut().enumerate() {
                rule["id"] = json!(format!("r{index}"));
            }
            for (index, count) in counts.iter_mut().enumerate() {
                count["id"] = json!(format!("c{index}"));
            }
            json!({"version": 1, "rules": rules, "correlations": counts})
        })
}

fn events() -> impl Strategy<Value = Vec<u8>> {
    let event = prop::collection::btree_map(prop::sample::select(vec!["f", "g", "f.g", "h"]), values(), 0..4);
    let line = prop_oneof![
        8 => event.prop_map(|fields| serde_json::to_vec(&fields).unwrap()),
        1 => prop::collection::vec(any::<u8>(), 0..40),
    ];
    prop::collection::vec(line, 1..6).prop_map(|lines| lines.join(&b'\n'))
}

/// Rows and rules that match, or `None` when the plan is refused.
fn run(plan: &Value, lines: &[&[u8]]) -> Option<Vec<(u32, u32)>> {
    let text = plan.to_string();
    let set = Arc::new(RuleSet::from_plan(text.as_bytes()).ok()?);
    Explainer::from_plan(text.as_bytes()).unwrap();
    let table = FieldTable::new(set.field_names().map(str::to_owned));
    let compiled = Arc::new(set.bind(Arc::clone(&table)));
    let options = ParseOptions { format: Format::Json, ..ParseOptions::default() };
    let parser = Parser::new(Arc::new(ExtractorSet::default()), Arc::clone(&table), options);
    let facts = parser.facts(&SourceFacts::default());
    let mut batch = EventBatch::new(table);
    for (position, line) in lines.iter().enumerate() {
        parser.parse_record(line, position as u64, &facts, &mut batch);
    }
    let mut found = Vec::new();
    compiled.evaluate(&batch, &mut Scratch::new(), &mut found);
    let mut correlator = Correlator::new(compiled);
    correlator.observe(&batch, &found, &SourcePosition { source: "x", received: None }, &mut Vec::new());
    Some(found.iter().map(|found| (found.row, found.rule)).collect())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    #[test]
    fn a_plan_is_refused_or_executed_and_events_do_not_disturb_one_another(plan in plans(), data in events()) {
        let lines: Vec<&[u8]> =
            data.split(|&byte| byte == b'\n').filter(|line| !line.trim_ascii().is_empty()).collect();
        if let Some(together) = run(&plan, &lines) {
            let mut alone = Vec::new();
            for (row, line) in lines.iter().enumerate() {
                let found = run(&plan, &[line]).unwrap();
                alone.extend(found.into_iter().map(|(_, rule)| (u32::try_from(row).unwrap(), rule)));
            }
            prop_assert_eq!(together, alone);
        }
    }

    #[test]
    fn any_json_and_any_bytes_are_no_plan_that_panics(value in values(), bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        let _ = RuleSet::from_plan(value.to_string().as_bytes());
        let _ = RuleSet::from_plan(&bytes);
        let _ = RuleSet::from_plan(json!({"version": 1, "rules": value}).to_string().as_bytes());
    }
}

#[test]
fn a_third_of_the_plans_are_executed() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let accepted = (0..400)
        .filter(|_| run(&plans().new_tree(&mut runner).unwrap().current(), &[b"{}"]).is_some())
        .count();
    assert!(accepted > 133, "{accepted} of 400");
}

#[test]
fn a_rule_beyond_the_fields_of_an_engine_is_refused_by_name() {
    let rule = |id: &str, fields: std::ops::Range<usize>| {
        let atom = |n| json!({"atom": {"field": format!("f{n}"), "op": "equals", "value": "x"}});
        json!({"id": id, "condition": {"or": fields.map(atom).collect::<Vec<_>>()}})
    };
    let plan =
        |rules: Value| RuleSet::from_plan(json!({"version": 1, "rules": rules}).to_string().as_bytes());
    let most = ironpost_detect::MAX_FIELDS;
    let full = plan(json!([rule("full", 0..most), rule("known", 0..9)])).unwrap();
    let table = FieldTable::new(full.field_names());
    assert!(full.field_names().all(|name| table.id(name).is_some()), "every name has an id");
    let error = plan(json!([rule("full", 0..most), rule("over", most..most + 1)])).unwrap_err();
    assert!(error.to_string().starts_with("rule over: "), "{error}");
    assert!(error.to_string().contains("60000"), "{error}");
}
