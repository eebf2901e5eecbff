//! Field maps and the log source of an event: plan in, matches out.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall stop")]

use ironpost_detect::{Compiled, RuleSet, Scratch};
use ironpost_events::{
    EventBatch, ExtractorSet, FieldTable, Format, Logsource, ParseOptions, Parser, SourceFacts,
};
use serde_json::{Value, json};
use std::sync::Arc;

fn told(product: Option<&str>, category: Option<&str>) -> Logsource {
    Logsource { product: product.map(Into::into), category: category.map(Into::into), service: None }
}

/// Ids of the rules that hold on each of the events, which are written as JSON and parsed by the engine.
fn found(plan: &Value, events: &[Value], source: Logsource) -> Vec<Vec<String>> {
    found_at(None, plan, events, source)
}

/// The same on a host whose own events are of product `home`.
fn found_at(home: Option<&str>, plan: &Value, events: &[Value], source: Logsource) -> Vec<Vec<String>> {
    let set = Arc::new(RuleSet::from_plan(plan.to_string().as_bytes()).unwrap());
    let table = FieldTable::new(set.field_names().map(str::to_owned));
    let mut compiled: Compiled = set.bind(Arc::clone(&table));
    if let Some(home) = home {
        compiled = compiled.at_home(home);
    }
    let options = ParseOptions { format: Format::Json, ..ParseOptions::default() };
    let parser = Parser::new(Arc::new(ExtractorSet::default()), Arc::clone(&table), options);
    let facts = parser.facts(&SourceFacts { fields: Vec::new(), logsource: source });
    let mut batch = EventBatch::new(table);
    let text: String = events.iter().map(|event| format!("{event}\n")).collect();
    parser.parse_lines(text.as_bytes(), 0, &facts, &mut batch);
    assert_eq!(batch.len(), events.len());
    let mut matches = Vec::new();
    compiled.evaluate(&batch, &mut Scratch::new(), &mut matches);
    let mut rules = vec![Vec::new(); events.len()];
    for found in matches {
        rules[found.row as usize].push(compiled.rule_id(found.rule).to_owned());
    }
    rules
}

fn mapped(op: &str, value: &Value, negated: bool) -> Value {
    let mut atom = json!({"atom": {"field": "Image", "op": op, "value": value}});
    if negated {
        atom = json!({"not": atom});
    }
    json!({
        "version": 1,
        "maps": [{
            "fields": {"Image": ["Image", ["process.executable", "process.path"]]},
            "forms": ["EventData.{}"],
        }],
        "rules": [{"id": "it", "map": 0, "condition": atom}],
    })
}

fn holds(plan: &Value, events: &[Value]) -> Vec<bool> {
    found(plan, events, Logsource::default()).iter().map(|rules| !rules.is_empty()).collect()
}

#[test]
fn every_name_of_a_field_carries_it() {
    let events = [
        json!({"Image": "/bin/a"}),
        json!({"EventData": {"Image": "/bin/a"}}),
        json!({"process": {"executable": "/bin/a"}}),
        json!({"process": {"path": "/bin/a"}}),
        json!({"process": {"name": "/bin/a"}}),
    ];
    for (op, value) in [
        ("equals", json!("/BIN/a")),
        ("endswith", json!("/a")),
        ("regex", json!("bin/.")),
        ("exists", Value::Null),
    ] {
        assert_eq!(holds(&mapped(op, &value, false), &events), [true, true, true, true, false], "{op}");
        assert_eq!(holds(&mapped(op, &value, true), &events), [false, false, false, false, true], "{op}");
    }
}

#[test]
fn the_first_name_with_a_value_counts_and_no_later_one() {
    let events = [
        json!({"process": {"executable": "/bin/late"}, "Image": "/bin/first"}),
        json!({"EventData": {"Image": "/bin/late"}, "process": {"executable": "/bin/later"}}),
        json!({"Image": null, "EventData": {"Image": "/bin/late"}}),
        json!({"Image": ""  , "EventData": {"Image": "/bin/late"}}),
    ];
    for op in ["equals", "regex"] {
        let plan = mapped(op, &json!("/bin/late"), false);
        assert_eq!(holds(&plan, &events), [false, true, true, false], "{op}");
        let plan = mapped(op, &json!("/bin/late"), true);
        assert_eq!(holds(&plan, &events), [true, false, false, true], "not {op}");
    }
}

