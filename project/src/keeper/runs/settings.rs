//! The settings of a recording in a run: its own, but for what the run wishes otherwise.

use std::collections::BTreeMap;

use events::{CUTTER_VERSION, ModelRef, Settings, Task};
use streams::ModelNote;
use views::Wishes;

/// Why a model is not fit for a recording.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// The recording's own model is not at hand any more, and the run names no other.
    #[error("no worker has announced the recording's own model {0}; name another one in the run")]
    UnknownModel(String),
    /// The model does not know the language.
    #[error("{model} does not know {language}; use a multilingual model, or name the language in the run")]
    Language {
        /// The model.
        model: String,
        /// The language, as its code.
        language: String,
    },
    /// The model cannot translate.
    #[error("{0} knows English only and cannot translate; use a multilingual model")]
    Translate(String),
    /// An option of decoding is not one, or not for this release.
    #[error("{0}; make the run again, with programs of one release")]
    Decoding(String),
}

impl Unfit {
    /// Returns the reason as a stable word.
    pub fn code(&self) -> &'static str {
        match self {
            Unfit::UnknownModel(_) => "unknown_model",
            Unfit::Language { .. } => "model_language",
            Unfit::Translate(_) => "model_translate",
            Unfit::Decoding(_) => "decoding_option",
        }
    }
}

/// Resolves the settings with the models at hand. `found` is the language of what readers see now: a model that does
/// not know it would write nonsense.
///
/// # Errors
/// Why the recording cannot be done with them.
pub fn resolve(
    wishes: &Wishes,
    own: &Settings,
    found: Option<&str>,
    models: &BTreeMap<String, ModelNote>,
) -> Result<Settings, Unfit> {
    let name = wishes.model.as_ref().unwrap_or(&own.model.name);
    let model = models.get(name).ok_or_else(|| Unfit::UnknownModel(name.clone()))?;
    let task = wishes.task.unwrap_or(own.task);
    if task == Task::Translate && !model.multilingual {
        return Err(Unfit::Translate(name.clone()));
    }
    let wished = match wishes.language.as_deref() {
        Some("auto") => None,
        Some(code) => Some(code),
        None => own.language.as_deref(),
    };
    // Said in the run: so be it. Left out there, a language that was found counts as much as one that was asked for.
    let spoken = if wishes.language.is_some() { wished } else { wished.or(found) };
    if let Some(language) = spoken.filter(|&code| !model.languages.iter().any(|known| known == code)) {
        return Err(Unfit::Language { model: name.clone(), language: language.to_owned() });
    }
    // An English-only model always gets `en`, as at admission.
    let language = if model.multilingual { wished } else { Some("en") };
    let mut decoding = own.decoding.clone();
    for (option, text) in &wishes.decoding {
        decoding.set(option, text).map_err(|problem| Unfit::Decoding(format!("{option} {problem}")))?;
    }
    decoding.check().map_err(|(option, problem)| Unfit::Decoding(format!("{option} {problem}")))?;
    Ok(Settings {
        model: ModelRef { name: model.name.clone(), sha256: model.sha256.clone() },
        task,
        language: language.map(str::to_owned),
        prompt: wishes.prompt.clone().or_else(|| own.prompt.clone()),
        temperatures: wishes.temperatures.clone().unwrap_or_else(|| own.temperatures.clone()),
        channels: wishes.channels.unwrap_or(own.channels),
        cutter: CUTTER_VERSION,
        decoding,
    })
}

#[cfg(test)]
mod tests {
    use events::{Channels, Decoding};

    use super::*;

    fn models() -> BTreeMap<String, ModelNote> {
        let note = |name: &str, multilingual, languages: &[&str]| ModelNote {
            name: name.to_owned(),
            sha256: format!("sha of {name}"),
            multilingual,
            languages: languages.iter().map(|&code| code.to_owned()).collect(),
        };
        let notes = [note("tiny.en", false, &["en"]), note("base", true, &["en", "de"])];
        notes.into_iter().map(|note| (note.name.clone(), note)).collect()
    }

