//! The pattern language of extractors.
//!
//! `Failed {event.method:word} for[ invalid user] {user.name:text} from {source.ip:ip}`: literal text, typed captures
//! `{field:type}` (`{-:type}` keeps nothing), optional groups in brackets, `\` before a character that stands for
//! itself. A pattern matches the whole message. Optional groups are preferred taken, the first one foremost; then
//! `text` is greedy, the first one foremost, so that what an attacker puts into it cannot move a capture behind it.

/// Optional groups per pattern; each doubles the number of variants.
const MAX_OPTIONAL: usize = 6;
/// Captures per pattern.
pub(crate) const MAX_CAPTURES: usize = 16;

/// What a capture accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// At least one byte, no white space, none of the bytes that border it in the pattern.
    Word,
    /// Any bytes, greedy; may be empty.
    Text,
    /// Any bytes up to the first occurrence of the literal behind it; may be empty.
    Until,
    /// An IPv4 or IPv6 address, kept in canonical spelling.
    Ip,
    /// A name or an address; an address is also kept under the sister field `….ip`.
    Host,
    /// 0–65535.
    Port,
    /// A decimal integer of at most 18 digits, perhaps negative.
    Integer,
    /// `"…"` with backslash escapes; the content is kept.
    Quoted,
    /// A request target: like `text`, and also gives `url.path`, `url.query`, `ironpost.url.decoded`.
    Url,
}

impl Kind {
    fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "word" => Self::Word,
            "text" | "rest" => Self::Text,
            "until" => Self::Until,
            "ip" => Self::Ip,
            "host" => Self::Host,
            "port" => Self::Port,
            "integer" => Self::Integer,
            "quoted" => Self::Quoted,
            "url" => Self::Url,
            _ => return None,
        })
    }

    /// True for captures that may be any length of any bytes.
    pub(crate) fn is_open(self) -> bool {
        matches!(self, Self::Text | Self::Url)
    }
}

/// A piece of a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    Literal(Vec<u8>),
    Capture { kind: Kind, slot: usize },
}

/// A capture's field (`None` for `-`) and type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Capture {
    pub(crate) field: Option<String>,
    pub(crate) kind: Kind,
}

/// A parsed pattern: its captures, and one list of pieces for each choice of optional groups, preferred first.
#[derive(Debug)]
pub(crate) struct Parsed {
    pub(crate) captures: Vec<Capture>,
    pub(crate) variants: Vec<Vec<Piece>>,
}

/// Why a pattern is not one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("column {column}: {reason}")]
pub struct PatternError {
    /// Byte column, counted from 1.
    pub column: usize,
    /// What is wrong and what is expected.
    pub reason: String,
}

fn error<T>(column: usize, reason: impl Into<String>) -> Result<T, PatternError> {
    Err(PatternError { column: column + 1, reason: reason.into() })
}

enum Node {
    Piece(Piece),
    Optional(Vec<Piece>),
}

fn push_byte(pieces: &mut Vec<Piece>, byte: u8) {
    if let Some(Piece::Literal(bytes)) = pieces.last_mut() {
        bytes.push(byte);
    } else {
        pieces.push(Piece::Literal(vec![byte]));
    }
}

