//! Settings of a program, from flags and `VOICEFORGE_*` variables, with every mistake reported at once.
//!
//! A program's `config.rs` mentions each setting once, in the function that builds its `Config`:
//!
//! ```
//! use std::time::Duration;
//! use service::env::{self, ByteSize, Map, Reader, Redis};
//!
//! struct Config {
//!     redis: Redis,
//!     segment_max: Duration,
//!     drop_limit: ByteSize,
//!     ffmpeg: bool,
//! }
//!
//! impl Config {
//!     fn read(from: &mut Reader) -> Config {
//!         Config {
//!             redis: Redis::read(from),
//!             segment_max: from.setting("segment-max", "longest segment of speech").or("30s"),
//!             drop_limit: from.setting("drop-limit", "largest drop taken in").within(ByteSize::MIB..=ByteSize::GIB).or("64MiB"),
//!             ffmpeg: from.setting("ffmpeg", "decode through ffmpeg what nothing else can").or("false"),
//!         }
//!     }
//! }
//!
//! // The flag wins over the variable; both have the name of the setting.
//! let variables = Map::from([("VOICEFORGE_SEGMENT_MAX", "20s"), ("VOICEFORGE_DROP_LIMIT", "1MiB")]);
//! let loaded = env::load("voiceforge-decode", "Cuts recordings.", &["--drop-limit=32MiB", "--ffmpeg"], &variables, Config::read);
//! let config = loaded.unwrap().config;
//! assert_eq!(config.segment_max, Duration::from_secs(20));
//! assert_eq!(config.drop_limit.0, 32 << 20);
//! assert!(config.ffmpeg);
//! ```
//!
//! The function runs twice: once to learn the settings (for `--help` and to tell flags from mistakes), once to read
//! them. A bad value is noted and its default (or example) stands in, so that reading goes on to the next mistake.
//! An empty variable counts as not set.

mod groups;
mod value;

#[cfg(test)]
mod tests;

pub use groups::{Common, Database, Redis, audio_store, data_folder, lease, models};
pub use value::{ByteSize, Secret, Url, Value, choice};

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;

use clap::error::{ContextKind, ContextValue, ErrorKind};

/// Every variable of ours begins with this.
pub const PREFIX: &str = "VOICEFORGE_";

/// Where variables are read: the process environment, or a map in tests.
pub trait Strings {
    /// The value of one variable; `None` when it is not set.
    fn get(&self, name: &str) -> Option<String>;
    /// The names of all variables, to find misspelt ones.
    fn names(&self) -> Vec<String>;
}

/// The environment of this process. Text that is not UTF-8 is read with replacement characters.
pub struct Env;

impl Strings for Env {
    fn get(&self, name: &str) -> Option<String> {
        std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
    }

    fn names(&self) -> Vec<String> {
        std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned()).collect()
    }
}

/// Variables given as values.
#[derive(Debug, Clone, Default)]
pub struct Map(BTreeMap<String, String>);

impl Map {
    /// No variables at all.
    pub fn new() -> Map {
        Map::default()
    }
}

impl<K: Into<String>, V: Into<String>, const N: usize> From<[(K, V); N]> for Map {
    fn from(pairs: [(K, V); N]) -> Map {
        Map(pairs.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

impl Strings for Map {
    fn get(&self, name: &str) -> Option<String> {
        self.0.get(name).cloned()
    }

    fn names(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }
}

/// A configuration that holds, and what the operator should look at all the same.
#[derive(Debug)]
pub struct Loaded<C> {
    /// What the program's function built.
    pub config: C,
    /// Variables that look like misspelt ones. They are not mistakes: another program may know them.
    pub warnings: Vec<String>,
}

/// Why there is no configuration.
#[derive(Debug)]
pub enum LoadError {
    /// `--help` was given; this is its text.
    Help(String),
    /// `--version` was given; this is its text.
    Version(String),
    /// Some settings cannot be used.
    Mistakes(Mistakes),
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LoadError::Help(text) | LoadError::Version(text) => f.write_str(text),
            LoadError::Mistakes(mistakes) => mistakes.fmt(f),
        }
    }
}

impl std::error::Error for LoadError {}

/// All that is wrong with the settings of one start, in the order of the settings.
#[derive(Debug, PartialEq, Eq)]
pub struct Mistakes {
    program: String,
    /// One sentence for each: which setting, what was given, what is expected, an example.
    pub mistakes: Vec<String>,
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.mistakes.len();
        writeln!(
            f,
            "{}: {count} {} in the settings",
            self.program,
            if count == 1 { "mistake" } else { "mistakes" }
        )?;
        for mistake in &self.mistakes {
            writeln!(f, "  {mistake}")?;
        }
        write!(f, "`{} --help` explains every setting.", self.program)
    }
}

