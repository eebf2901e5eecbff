//! Literals that every match of a regular expression contains.

use crate::text::{fold_character, folded};
use regex_syntax::hir::{Class, Hir, HirKind};

/// More alternatives than this are not worth a prefilter.
const MAX_ALTERNATIVES: usize = 64;
/// A shorter literal is in nearly every text.
const MIN_LENGTH: usize = crate::needles::MIN_ANYWHERE;

/// What every text that a regular expression matches has.
#[derive(Debug, Default)]
pub(crate) struct Required {
    /// Case-folded literals of which at least one occurs in the case-folded text; `None` when no useful set exists.
    pub(crate) literals: Option<Vec<Box<[u8]>>>,
    /// The same where `literals` is `None`, of literals too short to look for beforehand.
    short: Vec<Box<[u8]>>,
    /// Bytes.
    length: usize,
}

/// More short literals than this are not worth looking for one by one.
const MAX_SHORT: usize = 3;

impl Required {
    /// True when a value lacks what every match needs, at a glance.
    pub(crate) fn misses(&self, value: &[u8], folded: &[u8]) -> bool {
        value.len() < self.length
            || (!self.short.is_empty()
                && !self.short.iter().any(|literal| memchr::memmem::find(folded, literal).is_some()))
    }
}

/// Bytes that a compiled expression takes at most for one byte of a literal, one range of a class, one other node: an
/// automaton's state has up to some dozen bytes, and a range of characters some states; halves and twos leave room.
const NODE_BYTES: usize = 128;

/// True when a pattern is valid and its compiled form certainly stays within `limit` bytes.
pub(crate) fn is_surely_small(pattern: &str, limit: usize) -> bool {
    parsed(pattern).is_some_and(|hir| most_bytes(&hir) <= limit / 2)
}

fn most_bytes(hir: &Hir) -> usize {
    let all = |parts: &[Hir]| parts.iter().map(most_bytes).fold(NODE_BYTES, usize::saturating_add);
    match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => NODE_BYTES,
        HirKind::Literal(literal) => literal.0.len().saturating_mul(NODE_BYTES),
        HirKind::Class(Class::Unicode(class)) => class.ranges().len().saturating_mul(2 * NODE_BYTES),
        HirKind::Class(Class::Bytes(class)) => class.ranges().len().saturating_mul(NODE_BYTES),
        HirKind::Capture(capture) => most_bytes(&capture.sub).saturating_add(NODE_BYTES),
        HirKind::Concat(parts) | HirKind::Alternation(parts) => all(parts),
        HirKind::Repetition(repetition) => {
            let copies = repetition.max.unwrap_or(repetition.min.saturating_add(1)).max(1) as usize;
            most_bytes(&repetition.sub).saturating_add(NODE_BYTES).saturating_mul(copies)
        }
    }
}

fn parsed(pattern: &str) -> Option<Hir> {
    regex_syntax::ParserBuilder::new().utf8(false).build().parse(pattern).ok()
}

/// What can be said of every match of a pattern.
pub(crate) fn required(pattern: &str) -> Required {
    let Some(hir) = parsed(pattern) else {
        return Required::default();
    };
    let mut literals: Vec<Box<[u8]>> =
        walk(&hir).unwrap_or_default().iter().map(|text| folded(text.as_bytes())).collect();
    literals.sort();
    literals.dedup();
    let shortest = literals.iter().map(|literal| literal.len()).min().unwrap_or(0);
    let length = hir.properties().minimum_len().unwrap_or(0);
    match shortest {
        MIN_LENGTH.. => Required { literals: Some(literals), short: Vec::new(), length },
        1.. if literals.len() <= MAX_SHORT => Required { literals: None, short: literals, length },
        _ => Required { literals: None, short: Vec::new(), length },
    }
}

