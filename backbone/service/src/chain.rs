//! An error with what it stems from.

use std::error::Error;

/// Returns an error and its causes in one line, leaving out a cause that the text before it has told already.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let told = cause.to_string();
        if !text.contains(&told) {
            text = format!("{text}: {told}");
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::chain;

    #[test]
    fn causes_are_told_once() {
        let error = anyhow::anyhow!("disk full").context("write: disk full").context("store the audio");
        assert_eq!(chain(error.as_ref()), "store the audio: write: disk full");
    }
}
