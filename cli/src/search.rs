//! `voiceforge search`: where something was said.

use std::process::ExitCode;

use clap::Args;
use serde::Deserialize;

use crate::client::Client;
use crate::config::Config;
use crate::out;
use crate::progress::clock;
use crate::wishes::{Listing, Server};

/// What to look for and where.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// Words, "phrases", or, -without
    #[arg(required = true, value_name = "QUERY")]
    pub query: Vec<String>,
    /// Only in this recording
    #[arg(long, value_name = "ID")]
    pub recording: Option<String>,
    /// Only what was said in this language, such as en
    #[arg(long, value_name = "CODE")]
    pub language: Option<String>,
    /// How many places at most
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: u32,
    #[command(flatten)]
    #[allow(missing_docs, reason = "the group documents itself")]
    pub listing: Listing,
    #[command(flatten)]
    #[allow(missing_docs, reason = "the group documents itself")]
    pub server: Server,
}

const EXAMPLES: &str = "\
Examples:
  voiceforge search budget
  voiceforge search '\"annual report\" or forecast -draft'
  voiceforge search budget --language en --since 2026-01-01 --json";

#[derive(Debug, Deserialize)]
struct Hit {
    recording_id: String,
    name: Option<String>,
    start_ms: u64,
    snippet: String,
}

/// Runs it.
///
/// # Errors
/// As the API says.
pub async fn run(arguments: Arguments, config: &Config) -> anyhow::Result<ExitCode> {
    let client = Client::new(&arguments.server, config)?;
    let query = arguments.listing.query([
        ("q", Some(arguments.query.join(" "))),
        ("recording", arguments.recording),
        ("language", arguments.language),
    ]);
    let hits = client.pages("/v1/search", &query, arguments.limit).await?;
    if hits.is_empty() && !arguments.listing.json {
        eprintln!("nothing was found");
    }
    let bold = std::io::IsTerminal::is_terminal(&std::io::stdout());
    for hit in hits {
        if arguments.listing.json {
            out::line(&hit.to_string())?;
            continue;
        }
        let hit: Hit = serde_json::from_value(hit)?;
        let name = hit.name.as_deref().unwrap_or("-");
        let at = clock(hit.start_ms as f64 / 1000.0);
        out::line(&format!("{}  {at}  {name}\n    {}", hit.recording_id, shown(&hit.snippet, bold)))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Turns a snippet of HTML into text for a terminal: what was found in bold, or between stars.
fn shown(snippet: &str, bold: bool) -> String {
    let (begin, end) = if bold { ("\x1b[1m", "\x1b[0m") } else { ("*", "*") };
    // Everything but the marks is escaped, so no escape sequence of the audio's making can come from it but by control
    // characters.
    let text: String = snippet.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let text = text.replace("<mark>", begin).replace("</mark>", end);
    let entities =
        [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&#39;", "'"), ("&#x27;", "'"), ("&amp;", "&")];
    entities.iter().fold(text, |text, (entity, letter)| text.replace(entity, letter))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snippets_are_text_with_marks() {
        assert_eq!(shown("a &lt;b&gt; &amp;lt; <mark>c</mark>\n\x1b[2J", false), "a <b> &lt; *c*  [2J");
        assert_eq!(shown("<mark>c</mark>", true), "\x1b[1mc\x1b[0m");
    }
}
