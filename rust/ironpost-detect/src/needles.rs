//! Every text that rules ask of one field, found in one pass over a value.
//!
//! Whole values are looked up by hash. Starts and ends are found in a sorted list: all needles a text begins with are
//! the greatest needle not above the text and the needles that one begins with. For needles anywhere, a few
//! bytes of each (its *gram*, the rarest it has) are put into a small bit table; only where the text's bytes are in the
//! table is anything compared. Long needles are put in at four neighbouring places, so that the text is looked at only at
//! every fourth byte.

use crate::atom::Anchor;
use rustc_hash::FxHashMap;
use std::ops::Range;

/// Zero bytes that follow a text given to [`Needles::find`].
pub(crate) const PADDING: usize = 8;
/// A shorter needle is no good for the bit table: it is everywhere.
pub(crate) const MIN_ANYWHERE: usize = 2;
/// The text is looked at this far apart for long needles.
const STRIDE: usize = 4;
/// Bytes of a long needle's gram.
const WIDE: usize = 8;
/// From this length on a needle is long: a gram begins at one of `STRIDE` neighbouring places.
const LONG: usize = WIDE + STRIDE - 1;

/// Texts that are in most values; a gram of theirs is no sign of anything.
const ORDINARY: [&str; 26] = [
    "c:\\windows\\system32\\",
    "c:\\windows\\syswow64\\",
    "c:\\program files (x86)\\",
    "c:\\program files\\common files\\",
    "c:\\programdata\\microsoft\\windows\\",
    "c:\\users\\appdata\\local\\temp\\",
    "\\appdata\\roaming\\microsoft\\",
    "nt authority\\system",
    "microsoft corporation",
    "microsoft\u{ae} windows\u{ae} operating system",
    "microsoft-windows-sysmon/operational",
    "hklm\\system\\currentcontrolset\\services\\",
    "hklm\\software\\microsoft\\windows\\currentversion\\",
    "hku\\s-1-5-21-",
    "sha1=md5=sha256=imphash=",
    ".exe .exe\" .dll .dll, .log .txt .tmp .json .docx",
    "https://www.com/http://",
    " --type= --lang=en-us --",
    " -- /c /s /q \" \"",
    "00000000",
    "/usr/bin/ /usr/sbin/ /usr/lib/ /usr/share/ /usr/local/",
    "/home/ /etc/ /tmp/ /var/log/ /var/lib/ /proc/ /dev/null",
    "svchost.exe explorer.exe chrome.exe services.exe",
    "session opened for user root by (uid=0)",
    "accepted publickey for from port ssh2",
    "server service update client manager",
];
/// How much more an ordinary text's gram counts than a needle's.
const ORDINARY_WEIGHT: u32 = 64;

/// A needle and the atoms that hang on it.
#[derive(Debug)]
struct Needle {
    text: Box<[u8]>,
    atoms: Range<u32>,
}

/// Needles for the start of a text, or, both reversed, for its end.
#[derive(Debug, Default)]
struct Anchored {
    /// First bytes of each needle as a number, ascending.
    keys: Box<[u64]>,
    needles: Box<[Needle]>,
    /// The longest other needle that this one begins with.
    shorter: Box<[u32]>,
    longest: usize,
}

const NONE: u32 = u32::MAX;

fn key(text: &[u8]) -> u64 {
    let mut first = [0; 8];
    let length = text.len().min(8);
    first[..length].copy_from_slice(&text[..length]);
    u64::from_be_bytes(first)
}

impl Anchored {
    /// `needles` sorted by text, without duplicates.
    fn new(needles: Vec<Needle>) -> Self {
        let mut shorter = Vec::with_capacity(needles.len());
        for (index, needle) in needles.iter().enumerate() {
            let mut candidate = index.checked_sub(1).map_or(NONE, |before| before as u32);
            while candidate != NONE && !needle.text.starts_with(&needles[candidate as usize].text) {
                candidate = shorter[candidate as usize];
            }
            shorter.push(candidate);
        }
        Self {
            keys: needles.iter().map(|needle| key(&needle.text)).collect(),
            longest: needles.iter().map(|needle| needle.text.len()).max().unwrap_or(0),
            needles: needles.into(),
            shorter: shorter.into(),
        }
    }

