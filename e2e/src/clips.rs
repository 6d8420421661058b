//! Recordings of speech with what is said in them.

use std::path::{Path, PathBuf};

/// A recording with its reference text.
#[derive(Clone, Debug)]
pub struct Clip {
    /// The file.
    pub path: PathBuf,
    /// What is said.
    pub text: String,
}

impl Clip {
    /// Returns the file's name.
    pub fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Reads the file.
    ///
    /// # Panics
    /// When it cannot be read: then the test's set-up is broken.
    pub fn bytes(&self) -> Vec<u8> {
        std::fs::read(&self.path).unwrap_or_else(|e| panic!("{}: {e}", self.path.display()))
    }
}

/// Returns every sound file in `folder` that has a reference text `NAME.txt` beside it, by name.
pub fn in_folder(folder: &Path) -> Vec<Clip> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut clips: Vec<Clip> = entries
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let sound = matches!(path.extension()?.to_str()?, "wav" | "flac");
            let text = std::fs::read_to_string(path.with_extension("txt")).ok()?;
            sound.then_some(Clip { path, text })
        })
        .collect();
    clips.sort_by(|a, b| a.path.cmp(&b.path));
    clips
}

/// Counts the words that must be put in, left out or changed to make `heard` into `said`. Case and punctuation do not
/// count.
pub fn word_errors(said: &str, heard: &str) -> usize {
    let words = |text: &str| -> Vec<String> {
        let kept: String = text
            .to_lowercase()
            .chars()
            .filter(|c| *c != '\'' && *c != '’')
            .map(|c| if c.is_alphanumeric() { c } else { ' ' })
            .collect();
        kept.split_whitespace().map(str::to_owned).collect()
    };
    let (said, heard) = (words(said), words(heard));
    let mut row: Vec<usize> = (0..=heard.len()).collect();
    for (i, a) in said.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in heard.iter().enumerate() {
            let cost = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = cost.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[heard.len()]
}

#[cfg(test)]
mod tests {
    use super::word_errors;

    #[test]
    fn word_errors_are_edits() {
        assert_eq!(word_errors("the cat sat", "The cat, sat."), 0);
        assert_eq!(word_errors("the cat sat", "the cat"), 1);
        assert_eq!(word_errors("the cat sat", "a cat sat down"), 2);
        assert_eq!(word_errors("", "a b"), 2);
        assert_eq!(word_errors("don't", "dont"), 0);
    }
}