impl std::error::Error for Mistakes {}

/// Reads the configuration of `program` from `args` (without the program's own name) and `strings`.
///
/// # Errors
/// The text of `--help` or `--version` when asked for, else all mistakes together.
///
/// # Panics
/// When a default or an example in `read` is itself not a valid value, or a setting is named twice.
pub fn load<C>(
    program: &'static str,
    about: &'static str,
    args: &[impl AsRef<str>],
    strings: &dyn Strings,
    read: impl Fn(&mut Reader) -> C,
) -> Result<Loaded<C>, LoadError> {
    // `HOME` and the like shape defaults, so the first pass sees all but our own variables.
    let (foreign, nothing) = (Foreign(strings), Map::new());
    let mut learner = Reader::new(&foreign, &nothing);
    read(&mut learner);

    let args = args.iter().map(|arg| arg.as_ref().to_owned()).collect();
    let (flags, unknown) = parse_flags(program, about, &learner.declared, args)?;

    let mut reader = Reader::new(strings, &flags);
    reader.mistakes = unknown;
    let config = read(&mut reader);
    if !reader.mistakes.is_empty() {
        return Err(LoadError::Mistakes(Mistakes { program: program.to_owned(), mistakes: reader.mistakes }));
    }
    Ok(Loaded { config, warnings: find_misspelt(strings, &reader.declared) })
}

/// Hands the settings to a program's `Config::read`, one at a time, and remembers what it saw.
pub struct Reader<'a> {
    strings: &'a dyn Strings,
    flags: &'a Map,
    declared: Vec<Declared>,
    heading: Option<&'static str>,
    mistakes: Vec<String>,
}

impl<'a> Reader<'a> {
    fn new(strings: &'a dyn Strings, flags: &'a Map) -> Reader<'a> {
        Reader { strings, flags, declared: Vec::new(), heading: None, mistakes: Vec::new() }
    }

    /// Begins one setting: `name` in kebab case gives `--name` and `VOICEFORGE_NAME`; `meaning` is its line in
    /// `--help`, with the unit where the type does not show it. End it by [`Setting::or`], [`Setting::required`] or
    /// [`Setting::optional`].
    pub fn setting<T: Value>(
        &mut self,
        name: &'static str,
        meaning: impl Into<String>,
    ) -> Setting<'_, 'a, T> {
        Setting {
            reader: self,
            name,
            meaning: meaning.into(),
            expects: T::expects(),
            secret: T::SECRET,
            checks: Vec::new(),
        }
    }

    /// Puts the settings that follow under a heading of `--help`.
    pub fn heading(&mut self, heading: &'static str) {
        self.heading = Some(heading);
    }

    /// Notes a mistake that only several settings together show, under the name of the one to change.
    pub fn mistake(&mut self, name: &str, problem: impl fmt::Display) {
        self.mistakes.push(format!("--{name} ({}): {problem}", variable(name)));
    }

    /// A variable that is not ours, such as `HOME`.
    pub fn foreign(&self, name: &str) -> Option<String> {
        self.strings.get(name).filter(|value| !value.is_empty())
    }

    /// The text given for a setting and where it was given. The flag wins.
    fn given(&self, name: &str) -> Option<(String, String)> {
        let flag = self.flags.get(name).map(|text| (format!("--{name}"), text));
        let by_variable = || {
            let variable = variable(name);
            self.foreign(&variable).map(|text| (variable, text))
        };
        flag.or_else(by_variable)
    }
}

/// One setting on its way to a value.
pub struct Setting<'r, 'a, T> {
    reader: &'r mut Reader<'a>,
    name: &'static str,
    meaning: String,
    expects: String,
    secret: bool,
    checks: Vec<Check<T>>,
}

/// Says why a value of the right type is still not one to use.
type Check<T> = Box<dyn Fn(&T) -> Result<(), String>>;

impl<T: Value> Setting<'_, '_, T> {
    /// The value given, else `default`.
    pub fn or(self, default: impl Into<String>) -> T {
        let default = default.into();
        let stand_in = self.parse_own(&default);
        self.read(default.clone(), Fallback::Default(default)).unwrap_or(stand_in)
    }

    /// The value given; a mistake when there is none. The example teaches in `--help` and in the message.
    pub fn required(self, example: impl Into<String>) -> T {
        let example = example.into();
        let stand_in = self.parse_own(&example);
        self.read(example, Fallback::Required).unwrap_or(stand_in)
    }

    /// The value given, if any.
    pub fn optional(self, example: impl Into<String>) -> Option<T> {
        let example = example.into();
        self.parse_own(&example);
        self.read(example, Fallback::Nothing)
    }

    /// Never shows the value, not even in the message about a bad one.
    pub fn secret(mut self) -> Self {
        self.secret = true;
        self
    }

