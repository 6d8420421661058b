//! From what a sender wishes and the models at hand to the settings of a recording, frozen from then on.

use std::collections::BTreeMap;

use events::{CUTTER_VERSION, Channels, IdError, ModelRef, Settings, Task};
use streams::ModelNote;

use crate::drop::{Wishes, shown};

/// More temperatures than this are no ladder.
const TEMPERATURES_MAX: usize = 10;

/// Resolves the settings; every wish that cannot be met is a mistake, with what could be asked for instead.
///
/// # Errors
/// All mistakes.
pub fn resolve(
    wishes: &Wishes,
    models: &BTreeMap<String, ModelNote>,
    default_model: &str,
) -> Result<Settings, Vec<String>> {
    let mut mistakes = Vec::new();
    let name = wishes.model.as_deref().unwrap_or(default_model);
    let model = models.get(name);
    if model.is_none() {
        let whose = if wishes.model.is_some() { "model" } else { "model (by default)" };
        mistakes.push(format!(
            "{whose}: {} is not known here; known are {}",
            shown(name),
            list(models.keys())
        ));
    }
    let mut noted = |error: IdError| mistakes.push(error.to_string());
    let task: Task = read_word(wishes.task.as_deref(), &mut noted);
    let channels: Channels = read_word(wishes.channels.as_deref(), &mut noted);
    let temperatures = match wishes.temperature.as_deref().map(read_temperatures) {
        None => events::settings::default_temperatures(),
        Some(Ok(ladder)) => ladder,
        Some(Err(problem)) => {
            mistakes.push(format!("temperature: {problem}"));
            Vec::new()
        }
    };
    let language = model.and_then(|model| {
        resolve_language(wishes.language.as_deref(), task, model).unwrap_or_else(|problem| {
            mistakes.push(problem);
            None
        })
    });
    match model {
        Some(model) if mistakes.is_empty() => Ok(Settings {
            model: ModelRef { name: model.name.clone(), sha256: model.sha256.clone() },
            task,
            language,
            prompt: wishes.prompt.clone(),
            temperatures,
            channels,
            cutter: CUTTER_VERSION,
            decoding: wishes.decoding.clone(),
        }),
        _ => Err(mistakes),
    }
}

fn read_word<T: std::str::FromStr<Err = IdError> + Default>(
    text: Option<&str>,
    noted: &mut impl FnMut(IdError),
) -> T {
    text.map_or_else(|| Ok(T::default()), str::parse).unwrap_or_else(|error| {
        noted(error);
        T::default()
    })
}

fn read_temperatures(text: &str) -> Result<Vec<f32>, String> {
    let expected = || {
        format!(
            "{} is not a number from 0 to 1, or a comma separated list of at most {TEMPERATURES_MAX}",
            shown(text)
        )
    };
    let numbers: Option<Vec<f32>> = text
        .split(',')
        .map(|number| number.trim().parse().ok().filter(|number| (0.0..=1.0).contains(number)))
        .collect();
    // Adding zero turns -0 into 0, so that equal ladders are equal bytes.
    let numbers = numbers.filter(|numbers| numbers.len() <= TEMPERATURES_MAX).ok_or_else(expected)?;
    Ok(numbers.into_iter().map(|number| number + 0.0).collect())
}

/// Resolves the language with a model's own list. An English-only model always gets `en`, so that saying it and
/// leaving it out are the same settings.
fn resolve_language(wish: Option<&str>, task: Task, model: &ModelNote) -> Result<Option<String>, String> {
    let name = &model.name;
    if !model.multilingual && task == Task::Translate {
        return Err(format!(
            "task: {name} knows English only and cannot translate; choose a multilingual model"
        ));
    }
    let code = wish.map(str::to_ascii_lowercase).filter(|code| code != "auto");
    // `pt-BR` asks for Portuguese: models know no regions.
    let code = code.as_deref().map(|code| code.split(['-', '_']).next().unwrap_or(code));
    match (code, model.multilingual) {
        (None | Some("en"), false) => Ok(Some("en".to_owned())),
        (None, true) => Ok(None),
        (Some(code), _) if model.languages.iter().any(|known| known == code) => Ok(Some(code.to_owned())),
        (Some(code), true) => Err(format!(
            "language: {} is not a language that {name} knows; leave it out to have it identified, or give one of {}",
            shown(code),
            list(&model.languages)
        )),
        (Some(code), false) => Err(format!(
            "language: {name} knows English only, not {}; choose a multilingual model or leave the language out",
            shown(code)
        )),
    }
}

