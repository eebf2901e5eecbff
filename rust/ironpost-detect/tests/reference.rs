//! The engine against an evaluator that does everything the slow and obvious way.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall stop")]

use ironpost_detect::{RuleSet, Scratch};
use ironpost_events::{Cell, EventBatch, FieldTable, Logsource, Span, ValueKind};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::sync::Arc;

type Event = Vec<(&'static str, Option<String>)>;

const FIELDS: [&str; 3] = ["a", "b", "c"];
/// Few letters, so that needles are found and overlap; long and short needles, wide characters.
const ALPHABET: &str = "[aAbB\u{e4}\u{c4}*.]{0,5}|[ab]{0,3}(aabbabababba|bbbbaaabbb|abababababab)[aB]{0,2}";

fn atoms() -> impl Strategy<Value = Value> {
    let field = prop::sample::select(vec![Some("a"), Some("b"), Some("c"), Some("missing"), None]);
    let text = prop::sample::select(vec!["equals", "contains", "startswith", "endswith"]);
    prop_oneof![
        8 => (field.clone(), text, ALPHABET, any::<bool>())
            .prop_map(|(field, op, value, cased)| json!({"field": field, "op": op, "value": value, "cased": cased})),
        4 => (field.clone(), prop::collection::vec(prop_oneof![
                "[aAbB\u{e4}]{1,2}".prop_map(Value::from), Just(json!({"wild": "*"})), Just(json!({"wild": "?"}))
            ], 1..5), any::<bool>())
            .prop_map(|(field, parts, cased)| json!({"field": field, "op": "wildcard", "value": parts, "cased": cased})),
        2 => (field, prop::sample::select(vec!["a+b", "(?i)ab|ba", "^b", "a.{1,2}b$", "(ab|ba)(a|b)", "(?i)aab"]))
            .prop_map(|(field, pattern)| json!({"field": field, "op": "regex", "value": pattern})),
        1 => prop::sample::select(vec!["a", "b", "missing"])
            .prop_map(|field| json!({"field": field, "op": "null"})),
        1 => prop::sample::select(vec!["a", "b", "missing"])
            .prop_map(|field| json!({"field": field, "op": "exists", "value": true})),
        1 => (prop::sample::select(vec!["a", "b"]), prop::sample::select(vec!["equals", "contains", "startswith"]), any::<bool>())
            .prop_map(|(field, how, cased)| json!({"field": field, "op": "fieldref", "value": {"field": "c", "match": how}, "cased": cased})),
    ]
}

fn expressions() -> impl Strategy<Value = Value> {
    atoms().prop_map(|atom| json!({ "atom": atom })).prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 1..4).prop_map(|parts| json!({ "and": parts })),
            prop::collection::vec(inner.clone(), 1..4).prop_map(|parts| json!({ "or": parts })),
            inner.prop_map(|part| json!({ "not": part })),
        ]
    })
}

fn events() -> impl Strategy<Value = Event> {
    prop::collection::vec(
        (prop::sample::select(FIELDS.to_vec()), prop::option::weighted(0.9, ALPHABET)),
        0..5,
    )
}

fn fold(text: &str) -> Vec<char> {
    text.chars().map(|c| c.to_lowercase().next().unwrap()).collect()
}

/// Glob by trying every length for `*`.
fn glob(parts: &[Value], text: &[char], cased: bool) -> bool {
    let Some((first, rest)) = parts.split_first() else { return text.is_empty() };
    match first.as_str() {
        Some(literal) => {
            let literal: Vec<char> = if cased { literal.chars().collect() } else { fold(literal) };
            text.starts_with(&literal) && glob(rest, &text[literal.len()..], cased)
        }
        None if first["wild"] == "?" => !text.is_empty() && glob(rest, &text[1..], cased),
        None => (0..=text.len()).any(|skip| glob(rest, &text[skip..], cased)),
    }
}

fn compare(op: &str, text: &[char], needle: &[char]) -> bool {
    match op {
        "equals" => text == needle,
        "startswith" => text.starts_with(needle),
        "endswith" => text.ends_with(needle),
        _ => needle.is_empty() || text.windows(needle.len()).any(|window| window == needle),
    }
}

