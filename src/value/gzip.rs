//! Decompresses a gRPC message that is compressed by gzip (RFC 1952, RFC 1951).
//!
//! Clients compress requests to gRPC health if their channel is set to, and some servers compress their responses. A
//! message is at most a few kilobytes, so this reads bit by bit. It keeps the module small, which is why the functions are
//! not inlined.

use core::ops::RangeInclusive;

/// Returns the message, or `None` if the bytes are no gzip member or the message is longer than `limit`.
pub fn decompress(bytes: &[u8], limit: usize) -> Option<Vec<u8>> {
    let (&[31, 139, 8, flags, ..], rest) = bytes.split_first_chunk::<10>()? else {
        return None;
    };
    // Compressors that serve gRPC have no use for names, comments and checksums of the header.
    if flags != 0 {
        return None;
    }
    let (deflated, &[a, b, c, d, length @ ..]) = rest.split_last_chunk::<8>()?;
    let mut bits = BitReader { bytes: deflated, position: 0 };
    let message = inflate(&mut bits, limit)?;
    let is_whole = bits.position.div_ceil(8) == deflated.len()
        && u32::from_le_bytes(length) == u32::try_from(message.len()).ok()?
        && u32::from_le_bytes([a, b, c, d]) == checksum(&message);
    is_whole.then_some(message)
}

/// Returns the CRC-32 of the bytes.
#[inline(never)]
fn checksum(bytes: &[u8]) -> u32 {
    let step = |sum: u32| (sum >> 1) ^ (0xEDB8_8320 & (sum & 1).wrapping_neg());
    !bytes.iter().fold(u32::MAX, |sum, byte| (0..8).fold(sum ^ u32::from(*byte), |sum, _| step(sum)))
}

/// Reads bits, the least significant bit of each byte first.
struct BitReader<'b> {
    bytes: &'b [u8],
    /// The number of bits that have been read.
    position: usize,
}

impl BitReader<'_> {
    #[inline(never)]
    fn bit(&mut self) -> Option<usize> {
        let byte = self.bytes.get(self.position / 8)?;
        let bit = byte >> (self.position % 8) & 1;
        self.position += 1;
        Some(usize::from(bit))
    }

    /// Reads a number of this many bits.
    #[inline(never)]
    fn number(&mut self, bits: usize) -> Option<usize> {
        (0..bits).try_fold(0, |number, place| Some(number | self.bit()? << place))
    }
}

/// The longest code of a symbol, in bits.
const LONGEST_CODE: usize = 15;

/// A prefix code. Codes of one length are consecutive numbers, in the order of their symbols.
struct PrefixCode {
    /// The number of codes by their length.
    counts: [usize; LONGEST_CODE + 1],
    /// The symbols in the order of their codes, shorter codes first.
    symbols: Vec<usize>,
}

impl PrefixCode {
    /// Creates the code in which each symbol has a code of this length. 0 means that it has none.
    #[inline(never)]
    fn new(lengths: &[u8]) -> Self {
        let mut code =
            PrefixCode { counts: [0; LONGEST_CODE + 1], symbols: Vec::with_capacity(lengths.len()) };
        for (length, count) in code.counts.iter_mut().enumerate().skip(1) {
            for (symbol, known) in lengths.iter().enumerate() {
                if usize::from(*known) == length {
                    code.symbols.push(symbol);
                    *count += 1;
                }
            }
        }
        code
    }

    /// Reads one symbol. Returns `None` if no symbol has the code that follows.
    #[inline(never)]
    fn read(&self, bits: &mut BitReader<'_>) -> Option<usize> {
        // The code so far, the first code of this length, and the number of symbols with shorter codes.
        let (mut code, mut first, mut shorter) = (0_usize, 0, 0);
        for count in self.counts.iter().skip(1) {
            code |= bits.bit()?;
            let index = code.checked_sub(first)?;
            if index < *count {
                return self.symbols.get(shorter + index).copied();
            }
            shorter += count;
            first = (first + count) << 1;
            code <<= 1;
        }
        None
    }
}