#[test]
fn names_of_one_entry_are_looked_at_together() {
    let events = [json!({"process": {"executable": "/a", "path": "/b"}})];
    assert_eq!(holds(&mapped("equals", &json!("/a"), false), &events), [true]);
    assert_eq!(holds(&mapped("equals", &json!("/b"), false), &events), [true]);
}

#[test]
fn a_field_is_null_when_no_name_has_a_value_and_exists_when_one_is_there() {
    let events = [
        json!({"other": 1}),
        json!({"Image": null}),
        json!({"EventData": {"Image": null}}),
        json!({"Image": null, "process": {"path": "/b"}}),
        json!({"EventData": {"Image": ""}}),
    ];
    assert_eq!(holds(&mapped("null", &Value::Null, false), &events), [true, true, true, false, false]);
    assert_eq!(holds(&mapped("exists", &Value::Null, false), &events), [false, true, true, true, true]);
}

#[test]
fn rules_with_different_maps_for_one_name_do_not_share_an_answer() {
    let atom = json!({"atom": {"field": "User", "op": "equals", "value": "root"}});
    let other = json!({"atom": {"field": "login", "op": "fieldref", "value": "User"}});
    let plan = json!({
        "version": 1,
        "maps": [
            {"fields": {"User": ["User", "user.name"]}},
            {"fields": {"User": ["User", "user.effective.name"]}},
        ],
        "rules": [
            {"id": "name", "map": 0, "condition": atom},
            {"id": "effective", "map": 1, "condition": atom},
            {"id": "plain", "condition": atom},
            {"id": "name ref", "map": 0, "condition": other},
            {"id": "effective ref", "map": 1, "condition": other},
        ],
    });
    let event = json!({"user": {"name": "bob", "effective": {"name": "root"}}, "login": "bob"});
    assert_eq!(found(&plan, &[event], Logsource::default()), [["effective", "name ref"]]);
}

#[test]
fn an_unknown_map_is_refused_with_the_rule() {
    let plan = json!({"version": 1, "rules": [{"id": "lost", "map": 0, "condition": {"const": true}}]});
    let error = RuleSet::from_plan(plan.to_string().as_bytes()).unwrap_err();
    assert!(error.to_string().contains("rule lost"), "{error}");
}

/// One rule per log source that always holds, and two tables.
fn routed() -> Value {
    let rule = |id: &str, product: Value, category: Value, service: Value| {
        json!({
            "id": id, "condition": {"const": true},
            "logsource": {"product": product, "category": category, "service": service},
        })
    };
    let null = Value::Null;
    json!({
        "version": 1,
        "derive": [
            {
                "name": "windows", "keys": [["Channel", "winlog.channel"], ["EventID"]],
                "rows": [
                    {"when": [["Sysmon"], ["1"]], "is": {"product": ["windows"], "category": ["process"], "service": ["sysmon"]}},
                    {"when": [["Sysmon"], ["13"]], "is": {"product": ["windows"], "category": ["set", "registry"], "service": ["sysmon"]}},
                    {"when": [["Sysmon"], false], "is": {"product": ["windows"], "category": null, "service": ["sysmon"]}},
                    {"when": [["Power*", "Sysmon"], null], "is": {"product": ["windows"], "category": [], "service": ["other"]}},
                ],
            },
            {"name": "cloud", "keys": [["eventSource"]], "rows": [{"when": [true], "is": {"product": ["aws"], "category": [], "service": []}}]},
        ],
        "rules": [
            rule("any", null.clone(), null.clone(), null.clone()),
            rule("process", json!(["Windows"]), json!(["process"]), null.clone()),
            rule("set", null.clone(), json!(["set"]), null.clone()),
            rule("registry", json!(["windows"]), json!(["registry"]), null.clone()),
            rule("sysmon", json!(["windows"]), null.clone(), json!(["sysmon"])),
            rule("other", json!(["windows"]), null.clone(), json!(["other"])),
            rule("linux", json!(["linux"]), null.clone(), null.clone()),
            rule("aws", json!(["aws"]), null.clone(), null),
        ],
    })
}

