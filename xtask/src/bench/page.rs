//! The pages of figures.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::say;

const FOLDER: &str = "docs/benchmarks";

/// Prints a page and writes it. What people added below its figures, from `## Notes` on, stays.
pub fn write(name: &str, text: &str) -> Result<ExitCode> {
    print!("{text}");
    let file = Path::new(FOLDER).join(name);
    let kept = std::fs::read_to_string(&file).unwrap_or_default();
    std::fs::create_dir_all(FOLDER).context("make the folder of figures")?;
    let written = format!("{text}{}", notes(&kept));
    std::fs::write(&file, written).with_context(|| format!("write {}", file.display()))?;
    say::note(format_args!("written to {}", file.display()));
    Ok(ExitCode::SUCCESS)
}

fn notes(page: &str) -> &str {
    page.find("\n## Notes").map_or("", |at| &page[at..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_go_to_the_end_of_the_page() {
        assert_eq!(notes("# One\n\nfigures\n\n## Notes\n\nwhy\n"), "\n## Notes\n\nwhy\n");
        assert_eq!(notes("# One\n\nfigures\n"), "");
    }
}