/// Reads all blocks. Returns `None` if they are malformed or hold more than `limit` bytes.
fn inflate(bits: &mut BitReader<'_>, limit: usize) -> Option<Vec<u8>> {
    let mut message = Vec::new();
    loop {
        let is_last = bits.bit()? == 1;
        match bits.number(2)? {
            0 => stored(bits, &mut message, limit)?,
            1 => {
                let lengths: [u8; 288] = core::array::from_fn(|symbol| match symbol {
                    144..=255 => 9,
                    256..=279 => 7,
                    _ => 8,
                });
                compressed(
                    bits,
                    &mut message,
                    limit,
                    &PrefixCode::new(&lengths),
                    &PrefixCode::new(&[5; 30]),
                )?;
            }
            2 => {
                let (literals, distances) = read_codes(bits)?;
                compressed(bits, &mut message, limit, &literals, &distances)?;
            }
            _ => return None,
        }
        if is_last {
            return Some(message);
        }
    }
}

/// Reads a block that is not compressed.
#[inline(never)]
fn stored(bits: &mut BitReader<'_>, message: &mut Vec<u8>, limit: usize) -> Option<()> {
    bits.position = bits.position.next_multiple_of(8);
    let (length, complement) = (bits.number(16)?, bits.number(16)?);
    let start = bits.position / 8;
    let part = bits.bytes.get(start..start + length)?;
    if length ^ complement != 0xFFFF || message.len() + length > limit {
        return None;
    }
    message.extend_from_slice(part);
    bits.position += length * 8;
    Some(())
}

/// Reads the codes at the start of a block that has its own.
#[inline(never)]
fn read_codes(bits: &mut BitReader<'_>) -> Option<(PrefixCode, PrefixCode)> {
    const ORDER: [usize; 19] = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];
    let literals = bits.number(5)? + 257;
    let distances = bits.number(5)? + 1;
    let count = bits.number(4)? + 4;
    let mut code_lengths = [0; 19];
    for symbol in ORDER.iter().take(count) {
        *code_lengths.get_mut(*symbol)? = u8::try_from(bits.number(3)?).ok()?;
    }
    let code = PrefixCode::new(&code_lengths);
    let mut lengths: Vec<u8> = Vec::new();
    while lengths.len() < literals + distances {
        let (length, times) = match code.read(bits)? {
            16 => (*lengths.last()?, 3 + bits.number(2)?),
            17 => (0, 3 + bits.number(3)?),
            18 => (0, 11 + bits.number(7)?),
            length => (u8::try_from(length).ok()?, 1),
        };
        lengths.resize(lengths.len() + times, length);
    }
    if lengths.len() > literals + distances {
        return None;
    }
    let (literals, distances) = lengths.split_at_checked(literals)?;
    Some((PrefixCode::new(literals), PrefixCode::new(distances)))
}

/// The symbol that ends a block. Lower ones are bytes, and higher ones are lengths of repetitions.
const END: usize = 256;

/// Reads a compressed block with these codes.
#[inline(never)]
fn compressed(
    bits: &mut BitReader<'_>,
    message: &mut Vec<u8>,
    limit: usize,
    literals: &PrefixCode,
    distances: &PrefixCode,
) -> Option<()> {
    loop {
        let symbol = literals.read(bits)?;
        if symbol == END {
            return Some(());
        }
        let Some(length) = symbol.checked_sub(END + 1) else {
            if message.len() == limit {
                return None;
            }
            message.push(u8::try_from(symbol).ok()?);
            continue;
        };
        let length = match length {
            28 => 258,
            length => 3 + read_scaled(bits, length, 2, 0..=27)?,
        };
        let distance = distances.read(bits)?;
        let distance = 1 + read_scaled(bits, distance, 1, 0..=29)?;
        let start = message.len().checked_sub(distance)?;
        if message.len() + length > limit {
            return None;
        }
        // A repetition may overlap itself.
        for at in start..start + length {
            message.push(*message.get(at)?);
        }
    }
}

