//! Random numbers that are the same on every machine and for every version of this crate.

/// SplitMix64 (Steele, Lea and Flood 2014): a counter with a mixing function, so any key starts an independent stream.
#[derive(Debug, Clone)]
pub struct SplitMix64(u64);

const GOLDEN_GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// The output function of SplitMix64 (variant 13 of Stafford's mixers).
pub(super) fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A hash of a few words, each of which changes every bit.
pub fn hash(words: &[u64]) -> u64 {
    words.iter().fold(0, |state, &word| mix(state.wrapping_add(GOLDEN_GAMMA) ^ mix(word.wrapping_add(GOLDEN_GAMMA))))
}

impl SplitMix64 {
    /// The stream of that key, for example (seed, epoch, index).
    pub fn new(key: &[u64]) -> Self {
        Self(hash(key))
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GOLDEN_GAMMA);
        mix(self.0)
    }

    /// Uniform in 0..bound; 0 where bound is 0. The bias is below 2^-32 for bounds below 2^32.
    pub fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.bits()) * bound as u128) >> 64) as usize
    }

    /// Uniform in [0, 1), a multiple of 2^-53.
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Uniform in [low, high).
    pub fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_the_published_generator() {
        let mut stream = SplitMix64(1_234_567);
        let expected = [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423];
        assert_eq!([stream.bits(), stream.bits(), stream.bits()], expected);
    }

    #[test]
    fn keys_give_streams_of_their_own() {
        let keys: [&[u64]; 6] = [&[], &[0], &[0, 0], &[1, 0], &[0, 1], &[u64::MAX]];
        let mut firsts: Vec<_> = keys.iter().map(|key| SplitMix64::new(key).bits()).collect();
        firsts.sort_unstable();
        firsts.dedup();
        assert_eq!(firsts.len(), keys.len());
    }

    #[test]
    fn draws_are_uniform() {
        let mut stream = SplitMix64::new(&[7]);
        let mut counts = [0; 8];
        (0..80_000).for_each(|_| counts[stream.below(8)] += 1);
        assert!(counts.iter().all(|count| (9_500..10_500).contains(count)), "{counts:?}");
        let mean = (0..10_000).map(|_| stream.between(-1.0, 3.0)).sum::<f64>() / 10_000.0;
        assert!((mean - 1.0).abs() < 0.05, "{mean}");
        assert_eq!(stream.below(0), 0);
    }
}
