//! A lane: events as JSON lines, and for each what its log source is.

use ironpost_events::Logsource;
use std::ops::Range;
use std::path::Path;

/// Events of a lane, in memory as text.
pub(crate) struct Lane {
    text: Vec<u8>,
    lines: Vec<Range<usize>>,
    /// By event, an index into `sources`.
    source: Vec<usize>,
    sources: Vec<Logsource>,
}

impl Lane {
    /// Reads `NAME.ndjson` and beside it `NAME.sources`: per line `product,category,service`, each may be empty.
    pub(crate) fn read(path: &Path) -> Result<Self, Box<dyn std::error::Error>> {
        let text = std::fs::read(path)?;
        let mut lines = Vec::new();
        let mut start = 0;
        for line in text.split_inclusive(|&byte| byte == b'\n') {
            let end = start + line.len();
            lines.push(start..end - usize::from(line.ends_with(b"\n")));
            start = end;
        }
        let mut sources: Vec<Logsource> = Vec::new();
        let mut source = Vec::new();
        for line in std::fs::read_to_string(path.with_extension("sources"))?.lines() {
            let mut parts = line.split(',').map(|part| (!part.is_empty()).then(|| part.into()));
            let mut next = || parts.next().flatten();
            let found = Logsource { product: next(), category: next(), service: next() };
            source.push(sources.iter().position(|known| *known == found).unwrap_or_else(|| {
                sources.push(found);
                sources.len() - 1
            }));
        }
        if source.len() != lines.len() {
            return Err(
                format!("{}: {} events, {} log sources", path.display(), lines.len(), source.len()).into()
            );
        }
        Ok(Self { text, lines, source, sources })
    }

    pub(crate) fn len(&self) -> usize {
        self.lines.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.text.len()
    }

    pub(crate) fn sources(&self) -> &[Logsource] {
        &self.sources
    }

    /// The text of an event and the index of its log source.
    pub(crate) fn event(&self, index: usize) -> (&[u8], usize) {
        (&self.text[self.lines[index].clone()], self.source[index])
    }

    /// The text of several events with their newlines.
    pub(crate) fn chunk(&self, events: Range<usize>) -> &[u8] {
        match (self.lines.get(events.start), self.lines.get(events.end)) {
            (Some(first), Some(next)) => &self.text[first.start..next.start],
            (Some(first), None) => &self.text[first.start..],
            _ => &[],
        }
    }
}