fn list<'a>(words: impl IntoIterator<Item = &'a String>) -> String {
    let words: Vec<&str> = words.into_iter().take(120).map(String::as_str).collect();
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    fn models() -> BTreeMap<String, ModelNote> {
        let note = |name: &str, multilingual, languages: &[&str]| ModelNote {
            name: name.to_owned(),
            sha256: format!("sha of {name}"),
            multilingual,
            languages: languages.iter().map(|&code| code.to_owned()).collect(),
        };
        let notes = [note("tiny.en", false, &["en"]), note("base", true, &["en", "de", "pt"])];
        notes.into_iter().map(|note| (note.name.clone(), note)).collect()
    }

    fn wishes(fields: &[(&str, &str)]) -> Wishes {
        let field =
            |name| fields.iter().find(|(field, _)| *field == name).map(|(_, value)| (*value).to_owned());
        Wishes {
            model: field("model"),
            language: field("language"),
            task: field("task"),
            prompt: field("prompt"),
            channels: field("channels"),
            temperature: field("temperature"),
            decoding: events::Decoding {
                beam_size: field("beam_size").map_or(1, |n| n.parse().unwrap()),
                ..Default::default()
            },
        }
    }

    fn check(fields: &[(&str, &str)], then: Expect) {
        let text = match resolve(&wishes(fields), &models(), "tiny.en") {
            Ok(settings) => String::from_utf8(settings.canonical()).unwrap(),
            Err(mistakes) => mistakes.join("\n"),
        };
        then.assert_eq(&text);
    }

    #[test]
    fn nothing_wished_is_the_default() {
        check(
            &[],
            expect![[
                r#"{"model":{"name":"tiny.en","sha256":"sha of tiny.en"},"task":"transcribe","language":"en","temperatures":[0.0,0.2,0.4,0.6,0.8,1.0],"channels":"mix","cutter":2}"#
            ]],
        );
    }

    #[test]
    fn every_wish_is_met() {
        check(
            &[
                ("model", "base"),
                ("language", "pt-BR"),
                ("task", "translate"),
                ("prompt", "Ana, Zé"),
                ("channels", "each"),
                ("temperature", "-0.0, 0.5"),
                ("beam_size", "5"),
            ],
            expect![[
                r#"{"model":{"name":"base","sha256":"sha of base"},"task":"translate","language":"pt","prompt":"Ana, Zé","temperatures":[0.0,0.5],"channels":"each","cutter":2,"decoding":{"beam_size":5}}"#
            ]],
        );
    }

    #[test]
    fn a_language_said_or_left_out_is_the_same_for_an_english_model() {
        let said = resolve(&wishes(&[("language", "EN")]), &models(), "tiny.en").unwrap();
        assert_eq!(said, resolve(&wishes(&[]), &models(), "tiny.en").unwrap());
        let auto =
            resolve(&wishes(&[("model", "base"), ("language", "auto")]), &models(), "tiny.en").unwrap();
        assert_eq!(auto.language, None);
    }

    #[test]
    fn mistakes_are_told_together() {
        check(
            &[("model", "huge"), ("task", "sing"), ("channels", "left"), ("temperature", "hot")],
            expect![[r#"
                model: "huge" is not known here; known are base, tiny.en
                "sing" is not a task: transcribe or translate
                "left" is not a channels value: mix or each
                temperature: "hot" is not a number from 0 to 1, or a comma separated list of at most 10"#]],
        );
        check(
            &[("language", "de")],
            expect![[
                r#"language: tiny.en knows English only, not "de"; choose a multilingual model or leave the language out"#
            ]],
        );
        check(
            &[("model", "base"), ("language", "xx")],
            expect![[
                r#"language: "xx" is not a language that base knows; leave it out to have it identified, or give one of en, de, pt"#
            ]],
        );
        check(
            &[("task", "translate")],
            expect!["task: tiny.en knows English only and cannot translate; choose a multilingual model"],
        );
        for bad in ["nan", "inf", "2", "-1", "0,,1", "", "0,0,0,0,0,0,0,0,0,0,0"] {
            assert!(read_temperatures(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_default_that_is_not_there_is_said_to_be_the_default() {
        let mistakes = resolve(&wishes(&[]), &models(), "small").unwrap_err();
        assert_eq!(mistakes, [r#"model (by default): "small" is not known here; known are base, tiny.en"#]);
    }
}
