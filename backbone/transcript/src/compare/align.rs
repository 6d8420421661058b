//! The fewest changes that turn one list of words into another, among words said at about the same time.

use super::words::Word;

/// How far apart two words may begin and still stand for each other. A span of the model may be 30 s long, and words
/// without times of their own are only spread over it.
const REACH_MS: u64 = 15_000;

/// What one change costs: more than all differences in time together, so that fewer changes always win.
const CHANGE: u64 = 1 << 40;

/// One step through both lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The next word of both is the same.
    Equal,
    /// The next word of one stands for the next word of the other.
    Replaced,
    /// The next word of the second is in no place of the first.
    Inserted,
    /// The next word of the first is in no place of the second.
    Deleted,
}

/// Costs and steps for so many words of the first list, where `first` and more words of the second are done.
struct Row {
    first: usize,
    costs: Vec<u64>,
    steps: Vec<Step>,
}

impl Row {
    fn cost(&self, done: usize) -> Option<u64> {
        self.costs.get(done.checked_sub(self.first)?).copied()
    }
}

/// Returns the steps. It is Levenshtein's distance in a band along time: its work grows with the length of the
/// recording, not with its square. Among equally few changes, words nearer in time are laid together.
///
/// Both lists are in order of their starts.
pub(super) fn align(from: &[Word], to: &[Word]) -> Vec<Step> {
    // The words of the second list that may stand for a word of the first.
    let within = |word: &Word| {
        let first = to.partition_point(|other| other.start_ms + REACH_MS < word.start_ms);
        let end = to.partition_point(|other| other.start_ms <= word.start_ms + REACH_MS);
        (first, end)
    };
    let mut rows: Vec<Row> = Vec::with_capacity(from.len() + 1);
    for at in 0..=from.len() {
        let before = at.checked_sub(1).map(|before| &from[before]);
        let (first, pairable) = before.map_or((0, 0), within);
        let last = from.get(at).map_or(to.len(), |word| within(word).1);
        let mut row = Row { first, costs: Vec::new(), steps: Vec::new() };
        for done in first..=last {
            let mut best = (u64::MAX, Step::Inserted);
            let mut offer = |cost: Option<u64>, more: u64, step: Step| {
                if let Some(cost) = cost.map(|cost| cost + more).filter(|&cost| cost < best.0) {
                    best = (cost, step);
                }
            };
            if let (Some(word), Some(above)) = (before, rows.last()) {
                if done > first && done <= pairable {
                    let other = &to[done - 1];
                    let apart = word.start_ms.abs_diff(other.start_ms);
                    match word.key == other.key {
                        true => offer(above.cost(done - 1), apart, Step::Equal),
                        false => offer(above.cost(done - 1), CHANGE + apart, Step::Replaced),
                    }
                }
                offer(above.cost(done), CHANGE, Step::Deleted);
            } else if done == 0 {
                // Nothing is done yet, at no cost; the step is never taken.
                offer(Some(0), 0, Step::Inserted);
            }
            if done > first {
                offer(row.cost(done - 1), CHANGE, Step::Inserted);
            }
            row.costs.push(best.0);
            row.steps.push(best.1);
        }
        if let Some(above) = rows.last_mut() {
            above.costs = Vec::new();
        }
        rows.push(row);
    }
    walk_back(&rows, from.len(), to.len())
}

fn walk_back(rows: &[Row], mut at: usize, mut done: usize) -> Vec<Step> {
    let mut steps = Vec::with_capacity(at.max(done));
    while at > 0 || done > 0 {
        let step = rows[at].steps[done - rows[at].first];
        steps.push(step);
        (at, done) = match step {
            Step::Equal | Step::Replaced => (at - 1, done - 1),
            Step::Inserted => (at, done - 1),
            Step::Deleted => (at - 1, done),
        };
    }
    steps.reverse();
    steps
}