    /// Refuses values for which `check` names a problem: "is not a folder".
    pub fn check(mut self, check: impl Fn(&T) -> Result<(), String> + 'static) -> Self {
        self.checks.push(Box::new(check));
        self
    }

    /// Refuses values outside the range.
    pub fn within(mut self, range: RangeInclusive<T>) -> Self
    where
        T: PartialOrd + 'static,
    {
        self.expects = format!("{} from {} to {}", self.expects, range.start().show(), range.end().show());
        self.check(move |value| match () {
            () if value < range.start() => Err(format!("is less than {}", range.start().show())),
            () if value > range.end() => Err(format!("is more than {}", range.end().show())),
            () => Ok(()),
        })
    }

    /// A default or example, which must be a value itself.
    fn parse_own(&self, text: &str) -> T {
        match self.parse(text) {
            Ok(value) => value,
            Err(problem) => panic!("the default or example {text:?} of setting {:?} {problem}", self.name),
        }
    }

    fn parse(&self, text: &str) -> Result<T, String> {
        let value = T::parse(text)?;
        self.checks.iter().try_for_each(|check| check(&value))?;
        Ok(value)
    }

    fn read(self, example: String, fallback: Fallback) -> Option<T> {
        let twice = self.reader.declared.iter().any(|other| other.name == self.name);
        assert!(!twice, "setting {:?} is named twice", self.name);
        let required = matches!(fallback, Fallback::Required);
        let value = match self.reader.given(self.name) {
            Some((place, text)) => self.parse(&text).map(Some).map_err(|problem| {
                let shown =
                    if self.secret { "(hidden)".to_owned() } else { format!("{:?}", T::conceal(&text)) };
                format!("{place}={shown} {problem}; expected {}, such as {example}", self.expects)
            }),
            None if required => Err(format!(
                "--{} ({}) is not set: {}; expected {}, such as {example}",
                self.name,
                variable(self.name),
                self.meaning,
                self.expects
            )),
            None => Ok(None),
        };
        self.reader.declared.push(Declared {
            name: self.name,
            meaning: self.meaning,
            placeholder: T::PLACEHOLDER,
            switch: T::SWITCH,
            expects: self.expects,
            example,
            fallback,
            heading: self.reader.heading,
        });
        value.unwrap_or_else(|mistake| {
            self.reader.mistakes.push(mistake);
            None
        })
    }
}

impl Setting<'_, '_, String> {
    /// Refuses any text but these.
    pub fn one_of(mut self, choices: &'static [&'static str]) -> Self {
        self.expects = format!("one of {}", choices.join(", "));
        self.check(move |value| match choices.contains(&value.as_str()) {
            true => Ok(()),
            false => Err("is not a choice".to_owned()),
        })
    }
}

impl Setting<'_, '_, Vec<String>> {
    /// Refuses any item but these.
    pub fn each_of(mut self, choices: &'static [&'static str]) -> Self {
        self.expects = format!("a comma separated list out of {}", choices.join(", "));
        self.check(move |items| match items.iter().find(|item| !choices.contains(&item.as_str())) {
            None => Ok(()),
            Some(item) => Err(format!("has the unknown item {item:?}")),
        })
    }
}

/// A setting as `--help` tells it.
struct Declared {
    name: &'static str,
    meaning: String,
    placeholder: &'static str,
    switch: bool,
    expects: String,
    example: String,
    fallback: Fallback,
    heading: Option<&'static str>,
}

/// What holds when a setting is not given.
enum Fallback {
    Default(String),
    Required,
    Nothing,
}

/// All variables but ours.
struct Foreign<'a>(&'a dyn Strings);

impl Strings for Foreign<'_> {
    fn get(&self, name: &str) -> Option<String> {
        if name.starts_with(PREFIX) { None } else { self.0.get(name) }
    }

    fn names(&self) -> Vec<String> {
        Vec::new()
    }
}

/// The variable of a setting: `segment-max` is `VOICEFORGE_SEGMENT_MAX`.
fn variable(name: &str) -> String {
    format!("{PREFIX}{}", name.to_uppercase().replace('-', "_"))
}

