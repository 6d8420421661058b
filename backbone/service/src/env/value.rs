//! The types a setting can have: how each is written, shown and kept secret.

use std::fmt;
use std::net::SocketAddr;
use std::ops::Deref;
use std::path::PathBuf;
use std::time::Duration;

/// A type that a setting's text is parsed into.
pub trait Value: Sized {
    /// What `--help` shows for the value.
    const PLACEHOLDER: &'static str;
    /// Whether the bare flag means `true`.
    const SWITCH: bool = false;
    /// Whether the text must never be shown.
    const SECRET: bool = false;

    /// What is expected, as a noun: "a whole number".
    fn expects() -> String;

    /// The value of `text`; the error ends a sentence that begins with the text: "is not a whole number".
    fn parse(text: &str) -> Result<Self, String>;

    /// The value as one would type it.
    fn show(&self) -> String;

    /// `text` without the parts that must not be shown.
    fn conceal(text: &str) -> String {
        text.to_owned()
    }
}

/// Finds `text` in a list of names, for the [`Value::parse`] of an enum.
pub fn choice<T: Clone>(text: &str, choices: &[(&str, T)]) -> Result<T, String> {
    choices
        .iter()
        .find(|(name, _)| *name == text)
        .map(|(_, value)| value.clone())
        .ok_or_else(|| "is not a choice".to_owned())
}

impl Value for String {
    const PLACEHOLDER: &'static str = "TEXT";

    fn expects() -> String {
        "text".to_owned()
    }

    fn parse(text: &str) -> Result<String, String> {
        if text.is_empty() { Err("is empty".to_owned()) } else { Ok(text.to_owned()) }
    }

    fn show(&self) -> String {
        self.clone()
    }
}

impl Value for bool {
    const PLACEHOLDER: &'static str = "BOOL";
    const SWITCH: bool = true;

    fn expects() -> String {
        "true or false".to_owned()
    }

    fn parse(text: &str) -> Result<bool, String> {
        match text.to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" | "1" => Ok(true),
            "false" | "no" | "off" | "0" => Ok(false),
            _ => Err("is neither true nor false".to_owned()),
        }
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

macro_rules! whole_numbers {
    ($($type:ty),*) => {$(
        impl Value for $type {
            const PLACEHOLDER: &'static str = "NUMBER";

            fn expects() -> String {
                "a whole number".to_owned()
            }

            fn parse(text: &str) -> Result<$type, String> {
                use std::num::IntErrorKind::{NegOverflow, PosOverflow};
                text.parse().map_err(|error: std::num::ParseIntError| match error.kind() {
                    PosOverflow | NegOverflow => format!("is not between {} and {}", <$type>::MIN, <$type>::MAX),
                    _ => "is not a whole number".to_owned(),
                })
            }

            fn show(&self) -> String {
                self.to_string()
            }
        }
    )*};
}
whole_numbers!(u8, u16, u32, u64, usize, i32, i64);

macro_rules! fractions {
    ($($type:ty),*) => {$(
        impl Value for $type {
            const PLACEHOLDER: &'static str = "NUMBER";

            fn expects() -> String {
                "a number".to_owned()
            }

            fn parse(text: &str) -> Result<$type, String> {
                text.parse().ok().filter(|value: &$type| value.is_finite()).ok_or_else(|| "is not a number".to_owned())
            }

            fn show(&self) -> String {
                self.to_string()
            }
        }
    )*};
}
fractions!(f32, f64);

const DURATION_UNITS: &[(&str, f64)] = &[
    ("d", 86_400_000.0),
    ("h", 3_600_000.0),
    ("min", 60_000.0),
    ("m", 60_000.0),
    ("s", 1000.0),
    ("ms", 1.0),
];

impl Value for Duration {
    const PLACEHOLDER: &'static str = "DURATION";

    fn expects() -> String {
        "a duration in ms, s, min, h or d".to_owned()
    }

    fn parse(text: &str) -> Result<Duration, String> {
        let (number, unit) = split_unit(text)?;
        let scale = find_unit(unit, DURATION_UNITS)?;
        Duration::try_from_secs_f64(number * scale / 1000.0).map_err(|_| "is too long".to_owned())
    }

    fn show(&self) -> String {
        show_in(self.as_millis(), DURATION_UNITS)
    }
}

/// A number of bytes, written `64MiB`, `1.5GB` or `4096`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

impl ByteSize {
    /// 1024 bytes.
    pub const KIB: ByteSize = ByteSize(1 << 10);
    /// 1024 KiB.
    pub const MIB: ByteSize = ByteSize(1 << 20);
    /// 1024 MiB.
    pub const GIB: ByteSize = ByteSize(1 << 30);
    /// 1024 GiB.
    pub const TIB: ByteSize = ByteSize(1 << 40);
}

const BYTE_UNITS: &[(&str, f64)] = &[
    ("TiB", (1_u64 << 40) as f64),
    ("GiB", (1_u64 << 30) as f64),
    ("MiB", (1_u64 << 20) as f64),
    ("KiB", (1_u64 << 10) as f64),
    ("TB", 1e12),
    ("GB", 1e9),
    ("MB", 1e6),
    ("kB", 1e3),
    ("KB", 1e3),
    ("B", 1.0),
];

impl Value for ByteSize {
    const PLACEHOLDER: &'static str = "BYTES";

    fn expects() -> String {
        "a number of bytes in B, KiB, MiB, GiB or TiB".to_owned()
    }

    fn parse(text: &str) -> Result<ByteSize, String> {
        if let Ok(bytes) = text.parse() {
            return Ok(ByteSize(bytes));
        }
        let (number, unit) = split_unit(text)?;
        let bytes = number * find_unit(unit, BYTE_UNITS)?;
        // 2^53: below it every whole number has an exact f64.
        if bytes > (1_u64 << 53) as f64 {
            Err("is too large".to_owned())
        } else {
            Ok(ByteSize(bytes.round() as u64))
        }
    }

