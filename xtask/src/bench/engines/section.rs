//! What was measured with one workload, model and beam, and how it is kept from one run to the next.

use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::rounds::Outcome;
use super::statistics::{bootstrap, median};
use super::stream::Beside;
use super::subject::{WHISPER_CPP, is_ours, is_trimmed};

/// Word errors that trimming may cost over all clips.
const TRIMMED_ERRORS_MAX: usize = 3;

/// What the engines are asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// (a) One clip of 3 to 10 s at a time.
    Alone,
    /// (b) A minute of speech.
    Minute,
    /// (b) Ten minutes of speech.
    TenMinutes,
    /// (c) Many clips of 1 to 30 s at once.
    Burst,
    /// (d) The same clips, each at a time of its own.
    Stream,
}

impl Kind {
    pub const ALL: [Kind; 5] = [Kind::Alone, Kind::Minute, Kind::TenMinutes, Kind::Burst, Kind::Stream];

    /// The letter that asks for it.
    pub fn letter(self) -> char {
        match self {
            Kind::Alone => 'a',
            Kind::Minute | Kind::TenMinutes => 'b',
            Kind::Burst => 'c',
            Kind::Stream => 'd',
        }
    }

    pub fn title(self) -> &'static str {
        match self {
            Kind::Alone => "one clip of 3 to 10 s at a time",
            Kind::Minute => "a minute of speech",
            Kind::TenMinutes => "ten minutes of speech",
            Kind::Burst => "clips of 1 to 30 s, all at once",
            Kind::Stream => "clips of 1 to 30 s, arriving by chance",
        }
    }

    /// How many times as fast as the better rival this engine should be; more where both may encode less than 30 s.
    pub fn target(self, trimmed: bool) -> f64 {
        match (self, trimmed) {
            (Kind::Alone, true) | (Kind::Burst, _) => 4.0,
            _ => 2.5,
        }
    }
}

/// One table of figures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Section {
    pub kind: Kind,
    pub model: String,
    pub beam: usize,
    /// What it was measured on, and how busy that was.
    pub machine: String,
    /// Clips, the seconds they last together, and the words that are said in them.
    pub clips: usize,
    pub audio: f64,
    pub words: usize,
    /// Settings that were tried for the rivals, with seconds.
    pub tried: Vec<(String, f64)>,
    pub outcomes: Vec<Outcome>,
    pub beside: Vec<Beside>,
    /// The highest rate of arrivals with short waits, by engine.
    pub highest: Vec<(String, f64)>,
}

/// An engine of ours beside the rival that is fastest under the same rule.
#[derive(Debug, Clone, PartialEq)]
pub struct Compared<'a> {
    pub ours: &'a Outcome,
    pub rival: &'a Outcome,
    /// How many times as fast.
    pub ratio: f64,
    pub target: f64,
    /// Word errors beyond the rival's, and where 95 % of such sums lie when clips are drawn again.
    pub more_errors: i64,
    pub interval: (i64, i64),
}

impl Section {
    fn is_same(&self, other: &Section) -> bool {
        (self.kind, &self.model, self.beam) == (other.kind, &other.model, other.beam)
    }

    /// Whether a trimmed rival makes hardly more word errors than it does untrimmed.
    fn hears_as_well(&self, trimmed: &Outcome) -> bool {
        let errors = |outcome: &Outcome| outcome.errors.iter().sum::<usize>();
        let whole = self.outcomes.iter().find(|o| o.name == WHISPER_CPP && !o.errors.is_empty());
        whole.is_none_or(|whole| errors(trimmed) <= errors(whole) + TRIMMED_ERRORS_MAX)
    }

    /// Each engine of ours that has figures beside the better rival. A trimmed one is beside all, another only beside
    /// those that encode whole windows as well; a trimmed rival that mishears for it is beside nobody.
    pub fn compared(&self) -> Vec<Compared<'_>> {
        let with_figures = || self.outcomes.iter().filter(|outcome| !outcome.seconds.is_empty());
        let mut all = Vec::new();
        for ours in with_figures().filter(|outcome| is_ours(&outcome.name)) {
            let trimmed = is_trimmed(&ours.name);
            let rivals = with_figures()
                .filter(|o| !is_ours(&o.name) && (!is_trimmed(&o.name) || trimmed && self.hears_as_well(o)));
            let Some(rival) = rivals.min_by(|a, b| median(&a.seconds).total_cmp(&median(&b.seconds))) else {
                continue;
            };
            let differences: Vec<i64> =
                ours.errors.iter().zip(&rival.errors).map(|(a, b)| *a as i64 - *b as i64).collect();
            all.push(Compared {
                ours,
                rival,
                ratio: median(&rival.seconds) / median(&ours.seconds),
                target: self.kind.target(trimmed),
                more_errors: differences.iter().sum(),
                interval: bootstrap(&differences, 1),
            });
        }
        all
    }
}

