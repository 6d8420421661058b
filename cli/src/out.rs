//! What goes to standard output: results, and nothing but results.

use std::io::{self, Write};
use std::path::Path;

use anyhow::Context;

/// Writes `text`. A reader that has enough (`| head`) is no failure.
///
/// # Errors
/// Any other failure to write.
pub fn write(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context("write the result"),
    }
}

/// Writes `text` and the end of the line, unless it has one.
///
/// # Errors
/// As [`write`].
pub fn line(text: &str) -> anyhow::Result<()> {
    let end = if text.ends_with('\n') { "" } else { "\n" };
    write(&format!("{text}{end}"))
}

/// Writes rows in columns, each as wide as its widest cell; the last one is left as it is.
///
/// # Errors
/// As [`write`].
pub fn table(rows: &[Vec<String>]) -> anyhow::Result<()> {
    write(&columns(rows))
}

/// Rows in columns, as [`table`] writes them.
pub fn columns(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |at: usize| rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..count).map(|at| width(at).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line += &format!("{cell:<width$}  ", width = *width);
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

/// A time as a person reads it, to the second, from RFC 3339 in UTC.
pub fn second(time: &str) -> String {
    time.split('.').next().unwrap_or(time).trim_end_matches('Z').replace('T', " ")
}

/// Writes a file whole or not at all, with the folders above it.
///
/// # Errors
/// By the file system, naming the file.
pub fn file(path: &Path, text: &str) -> anyhow::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let store = || -> io::Result<()> {
        std::fs::create_dir_all(folder)?;
        let mut new = tempfile::NamedTempFile::new_in(folder)?;
        new.write_all(text.as_bytes())?;
        new.persist(path)?;
        Ok(())
    };
    store().with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn columns_stand_under_each_other() {
        let rows = [["id", "status", "name"], ["7", "complete", "talk.mp3"], ["12", "queued", "zoë.wav"]];
        let rows = rows.map(|row| row.map(str::to_owned).to_vec());
        expect![[r#"
            id  status    name
            7   complete  talk.mp3
            12  queued    zoë.wav
        "#]]
        .assert_eq(&columns(&rows));
    }

    #[test]
    fn times_end_with_the_second() {
        assert_eq!(second("2026-01-31T18:30:07.123456Z"), "2026-01-31 18:30:07");
        assert_eq!(second("2026-01-31T18:30:07Z"), "2026-01-31 18:30:07");
        assert_eq!(second("-"), "-");
    }

    #[test]
    fn a_file_gets_its_folders() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b/talk.mp3.txt");
        file(&path, "Hello.\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "Hello.\n");
    }
}
