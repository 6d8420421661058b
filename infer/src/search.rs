//! From a prompt to the texts of a window: the likeliest token at each step, drawn ones, or beams.

use std::rc::Rc;

use crate::backend::{Answer, DeviceError};
use crate::quality::runs_away;
use crate::sampling::Sampling;
use crate::scheduler::{Desk, RowLease, SlotLease};

/// A prompt and the room behind it.
pub struct Prompt {
    /// Its tokens.
    pub tokens: Rc<[u32]>,
    /// Index of `<|startoftranscript|>`.
    pub start: usize,
    /// Tokens that the text has to begin with.
    pub prefix: Vec<u32>,
    /// Tokens a text may have, the prefix and the end counted.
    pub tokens_max: usize,
    /// Whether a text that needs them all ran away: nobody speaks so fast.
    pub is_budget: bool,
    /// `<|endoftext|>`.
    pub end: u32,
}

/// One text found for a window.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Candidate {
    /// Tokens without prompt and end.
    pub tokens: Vec<u32>,
    /// How many of them are the prefix, which nobody sampled.
    pub forced: usize,
    /// Sum of the logarithms of the probabilities of the sampled tokens and the end.
    pub sum_logprob: f32,
    /// Whether it was ended because it went round in a circle, or is longer than anybody speaks.
    pub ran_away: bool,
    /// Whether it was ended because there was no room for more.
    pub out_of_room: bool,
}

impl Candidate {
    /// Mean logarithm of the probability of a sampled token, the end counted as one.
    pub fn avg_logprob(&self) -> f32 {
        self.sum_logprob / (self.sampled() + 1) as f32
    }

    fn sampled(&self) -> usize {
        self.tokens.len().saturating_sub(self.forced)
    }

    /// How candidates of one window are ranked: the mean over the tokens alone, or over ((5 + tokens) / 6) to the power
    /// of a penalty (Wu et al. 2016, equation 14), as openai's ranker has both.
    fn rank(&self, length_penalty: Option<f32>) -> f32 {
        let length = self.sampled().max(1) as f32;
        self.sum_logprob / length_penalty.map_or(length, |penalty| ((5.0 + length) / 6.0).powf(penalty))
    }
}

/// What a search found.
pub struct Found {
    /// The best text.
    pub best: Candidate,
    /// Probability that the window holds no speech.
    pub no_speech_prob: f32,
}

/// How beams are searched.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Beams {
    /// Beams kept at each step.
    pub size: usize,
    /// Texts to find before the search ends, as a multiple of the beams; openai's `patience`.
    pub patience: f32,
    /// See [`Candidate::rank`].
    pub length_penalty: Option<f32>,
}

/// Takes the likeliest token each time at temperature 0; above, draws `count` texts and takes the likeliest.
pub async fn draw(
    desk: &Desk,
    slot: &SlotLease,
    prompt: &Prompt,
    sampling: Sampling,
    count: usize,
) -> Result<Found, DeviceError> {
    let rows = desk.rows(count).await;
    let texts = rows.into_iter().enumerate().map(|(i, row)| {
        // Another odd multiple for each candidate keeps their random numbers apart.
        let seed = sampling.seed.wrapping_add((i as u64).wrapping_mul(0xd1b5_4a32_d192_ed03));
        follow(row, slot, prompt, Sampling { seed, ..sampling })
    });
    let found = futures::future::try_join_all(texts).await?;
    let best = |best: Found, next: Found| {
        if next.best.rank(None) > best.best.rank(None) { next } else { best }
    };
    Ok(found.into_iter().reduce(best).expect("at least one text was drawn"))
}

