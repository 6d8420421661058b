//! Quantiles of what was measured, and when an open loop sends what.

use std::time::Duration;

/// Measured values, in order.
#[derive(Clone, Debug)]
pub struct Sorted(Vec<f64>);

impl Sorted {
    /// Sorts values.
    pub fn of(mut values: Vec<f64>) -> Sorted {
        values.sort_by(f64::total_cmp);
        Sorted(values)
    }

    /// The smallest value that `share` of all values do not exceed (nearest rank); 0 where there are none.
    pub fn at(&self, share: f64) -> f64 {
        let rank = (share * self.0.len() as f64).ceil() as usize;
        self.0.get(rank.clamp(1, self.0.len().max(1)) - 1).copied().unwrap_or(0.0)
    }

    /// The middle one.
    pub fn median(&self) -> f64 {
        self.at(0.5)
    }

    /// The sum over the number; 0 where there are none.
    pub fn mean(&self) -> f64 {
        self.0.iter().sum::<f64>() / self.0.len().max(1) as f64
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// When an open loop sends: at even distances, over some lines in turn, whatever the answers do.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    /// Requests a second over all lines.
    pub per_second: f64,
    /// How many lines share them.
    pub lines: usize,
}

impl Schedule {
    /// When the `number`th request of a line, from 0, is due after the start.
    pub fn due(self, line: usize, number: usize) -> Duration {
        let turn = number * self.lines + line;
        Duration::from_secs_f64(turn as f64 / self.per_second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_were_measured() {
        let hundred = Sorted::of((1..=100).rev().map(f64::from).collect());
        assert_eq!(hundred.at(0.0), 1.0);
        assert_eq!(hundred.median(), 50.0);
        assert_eq!(hundred.at(0.95), 95.0);
        assert_eq!(hundred.at(0.99), 99.0);
        assert_eq!(hundred.at(1.0), 100.0);
        assert_eq!(Sorted::of(vec![7.0]).at(0.99), 7.0);
        assert_eq!(Sorted::of(vec![1.0, 2.0, 9.0]).mean(), 4.0);
        assert_eq!(Sorted::of(Vec::new()).at(0.5), 0.0);
    }

    #[test]
    fn lines_take_turns_at_even_distances() {
        let schedule = Schedule { per_second: 1000.0, lines: 4 };
        let due = |line, number| schedule.due(line, number).as_millis();
        assert_eq!([due(0, 0), due(1, 0), due(3, 0), due(0, 1), due(2, 10)], [0, 1, 3, 4, 42]);
    }
}