    fn show(&self) -> String {
        show_in(u128::from(self.0), BYTE_UNITS)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.show())
    }
}

/// Splits "64MiB" into 64 and "MiB".
fn split_unit(text: &str) -> Result<(f64, &str), String> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let number = number.parse().map_err(|_| "does not begin with a number".to_owned())?;
    Ok((number, unit.trim_start()))
}

fn find_unit(unit: &str, units: &[(&str, f64)]) -> Result<f64, String> {
    if unit.is_empty() {
        return Err("has no unit".to_owned());
    }
    let found = units
        .iter()
        .find(|(name, _)| *name == unit)
        .or_else(|| units.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)));
    found.map(|(_, scale)| *scale).ok_or_else(|| format!("has the unknown unit {unit:?}"))
}

/// `count` of the smallest unit, in the largest unit that divides it.
fn show_in(count: u128, units: &[(&str, f64)]) -> String {
    let whole = units.iter().find(|(_, scale)| count > 0 && count.is_multiple_of(*scale as u128));
    match (whole, units.iter().find(|(_, scale)| *scale == 1.0)) {
        (Some((unit, scale)), _) => format!("{}{unit}", count / *scale as u128),
        (None, Some((unit, _))) => format!("{count}{unit}"),
        (None, None) => count.to_string(),
    }
}

impl Value for SocketAddr {
    const PLACEHOLDER: &'static str = "IP:PORT";

    fn expects() -> String {
        "an IP address and a port".to_owned()
    }

    fn parse(text: &str) -> Result<SocketAddr, String> {
        // `localhost` is the one name whose address needs no asking.
        let literal = text
            .strip_prefix("localhost:")
            .map_or_else(|| text.to_owned(), |port| format!("127.0.0.1:{port}"));
        literal.parse().map_err(|_| "is not an IP address and a port".to_owned())
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Value for PathBuf {
    const PLACEHOLDER: &'static str = "PATH";

    fn expects() -> String {
        "a path".to_owned()
    }

    fn parse(text: &str) -> Result<PathBuf, String> {
        String::parse(text).map(PathBuf::from)
    }

    fn show(&self) -> String {
        self.display().to_string()
    }
}

/// A URL whose password is never shown: `Display` and `Debug` replace it, [`Url::as_str`](url::Url::as_str) has it.
#[derive(Clone, PartialEq, Eq)]
pub struct Url(url::Url);

impl Deref for Url {
    type Target = url::Url;

    fn deref(&self) -> &url::Url {
        &self.0
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&conceal_url(self.0.as_str()))
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Value for Url {
    const PLACEHOLDER: &'static str = "URL";

    fn expects() -> String {
        "a URL".to_owned()
    }

    fn parse(text: &str) -> Result<Url, String> {
        text.parse().map(Url).map_err(|error| format!("is not a URL ({error})"))
    }

    fn show(&self) -> String {
        self.to_string()
    }

    fn conceal(text: &str) -> String {
        conceal_url(text)
    }
}

/// Replaces what stands for the password, also in text that is not quite a URL: everything between the scheme and the
/// last `@`, and the values of query parameters that name a secret.
fn conceal_url(text: &str) -> String {
    let start = text.find("://").map_or(0, |at| at + 3);
    let (head, rest) = text.split_at(start);
    let authority_end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    // A password with a bare slash still ends at an `@`; such a URL shows less rather than more.
    let rest = match rest[..authority_end].rfind('@').or_else(|| rest.find('@')) {
        Some(at) => {
            let user = rest[..at].split(':').next().unwrap_or_default();
            let hidden = if rest[..at].contains(':') { ":***" } else { "" };
            format!("{user}{hidden}{}", &rest[at..])
        }
        None => rest.to_owned(),
    };
    let Some((path, query)) = rest.split_once('?') else { return format!("{head}{rest}") };
    let secret = |name: &str| {
        ["password", "secret", "token", "key"].iter().any(|word| name.to_ascii_lowercase().contains(word))
    };
    let pairs: Vec<String> = query
        .split('&')
        .map(|pair| match pair.split_once('=') {
            Some((name, _)) if secret(name) => format!("{name}=***"),
            _ => pair.to_owned(),
        })
        .collect();
    format!("{head}{path}?{}", pairs.join("&"))
}

/// Text that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text itself, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

impl Value for Secret {
    const PLACEHOLDER: &'static str = "SECRET";
    const SECRET: bool = true;

    fn expects() -> String {
        "a secret".to_owned()
    }

    fn parse(text: &str) -> Result<Secret, String> {
        String::parse(text).map(Secret)
    }

    fn show(&self) -> String {
        "(hidden)".to_owned()
    }
}

impl<T: Value> Value for Vec<T> {
    const PLACEHOLDER: &'static str = "LIST";
    const SECRET: bool = T::SECRET;

    fn expects() -> String {
        format!("a comma separated list, each item {}", T::expects())
    }

    fn parse(text: &str) -> Result<Vec<T>, String> {
        let parse = |item: &str| {
            let shown = if T::SECRET { "(hidden)".to_owned() } else { format!("{:?}", T::conceal(item)) };
            T::parse(item).map_err(|problem| format!("has an item {shown} that {problem}"))
        };
        text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(parse).collect()
    }

    fn show(&self) -> String {
        self.iter().map(T::show).collect::<Vec<_>>().join(",")
    }

    fn conceal(text: &str) -> String {
        text.split(',').map(T::conceal).collect::<Vec<_>>().join(",")
    }
}