/// Follows one row to its end.
async fn follow(
    row: RowLease,
    slot: &SlotLease,
    prompt: &Prompt,
    sampling: Sampling,
) -> Result<Found, DeviceError> {
    let mut candidate = Candidate { forced: prompt.prefix.len(), ..Candidate::default() };
    let flow = prompt.tokens_max.saturating_sub(1 + prompt.prefix.len());
    let mut answer = if prompt.prefix.is_empty() {
        row.flow(slot, &prompt.tokens, prompt.start, sampling, flow);
        row.answer().await?
    } else {
        row.start_top(slot, &prompt.tokens, prompt.start, sampling, 1);
        let first = row.answer().await?;
        Answer { no_speech_prob: first.no_speech_prob, ..force(&row, &prompt.prefix, flow).await? }
    };
    candidate.tokens.extend(&prompt.prefix);
    let no_speech_prob = answer.no_speech_prob.unwrap_or(0.0);
    loop {
        let (token, logprob) = answer.tokens.first().copied().unwrap_or((prompt.end, 0.0));
        candidate.sum_logprob += logprob;
        if token == prompt.end {
            break;
        }
        candidate.tokens.push(token);
        if candidate.tokens.len() >= prompt.tokens_max {
            candidate.ran_away = prompt.is_budget;
            candidate.out_of_room = true;
            break;
        }
        if let Some(kept) = without_circle(&candidate.tokens) {
            candidate.tokens.truncate(kept);
            candidate.ran_away = true;
            break;
        }
        answer = row.answer().await?;
    }
    Ok(Found { best: candidate, no_speech_prob })
}

/// Feeds a prefix token by token, as if it had been sampled, and returns the answer behind it. Behind all but the last the
/// row only tells what is likely: what it sampled would count as said.
async fn force(row: &RowLease, prefix: &[u32], flow: usize) -> Result<Answer, DeviceError> {
    let (last, before) = prefix.split_last().expect("a prefix has a token");
    for token in before {
        row.choose_top(*token, 1);
        row.answer().await?;
    }
    row.choose(*last, flow);
    row.answer().await
}

/// Where a text that [runs away](runs_away) is cut: one round of its circle stays, which may have been said.
fn without_circle(tokens: &[u32]) -> Option<usize> {
    runs_away(tokens).map(|period| tokens.len() - repeated(tokens, period) + period)
}

/// Tokens at the end of a text that repeat with a period.
fn repeated(tokens: &[u32], period: usize) -> usize {
    let same = tokens.iter().rev().zip(tokens.iter().rev().skip(period)).take_while(|(a, b)| a == b).count();
    same + period
}

/// A text that a beam follows.
struct Beam {
    tokens: Vec<u32>,
    sum_logprob: f32,
}

/// A way on from a beam.
struct Way {
    beam: usize,
    token: u32,
    sum_logprob: f32,
}

