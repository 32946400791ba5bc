//! An inflater straight from RFC 1951, bit by bit, that notes how far back a stream reaches.
//!
//! zlib-rs doesn't refuse a distance that is over the window it was told of, so it can't judge.

/// Where the lengths and distances begin that a symbol stands for, and how many bits refine them.
const LENGTHS: [(usize, usize); 29] = steps(3, 4, 28);
const DISTANCES: [(usize, usize); 30] = steps(1, 2, 30);
/// In which order the lengths of the code for code lengths are given.
const ORDER: [usize; 19] = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];

/// The tables of §3.2.5: after two groups without extra bits, each group has one bit more.
const fn steps<const N: usize>(first: usize, group: usize, regular: usize) -> [(usize, usize); N] {
    let mut table = [(0, 0); N];
    let (mut symbol, mut base) = (0, first);
    while symbol < regular {
        let bits = if symbol < 2 * group { 0 } else { symbol / group - 1 };
        table[symbol] = (base, bits);
        base += 1 << bits;
        symbol += 1;
    }
    if regular < N {
        table[regular] = (258, 0);
    }
    table
}

/// What a whole stream holds, and the greatest distance in it. The stream ends after a block that
/// ends with its last byte.
pub(super) fn inflate(stream: &[u8]) -> Option<(Vec<u8>, usize)> {
    let mut bits = Bits { stream, at: 0 };
    let mut out = Vec::new();
    let mut farthest = 0;
    while bits.at.div_ceil(8) < stream.len() {
        bits.take(1)?;
        match bits.take(2)? {
            0 => {
                bits.at = bits.at.next_multiple_of(8);
                let length = bits.take(16)?;
                (bits.take(16)? == !length & 0xffff).then_some(())?;
                for _ in 0..length {
                    out.push(u8::try_from(bits.take(8)?).ok()?);
                }
            }
            1 => {
                let literals = [[8; 144].as_slice(), &[9; 112], &[7; 24], &[8; 8]].concat();
                let (literals, distances) = (Code::new(&literals), Code::new(&[5; 30]));
                farthest = farthest.max(block(&mut bits, &literals, &distances, &mut out)?);
            }
            2 => {
                let (literals, distances) = codes(&mut bits)?;
                farthest = farthest.max(block(&mut bits, &literals, &distances, &mut out)?);
            }
            _ => return None,
        }
    }
    Some((out, farthest))
}

/// The codes of a dynamic block.
fn codes(bits: &mut Bits<'_>) -> Option<(Code, Code)> {
    let (literals, distances) = (bits.take(5)? + 257, bits.take(5)? + 1);
    let given = bits.take(4)? + 4;
    let mut meta = [0; 19];
    for &symbol in &ORDER[..given] {
        meta[symbol] = bits.take(3)?;
    }
    let meta = Code::new(&meta);
    let mut lengths = Vec::new();
    while lengths.len() < literals + distances {
        let (length, times) = match bits.symbol(&meta)? {
            16 => (*lengths.last()?, 3 + bits.take(2)?),
            17 => (0, 3 + bits.take(3)?),
            18 => (0, 11 + bits.take(7)?),
            length => (length, 1),
        };
        lengths.extend(std::iter::repeat_n(length, times));
    }
    let distances = lengths.split_off(literals);
    Some((Code::new(&lengths), Code::new(&distances)))
}

/// Inflates a compressed block; the greatest distance in it.
fn block(
    bits: &mut Bits<'_>,
    literals: &Code,
    distances: &Code,
    out: &mut Vec<u8>,
) -> Option<usize> {
    let mut farthest = 0;
    loop {
        let symbol = bits.symbol(literals)?;
        if let Ok(byte) = u8::try_from(symbol) {
            out.push(byte);
            continue;
        }
        if symbol == 256 {
            return Some(farthest);
        }
        let length = bits.refine(LENGTHS.get(symbol - 257)?)?;
        let symbol = bits.symbol(distances)?;
        let distance = bits.refine(DISTANCES.get(symbol)?)?;
        farthest = farthest.max(distance);
        for _ in 0..length {
            out.push(*out.get(out.len().checked_sub(distance)?)?);
        }
    }
}

struct Bits<'a> {
    stream: &'a [u8],
    at: usize,
}

impl Bits<'_> {
    fn take(&mut self, count: usize) -> Option<usize> {
        let mut value = 0;
        for place in 0..count {
            let byte = usize::from(*self.stream.get(self.at / 8)?);
            value |= (byte >> (self.at % 8) & 1) << place;
            self.at += 1;
        }
        Some(value)
    }

    fn refine(&mut self, &(base, bits): &(usize, usize)) -> Option<usize> {
        Some(base + self.take(bits)?)
    }

    /// The next symbol of a canonical code.
    fn symbol(&mut self, code: &Code) -> Option<usize> {
        let (mut word, mut first, mut index) = (0, 0, 0);
        for &count in &code.counts[1..] {
            word = word << 1 | self.take(1)?;
            if word < first + count {
                return code.symbols.get(index + word - first).copied();
            }
            index += count;
            first = (first + count) << 1;
        }
        None
    }
}

/// A canonical code (§3.2.2).
struct Code {
    /// How many words there are of each length.
    counts: [usize; 16],
    /// The symbols in the order of their words.
    symbols: Vec<usize>,
}

impl Code {
    fn new(lengths: &[usize]) -> Self {
        let mut counts = [0; 16];
        let mut symbols: Vec<_> = (0..lengths.len()).filter(|&at| lengths[at] > 0).collect();
        symbols.sort_by_key(|&at| lengths[at]);
        for &symbol in &symbols {
            counts[lengths[symbol]] += 1;
        }
        Self { counts, symbols }
    }
}
