//! Which language a recording is in, when each of its segments has heard a part of it.

/// From this probability on a language is settled for the recording.
pub const SURE: f32 = 0.5;
/// Languages that a segment tells of, the likeliest.
pub const TOLD: usize = 8;
/// Languages that share what those told of leave of a segment's probability, and the least that is left for them.
const UNTOLD: f64 = 90.0;
const LEFT_MIN: f64 = 0.001;

/// Languages and how likely they are to one segment.
pub type Heard = Vec<(String, f32)>;

/// The likeliest language to all segments together, and its probability: the product of the probabilities, so that what
/// one heard is the prior of the next. `None` where nothing was heard; of equal ones the first by its code.
pub fn together<'a>(heard: impl Iterator<Item = &'a Heard> + Clone) -> Option<(String, f32)> {
    let mut codes: Vec<&str> = heard.clone().flatten().map(|(code, _)| code.as_str()).collect();
    codes.sort_unstable();
    codes.dedup();
    let untold = |heard: &Heard| {
        let told: f64 = heard.iter().map(|(_, probability)| f64::from(*probability)).sum();
        (1.0 - told).max(LEFT_MIN) / UNTOLD
    };
    let told = |heard: &Heard, code: &str| {
        let told = heard.iter().find(|(known, _)| known == code);
        told.map_or(0.0, |(_, probability)| f64::from(*probability)).max(untold(heard)).ln()
    };
    let product = |code: &str| heard.clone().map(|heard| told(heard, code)).sum::<f64>();
    let others = heard.clone().map(|heard| untold(heard).ln()).sum::<f64>() + UNTOLD.ln();
    let products: Vec<f64> = codes.iter().map(|code| product(code)).collect();
    let best = (0..codes.len()).reduce(|best, i| if products[i] > products[best] { i } else { best })?;
    let all: f64 = products.iter().chain([&others]).map(|product| (product - products[best]).exp()).sum();
    Some((codes[best].to_owned(), (1.0 / all) as f32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(heard: &[&[(&str, f32)]], language: &str, least: f32, most: f32) {
        let heard: Vec<Heard> = heard
            .iter()
            .map(|heard| heard.iter().map(|(code, probability)| ((*code).to_owned(), *probability)).collect())
            .collect();
        let (code, probability) = together(heard.iter()).unwrap();
        assert_eq!(code, language);
        assert!((least..=most).contains(&probability), "{probability}");
    }

    #[test]
    fn one_segment_is_as_sure_as_it_is() {
        check(&[&[("en", 0.9), ("de", 0.08)]], "en", 0.89, 0.91);
        check(&[&[("nn", 0.3), ("en", 0.2)]], "nn", 0.29, 0.31);
        assert_eq!(together([].iter()), None);
        assert_eq!(together([Heard::new()].iter()), None);
    }

    #[test]
    fn segments_add_up() {
        // Two that are unsure of the same are surer together.
        check(&[&[("nl", 0.4), ("de", 0.2)], &[("nl", 0.4), ("af", 0.2)]], "nl", 0.9, 1.0);
        // A sure one outweighs one that was not.
        check(&[&[("nn", 0.3), ("en", 0.2)], &[("en", 0.95), ("de", 0.02)]], "en", 0.95, 1.0);
        check(&[&[("nn", 0.3), ("ja", 0.2)], &[("en", 0.95), ("de", 0.02)]], "en", 0.9, 1.0);
        // Equal ones do not depend on the order.
        check(&[&[("de", 0.4), ("nl", 0.4)]], "de", 0.39, 0.41);
        check(&[&[("nl", 0.4), ("de", 0.4)]], "de", 0.39, 0.41);
    }
}
