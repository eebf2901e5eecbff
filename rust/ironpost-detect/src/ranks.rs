//! Weighted numbers in order, of which the one at a rank is found quickly, by trust.

use crate::window::Trust;

/// Numbers by trust; a level's number is the sum from there on.
pub(crate) type ByTrust<T> = [T; Trust::COUNT];

/// Numbers of one block; a fuller one is halved. About the root of the number of values in a full window.
const BLOCK: usize = 128;

#[derive(Clone, Debug, Default)]
struct Block {
    weights: ByTrust<u64>,
    numbers: Vec<(f64, ByTrust<u64>)>,
}

/// Blocks of numbers, none of them empty: to add, to remove and to find costs the number of blocks and the length of one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ranks {
    blocks: Vec<Block>,
}

impl Ranks {
    /// The block a number belongs to and its place there.
    fn place(&self, number: f64) -> (usize, usize) {
        let behind =
            |block: &Block| block.numbers.last().is_some_and(|(last, _)| last.total_cmp(&number).is_lt());
        let at = self.blocks.partition_point(behind).min(self.blocks.len().saturating_sub(1));
        let numbers = self.blocks.get(at).map_or(&[][..], |block| &block.numbers);
        (at, numbers.partition_point(|(known, _)| known.total_cmp(&number).is_lt()))
    }

    pub(crate) fn add(&mut self, number: f64, trust: usize, weight: u64) {
        let (at, place) = self.place(number);
        if self.blocks.is_empty() {
            self.blocks.push(Block::default());
        }
        let block = &mut self.blocks[at];
        if block.numbers.get(place).is_none_or(|(known, _)| known.total_cmp(&number).is_ne()) {
            block.numbers.insert(place, (number, ByTrust::default()));
        }
        block.numbers[place].1[trust] += weight;
        block.weights[trust] += weight;
        if block.numbers.len() > BLOCK {
            let numbers = block.numbers.split_off(BLOCK / 2);
            let mut upper = Block { weights: ByTrust::default(), numbers };
            for (_, weights) in &upper.numbers {
                for (trust, weight) in weights.iter().enumerate() {
                    upper.weights[trust] += weight;
                    block.weights[trust] -= weight;
                }
            }
            self.blocks.insert(at + 1, upper);
        }
    }

    /// Takes out what was added.
    pub(crate) fn remove(&mut self, number: f64, trust: usize, weight: u64) {
        let (at, place) = self.place(number);
        let Some(block) = self.blocks.get_mut(at) else { return };
        let Some((_, weights)) = block.numbers.get_mut(place) else { return };
        weights[trust] -= weight;
        let gone = weights.iter().all(|&weight| weight == 0);
        block.weights[trust] -= weight;
        if gone {
            block.numbers.remove(place);
        }
        if block.numbers.is_empty() {
            self.blocks.remove(at);
        }
    }

    /// Weight of the numbers of at least a trust.
    pub(crate) fn total(&self, from: usize) -> u64 {
        self.blocks.iter().map(|block| block.weights[from..].iter().sum::<u64>()).sum()
    }

    /// The number before which `rank` others of at least a trust stand.
    pub(crate) fn at(&self, from: usize, rank: u64) -> Option<f64> {
        let mut before = 0;
        let mut passed = |weights: &ByTrust<u64>| {
            let weight: u64 = weights[from..].iter().sum();
            let here = before + weight > rank;
            before += if here { 0 } else { weight };
            here
        };
        let block = self.blocks.iter().find(|block| passed(&block.weights))?;
        block.numbers.iter().find(|(_, weights)| passed(weights)).map(|&(number, _)| number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_where_sorting_puts_them() {
        let (mut ranks, mut known) = (Ranks::default(), Vec::new());
        let mut state = 1u64;
        let mut random = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        for step in 0..6_000 {
            if !known.is_empty() && (step % 3 == 2 || step > 4_000) {
                let gone = known.swap_remove(random(known.len() as u64) as usize);
                let (number, trust, weight): (f64, usize, u64) = gone;
                ranks.remove(number, trust, weight);
            } else {
                let one = (random(900) as f64 - 450.0, random(5) as usize, 1 + random(3));
                ranks.add(one.0, one.1, one.2);
                known.push(one);
            }
            if step % 50 == 0 {
                for from in 0..Trust::COUNT {
                    let wanted = known.iter().filter(|one| one.1 >= from);
                    let mut sorted: Vec<f64> =
                        wanted.flat_map(|one| std::iter::repeat_n(one.0, one.2 as usize)).collect();
                    sorted.sort_by(f64::total_cmp);
                    assert_eq!(ranks.total(from), sorted.len() as u64);
                    for rank in (0..sorted.len()).step_by(7) {
                        assert_eq!(ranks.at(from, rank as u64), Some(sorted[rank]));
                    }
                    assert_eq!(ranks.at(from, sorted.len() as u64), None);
                }
            }
        }
    }
}
