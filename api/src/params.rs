//! Parameters of a request, from its query or its form: each is taken once, and all that is wrong is told at once.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

use crate::reply::Error;

/// The parameters of one request, on their way to values.
#[derive(Debug, Default)]
pub struct Params {
    given: Vec<(String, String)>,
    known: Vec<&'static str>,
    problems: Vec<(String, String)>,
}

impl Params {
    /// The parameters of a query.
    pub fn of_query(query: &str) -> Params {
        let given = url::form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        Params { given, ..Params::default() }
    }

    /// Adds a parameter, as a form brings them one by one.
    pub fn push(&mut self, name: String, value: String) {
        self.given.push((name, value));
    }

    /// Whether a parameter was given and not taken yet.
    pub fn has(&self, name: &str) -> bool {
        self.given.iter().any(|(given, _)| given == name)
    }

    /// Takes a parameter. Empty means not given; given twice is a problem.
    pub fn text(&mut self, name: &'static str) -> Option<String> {
        self.known.push(name);
        let mut values = self.take(|given| given == name);
        if values.len() > 1 {
            self.problem(name, "is given more than once");
        }
        values.pop().map(|(_, value)| value).filter(|value| !value.is_empty())
    }

    /// Takes a parameter of a type that reads itself from text and says what it expects.
    pub fn parsed<T: FromStr<Err: Display>>(&mut self, name: &'static str) -> Option<T> {
        let text = self.text(name)?;
        match text.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                self.problem(name, format!("cannot be used: {error}"));
                None
            }
        }
    }

    /// Takes a whole number within a range.
    pub fn number(&mut self, name: &'static str, range: RangeInclusive<u32>) -> Option<u32> {
        let text = self.text(name)?;
        let number = text.parse().ok().filter(|number| range.contains(number));
        if number.is_none() {
            let (from, to) = (range.start(), range.end());
            self.problem(
                name,
                format!("is {:?}; expected a whole number from {from} to {to}", shorten(&text)),
            );
        }
        number
    }

    /// Takes every value of a list: `name` and `name[]`, as often as they come.
    pub fn list(&mut self, name: &'static str) -> Vec<String> {
        self.known.push(name);
        let in_brackets = format!("{name}[]");
        let values = self.take(|given| given == name || given == in_brackets);
        values.into_iter().map(|(_, value)| value).filter(|value| !value.is_empty()).collect()
    }

    /// Takes everything whose name begins with `prefix`, names whole.
    pub fn prefixed(&mut self, prefix: &str) -> BTreeMap<String, String> {
        self.take(|given| given.starts_with(prefix)).into_iter().collect()
    }

    /// Notes what is wrong with a parameter: the rest of a sentence that begins with its name.
    pub fn problem(&mut self, name: impl Into<String>, problem: impl Into<String>) {
        self.problems.push((name.into(), problem.into()));
    }

    /// Ends the reading: whatever is left is unknown.
    ///
    /// # Errors
    /// All problems in one message; `param` is the first.
    pub fn finish(mut self) -> Result<(), Error> {
        let rest = std::mem::take(&mut self.given);
        let mut known: Vec<_> = self.known.iter().map(|name| format!("`{name}`")).collect();
        known.sort();
        for (name, _) in rest {
            let problem = format!("is not a parameter here; there are {}", known.join(", "));
            self.problem(name.chars().take(64).collect::<String>(), problem);
        }
        self.end()
    }

    /// Ends the reading and returns the names of what nobody asked for.
    ///
    /// # Errors
    /// As [`Params::finish`], but for unknown parameters.
    pub fn finish_leniently(mut self) -> Result<Vec<String>, Error> {
        let rest = std::mem::take(&mut self.given);
        self.end()?;
        Ok(rest.into_iter().map(|(name, _)| name).collect())
    }

    fn end(self) -> Result<(), Error> {
        let Some((first, _)) = self.problems.first() else { return Ok(()) };
        let all: Vec<String> =
            self.problems.iter().map(|(name, problem)| format!("`{name}` {problem}")).collect();
        Err(Error::param(first, all.join("; ")))
    }

    fn take(&mut self, wanted: impl Fn(&str) -> bool) -> Vec<(String, String)> {
        let (taken, rest) = std::mem::take(&mut self.given).into_iter().partition(|(name, _)| wanted(name));
        self.given = rest;
        taken
    }
}

/// The beginning of a text that may be anything.
pub fn shorten(text: &str) -> String {
    match text.char_indices().nth(64) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use events::Lane;

    fn refused(query: &str) -> String {
        let mut params = Params::of_query(query);
        params.text("name");
        params.parsed::<Lane>("lane");
        params.number("limit", 1..=200);
        params.finish().map_or_else(|error| format!("{:?}: {error}", error.param), |()| "fine".to_owned())
    }

    #[test]
    fn all_mistakes_are_told_at_once() {
        assert_eq!(refused("name=a&lane=rt&limit=7"), "fine");
        assert_eq!(refused("name=&lane="), "fine");
        assert_eq!(
            refused("limit=0&lane=fast&nmae=x&name=a&name=b"),
            "Some(\"name\"): `name` is given more than once; \
             `lane` cannot be used: \"fast\" is not a lane: rt, batch or replay; \
             `limit` is \"0\"; expected a whole number from 1 to 200; \
             `nmae` is not a parameter here; there are `lane`, `limit`, `name`"
        );
    }

    #[test]
    fn lists_come_with_and_without_brackets() {
        let mut params = Params::of_query("a[]=1&a=2&b=3");
        assert_eq!(params.list("a"), ["1", "2"]);
        assert_eq!(params.finish_leniently().unwrap(), ["b"]);
    }

    #[test]
    fn long_text_is_cut_between_characters() {
        assert_eq!(shorten(&"ü".repeat(65)), format!("{}...", "ü".repeat(64)));
        assert_eq!(shorten("ü"), "ü");
    }
}
