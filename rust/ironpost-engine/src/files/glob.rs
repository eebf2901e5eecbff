//! Patterns over paths: `*`, `?`, `[…]` inside components, never across a slash.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Directory entries looked at while expanding one pattern.
const MAX_ENTRIES: usize = 100_000;

/// True when `text` fits `pattern`; linear backtracking, as only the last star is retried.
pub(crate) fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut from) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while from < text.len() {
        let step = match pattern.get(at) {
            Some(b'*') => {
                retry = Some((at, from));
                at += 1;
                continue;
            }
            Some(b'?') => Some(at + 1),
            Some(b'[') => {
                class(&pattern[at..], text[from]).and_then(|(hit, width)| hit.then_some(at + width))
            }
            Some(byte) => (*byte == text[from]).then_some(at + 1),
            None => None,
        };
        match (step, retry) {
            (Some(next), _) => {
                at = next;
                from += 1;
            }
            (None, Some((star, tried))) => {
                retry = Some((star, tried + 1));
                at = star + 1;
                from = tried + 1;
            }
            (None, None) => return false,
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

/// (hit, bytes of the class) of a `[…]`; `None` when it is not closed.
fn class(pattern: &[u8], byte: u8) -> Option<(bool, usize)> {
    let negated = matches!(pattern.get(1), Some(b'!' | b'^'));
    let begin = if negated { 2 } else { 1 };
    let mut at = begin;
    let mut hit = false;
    loop {
        let low = *pattern.get(at)?;
        if low == b']' && at > begin {
            return Some((hit != negated, at + 1));
        }
        if pattern.get(at + 1) == Some(&b'-') && pattern.get(at + 2).is_some_and(|&high| high != b']') {
            hit |= (low..=pattern[at + 2]).contains(&byte);
            at += 3;
        } else {
            hit |= low == byte;
            at += 1;
        }
    }
}

fn is_pattern(component: &OsStr) -> bool {
    component.as_bytes().iter().any(|byte| matches!(byte, b'*' | b'?' | b'['))
}

/// The paths a pattern names now, and every directory whose changes can change them.
#[derive(Debug, Default)]
pub(crate) struct Expansion {
    pub(crate) paths: BTreeSet<PathBuf>,
    pub(crate) directories: BTreeSet<PathBuf>,
}

/// Expands an absolute pattern. Names beginning with a dot need a dot in the pattern.
pub(crate) fn expand(pattern: &Path) -> Expansion {
    let mut expansion = Expansion::default();
    let mut bases = vec![PathBuf::from("/")];
    let components: Vec<&OsStr> = pattern.iter().skip(1).collect();
    let mut entries_left = MAX_ENTRIES;
    for (depth, component) in components.iter().enumerate() {
        let last = depth + 1 == components.len();
        let mut next = Vec::new();
        for base in bases {
            if !is_pattern(component) && !last {
                next.push(base.join(component));
                continue;
            }
            expansion.directories.insert(base.clone());
            if !is_pattern(component) {
                let path = base.join(component);
                if path.symlink_metadata().is_ok() {
                    next.push(path);
                }
                continue;
            }
            let Ok(entries) = std::fs::read_dir(&base) else { continue };
            for entry in entries.take(entries_left).flatten() {
                entries_left -= 1;
                let name = entry.file_name();
                let hidden = name.as_bytes().starts_with(b".") && !component.as_bytes().starts_with(b".");
                if hidden || !matches(component.as_bytes(), name.as_bytes()) {
                    continue;
                }
                // Directories are never entered through a link: it could lead a privileged reader anywhere.
                if last || entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    next.push(base.join(name));
                }
            }
        }
        bases = next;
    }
    expansion.paths = bases.into_iter().filter(|path| !path.is_dir()).collect();
    expansion
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_a_shell() {
        for (pattern, text) in [
            ("*-json.log", "0abc-json.log"),
            ("*", ""),
            ("a?c", "abc"),
            ("[a-c]x", "bx"),
            ("[!a]x", "bx"),
            ("*a*b", "xaxxb"),
            ("app[0-9].log", "app7.log"),
            ("[]]", "]"),
        ] {
            assert!(matches(pattern.as_bytes(), text.as_bytes()), "{pattern} {text}");
        }
        for (pattern, text) in [
            ("*-json.log", "0abc-json.log.1"),
            ("a?c", "ac"),
            ("[a-c]x", "dx"),
            ("[!a]x", "ax"),
            ("a", "ab"),
            ("[a", "a"),
        ] {
            assert!(!matches(pattern.as_bytes(), text.as_bytes()), "{pattern} {text}");
        }
    }

    #[test]
    fn hostile_patterns_stay_cheap() {
        let pattern = b"*a".repeat(200);
        assert!(!matches(&pattern, &[b'a'; 150]));
        assert!(!matches(&b"*a*a*a*a*a*a*b".repeat(4), &vec![b'a'; 20_000]));
    }
}