/// The flags given, and a sentence for each argument nobody knows.
fn parse_flags(
    program: &'static str,
    about: &'static str,
    declared: &[Declared],
    mut args: Vec<String>,
) -> Result<(Map, Vec<String>), LoadError> {
    let command = teach(program, about, declared);
    let mut unknown = Vec::new();
    // clap stops at the first argument it does not know: note it, take it out, and ask again.
    let matches = loop {
        let error = match command
            .clone()
            .try_get_matches_from(std::iter::once(program).chain(args.iter().map(String::as_str)))
        {
            Ok(matches) => break matches,
            Err(error) => error,
        };
        match error.kind() {
            // A flag without its value is let through to be told with the other mistakes; the help need not show that.
            ErrorKind::DisplayHelp => {
                let help = command
                    .mut_args(|arg| if arg.is_require_equals_set() { arg } else { arg.num_args(1) })
                    .render_help();
                return Err(LoadError::Help(help.to_string()));
            }
            ErrorKind::DisplayVersion => return Err(LoadError::Version(error.to_string())),
            _ => {}
        }
        let Some(at) = find_argument(&error, &args) else {
            let problem = error.to_string();
            unknown.push(
                problem.lines().next().unwrap_or("bad arguments").trim_start_matches("error: ").to_owned(),
            );
            return Err(LoadError::Mistakes(Mistakes { program: program.to_owned(), mistakes: unknown }));
        };
        let arg = args.remove(at);
        let hint = match error.get(ContextKind::SuggestedArg) {
            Some(ContextValue::String(near)) => format!("; did you mean {near}?"),
            _ => String::new(),
        };
        let takes_next = arg.starts_with('-')
            && !arg.contains('=')
            && args.get(at).is_some_and(|next| !next.starts_with('-'));
        if takes_next {
            args.remove(at);
        }
        // What follows the equals sign may be a secret under a misspelt name.
        let name = arg.split_once('=').map_or(arg.as_str(), |(name, _)| name);
        unknown.push(format!("{name} is not an argument of {program}{hint}"));
    };
    let given = |declared: &Declared| {
        Some((declared.name.to_owned(), matches.get_one::<String>(declared.name)?.clone()))
    };
    Ok((Map(declared.iter().filter_map(given).collect()), unknown))
}

/// The place in `args` of the argument that `error` is about.
fn find_argument(error: &clap::Error, args: &[String]) -> Option<usize> {
    let Some(ContextValue::String(bad)) = error.get(ContextKind::InvalidArg) else { return None };
    args.iter()
        .position(|arg| {
            arg == bad || arg.strip_prefix(bad.as_str()).is_some_and(|rest| rest.starts_with('='))
        })
        .or_else(
            // An unknown short flag is reported alone, also out of a cluster such as `-xv`.
            || args.iter().position(|arg| arg.starts_with('-') && !arg.starts_with("--") && arg.len() > 1),
        )
}

/// What the placeholder of a value says already.
const PLAIN: &[&str] =
    &["text", "a URL", "a path", "a number", "a whole number", "true or false", "a secret"];

/// The command line as clap knows it. Values stay text: types are checked together with those of variables.
fn teach(program: &'static str, about: &'static str, declared: &[Declared]) -> clap::Command {
    let args = declared.iter().map(|setting| {
        let mut help = setting.meaning.clone();
        if !PLAIN.contains(&setting.expects.as_str()) {
            help += &format!("; {}", setting.expects);
        }
        help += &match &setting.fallback {
            Fallback::Default(default) if default.is_empty() => " [default: none]".to_owned(),
            Fallback::Default(default) => format!(" [default: {default}]"),
            Fallback::Required => format!(" [required, such as {}]", setting.example),
            Fallback::Nothing => format!(" [default: none; such as {}]", setting.example),
        };
        help += &format!(" [{}]", variable(setting.name));
        let arg = clap::Arg::new(setting.name)
            .long(setting.name)
            .value_name(setting.placeholder)
            .help(help)
            .help_heading(setting.heading.unwrap_or("Settings"))
            .num_args(0..=1)
            .allow_negative_numbers(true);
        match setting.switch {
            true => arg.require_equals(true).default_missing_value("true"),
            false => arg.default_missing_value(""),
        }
    });
    clap::Command::new(program)
        .about(about)
        .version(env!("CARGO_PKG_VERSION"))
        .after_help("Each setting is a flag or the variable in brackets; the flag wins.")
        .color(clap::ColorChoice::Never)
        .term_width(100)
        .args_override_self(true)
        .next_line_help(true)
        .args(args)
}

/// Variables of ours that this program does not know, but that are nearly the name of one it does.
fn find_misspelt(strings: &dyn Strings, declared: &[Declared]) -> Vec<String> {
    let known: Vec<String> = declared.iter().map(|setting| variable(setting.name)).collect();
    let mut strangers = strings.names();
    strangers.retain(|name| name.to_uppercase().starts_with(PREFIX) && !known.contains(name));
    strangers.sort();
    let nearest = |name: &String| {
        let distance = |known: &&String| strsim::osa_distance(known, &name.to_uppercase());
        known.iter().min_by_key(distance).filter(|known| distance(known) <= 2)
    };
    strangers
        .iter()
        .filter_map(|name| {
            Some(format!("{name} is not a setting of this program; did you mean {}?", nearest(name)?))
        })
        .collect()
}
