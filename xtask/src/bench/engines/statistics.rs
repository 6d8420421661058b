//! The few figures a measurement needs, and chance that a seed repeats.

/// Times a set of clips is drawn again for an interval.
const DRAWS: usize = 10_000;

/// The middle of some values; 0 of none.
pub fn median(values: &[f64]) -> f64 {
    let sorted = sorted(values);
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

/// The smallest value that at least this share (0 to 1) of the values do not exceed; 0 of none.
pub fn percentile(values: &[f64], share: f64) -> f64 {
    let sorted = sorted(values);
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
}

/// Where 95 % of the sums lie when as many differences are drawn, with repeats, as there are: paired bootstrap.
pub fn bootstrap(differences: &[i64], seed: u64) -> (i64, i64) {
    let mut chance = Chance::new(seed);
    let mut sums: Vec<i64> = (0..DRAWS)
        .map(|_| differences.iter().map(|_| differences[chance.below(differences.len())]).sum())
        .collect();
    sums.sort_unstable();
    (sums[DRAWS / 40], sums[DRAWS - 1 - DRAWS / 40])
}

/// Seconds at which requests arrive when each arrives by itself, `rate` a second on average: a Poisson stream.
pub fn arrivals(rate: f64, count: usize, seed: u64) -> Vec<f64> {
    let mut chance = Chance::new(seed);
    let mut now = 0.0;
    (0..count)
        .map(|_| {
            now += -(1.0 - chance.unit()).ln() / rate;
            now
        })
        .collect()
}

/// SplitMix64: small, and the same on every machine.
pub struct Chance(u64);

impl Chance {
    pub fn new(seed: u64) -> Chance {
        Chance(seed)
    }

    /// 0 to 1, without 1.
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A whole number below `end`; 0 where `end` is 0.
    pub fn below(&mut self, end: usize) -> usize {
        (self.unit() * end as f64) as usize
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_percentiles_are_values_or_lie_between_two() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(&[]), 0.0);
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(percentile(&hundred, 0.5), 50.0);
        assert_eq!(percentile(&hundred, 0.95), 95.0);
        assert_eq!(percentile(&[7.0], 0.95), 7.0);
        assert_eq!(percentile(&[], 0.95), 0.0);
    }

    #[test]
    fn chance_follows_its_seed() {
        // The first outputs of SplitMix64 for seed 0, as its author publishes them.
        let mut chance = Chance::new(0);
        assert_eq!(chance.next(), 0xe220_a839_7b1d_cdaf);
        assert_eq!(chance.next(), 0x6e78_9e6a_a1b9_65f4);
        assert!((0..1000).all(|_| Chance::new(9).below(3) < 3));
    }

    #[test]
    fn the_interval_holds_what_chance_allows() {
        assert_eq!(bootstrap(&[1; 20], 1), (20, 20));
        assert_eq!(bootstrap(&[0; 20], 1), (0, 0));
        // Fifty clips better by one and fifty worse by one: the sum has a deviation of 10.
        let even: Vec<i64> = (0..100).map(|i| if i % 2 == 0 { 1 } else { -1 }).collect();
        let (low, high) = bootstrap(&even, 7);
        assert!((-24..=-16).contains(&low) && (16..=24).contains(&high), "{low} {high}");
        assert_eq!(bootstrap(&even, 7), (low, high));
    }

    #[test]
    fn arrivals_keep_their_rate_and_their_seed() {
        let times = arrivals(4.0, 4000, 3);
        assert!(times.windows(2).all(|pair| pair[0] < pair[1]));
        assert!((900.0..1100.0).contains(&times[3999]), "{}", times[3999]);
        assert_eq!(times, arrivals(4.0, 4000, 3));
        assert_ne!(times[0], arrivals(4.0, 1, 4)[0]);
        // Half the rate, the same chance: twice the time.
        assert!((arrivals(2.0, 1, 3)[0] - 2.0 * times[0]).abs() < 1e-9);
    }
}