/// Reads the number that `symbol` and the bits after it stand for. The first `2 << scale` symbols are the numbers
/// themselves. From then on, `1 << scale` symbols each share a number of bits, which rises by one.
#[inline(never)]
fn read_scaled(
    bits: &mut BitReader<'_>,
    symbol: usize,
    scale: usize,
    symbols: RangeInclusive<usize>,
) -> Option<usize> {
    if !symbols.contains(&symbol) {
        return None;
    }
    let group = symbol >> scale;
    if group < 2 {
        return Some(symbol);
    }
    let extra = group - 1;
    let high = (1 << scale) | (symbol & ((1 << scale) - 1));
    Some((high << extra) | bits.number(extra)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const EMPTY: &[u8] = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\x03\x03\x00\x00\x00\x00\x00\x00\x00\x00\x00";
    const SHORT: &[u8] = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\x03\xe3\xe2)\xce\xc8/\xd0\x0bJ-\xcbL-/\x06\x00\x7f\xdf\xe7'\x0e\x00\x00\x00";
    const STORED: &[u8] = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x04\x03\x01\x0c\x00\xf3\xffshop.Reviews\xb7\x03\x04\xc5\x0c\x00\x00\x00";
    const REPEATED: &[u8] = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\x03\xed\xc11\x01\x00\x00\x00\xc2\xa0\xac\xeb_\xc2\x18>@\x01\x00\x00\x00o\x03\xeb\xbe\x85x\xa0\x0f\x00\x00";
    /// Has codes of its own.
    const OWN_CODES: &[u8] = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\x035\x90I\x0eC!\x0cCoT\x91\x81\x007\xea\xae\x95z\x7f\xa9_\xe4y\
        \x13\x14\xe28\xb6\x7f\xef\xcfw\xbc~O\xb5[\xf3\xd6\xd3?u\x1f\x9f\xf7\x89\xee\xb2g\xd5\xc0\xdd[6\xe0p\
        \xfaL\x18`:P\xc1\xe5\x93~\xf7<<\xb9\x81\x0a\xf82\xe9w\xcf\xa77~\xae\xde/\xf8\x8a~1_\xe07\xfb\x07\xbe\
        S\xd2\xcbA\x1b(0C\x92I\xa39\xa2-\xe4\x22ek\xcag\xc9x)\x89E2\xb6S\xdeI\xce\x87\xdc\x9b\x92\xf5\xd1\
        \x18\x8f\xd1[\x9e\xc3H\x08f/\xfd,a\xb6\xb6\x0e<!\xe60n=\x81\x92l\xa0'\xf2Q\xf8\x07\x04i\xdb\xcb\xee\
        \x01\x00\x00";

    const LIMIT: usize = 5_000;

    fn own_codes() -> Vec<u8> {
        (0..60).flat_map(|number| format!("shop{}.", number * number).into_bytes()).collect()
    }

    #[test]
    fn a_message_is_what_was_compressed() {
        let repeated = [b'a'; 4_000];
        for (bytes, message) in [
            (EMPTY, &b""[..]),
            (SHORT, b"\x0a\x0cshop.Reviews"),
            (STORED, b"shop.Reviews"),
            (REPEATED, &repeated),
            (OWN_CODES, &own_codes()),
        ] {
            assert_eq!(decompress(bytes, LIMIT).as_deref(), Some(message));
        }
    }

    #[test]
    fn a_message_may_be_as_long_as_the_limit_and_no_longer() {
        for (bytes, length) in [(SHORT, 14), (STORED, 12), (REPEATED, 4_000), (OWN_CODES, own_codes().len())]
        {
            assert_eq!(decompress(bytes, length).map(|message| message.len()), Some(length));
            assert_eq!(decompress(bytes, length - 1), None);
        }
    }

    #[test]
    fn bytes_that_were_changed_or_cut_are_no_message() {
        for bytes in [EMPTY, SHORT, STORED, REPEATED, OWN_CODES] {
            let message = decompress(bytes, LIMIT);
            for at in 0..bytes.len() {
                assert_eq!(decompress(&bytes[..at], LIMIT), None);
                for bit in 0..8 {
                    let mut changed = bytes.to_vec();
                    changed[at] ^= 1 << bit;
                    // The header has a date and the compressor's name, and the last byte may have bits to spare.
                    let decompressed = decompress(&changed, LIMIT);
                    assert!(decompressed.is_none() || decompressed == message, "{at} {bit}");
                }
            }
            assert_eq!(decompress(&[bytes, b"x"].concat(), LIMIT), None);
        }
    }
}