/// The literals that let most texts be passed over without running the expression; `None` when there are none and every
/// text is searched.
pub fn needles(pattern: &str) -> Option<Vec<String>> {
    let found = required(pattern).literals?;
    Some(found.iter().map(|literal| String::from_utf8_lossy(literal).into_owned()).collect())
}

/// The text a node stands for when case is ignored, if it is one text.
fn single(hir: &Hir) -> Option<String> {
    match hir.kind() {
        HirKind::Literal(literal) => std::str::from_utf8(&literal.0).ok().map(str::to_owned),
        HirKind::Class(Class::Unicode(class)) => {
            let mut found = None;
            for range in class.ranges() {
                if u32::from(range.end()) - u32::from(range.start()) > 2 {
                    return None;
                }
                for character in (range.start()..=range.end()).map(fold_character) {
                    if *found.get_or_insert(character) != character {
                        return None;
                    }
                }
            }
            found.map(String::from)
        }
        HirKind::Capture(capture) => single(&capture.sub),
        _ => None,
    }
}

fn walk(hir: &Hir) -> Option<Vec<String>> {
    if let Some(text) = single(hir) {
        return Some(vec![text]);
    }
    match hir.kind() {
        HirKind::Capture(capture) => walk(&capture.sub),
        HirKind::Repetition(repetition) if repetition.min >= 1 => walk(&repetition.sub),
        HirKind::Alternation(choices) => {
            let mut all = Vec::new();
            for choice in choices {
                all.extend(walk(choice)?);
                if all.len() > MAX_ALTERNATIVES {
                    return None;
                }
            }
            Some(all)
        }
        HirKind::Concat(parts) => {
            let mut best: Option<Vec<String>> = None;
            let mut run = String::new();
            for part in parts {
                match single(part) {
                    Some(text) => run.push_str(&text),
                    None => {
                        consider(&mut best, vec![std::mem::take(&mut run)]);
                        if let Some(found) = walk(part) {
                            consider(&mut best, found);
                        }
                    }
                }
            }
            consider(&mut best, vec![run]);
            best
        }
        _ => None,
    }
}

/// Keeps the set whose shortest literal is longest; of equals, the smaller.
fn consider(best: &mut Option<Vec<String>>, candidate: Vec<String>) {
    let score =
        |set: &Vec<String>| (set.iter().map(String::len).min().unwrap_or(0), std::cmp::Reverse(set.len()));
    if score(&candidate).0 == 0 {
        return;
    }
    if best.as_ref().is_none_or(|current| score(&candidate) > score(current)) {
        *best = Some(candidate);
    }
}

#[cfg(test)]
mod tests {
    use super::required;

    fn texts(pattern: &str) -> Option<Vec<String>> {
        required(pattern)
            .literals
            .map(|set| set.iter().map(|text| String::from_utf8_lossy(text).into_owned()).collect())
    }

    #[test]
    fn the_longest_unavoidable_literal_is_found() {
        assert_eq!(texts(r"\d+ Failed (password|login) for"), Some(vec![" failed ".into()]));
        assert_eq!(texts(r"(?i)PowerShell.*-e"), Some(vec!["powershell".into()]));
        assert_eq!(texts(r"(alpha|beta)\d"), Some(vec!["alpha".into(), "beta".into()]));
        assert_eq!(texts(r"(alpha)?x"), None);
        assert_eq!(texts(r"a.b"), None);
        assert_eq!(texts(r"(?:curl){2}"), Some(vec!["curl".into()]));
    }

    #[test]
    fn a_value_that_cannot_match_is_told_at_a_glance() {
        let needs = required("`.{3,}`");
        assert!(needs.misses(b"xxxxxxxx", b"xxxxxxxx"));
        assert!(needs.misses(b"`aa`", b"`aa`"));
        assert!(!needs.misses(b"x`aaa`", b"x`aaa`"));
        // A folded character may be shorter than the written one: lengths are those of the value.
        assert!(!required("(?i)k").misses("\u{212a}".as_bytes(), b"k"));
    }
}