    fn find(&self, text: &[u8], mut found: impl FnMut(&Range<u32>)) {
        let wanted = key(text);
        let from = self.keys.partition_point(|&key| key < wanted);
        let same = self.keys[from..].partition_point(|&key| key == wanted);
        let below = from + self.needles[from..from + same].partition_point(|needle| *needle.text <= *text);
        let mut at = below.checked_sub(1).map_or(NONE, |at| at as u32);
        while at != NONE && !text.starts_with(&self.needles[at as usize].text) {
            at = self.shorter[at as usize];
        }
        while at != NONE {
            found(&self.needles[at as usize].atoms);
            at = self.shorter[at as usize];
        }
    }
}

/// Where a gram of a needle stands.
#[derive(Clone, Copy, Debug)]
struct Place {
    gram: u64,
    mask: u64,
    needle: u32,
    offset: u32,
}

/// Rows of a table of grams, as a power of two. The narrow one has 32 KiB, which stays near the processor.
const SMALL_BITS: u32 = 7;
const NARROW_BITS: u32 = 12;
const WIDE_BITS: u32 = 14;

/// Needles to be found anywhere in a text, by their grams.
#[derive(Debug)]
struct Grams<const ROWS: usize> {
    /// By hash of a gram's first bytes: which of 64 classes its last bytes may be in.
    rows: Box<[u64; ROWS]>,
    /// By row: how many bits are set in the rows before.
    before: Box<[u32; ROWS]>,
    /// By set bit, in order: where its places begin; one more than bits.
    starts: Box<[u32]>,
    places: Box<[Place]>,
}

