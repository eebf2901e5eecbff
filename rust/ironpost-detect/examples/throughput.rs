//! Events per CPU second of one thread: `throughput PLAN INPUT [FORMAT [EXTRACTORS [SOURCES]]]`.
//!
//! PLAN is a rule plan (`RuleSet.plan` in Python), INPUT a file of records, EXTRACTORS an extractor plan or `-`. SOURCES has
//! one line `product,category,service` per record: what the engine is told about it. Prints parsing alone, evaluation
//! alone, both, and turning matches into detections; minimum and median of the rounds.
#![expect(clippy::print_stdout, reason = "a measuring program prints what it measured")]

use ironpost_detect::{Correlator, RuleSet, Scratch, SourcePosition};
use ironpost_events::{
    CompiledFacts, EventBatch, ExtractorSet, FieldTable, Logsource, ParseOptions, Parser, STATIC_FIELDS,
    SourceFacts,
};
use std::error::Error;
use std::sync::Arc;

const ROUNDS: usize = 7;
const CHUNK: usize = 1 << 20;

/// CPU nanoseconds of this process so far.
fn cpu() -> Result<u64, Box<dyn Error>> {
    let text = std::fs::read_to_string("/proc/self/schedstat")?;
    Ok(text.split_whitespace().next().ok_or("empty schedstat")?.parse()?)
}

fn report(name: &str, rows: usize, mut times: Vec<u64>) {
    times.sort_unstable();
    let rate = |nanos: u64| rows as f64 / (nanos as f64 / 1e9);
    println!(
        "{name:<10} {:>12.0} events/s best {:>12.0} median {:>9.1} ns/event",
        rate(times[0]),
        rate(times[times.len() / 2]),
        times[0] as f64 / rows as f64
    );
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [plan, input, rest @ ..] = &arguments[..] else {
        return Err("usage: throughput PLAN INPUT [FORMAT [EXTRACTORS]]".into());
    };
    let plan = std::fs::read(plan)?;
    let records = std::fs::read(input)?;
    let format = rest.first().map_or("auto", String::as_str).parse()?;
    let extractors = match rest.get(1).filter(|path| *path != "-") {
        Some(path) => ExtractorSet::from_plan(&std::fs::read(path)?)?,
        None => ExtractorSet::default(),
    };
    let begin = cpu()?;
    let rules = Arc::new(RuleSet::from_plan(&plan)?);
    println!("{:?} rules, compiled in {} ms", rules.counts(), (cpu()? - begin) / 1_000_000);
    let names = STATIC_FIELDS.iter().copied().chain(extractors.field_names()).chain(rules.field_names());
    let table = FieldTable::new(names);
    let compiled = Arc::new(Arc::clone(&rules).bind(Arc::clone(&table)));
    let options = ParseOptions { format, year: Some(2026), ..ParseOptions::default() };
    let parser = Parser::new(Arc::new(extractors), Arc::clone(&table), options);
    let told = match rest.get(2) {
        Some(path) => std::fs::read_to_string(path)?,
        None => String::new(),
    };
    let mut sources: Vec<(&str, CompiledFacts)> = vec![("", parser.facts(&SourceFacts::default()))];
    let mut source_of = Vec::new();
    for line in told.lines() {
        let known = sources.iter().position(|(name, _)| *name == line);
        source_of.push(known.unwrap_or_else(|| {
            let mut parts = line.split(',').map(|part| (!part.is_empty()).then(|| part.into()));
            let logsource = Logsource {
                product: parts.next().flatten(),
                category: parts.next().flatten(),
                service: parts.next().flatten(),
            };
            sources.push((line, parser.facts(&SourceFacts { logsource, ..SourceFacts::default() })));
            sources.len() - 1
        }));
    }

    let mut chunks = Vec::new();
    let mut start = 0;
    while start < records.len() {
        let from = (start + CHUNK).min(records.len());
        let end =
            records[from..].iter().position(|&byte| byte == b'\n').map_or(records.len(), |at| from + at + 1);
        chunks.push(&records[start..end]);
        start = end;
    }
    let (mut parsing, mut evaluating, mut both, mut reporting) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut rows, mut found) = (0, 0);
    let mut scratch = Scratch::new();
    let mut batch = EventBatch::new(table);
    for _ in 0..=ROUNDS {
        let mut correlator = Correlator::new(Arc::clone(&compiled));
        let (mut parse, mut evaluate, mut report) = (0, 0, 0);
        (rows, found) = (0, 0);
        let mut position = 0;
        for chunk in &chunks {
            let begin = cpu()?;
            batch.clear();
            if source_of.is_empty() {
                parser.parse_lines(chunk, position, &sources[0].1, &mut batch);
            } else {
                for (line, source) in chunk.split(|&byte| byte == b'\n').zip(&source_of[rows..]) {
                    parser.parse_record(line, position, &sources[*source].1, &mut batch);
                }
            }
            let parsed = cpu()?;
            let (mut matches, mut detections) = (Vec::new(), Vec::new());
            compiled.evaluate(&batch, &mut scratch, &mut matches);
            let evaluated = cpu()?;
            correlator.observe(
                &batch,
                &matches,
                &SourcePosition { source: "bench", received: None },
                &mut detections,
            );
            correlator.take_dirty();
            parse += parsed - begin;
            evaluate += evaluated - parsed;
            report += cpu()? - evaluated;
            rows += batch.len();
            found += matches.len();
            position += chunk.len() as u64;
        }
        parsing.push(parse);
        evaluating.push(evaluate);
        both.push(parse + evaluate);
        reporting.push(report);
    }
    // The first round compiles the programs of the log sources.
    println!("{rows} events, {:.0} bytes each, {found} matches", records.len() as f64 / rows as f64);
    for (name, times) in [("parse", parsing), ("evaluate", evaluating), ("both", both), ("report", reporting)]
    {
        report(name, rows, times[1..].to_vec());
    }
    Ok(())
}