/// Reads what earlier runs kept; nothing where there is no file.
pub fn read(file: &Path) -> Result<Vec<Section>> {
    match std::fs::read_to_string(file) {
        Ok(text) => serde_json::from_str(&text).with_context(|| format!("read {}", file.display())),
        Err(_) => Ok(Vec::new()),
    }
}

/// Puts a section in the place of the one with the same workload, model and beam, in the page's order.
pub fn put(sections: &mut Vec<Section>, section: Section) {
    sections.retain(|other| !other.is_same(&section));
    sections.push(section);
    sections.sort_by(|a, b| (a.kind, &b.model, a.beam).cmp(&(b.kind, &a.model, b.beam)));
}

/// Writes one line for each section.
pub fn write(file: &Path, sections: &[Section]) -> Result<()> {
    let lines: Vec<String> = sections.iter().map(serde_json::to_string).collect::<Result<_, _>>()?;
    let text = format!("[\n{}\n]\n", lines.join(",\n"));
    std::fs::write(file, text).with_context(|| format!("write {}", file.display()))
}

#[cfg(test)]
pub mod tests {
    use super::super::subject::{FASTER_WHISPER, OURS, OURS_TRIMMED, WHISPER_CPP, WHISPER_CPP_TRIMMED};
    use super::*;

    fn outcome(name: &str, seconds: &[f64], errors: &[usize]) -> Outcome {
        Outcome {
            name: name.into(),
            settings: "2 threads".into(),
            seconds: seconds.to_vec(),
            busy: seconds.iter().map(|s| s * errors.len() as f64).collect(),
            waited: vec![0.25],
            errors: errors.to_vec(),
            start_up: 1.0,
            load: 0.5,
            memory: 100.0,
            failure: None,
        }
    }

    /// Two clips read by everybody, three rounds by us.
    pub fn example() -> Section {
        Section {
            kind: Kind::Alone,
            model: "tiny.en".into(),
            beam: 1,
            machine: "a machine".into(),
            clips: 2,
            audio: 10.0,
            words: 20,
            tried: vec![("a setting".into(), 1.5)],
            outcomes: vec![
                outcome(OURS, &[0.3, 0.1, 0.2], &[1, 2]),
                outcome(OURS_TRIMMED, &[0.1], &[2, 2]),
                outcome(FASTER_WHISPER, &[0.5], &[1, 1]),
                outcome(WHISPER_CPP, &[0.6], &[0, 0]),
                outcome(WHISPER_CPP_TRIMMED, &[0.3], &[3, 0]),
            ],
            beside: Vec::new(),
            highest: Vec::new(),
        }
    }

    #[test]
    fn each_of_ours_is_beside_the_better_rival_under_its_rule() {
        let section = example();
        let compared = section.compared();
        let short: Vec<_> =
            compared.iter().map(|c| (c.ours.name.as_str(), c.rival.name.as_str(), c.more_errors)).collect();
        assert_eq!(short, [(OURS, FASTER_WHISPER, 1), (OURS_TRIMMED, WHISPER_CPP_TRIMMED, 1)]);
        assert!((compared[0].ratio - 2.5).abs() < 1e-9 && (compared[1].ratio - 3.0).abs() < 1e-9);
        assert_eq!((compared[0].target, compared[1].target), (2.5, 4.0));
        assert_eq!(compared[0].interval, (0, 2));
        let mut section = section.clone();
        section.outcomes[4].errors = vec![4, 0];
        assert_eq!(section.compared()[1].rival.name, FASTER_WHISPER);
    }

    #[test]
    fn sections_are_kept_and_replaced() {
        let file = std::env::temp_dir().join(format!("voiceforge-sections-{}.json", std::process::id()));
        assert_eq!(read(&file).unwrap(), []);
        let mut sections = Vec::new();
        put(&mut sections, Section { model: "base".into(), ..example() });
        put(&mut sections, example());
        put(&mut sections, Section { beam: 5, ..example() });
        put(&mut sections, Section { machine: "another".into(), ..example() });
        let order: Vec<_> = sections.iter().map(|s| (s.model.as_str(), s.beam, s.machine.as_str())).collect();
        assert_eq!(order, [("tiny.en", 1, "another"), ("tiny.en", 5, "a machine"), ("base", 1, "a machine")]);
        write(&file, &sections).unwrap();
        assert_eq!(read(&file).unwrap(), sections);
        std::fs::remove_file(&file).unwrap();
    }
}