    fn own(model: &str, language: Option<&str>) -> Settings {
        Settings {
            model: ModelRef { name: model.into(), sha256: "an older hash".into() },
            task: Task::Transcribe,
            language: language.map(str::to_owned),
            prompt: Some("Ana".into()),
            temperatures: vec![0.0],
            channels: Channels::Each,
            cutter: 0,
            decoding: Decoding { beam_size: 3, hotwords: Some("Zé".into()), ..Decoding::default() },
        }
    }

    fn check(wishes: &Wishes, own: &Settings, found: Option<&str>, then: &str) {
        let told = match resolve(wishes, own, found, &models()) {
            Ok(settings) => {
                let Settings { model, task, language, prompt, temperatures, channels, cutter, .. } = settings;
                assert_eq!((model.sha256, cutter), (format!("sha of {}", model.name), CUTTER_VERSION));
                let (language, prompt) = (language.unwrap_or("-".into()), prompt.unwrap_or("-".into()));
                format!("{} {task} {language} {prompt} {temperatures:?} {channels}", model.name)
            }
            Err(unfit) => format!("{}: {unfit}", unfit.code()),
        };
        assert_eq!(told, then);
    }

    fn with_model(model: &str) -> Wishes {
        Wishes { model: Some(model.into()), ..Wishes::default() }
    }

    #[test]
    fn what_a_run_does_not_wish_stays_as_it_was() {
        let (none, german) = (Wishes::default(), own("base", Some("de")));
        check(&none, &german, Some("de"), "base transcribe de Ana [0.0] each");
        check(&none, &own("base", None), Some("de"), "base transcribe - Ana [0.0] each");
        check(
            &with_model("base"),
            &own("tiny.en", Some("en")),
            Some("en"),
            "base transcribe en Ana [0.0] each",
        );
        let all = Wishes {
            model: Some("base".into()),
            language: Some("auto".into()),
            task: Some(Task::Translate),
            prompt: Some("Eva".into()),
            temperatures: Some(vec![0.5]),
            channels: Some(Channels::Mix),
            ..Wishes::default()
        };
        check(&all, &german, Some("de"), "base translate - Eva [0.5] mix");
    }

    #[test]
    fn options_of_decoding_change_one_by_one() {
        let wishes = |options: &[(&str, &str)]| Wishes {
            decoding: options.iter().map(|(name, text)| ((*name).into(), (*text).into())).collect(),
            ..Wishes::default()
        };
        let own = own("base", None);
        let resolved = |options: &[(&str, &str)]| resolve(&wishes(options), &own, None, &models());
        assert_eq!(resolved(&[]).unwrap().decoding, own.decoding);
        let changed = resolved(&[("beam_size", "1"), ("word_timestamps", "true")]).unwrap().decoding;
        assert_eq!(changed, Decoding { beam_size: 1, word_timestamps: true, ..own.decoding.clone() });
        let unfit =
            resolved(&[("condition_across_segments", "1"), ("condition_on_previous_text", "0")]).unwrap_err();
        assert!(unfit.to_string().contains("needs condition_on_previous_text"), "{unfit}");
        let unfit = resolved(&[("beam_size", "many")]).unwrap_err();
        assert_eq!(
            (unfit.code(), unfit.to_string().as_str()),
            (
                "decoding_option",
                "beam_size is \"many\"; expected a whole number from 1 to 16; make the run again, with programs of one release"
            )
        );
    }

    #[test]
    fn a_model_that_does_not_fit_is_a_clear_reason() {
        let german = own("base", Some("de"));
        let unknown = "unknown_model: no worker has announced the recording's own model small; name another one in the run";
        check(&Wishes::default(), &own("small", None), None, unknown);
        let language = "model_language: tiny.en does not know de; use a multilingual model, or name the language in the run";
        check(&with_model("tiny.en"), &german, None, language);
        check(&with_model("tiny.en"), &own("base", None), Some("de"), language);
        let said = Wishes { language: Some("en".into()), ..with_model("tiny.en") };
        check(&said, &german, Some("de"), "tiny.en transcribe en Ana [0.0] each");
        check(&with_model("tiny.en"), &own("base", None), None, "tiny.en transcribe en Ana [0.0] each");
        let translate = Wishes { task: Some(Task::Translate), ..with_model("tiny.en") };
        check(
            &translate,
            &own("base", None),
            None,
            "model_translate: tiny.en knows English only and cannot translate; use a multilingual model",
        );
    }
}