fn naive_atom(atom: &Value, event: &Event) -> bool {
    let values: Vec<&Option<String>> = match atom["field"].as_str() {
        Some(field) => event.iter().filter(|(name, _)| *name == field).map(|(_, value)| value).collect(),
        None => event.iter().map(|(_, value)| value).collect(),
    };
    let cased = atom["cased"] == true;
    let letters = |text: &str| if cased { text.chars().collect() } else { fold(text) };
    let texts = || values.iter().filter_map(|value| value.as_deref());
    match atom["op"].as_str().unwrap() {
        "null" => values.iter().all(|value| value.is_none()) || values.iter().any(|value| value.is_none()),
        "exists" => !values.is_empty(),
        "wildcard" => texts().any(|text| glob(atom["value"].as_array().unwrap(), &letters(text), cased)),
        "regex" => {
            let regex = regex::Regex::new(atom["value"].as_str().unwrap()).unwrap();
            texts().any(|text| regex.is_match(text))
        }
        "fieldref" => {
            let how = atom["value"]["match"].as_str().unwrap();
            texts().any(|text| {
                let mut others =
                    event.iter().filter(|(name, _)| *name == "c").filter_map(|(_, value)| value.as_deref());
                others.any(|other| compare(how, &letters(text), &letters(other)))
            })
        }
        op => texts().any(|text| compare(op, &letters(text), &letters(atom["value"].as_str().unwrap()))),
    }
}

fn naive(expr: &Value, event: &Event) -> bool {
    let (kind, inner) = expr.as_object().unwrap().iter().next().unwrap();
    match kind.as_str() {
        "and" => inner.as_array().unwrap().iter().all(|part| naive(part, event)),
        "or" => inner.as_array().unwrap().iter().any(|part| naive(part, event)),
        "not" => !naive(inner, event),
        _ => naive_atom(inner, event),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Many rules at once over many events at once: shared automata, witnesses and remembered answers change nothing.
    #[test]
    fn the_engine_agrees_with_the_naive_evaluator(
        rules in prop::collection::vec(expressions(), 1..12),
        events in prop::collection::vec(events(), 1..12),
    ) {
        let plan = json!({"version": 1, "rules": rules.iter().enumerate()
            .map(|(index, condition)| json!({"id": format!("r{index}"), "condition": condition})).collect::<Vec<_>>()});
        let set = Arc::new(RuleSet::from_plan(plan.to_string().as_bytes()).unwrap());
        let table = FieldTable::new(set.field_names().map(str::to_owned).chain(FIELDS.map(str::to_owned)));
        let compiled = set.bind(Arc::clone(&table));
        let mut batch = EventBatch::new(table);
        for event in &events {
            for (name, value) in event {
                let span = batch.append(value.as_deref().unwrap_or("").as_bytes()).unwrap();
                let kind = if value.is_some() { ValueKind::Text } else { ValueKind::Null };
                let field = batch.fields().id(name).unwrap();
                batch.push_cell(Cell { field, kind, name: Span::default(), value: span });
            }
            // A raw record no keyword can be in, and at a place no value has.
            let raw = batch.append(b"{}").unwrap();
            let source = batch.logsource_id(&Logsource::default());
            batch.finish_row(raw, None, 0, source, 1, "test");
        }
        // Working memory is kept from batch to batch and must carry nothing over.
        let mut scratch = Scratch::new();
        let rounds: Vec<Vec<(usize, usize)>> = (0..2)
            .map(|_| {
                let mut found = Vec::new();
                compiled.evaluate(&batch, &mut scratch, &mut found);
                found.iter().map(|found| (found.row as usize, found.rule as usize)).collect()
            })
            .collect();
        let mut expected = Vec::new();
        for (row, event) in events.iter().enumerate() {
            for (rule, condition) in rules.iter().enumerate() {
                if naive(condition, event) {
                    expected.push((row, rule));
                }
            }
        }
        for found in rounds {
            prop_assert_eq!(&found, &expected);
        }
    }
}