#[test]
fn the_log_source_is_told_by_the_event() {
    let everything = vec!["any", "process", "set", "registry", "sysmon", "other", "linux", "aws"];
    let cases = [
        (json!({"Channel": "sysmon", "EventID": 1}), vec!["any", "process", "sysmon"]),
        (json!({"winlog": {"channel": "Sysmon"}, "EventID": "13"}), vec!["any", "set", "registry", "sysmon"]),
        (json!({"Channel": "Sysmon"}), vec!["any", "process", "set", "registry", "sysmon"]),
        (json!({"Channel": "Sysmon", "EventID": 99}), vec!["any", "other"]),
        (json!({"Channel": "PowerShell", "EventID": 1}), vec!["any", "other"]),
        (json!({"Channel": "Unheard", "eventSource": "s3"}), vec!["any", "aws"]),
        (json!({"Channel": "Unheard of"}), everything.clone()),
        (json!({"Channel": null, "EventID": 1}), everything.clone()),
        (json!({"message": "nothing to tell"}), everything),
    ];
    for (event, rules) in cases {
        assert_eq!(found(&routed(), std::slice::from_ref(&event), Logsource::default()), [rules], "{event}");
    }
}

#[test]
fn what_was_told_of_the_source_stands() {
    let event = json!({"Channel": "Sysmon", "EventID": 1});
    let found = |source| found(&routed(), std::slice::from_ref(&event), source).remove(0);
    assert_eq!(found(told(Some("windows"), None)), ["any", "process", "sysmon"]);
    // The event says windows, the operator says linux: the claim takes no rule for linux away, it only adds.
    assert_eq!(found(told(Some("linux"), None)), ["any", "process", "set", "sysmon", "linux"]);
    assert_eq!(found(told(None, Some("set"))), ["any", "set", "sysmon", "other", "linux", "aws"]);
}

#[test]
fn a_claim_adds_rules_and_takes_none_away() {
    let always = json!({"const": true});
    let rule = |id: &str, logsource: Value| json!({"id": id, "logsource": logsource, "condition": always});
    let plan = json!({
        "version": 1,
        "derive": [{
            "name": "channels", "keys": [["Channel"]],
            "rows": [
                {"when": [["win"]], "is": {"product": ["windows"], "category": [], "service": ["security"]}},
                {"when": [["lin"]], "is": {"product": ["linux"], "category": [], "service": ["sysmon"]}},
            ],
        }],
        "rules": [
            rule("windows", json!({"product": ["windows"]})),
            rule("linux", json!({"product": ["linux"]})),
            rule("linux_auth", json!({"product": ["linux"], "service": ["auth"]})),
            rule("windows_other", json!({"product": ["windows"], "service": ["system"]})),
            rule("django", json!({"product": ["django"]})),
        ],
    });
    let events = [json!({"Channel": "win"}), json!({"Channel": "lin"}), json!({"Channel": "x"})];
    let all = ["windows", "linux", "linux_auth", "windows_other", "django"];
    let (linux, both) = (["linux", "linux_auth"], ["windows", "linux", "linux_auth"]);
    let at_home = found_at(Some("linux"), &plan, &events, Logsource::default());
    assert_eq!(at_home, [&both[..], &["linux"], &all]);
    let of_linux = found(&plan, &events, told(Some("linux"), None));
    assert_eq!(of_linux, [&both[..], &["linux"], &linux]);
    let unknown = found(&plan, &events, Logsource::default());
    assert_eq!(unknown, [&["windows"][..], &["linux"], &all]);
    let elsewhere = found_at(Some("linux"), &plan, &events, told(Some("windows"), None));
    assert_eq!(elsewhere[0], ["windows"], "what is told stands before what is at home");
}

#[test]
fn values_of_any_length_are_read() {
    let long = "PowerShell".repeat(100);
    let event = json!({"Channel": long, "EventID": 1});
    assert_eq!(found(&routed(), &[event], Logsource::default()), [["any", "other"]]);
}

#[test]
fn a_table_that_would_fill_memory_is_refused() {
    let texts: Vec<String> = (0..600).map(|number| number.to_string()).collect();
    let plan = json!({
        "version": 1,
        "derive": [{
            "name": "wide", "keys": [["a"], ["b"]],
            "rows": [{"when": [texts.clone(), texts], "is": {"product": ["windows"]}}],
        }],
    });
    let error = RuleSet::from_plan(plan.to_string().as_bytes()).unwrap_err();
    assert!(error.to_string().contains("wide"), "{error}");
}
