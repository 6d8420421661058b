//! A comparison for people: what each transcription is, how many words differ, and the places where they do.

use super::{Change, Comparison, Passage, Side};

/// How many equal words are shown on each side of a difference; of a text without spaces, so many times two characters.
const CONTEXT: usize = 5;

/// What a line begins with: the time.
const INDENT: usize = 9;

/// How to write.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    /// Columns of the terminal.
    pub width: usize,
    /// Whether the terminal shows colours.
    pub colour: bool,
}

impl Default for Style {
    /// 80 columns, no colours: fit for a file.
    fn default() -> Style {
        Style { width: 80, colour: false }
    }
}

/// Writes a comparison: words only in the first as `[-so-]`, words only in the second as `{+so+}`.
pub fn text(comparison: &Comparison, style: Style) -> String {
    let Comparison { recording, name, from, to, counts, passages } = comparison;
    let mut out = match name {
        Some(name) => format!("{}  {recording}\n\n", plain(name)),
        None => format!("{recording}\n\n"),
    };
    for [what, from, to] in table(from, to) {
        out += format!("{what:<17}{from:<16}{to}").trim_end();
        out.push('\n');
    }
    out += &match counts.changes() {
        0 => "\nNo word differs.\n".to_owned(),
        changes => format!(
            "\n{changes} of {} words differ ({:.1} %): {} replaced, {} inserted, {} deleted.\n",
            from.words,
            counts.rate * 100.0,
            counts.replaced,
            counts.inserted,
            counts.deleted
        ),
    };
    let channels_told = passages.iter().any(|passage| passage.channel > 0);
    for place in places(passages) {
        out.push('\n');
        if channels_told {
            out += &format!("Channel {}\n", u32::from(place[0].passage.channel) + 1);
        }
        out += &wrap(&place, style);
    }
    out
}

fn table(from: &Side, to: &Side) -> Vec<[String; 3]> {
    let row = |what: &str, tell: &dyn Fn(&Side) -> String| [what.to_owned(), tell(from), tell(to)];
    vec![
        row("", &|side| format!("generation {}", side.generation)),
        row("model", &|side| plain(&side.model)),
        row("status", &|side| side.status.to_string()),
        row("language", &|side| side.language.clone().unwrap_or_else(|| "-".to_owned())),
        row("words", &|side| side.words.to_string()),
        row("segments", &|side| side.segments.to_string()),
        row("failed segments", &|side| side.failed_segments.to_string()),
        row("model time", &|side| format!("{:.1} s", side.infer_ms as f64 / 1000.0)),
        row("audio s per s", &|side| {
            side.speed.map_or_else(|| "-".to_owned(), |speed| format!("{speed:.1}"))
        }),
    ]
}

/// A part of a passage that is shown.
struct Shown<'a> {
    passage: &'a Passage,
    /// What is shown of an equal passage.
    context: String,
}

/// The differences with the words around them; those whose words around meet are one place.
fn places(passages: &[Passage]) -> Vec<Vec<Shown<'_>>> {
    let mut places = Vec::new();
    let mut place: Vec<Shown> = Vec::new();
    let differs = |at: Option<&Passage>| at.is_some_and(|passage| passage.change != Change::Equal);
    for (at, passage) in passages.iter().enumerate() {
        let same_channel = |other: &&Passage| other.channel == passage.channel;
        let before = at.checked_sub(1).map(|before| &passages[before]).filter(same_channel);
        let after = passages.get(at + 1).filter(same_channel);
        if before.is_none() && !place.is_empty() {
            places.push(std::mem::take(&mut place));
        }
        if passage.change != Change::Equal {
            place.push(Shown { passage, context: String::new() });
            continue;
        }
        let (words, glue) = units(&passage.to);
        match (differs(before), differs(after)) {
            (true, true) if words.len() <= 2 * CONTEXT => {
                place.push(Shown { passage, context: words.join(glue) });
                continue;
            }
            _ => {}
        }
        let shown = CONTEXT.min(words.len());
        let cut = if words.len() > CONTEXT { "…" } else { "" };
        if differs(before) {
            place.push(Shown { passage, context: format!("{} {cut}", words[..shown].join(glue)) });
            places.push(std::mem::take(&mut place));
        }
        if differs(after) {
            place.push(Shown {
                passage,
                context: format!("{cut} {}", words[words.len() - shown..].join(glue)),
            });
        }
    }
    if !place.is_empty() {
        places.push(place);
    }
    places
}

/// The words of a text and what stands between them; text without spaces in pairs of characters.
fn units(text: &str) -> (Vec<String>, &'static str) {
    let chars: Vec<char> = text.chars().collect();
    let spaces = chars.iter().filter(|c| c.is_whitespace()).count();
    // The longest words of languages with spaces are shorter than this on the whole.
    match chars.len() > 24 * (spaces + 1) {
        true => (chars.chunks(2).map(|pair| pair.iter().collect()).collect(), ""),
        false => (text.split_whitespace().map(str::to_owned).collect(), " "),
    }
}

/// Writes one place in lines, the time in front of the first.
fn wrap(place: &[Shown], style: Style) -> String {
    let first_change = place.iter().find(|shown| shown.passage.change != Change::Equal);
    let at_ms = first_change.map_or(0, |shown| shown.passage.start_ms);
    let room = style.width.saturating_sub(INDENT).max(20);
    let mut lines = vec![(String::new(), 0)];
    for shown in place {
        let Passage { change, from, to, .. } = shown.passage;
        let marked = [("[-", from, "-]", "31"), ("{+", to, "+}", "32")];
        if *change == Change::Equal {
            plain(&shown.context).split_whitespace().for_each(|word| add(&mut lines, room, word, None));
        }
        for (begin, text, end, colour) in marked {
            if *change == Change::Equal || text.is_empty() {
                continue;
            }
            let colour = style.colour.then_some(colour);
            format!("{begin}{}{end}", plain(text))
                .split_whitespace()
                .for_each(|word| add(&mut lines, room, word, colour));
        }
    }
    let mut out = String::new();
    for (number, (line, _)) in lines.iter().enumerate() {
        let time = if number == 0 { clock(at_ms) } else { String::new() };
        out += format!("{time:>width$}  {line}", width = INDENT - 2).trim_end();
        out.push('\n');
    }
    out
}

/// Adds a word to the last line, or to a new one where it does not fit; one longer than a line is broken.
fn add(lines: &mut Vec<(String, usize)>, room: usize, word: &str, colour: Option<&str>) {
    let chars: Vec<char> = word.chars().collect();
    for piece in chars.chunks(room) {
        let (line, used) = lines.last().expect("there is always a line");
        let space = usize::from(*used > 0);
        if used + space + piece.len() > room && !line.is_empty() {
            lines.push((String::new(), 0));
        }
        let (line, used) = lines.last_mut().expect("there is always a line");
        if *used > 0 {
            line.push(' ');
            *used += 1;
        }
        let piece_text: String = piece.iter().collect();
        match colour {
            Some(code) => *line += &format!("\x1b[{code}m{piece_text}\x1b[0m"),
            None => *line += &piece_text,
        }
        *used += piece.len();
    }
}

/// Text without control characters: what a model heard must not steer a terminal.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Milliseconds as `0:07` or `1:02:03`.
fn clock(ms: u64) -> String {
    let (s, m, h) = (ms / 1_000 % 60, ms / 60_000 % 60, ms / 3_600_000);
    if h > 0 { format!("{h}:{m:02}:{s:02}") } else { format!("{m}:{s:02}") }
}