/// Spreads a gram's bytes over the whole number.
fn spread(gram: u64) -> u64 {
    gram.wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

const FOUR_BYTES: u64 = 0xFFFF_FFFF;

/// Row and bit of a narrow gram: two bytes choose the row, the third and the fourth three bits each of the bit's number.
fn narrow_slot(gram: u32, rows: usize) -> (usize, u32) {
    let pair = (gram & 0xFFFF).wrapping_mul(0x9E37_79B1) >> (32 - NARROW_BITS);
    let rest = gram >> 16 & 0x0707;
    (pair as usize & (rows - 1), (rest | rest >> 5) & 63)
}

fn wide_slot(gram: u64, rows: usize) -> (usize, u32) {
    let hash = spread(gram ^ gram >> 29);
    ((hash >> (64 - WIDE_BITS)) as usize & (rows - 1), (hash >> 40 & 63) as u32)
}

/// The bits of a row that a gram has. A short needle has all that its missing bytes could choose.
fn narrow_classes(place: &Place) -> u64 {
    let free = !place.mask & FOUR_BYTES;
    // Three low bits of a byte are all that choose.
    let bytes = |from: u32| if free >> from & 0xFF == 0 { 0..1 } else { 0..8u32 };
    let mut bits = 0;
    for third in bytes(16) {
        for fourth in bytes(24) {
            bits |= 1 << narrow_slot(place.gram as u32 | third << 16 | fourth << 24, 1).1;
        }
    }
    bits
}

impl<const ROWS: usize> Grams<ROWS> {
    /// `row` and `classes` say where a gram goes.
    fn new(places: &[Place], row: impl Fn(&Place) -> usize, classes: impl Fn(&Place) -> u64) -> Self {
        let mut rows = Box::new([0; ROWS]);
        let mut sorted: Vec<(usize, u32, Place)> = Vec::with_capacity(places.len());
        for place in places {
            let (row, classes) = (row(place), classes(place));
            rows[row] |= classes;
            sorted.extend((0..64).filter(|bit| classes >> bit & 1 != 0).map(|bit| (row, bit, *place)));
        }
        sorted.sort_unstable_by_key(|&(row, bit, place)| (row, bit, place.needle, place.offset));
        let mut before = Box::new([0; ROWS]);
        let mut bits = 0;
        for (row, before) in rows.iter().zip(before.iter_mut()) {
            *before = bits;
            bits += row.count_ones();
        }
        let mut starts = Vec::with_capacity(bits as usize + 1);
        for (index, (row, bit, _)) in sorted.iter().enumerate() {
            if index == 0 || sorted[index - 1].0 != *row || sorted[index - 1].1 != *bit {
                starts.push(index as u32);
            }
        }
        starts.push(sorted.len() as u32);
        Self {
            rows,
            before,
            starts: starts.into(),
            places: sorted.into_iter().map(|(_, _, place)| place).collect(),
        }
    }

    /// The needles one of whose grams stands at `at` in `text`, and which really are there.
    #[inline(never)]
    fn compare(
        &self,
        (row, bit): (usize, u32),
        gram: u64,
        text: &[u8],
        at: usize,
        needles: &[Needle],
        found: &mut impl FnMut(&Range<u32>),
    ) {
        let rank = (self.before[row] + (self.rows[row] & ((1 << bit) - 1)).count_ones()) as usize;
        for place in &self.places[self.starts[rank] as usize..self.starts[rank + 1] as usize] {
            if (gram ^ place.gram) & place.mask == 0
                && let Some(start) = at.checked_sub(place.offset as usize)
            {
                let needle = &needles[place.needle as usize];
                if text.get(start..start + needle.text.len()) == Some(&*needle.text) {
                    found(&needle.atoms);
                }
            }
        }
    }

    /// Looks at every byte of a text (or every second, every fourth), in steps of four. `padded` is the text and `PADDING`
    /// bytes more.
    fn narrow<const EVERY: usize>(
        &self,
        text: &[u8],
        padded: &[u8],
        needles: &[Needle],
        found: &mut impl FnMut(&Range<u32>),
    ) {
        for (step, bytes) in padded.windows(8).step_by(4).enumerate() {
            let word = bytes.try_into().map_or(0, u64::from_le_bytes);
            let grams = [word as u32, (word >> 8) as u32, (word >> 16) as u32, (word >> 24) as u32];
            let bits: [u64; 4] = std::array::from_fn(|at| {
                let slot = narrow_slot(grams[at], ROWS);
                if at % EVERY == 0 { self.rows[slot.0] >> slot.1 & 1 } else { 0 }
            });
            if bits[0] | bits[1] | bits[2] | bits[3] == 0 {
                continue;
            }
            for (at, (gram, bit)) in (step * 4..).zip(grams.into_iter().zip(bits)) {
                if bit != 0 {
                    self.compare(narrow_slot(gram, ROWS), u64::from(gram), text, at, needles, found);
                }
            }
        }
    }

    /// Looks at every fourth byte of a text.
    fn wide(&self, text: &[u8], needles: &[Needle], found: &mut impl FnMut(&Range<u32>)) {
        for (at, bytes) in text.windows(WIDE).step_by(STRIDE).enumerate() {
            let gram = bytes.try_into().map_or(0, u64::from_le_bytes);
            let slot = wide_slot(gram, ROWS);
            if self.rows[slot.0] >> slot.1 & 1 != 0 {
                self.compare(slot, gram, text, at * STRIDE, needles, found);
            }
        }
    }
}

/// Tables of the size that the number of needles asks for.
#[derive(Debug, Default)]
struct Tables {
    /// How far apart the text is looked at for narrow grams.
    every: usize,
    small_narrow: Option<Grams<{ 1 << SMALL_BITS }>>,
    narrow: Option<Grams<{ 1 << NARROW_BITS }>>,
    small_wide: Option<Grams<{ 1 << SMALL_BITS }>>,
    wide: Option<Grams<{ 1 << WIDE_BITS }>>,
}

impl Tables {
    fn new(narrow: &[Place], wide: &[Place], every: usize) -> Self {
        let mut tables = Self { every, ..Self::default() };
        let gram = |place: &Place| place.gram as u32;
        if narrow.len() > 1 << SMALL_BITS {
            let row = |place: &Place| narrow_slot(gram(place), 1 << NARROW_BITS).0;
            tables.narrow = Some(Grams::new(narrow, row, narrow_classes));
        } else if !narrow.is_empty() {
            let row = |place: &Place| narrow_slot(gram(place), 1 << SMALL_BITS).0;
            tables.small_narrow = Some(Grams::new(narrow, row, narrow_classes));
        }
        let class = |place: &Place| 1 << wide_slot(place.gram, 1).1;
        if wide.len() > 1 << (SMALL_BITS + 2) {
            tables.wide = Some(Grams::new(wide, |place| wide_slot(place.gram, 1 << WIDE_BITS).0, class));
        } else if !wide.is_empty() {
            let row = |place: &Place| wide_slot(place.gram, 1 << SMALL_BITS).0;
            tables.small_wide = Some(Grams::new(wide, row, class));
        }
        tables
    }

    fn find(&self, padded: &[u8], length: usize, needles: &[Needle], found: &mut impl FnMut(&Range<u32>)) {
        let text = &padded[..length];
        if let Some(grams) = &self.narrow {
            match self.every {
                4 => grams.narrow::<4>(text, padded, needles, found),
                2 => grams.narrow::<2>(text, padded, needles, found),
                _ => grams.narrow::<1>(text, padded, needles, found),
            }
        }
        if let Some(grams) = &self.small_narrow {
            match self.every {
                4 => grams.narrow::<4>(text, padded, needles, found),
                2 => grams.narrow::<2>(text, padded, needles, found),
                _ => grams.narrow::<1>(text, padded, needles, found),
            }
        }
        if let Some(grams) = &self.wide {
            grams.wide(text, needles, found);
        }
        if let Some(grams) = &self.small_wide {
            grams.wide(text, needles, found);
        }
    }
}

/// What is asked of one field's folded text.
#[derive(Debug, Default)]
pub(crate) struct Needles {
    exact: FxHashMap<Box<[u8]>, Range<u32>>,
    /// Bit `n`: a whole value of length `n` is asked for; the last bit: of that length or more.
    exact_lengths: u64,
    prefixes: Anchored,
    suffixes: Anchored,
    anywhere: Box<[Needle]>,
    tables: Tables,
    /// Length of the shortest needle for anywhere.
    shortest: usize,
    /// Atoms of all needles.
    atoms: Box<[u32]>,
}

fn length_bit(length: usize) -> u64 {
    1 << length.min(63)
}

impl Needles {
    /// Calls `found` for every atom one of whose needles stands in the text where it must. An atom may come more than once.
    ///
    /// `padded` is the case-folded text and `PADDING` zero bytes; `reversed` is working memory.
    pub(crate) fn find(&self, padded: &[u8], reversed: &mut Vec<u8>, mut found: impl FnMut(u32)) {
        let Some(length) = padded.len().checked_sub(PADDING) else { return };
        let text = &padded[..length];
        let mut found = |atoms: &Range<u32>| {
            for &atom in &self.atoms[atoms.start as usize..atoms.end as usize] {
                found(atom);
            }
        };
        if self.exact_lengths & length_bit(length) != 0
            && let Some(atoms) = self.exact.get(text)
        {
            found(atoms);
        }
        if !self.prefixes.needles.is_empty() {
            self.prefixes.find(text, &mut found);
        }
        if !self.suffixes.needles.is_empty() {
            reversed.clear();
            reversed.extend(text.iter().rev().take(self.suffixes.longest));
            self.suffixes.find(reversed, &mut found);
        }
        if length >= self.shortest {
            self.tables.find(padded, length, &self.anywhere, &mut found);
        }
    }
}

/// Collects needles of one field.
#[derive(Debug, Default)]
pub(crate) struct NeedlesBuilder {
    wanted: Vec<(Kind, Box<[u8]>, u32)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Exact,
    Prefix,
    Suffix,
    Anywhere,
}

impl NeedlesBuilder {
    /// `atom` is found when `needle` (folded) stands where `anchor` says. A needle for anywhere has at least
    /// `MIN_ANYWHERE` bytes.
    pub(crate) fn add(&mut self, anchor: Anchor, needle: &[u8], atom: u32) {
        let kind = match anchor {
            Anchor::Exact => Kind::Exact,
            Anchor::Prefix => Kind::Prefix,
            Anchor::Suffix => Kind::Suffix,
            Anchor::Contains => Kind::Anywhere,
        };
        let mut text: Box<[u8]> = needle.into();
        if kind == Kind::Suffix {
            text.reverse();
        }
        self.wanted.push((kind, text, atom));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.wanted.is_empty()
    }

    pub(crate) fn finish(mut self, common: &Commonness) -> Needles {
        self.wanted.sort_unstable();
        self.wanted.dedup();
        let mut lists: [Vec<Needle>; 4] = Default::default();
        let mut atoms: Vec<u32> = Vec::with_capacity(self.wanted.len());
        for (kind, text, atom) in self.wanted {
            let list = &mut lists[kind as usize];
            atoms.push(atom);
            let end = atoms.len() as u32;
            match list.last_mut().filter(|last| last.text == text) {
                Some(last) => last.atoms.end = end,
                None => list.push(Needle { text, atoms: end - 1..end }),
            }
        }
        let [exact, prefixes, suffixes, anywhere] = lists;
        let (mut narrow, mut wide) = (Vec::new(), Vec::new());
        let shortest = anywhere.iter().map(|needle| needle.text.len()).min().unwrap_or(usize::MAX);
        // Where every needle has grams at neighbouring places, the text need not be looked at everywhere.
        let every = match shortest {
            7.. => 4,
            5.. => 2,
            _ => 1,
        };
        for (index, needle) in anywhere.iter().enumerate() {
            let text = &*needle.text;
            let place = |gram: u64, mask, offset: usize| Place {
                gram: gram & mask,
                mask,
                needle: index as u32,
                offset: offset as u32,
            };
            if text.len() >= LONG {
                let first = common.rarest(text, LONG);
                for offset in first..first + STRIDE {
                    let gram = text[offset..offset + WIDE].try_into().map_or(0, u64::from_le_bytes);
                    wide.push(place(gram, u64::MAX, offset));
                }
            } else if text.len() < 4 {
                let mask = FOUR_BYTES >> (8 * (4 - text.len()));
                narrow.push(place(u64::from(short_gram(text)), mask, 0));
            } else {
                let first = common.rarest(text, 4 + every - 1);
                for offset in first..first + every {
                    narrow.push(place(u64::from(short_gram(&text[offset..])), FOUR_BYTES, offset));
                }
            }
        }
        Needles {
            exact_lengths: exact.iter().fold(0, |all, needle| all | length_bit(needle.text.len())),
            exact: exact.into_iter().map(|needle| (needle.text, needle.atoms)).collect(),
            prefixes: Anchored::new(prefixes),
            suffixes: Anchored::new(suffixes),
            tables: Tables::new(&narrow, &wide, every),
            shortest,
            anywhere: anywhere.into(),
            atoms: atoms.into(),
        }
    }
}

/// The first four bytes as a number; what is missing is zero.
fn short_gram(text: &[u8]) -> u32 {
    let mut bytes = [0; 4];
    let length = text.len().min(4);
    bytes[..length].copy_from_slice(&text[..length]);
    u32::from_le_bytes(bytes)
}

/// How often four bytes occur in the needles of all rules: what many rules write many events have.
#[derive(Debug)]
pub(crate) struct Commonness {
    /// By hash of the four bytes.
    counts: Box<[u32]>,
}

const COUNT_BITS: u32 = 16;
/// A rare gram is looked for in so many first bytes of a needle.
const MAX_LOOKED_AT: usize = 40;

impl Commonness {
    pub(crate) fn new<'a>(needles: impl Iterator<Item = &'a [u8]>) -> Self {
        let mut counts = vec![0u32; 1 << COUNT_BITS];
        let mut count = |text: &[u8], weight: u32| {
            for bytes in text.windows(4) {
                let slot = &mut counts[Self::slot(short_gram(bytes))];
                *slot = slot.saturating_add(weight);
            }
        };
        for needle in needles {
            count(needle, 1);
        }
        for text in ORDINARY {
            count(text.as_bytes(), ORDINARY_WEIGHT);
        }
        Self { counts: counts.into() }
    }

    fn slot(gram: u32) -> usize {
        (spread(u64::from(gram)) >> (64 - COUNT_BITS)) as usize
    }

    /// How often the least common four bytes of a text are seen; more for a shorter text.
    pub(crate) fn of(&self, text: &[u8]) -> u32 {
        let rarest = text.windows(4).map(|bytes| self.counts[Self::slot(short_gram(bytes))]).min();
        rarest.unwrap_or(ORDINARY_WEIGHT * 16)
    }

    /// Where the `width` bytes begin that are seen least often; `text` has at least `width` (at least 4) bytes.
    fn rarest(&self, text: &[u8], width: usize) -> usize {
        let text = &text[..text.len().min(MAX_LOOKED_AT)];
        let mut counts = [0; MAX_LOOKED_AT];
        for (count, bytes) in counts.iter_mut().zip(text.windows(4)) {
            *count = self.counts[Self::slot(short_gram(bytes))];
        }
        // A gram of eight bytes is as rare as the rarest four in it; a window of grams costs as much as their sum.
        let grams = width.min(WIDE) - 3;
        let cost = |start: usize| -> u32 {
            (start..=start + width - grams - 3)
                .map(|gram| counts[gram..gram + grams].iter().copied().min().unwrap_or(0))
                .fold(0, u32::saturating_add)
        };
        (0..=text.len() - width).min_by_key(|&start| cost(start)).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn found(needles: &[(Anchor, Vec<u8>)], text: &[u8]) -> Vec<u32> {
        let mut builder = NeedlesBuilder::default();
        for (index, (anchor, needle)) in needles.iter().enumerate() {
            builder.add(*anchor, needle, index as u32);
        }
        let built = builder.finish(&Commonness::new(needles.iter().map(|needle| &*needle.1)));
        let padded = [text, &[0; PADDING]].concat();
        let mut atoms = Vec::new();
        built.find(&padded, &mut Vec::new(), |atom| atoms.push(atom));
        atoms.sort_unstable();
        atoms.dedup();
        atoms
    }

    fn anchors() -> impl Strategy<Value = Anchor> {
        prop::sample::select(vec![Anchor::Exact, Anchor::Prefix, Anchor::Suffix, Anchor::Contains])
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

        /// Few letters and a zero byte, so that needles overlap, share starts and ends, and run into the padding.
        #[test]
        fn every_needle_that_stands_there_is_found_and_no_other(
            needles in prop::collection::vec((anchors(), prop::collection::vec(prop::sample::select(vec![b'a', b'b', b'\\', 0]), 0..16)), 0..40),
            text in prop::collection::vec(prop::sample::select(vec![b'a', b'b', b'\\', 0]), 0..40),
            shortest in MIN_ANYWHERE..12,
        ) {
            let needles: Vec<_> = needles.into_iter()
                .filter(|(anchor, needle)| *anchor != Anchor::Contains || needle.len() >= shortest)
                .collect();
            let expected: Vec<u32> = (0..needles.len() as u32)
                .filter(|&index| {
                    let (anchor, needle) = &needles[index as usize];
                    match anchor {
                        Anchor::Exact => text == *needle,
                        Anchor::Prefix => text.starts_with(needle),
                        Anchor::Suffix => text.ends_with(needle),
                        Anchor::Contains => text.windows(needle.len()).any(|window| window == needle.as_slice()),
                    }
                })
                .collect();
            prop_assert_eq!(found(&needles, &text), expected);
        }
    }

    #[test]
    fn a_needle_longer_than_the_text_is_no_match() {
        let needles = [(Anchor::Contains, b"abcdefghijkl".to_vec()), (Anchor::Suffix, b"abc".to_vec())];
        assert_eq!(found(&needles, b"abcdefghijk"), Vec::<u32>::new());
        assert_eq!(found(&needles, b"xxabcdefghijklabc"), [0, 1]);
        assert_eq!(found(&needles, b""), Vec::<u32>::new());
    }
}
