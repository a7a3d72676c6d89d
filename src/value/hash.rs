//! Hashes for the bucket of a key in a release, for seeds and for digests.
//!
//! Every hash is XXH64, as its specification defines it. It gives the same result on wasm32, x86-64 and Arm,
//! in the filter and in the tool. A changed constant would move users between versions, so tests compare it
//! with golden vectors.

use core::hash::{Hash, Hasher};

use twox_hash::XxHash64;

/// The number of buckets of a release. One bucket is a share of 0.01 %.
pub const BUCKETS: u16 = 10_000;

/// Returns the seed of a release, which is the hash of its name.
///
/// Two releases pick different users. One release picks the same users at every proxy, whatever policy it is
/// part of.
pub fn seed(release: &str) -> u64 {
    XxHash64::oneshot(0, release.as_bytes())
}

/// Returns the hash of a key.
pub fn key(seed: u64, key: &[u8]) -> u64 {
    XxHash64::oneshot(seed, key)
}

/// Returns a pseudo-random number derived from a counter. Distinct counters give distinct numbers.
pub fn pseudo_random(counter: u64) -> u64 {
    XxHash64::oneshot(counter, b"")
}

/// Returns the bucket of a hash, from 0 to 9,999.
pub fn bucket(hash: u64) -> u16 {
    // The remainder is below BUCKETS, so it fits. Its bias is below 1 in 2^50.
    (hash % u64::from(BUCKETS)) as u16
}

/// Returns a digest of a whole value, which shows whether the value has changed. Digests of different builds
/// of this module cannot be compared.
pub fn digest(seed: u64, value: &impl Hash) -> u64 {
    let mut digest = Digest(XxHash64::with_seed(seed));
    value.hash(&mut digest);
    digest.finish()
}

struct Digest(XxHash64);

impl Hasher for Digest {
    /// Keeps one copy of the hash. A copy for each field of a policy would add 20 kB to the module.
    #[inline(never)]
    fn write(&mut self, bytes: &[u8]) {
        self.0.write(bytes);
    }

    fn finish(&self) -> u64 {
        self.0.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    /// The first row is the specification's own check value for an empty input.
    #[test]
    fn hashes_match_the_golden_vectors() {
        assert_eq!(seed(""), 0xEF46_DB37_51D8_E999);
        assert_eq!(seed("reviews"), REVIEWS);
        for (key, expected) in GOLDEN {
            assert_eq!(bucket(super::key(REVIEWS, key)), *expected, "{key:?}");
        }
    }

    /// The reference implementation (PyPI `xxhash`) computed these values, not this code.
    const REVIEWS: u64 = 0x34C4_312E_5274_7C9B;
    const GOLDEN: &[(&[u8], u16)] = &[
        (b"", 5836),
        (b"a", 2959),
        (b"alice", 6405),
        (b"user-12345", 2823),
        (b"1000000007", 4724),
        (b"550e8400-e29b-41d4-a716-446655440000", 2520),
        (b"jane.doe@example.com", 1839),
        ("Zoë Müller".as_bytes(), 6458),
        ("用户-42".as_bytes(), 4662),
        (b"\xff\xfe\x00\x80", 6397),
        (&[0; 32], 3263),
        (b"0123456789abcdef0123456789abcde", 8396),
        (&[b'a'; 64 * 1024], 4713),
    ];
}
