//! Text and wildcard conditions on any bytes give what the slow, obvious comparison gives.
#![no_main]

use ironpost_detect::{RuleSet, Scratch};
use ironpost_events::{Cell, EventBatch, FieldTable, Logsource, Span, ValueKind};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};
use std::sync::Arc;

#[derive(Arbitrary, Debug)]
enum Part {
    Text(String),
    Letter(bool),
    Many,
    One,
}

#[derive(Arbitrary, Debug)]
struct Input {
    patterns: Vec<(Vec<Part>, bool)>,
    values: Vec<Vec<u8>>,
}

/// One character, lower-cased when it has one lower-case character, or one byte that is no text.
fn letters(text: &[u8], cased: bool) -> Vec<u32> {
    let mut made = Vec::new();
    for chunk in text.utf8_chunks() {
        for character in chunk.valid().chars() {
            let lower: Vec<char> = character.to_lowercase().collect();
            made.push(match (character, lower.as_slice()) {
                _ if cased => character,
                ('ſ', _) => 's',
                ('ς', _) => 'σ',
                (_, [single]) => *single,
                _ => character,
            } as u32);
        }
        made.extend(chunk.invalid().iter().map(|&byte| 0x11_0000 + u32::from(byte)));
    }
    made
}

#[derive(Clone, Copy, PartialEq)]
enum Token {
    Letter(u32),
    Many,
    One,
}

/// Which prefixes of the text fit, pattern token by pattern token.
fn fits(pattern: &[Token], text: &[u32]) -> bool {
    let mut fitting = vec![false; text.len() + 1];
    fitting[0] = true;
    for token in pattern {
        let mut next = vec![false; text.len() + 1];
        for at in 0..=text.len() {
            next[at] = match token {
                Token::Many => fitting[at] || (at > 0 && next[at - 1]),
                Token::One => at > 0 && fitting[at - 1],
                Token::Letter(letter) => at > 0 && fitting[at - 1] && text[at - 1] == *letter,
            };
        }
        fitting = next;
    }
    fitting[text.len()]
}

fuzz_target!(|input: Input| {
    let mut rules = Vec::new();
    let mut patterns = Vec::new();
    for (parts, cased) in &input.patterns {
        let mut value = Vec::new();
        let mut tokens = Vec::new();
        for part in parts {
            let text = match part {
                Part::Many | Part::One => {
                    let many = matches!(part, Part::Many);
                    value.push(json!({"wild": if many { "*" } else { "?" }}));
                    tokens.push(if many { Token::Many } else { Token::One });
                    continue;
                }
                Part::Text(text) => text.as_str(),
                Part::Letter(upper) => if *upper { "A" } else { "b" },
            };
            value.push(Value::from(text));
            tokens.extend(letters(text.as_bytes(), *cased).into_iter().map(Token::Letter));
        }
        if value.is_empty() {
            return;
        }
        let atom = json!({"field": "f", "op": "wildcard", "value": value, "cased": cased});
        rules.push(json!({"id": rules.len().to_string(), "condition": {"atom": atom}}));
        patterns.push((tokens, *cased));
    }
    let plan = json!({"version": 1, "rules": rules}).to_string();
    let set = Arc::new(RuleSet::from_plan(plan.as_bytes()).expect("the plan is one"));
    let table = FieldTable::new(["f"]);
    let compiled = set.bind(Arc::clone(&table));
    let mut batch = EventBatch::new(table);
    let field = batch.fields().id("f").expect("the table has it");
    for bytes in &input.values {
        let value = batch.append(bytes).expect("a small batch");
        batch.push_cell(Cell { field, kind: ValueKind::Text, name: Span::default(), value });
        let source = batch.logsource_id(&Logsource::default());
        batch.finish_row(Span::default(), None, 0, source, 1, "fuzz");
    }
    let mut found = Vec::new();
    compiled.evaluate(&batch, &mut Scratch::new(), &mut found);
    let found: Vec<(usize, usize)> = found.iter().map(|found| (found.row as usize, found.rule as usize)).collect();
    let mut expected = Vec::new();
    for (row, bytes) in input.values.iter().enumerate() {
        for (rule, (tokens, cased)) in patterns.iter().enumerate() {
            if fits(tokens, &letters(bytes, *cased)) {
                expected.push((row, rule));
            }
        }
    }
    assert_eq!(found, expected);
});