/// Parses a pattern.
pub(crate) fn parse(pattern: &str) -> Result<Parsed, PatternError> {
    let bytes = pattern.as_bytes();
    let mut nodes: Vec<Node> = Vec::new();
    let mut captures: Vec<Capture> = Vec::new();
    let mut current: Vec<Piece> = Vec::new();
    let mut group: Option<usize> = None;
    let mut optional = 0;
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => match bytes.get(at + 1) {
                Some(&byte) if byte.is_ascii_punctuation() => {
                    push_byte(&mut current, byte);
                    at += 2;
                }
                _ => return error(at, "`\\` must be followed by the punctuation it makes literal"),
            },
            b'[' => {
                if group.is_some() {
                    return error(at, "optional groups do not nest; write `\\[` for a bracket");
                }
                nodes.extend(current.drain(..).map(Node::Piece));
                group = Some(at);
                at += 1;
            }
            b']' => {
                if group.take().is_none() {
                    return error(at, "no group is open; write `\\]` for a bracket");
                }
                if current.is_empty() {
                    return error(at, "the optional group is empty");
                }
                optional += 1;
                if optional > MAX_OPTIONAL {
                    return error(at, format!("more than {MAX_OPTIONAL} optional groups; split the pattern"));
                }
                nodes.push(Node::Optional(std::mem::take(&mut current)));
                at += 1;
            }
            b'{' => {
                let Some(len) = pattern[at..].find('}') else {
                    return error(at, "the capture is not closed; write `\\{` for a brace");
                };
                let (field, kind) = match pattern[at + 1..at + len].split_once(':') {
                    Some((field, kind)) => (field, kind),
                    None => return error(at, "a capture is written `{field:type}`"),
                };
                let Some(kind) = Kind::from_name(kind) else {
                    return error(
                        at,
                        format!(
                            "`{kind}` is no type; known are word, text, rest, until, ip, host, port, integer, quoted, url"
                        ),
                    );
                };
                let good = |byte: u8| byte.is_ascii_alphanumeric() || b"._@-".contains(&byte);
                if field.is_empty() || !field.bytes().all(good) {
                    return error(at, format!("`{field}` is no field name; use `-` to keep nothing"));
                }
                if captures.len() >= MAX_CAPTURES {
                    return error(at, format!("more than {MAX_CAPTURES} captures"));
                }
                let slot = captures.len();
                captures.push(Capture { field: (field != "-").then(|| field.to_owned()), kind });
                current.push(Piece::Capture { kind, slot });
                at += len + 1;
            }
            b'}' => return error(at, "no capture is open; write `\\}` for a brace"),
            byte => {
                push_byte(&mut current, byte);
                at += 1;
            }
        }
    }
    if let Some(open) = group {
        return error(open, "the optional group is not closed; write `\\[` for a bracket");
    }
    nodes.extend(current.into_iter().map(Node::Piece));
    if nodes.is_empty() {
        return error(0, "the pattern is empty");
    }
    let mut variants = Vec::new();
    for choice in (0..1_usize << optional).rev() {
        variants.push(expand(&nodes, choice, optional));
    }
    for pieces in &variants {
        check(pieces)?;
    }
    Ok(Parsed { captures, variants })
}

/// The pieces of one choice; the first group is the highest bit.
fn expand(nodes: &[Node], choice: usize, optional: usize) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = Vec::new();
    let mut seen = 0;
    let mut add = |piece: &Piece| match (piece, pieces.last_mut()) {
        (Piece::Literal(more), Some(Piece::Literal(bytes))) => bytes.extend_from_slice(more),
        _ => pieces.push(piece.clone()),
    };
    for node in nodes {
        match node {
            Node::Piece(piece) => add(piece),
            Node::Optional(group) => {
                seen += 1;
                if choice >> (optional - seen) & 1 == 1 {
                    group.iter().for_each(&mut add);
                }
            }
        }
    }
    pieces
}

fn check(pieces: &[Piece]) -> Result<(), PatternError> {
    let mut open = false;
    for (index, piece) in pieces.iter().enumerate() {
        let Piece::Capture { kind, .. } = piece else { continue };
        if matches!(pieces.get(index + 1), Some(Piece::Capture { .. })) {
            return error(0, "two captures touch (perhaps when a group is left out); put text between them");
        }
        if *kind == Kind::Until {
            if index + 1 == pieces.len() {
                return error(0, "`until` needs text behind it; at the end use `text`");
            }
            if open {
                return error(0, "`until` can't stand behind `text`; use `text` or `word` there");
            }
        }
        open |= kind.is_open();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn optional_groups_become_variants_with_the_taken_ones_first() {
        let parsed = parse("a[ b]c[ d]").unwrap();
        let text: Vec<String> = parsed
            .variants
            .iter()
            .map(|pieces| match &pieces[..] {
                [Piece::Literal(bytes)] => String::from_utf8(bytes.clone()).unwrap(),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(text, ["a bc d", "a bc", "ac d", "ac"]);
    }

    #[test]
    fn wrong_patterns_are_refused_with_column_and_reason() {
        for (pattern, column, reason) in [
            ("", 1, "empty"),
            ("a[b", 2, "not closed"),
            ("a]b", 2, "no group is open"),
            ("[a[b]]", 3, "do not nest"),
            ("x[]", 3, "group is empty"),
            ("a {user.name}", 3, "{field:type}"),
            ("a {user.name:txt}", 3, "`txt` is no type"),
            ("a {:word}", 3, "no field name"),
            ("a {x y:word}", 3, "no field name"),
            ("a {x:word", 3, "not closed"),
            ("a }", 3, "no capture is open"),
            ("a \\n", 3, "followed by"),
            ("{a:word}{b:word}", 1, "touch"),
            ("{a:word}[ x]{b:word}", 1, "touch"),
            ("{a:text} x {b:until} y", 1, "behind `text`"),
            ("x {b:until}", 1, "behind it"),
        ] {
            let found = parse(pattern).map(|_| ()).unwrap_err();
            assert!(found.reason.contains(reason), "{pattern}: {found}");
            assert_eq!(found.column, column, "{pattern}: {found}");
        }
    }
}
