//! Changes inputs at random, the same for the same seed.

use std::path::Path;

/// A small generator of numbers (SplitMix64).
pub struct Dice(pub u64);

/// Bytes that mean something to somebody.
const BYTES: &[u8] = b"\0\t\n\r \"%&'()*+,-./0123456789:;=?@AZ[\\]_`az{|}~\x7f\x80\xc3\xff";
/// Longest input.
const BYTES_MAX: usize = 4096;

impl Dice {
    /// A number below this one, which isn't 0.
    pub fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut number = self.0;
        number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((number ^ (number >> 31)) % end as u64).expect("it is below a usize")
    }

    fn range(&mut self, len: usize) -> std::ops::Range<usize> {
        let (one, other) = (self.below(len + 1), self.below(len + 1));
        one.min(other)..one.max(other)
    }

    /// One of the inputs, changed in some places.
    pub fn change(&mut self, kept: &[(String, Vec<u8>)], words: &[Vec<u8>]) -> Vec<u8> {
        let mut input = kept[self.below(kept.len())].1.clone();
        for _ in 0..=self.below(4) {
            let len = input.len();
            let at = self.below(len + 1);
            match self.below(10) {
                0 if len > 0 => input[at.min(len - 1)] ^= 1 << self.below(8),
                1 if len > 0 => input[at.min(len - 1)] = BYTES[self.below(BYTES.len())],
                2 => input.insert(at, BYTES[self.below(BYTES.len())]),
                3 => drop(input.drain(self.range(len))),
                4 => {
                    let again = input[self.range(len)].to_vec();
                    input.splice(at..at, again);
                }
                5 | 6 if !words.is_empty() => {
                    let word = words[self.below(words.len())].clone();
                    let end = if self.below(2) == 0 { at } else { (at + word.len()).min(len) };
                    input.splice(at..end, word);
                }
                7 => {
                    let other = &kept[self.below(kept.len())].1;
                    let piece = other[self.range(other.len())].to_vec();
                    input.splice(self.range(len), piece);
                }
                8 => {
                    let number = [0, 1, 9, 10, 255, 256, i64::MAX as u64, u64::MAX][self.below(8)];
                    input.splice(at..at, number.to_string().into_bytes());
                }
                _ => input.truncate(at),
            }
            input.truncate(BYTES_MAX);
        }
        input
    }
}

/// The words of a dictionary in libFuzzer's form: one in quotes on each line, perhaps after a name.
pub fn words(file: &Path) -> Vec<Vec<u8>> {
    let Ok(text) = std::fs::read_to_string(file) else { return Vec::new() };
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| Some(unquoted(line.split_once('"')?.1.strip_suffix('"')?))).collect()
}

fn unquoted(text: &str) -> Vec<u8> {
    let (mut word, mut bytes) = (Vec::new(), text.bytes());
    while let Some(byte) = bytes.next() {
        match (byte, if byte == b'\\' { bytes.next() } else { None }) {
            (_, Some(b'x')) => {
                let digits: Vec<u8> = bytes.by_ref().take(2).collect();
                let digits = String::from_utf8(digits).expect("two digits");
                word.push(u8::from_str_radix(&digits, 16).expect("two digits"));
            }
            (_, Some(escaped)) => word.push(escaped),
            (byte, None) => word.push(byte),
        }
    }
    word
}