/// Searches with beams, as openai's `BeamSearchDecoder`: of each beam the likeliest tokens, one more than there are
/// beams; of all of them the likeliest go on, those that end before the last of these are found.
pub async fn search(
    desk: &Desk,
    slot: &SlotLease,
    prompt: &Prompt,
    sampling: Sampling,
    beams: Beams,
) -> Result<Found, DeviceError> {
    let rows = desk.rows(beams.size).await;
    let wanted = (beams.size as f32 * beams.patience).round().max(1.0) as usize;
    let ways = beams.size + 1;
    rows[0].start_top(slot, &prompt.tokens, prompt.start, sampling, ways);
    let mut first = rows[0].answer().await?;
    let no_speech_prob = first.no_speech_prob.unwrap_or(0.0);
    for token in &prompt.prefix {
        rows[0].choose_top(*token, ways);
        first = rows[0].answer().await?;
    }
    let mut open = vec![Beam { tokens: prompt.prefix.clone(), sum_logprob: 0.0 }];
    // The row in which each open beam lives.
    let mut homes = vec![0];
    let mut answers = vec![first];
    let mut found: Vec<Candidate> = Vec::new();
    loop {
        let next = step(&open, &answers, beams.size, prompt.end, wanted, &mut found);
        if next.is_empty() || found.len() >= wanted {
            break;
        }
        if open[0].tokens.len() + 1 >= prompt.tokens_max {
            // Out of room: what is open counts too where too little ended, as openai's finalize() has it.
            let missing = beams.size.saturating_sub(found.len());
            found.extend(next.into_iter().take(missing).map(|way| Candidate {
                tokens: grown(&open[way.beam].tokens, way.token),
                sum_logprob: way.sum_logprob,
                ran_away: prompt.is_budget,
                out_of_room: true,
                ..Candidate::default()
            }));
            break;
        }
        let (moved, copies) = settle(&next, &homes, beams.size);
        let copies: Vec<_> = copies.into_iter().map(|(from, to)| (&rows[from], &rows[to])).collect();
        desk.copy_rows(&copies);
        for (way, home) in next.iter().zip(&moved) {
            rows[*home].choose_top(way.token, ways);
        }
        answers.clear();
        for home in &moved {
            answers.push(rows[*home].answer().await?);
        }
        open = next
            .iter()
            .map(|way| Beam {
                tokens: grown(&open[way.beam].tokens, way.token),
                sum_logprob: way.sum_logprob,
            })
            .collect();
        homes = moved;
        if let Some(kept) = without_circle(&open[0].tokens) {
            let (tokens, sum_logprob) = (open[0].tokens[..kept].to_vec(), open[0].sum_logprob);
            found.push(Candidate { tokens, sum_logprob, ran_away: true, ..Candidate::default() });
            break;
        }
    }
    let rank = |candidate: &Candidate| candidate.rank(beams.length_penalty);
    let found = found.into_iter().map(|text| Candidate { forced: prompt.prefix.len(), ..text });
    let best = found.reduce(|best, next| if rank(&next) > rank(&best) { next } else { best });
    Ok(Found { best: best.unwrap_or_default(), no_speech_prob })
}

/// Chooses among the ways on from all beams; texts that end are added to `found` while there is room for them.
fn step(
    open: &[Beam],
    answers: &[Answer],
    size: usize,
    end: u32,
    wanted: usize,
    found: &mut Vec<Candidate>,
) -> Vec<Way> {
    let mut ways: Vec<Way> = Vec::with_capacity(open.len() * (size + 1));
    for (i, (beam, answer)) in open.iter().zip(answers).enumerate() {
        let on = answer.tokens.iter();
        ways.extend(on.map(|(token, logprob)| Way {
            beam: i,
            token: *token,
            sum_logprob: beam.sum_logprob + logprob,
        }));
    }
    // A stable sort: of equal ways that of the earlier beam comes first.
    ways.sort_by(|a, b| b.sum_logprob.total_cmp(&a.sum_logprob));
    let mut next = Vec::with_capacity(size);
    for way in ways {
        if way.token != end {
            next.push(way);
            if next.len() == size {
                break;
            }
        } else if found.len() < wanted {
            let tokens = open[way.beam].tokens.clone();
            found.push(Candidate { tokens, sum_logprob: way.sum_logprob, ..Candidate::default() });
        }
    }
    next
}

/// Gives each beam of the next step a row: the first that goes on from a beam stays in its row, others copy it into
/// rows that are free. Returns the rows, and the copies (from, to).
fn settle(next: &[Way], homes: &[usize], size: usize) -> (Vec<usize>, Vec<(usize, usize)>) {
    let mut stays = vec![None; size];
    for (i, way) in next.iter().enumerate() {
        stays[homes[way.beam]].get_or_insert(i);
    }
    let mut free = (0..size).filter(|row| stays[*row].is_none());
    let mut copies = Vec::new();
    let rows = next.iter().enumerate().map(|(i, way)| {
        let home = homes[way.beam];
        if stays[home] == Some(i) {
            return home;
        }
        let row = free.next().expect("there are as many rows as beams");
        copies.push((home, row));
        row
    });
    (rows.collect(), copies)
}

fn grown(tokens: &[u32], token: u32) -> Vec<u32> {
    let mut grown = Vec::with_capacity(tokens.len() + 1);
    grown.extend(tokens);
    grown.push(token);
    grown
}

#[cfg(test)]
mod tests;
