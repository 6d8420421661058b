//! The whole engine: on a small network of random weights, which any machine can make, and on real
//! weights and speech where `VOICEFORGE_TEST_MODELS` and `VOICEFORGE_TEST_CLIPS` name them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::{env, fs, thread};

use safetensors::{Dtype, tensor::TensorView};
use tempfile::TempDir;

use super::*;
use crate::backend::Backend;
use crate::cpu::{Cpu, CpuOptions};
use crate::plain::Plain;
use crate::plain::network::Network;
use crate::sampling::unit;
use crate::scheduler::URGENT;

const SETUP: Setup =
    Setup { place: Place::Cpu, precision: Precision::F32, threads: 2, segments: 4, sound: Form::Whole };

/// Shapes and values of tensors by CTranslate2's names.
type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// Width of the smallest network, whose two heads are narrower than those of any Whisper.
const WIDTH: usize = 64;

/// Tensors of a network with one layer each side, two heads and random weights.
fn random_tensors(vocabulary: usize, width: usize) -> Tensors {
    let inner = 2 * width;
    let mut drawn = 0;
    let mut tensors = Tensors::new();
    let mut add = |name: &str, shape: &[usize], scale: f64| {
        let count: u32 = shape.iter().product::<usize>() as u32;
        let values = (0..count).map(|i| ((unit(1, drawn + i) * 2.0 - 1.0) * scale) as f32).collect();
        drawn += count;
        tensors.insert(name.to_owned(), (shape.to_owned(), values));
    };
    add("decoder/embeddings/weight", &[vocabulary, width], 0.3);
    add("decoder/position_encodings/encodings", &[448, width], 0.3);
    add("encoder/position_encodings/encodings", &[1_500, width], 0.3);
    add("encoder/conv1/weight", &[width, 80, 3], 0.1);
    add("encoder/conv1/bias", &[width], 0.1);
    add("encoder/conv2/weight", &[width, width, 3], 0.1);
    add("encoder/conv2/bias", &[width], 0.1);
    let mut part = |prefix: &str, layers: &[(&str, usize, usize)]| {
        add(&format!("{prefix}/layer_norm/gamma"), &[width], 2.0);
        add(&format!("{prefix}/layer_norm/beta"), &[width], 0.5);
        for (layer, outputs, inputs) in layers {
            add(&format!("{prefix}/{layer}/weight"), &[*outputs, *inputs], 0.2);
            add(&format!("{prefix}/{layer}/bias"), &[*outputs], 0.2);
        }
    };
    for side in ["encoder", "decoder"] {
        part(side, &[]);
        part(
            &format!("{side}/layer_0/self_attention"),
            &[("linear_0", 3 * width, width), ("linear_1", width, width)],
        );
        part(&format!("{side}/layer_0/ffn"), &[("linear_0", inner, width), ("linear_1", width, inner)]);
    }
    let cross = [("linear_0", width, width), ("linear_1", 2 * width, width), ("linear_2", width, width)];
    part("decoder/layer_0/attention", &cross);
    // Whisper's keys have no bias, and a Hugging Face folder does not store one.
    for (name, keys) in [
        ("encoder/layer_0/self_attention/linear_0", 1),
        ("decoder/layer_0/self_attention/linear_0", 1),
        ("decoder/layer_0/attention/linear_1", 0),
    ] {
        let bias = &mut tensors.get_mut(&format!("{name}/bias")).unwrap().1;
        bias[keys * width..(keys + 1) * width].fill(0.0);
    }
    tensors
}

/// The vocabulary: single bytes, made-up pairs, special tokens and languages.
fn write_vocabulary(folder: &Path, vocabulary: usize) {
    let multilingual = vocabulary >= 51_865;
    let texts = if multilingual { 50_257 } else { 50_256 };
    let mut list: Vec<String> = (0x21..0x7f)
        .chain(0xa1..0xad)
        .chain(0xae..0x144)
        .filter_map(char::from_u32)
        .map(String::from)
        .collect();
    list.extend((list.len()..texts).map(|i| format!("Ġw{i}")));
    let mut special = vec!["endoftext".to_owned(), "startoftranscript".into()];
    special.extend(crate::tokens::LANGUAGES.iter().take(99).map(|(code, _)| (*code).to_owned()));
    special.extend(
        ["translate", "transcribe", "startoflm", "startofprev", "nospeech", "notimestamps"].map(String::from),
    );
    list.extend(special.into_iter().map(|name| format!("<|{name}|>")));
    fs::write(folder.join("vocabulary.txt"), list.join("\n") + "\n").unwrap();
}

/// Writes a random model as CTranslate2 does.
pub(crate) fn write_ctranslate2(folder: &Path, vocabulary: usize) {
    write_random(folder, vocabulary, WIDTH);
}

/// The same with states of this width.
pub(crate) fn write_random(folder: &Path, vocabulary: usize, width: usize) {
    write_tensors(folder, random_tensors(vocabulary, width));
    write_vocabulary(folder, vocabulary);
}

/// Writes `model.bin` with these tensors.
fn write_tensors(folder: &Path, tensors: Tensors) {
    let text = |bytes: &mut Vec<u8>, text: &str| {
        bytes.extend((text.len() as u16 + 1).to_le_bytes());
        bytes.extend(text.as_bytes());
        bytes.push(0);
    };
    let mut bytes = 6u32.to_le_bytes().to_vec();
    text(&mut bytes, "WhisperSpec");
    bytes.extend(3u32.to_le_bytes());
    bytes.extend((tensors.len() as u32 + 2).to_le_bytes());
    for side in ["encoder", "decoder"] {
        text(&mut bytes, &format!("{side}/num_heads"));
        bytes.extend([0, 2, 2, 0, 0, 0, 2, 0]);
    }
    for (name, (shape, values)) in tensors {
        text(&mut bytes, &name);
        bytes.push(shape.len() as u8);
        shape.iter().for_each(|extent| bytes.extend((*extent as u32).to_le_bytes()));
        bytes.push(0);
        bytes.extend((values.len() as u32 * 4).to_le_bytes());
        bytes.extend(values.iter().flat_map(|x| x.to_le_bytes()));
    }
    bytes.extend(0u32.to_le_bytes());
    fs::write(folder.join("model.bin"), bytes).unwrap();
}

/// Tensors as they stand in a file: name, shape and bytes.
type Stored = BTreeMap<String, (Vec<usize>, Vec<u8>)>;

/// Writes tensors of CTranslate2's names as a Hugging Face folder in two pieces; queries, keys and values
/// become three tensors, and keys lose their bias.
fn write_hugging_face(folder: &Path, tensors: Tensors, heads: usize) {
    let mut pieces: [Stored; 2] = Default::default();
    for (name, (shape, values)) in tensors {
        let steps: Vec<&str> = name.split('/').collect();
        let [side, .., leaf] = steps[..] else { panic!("{name} has a side and a leaf") };
        let leaf = match leaf {
            "gamma" | "encodings" => "weight",
            "beta" => "bias",
            other => other,
        };
        let inner = steps[1..steps.len() - 1]
            .join(".")
            .replace("layer_0.", "layers.0.")
            .replace("layer_1.", "layers.1.");
        let inner = inner.replace("layer_2.", "layers.2.").replace("layer_3.", "layers.3.");
        let inner =
            inner.replace("position_encodings", "embed_positions").replace("embeddings", "embed_tokens");
        let inner = inner
            .replace("ffn.linear_0", "fc1")
            .replace("ffn.linear_1", "fc2")
            .replace("ffn.layer_norm", "final_layer_norm");
        let inner = inner
            .replace("self_attention.layer_norm", "self_attn_layer_norm")
            .replace("self_attention.linear_1", "self_attn.out_proj");
        let inner = inner
            .replace(".attention.layer_norm", ".encoder_attn_layer_norm")
            .replace(".attention.linear_2", ".encoder_attn.out_proj");
        let inner = inner.replace(".attention.linear_0", ".encoder_attn.q_proj");
        let (stem, parts): (String, &[&str]) =
            if let Some(stem) = inner.strip_suffix("self_attention.linear_0") {
                (format!("{stem}self_attn."), &["q_proj", "k_proj", "v_proj"])
            } else if let Some(stem) = inner.strip_suffix("attention.linear_1") {
                (format!("{stem}encoder_attn."), &["k_proj", "v_proj"])
            } else {
                (inner, &[""])
            };
        let mut shape = shape;
        shape[0] /= parts.len();
        for (part, values) in parts.iter().zip(values.chunks_exact(values.len() / parts.len())) {
            if *part == "k_proj" && leaf == "bias" {
                assert!(values.iter().all(|x| *x == 0.0), "keys have no bias");
                continue;
            }
            let piece = usize::from(side == "decoder");
            let bytes = values.iter().flat_map(|x| x.to_le_bytes()).collect();
            pieces[piece].insert(format!("model.{side}.{stem}{part}.{leaf}"), (shape.clone(), bytes));
        }
    }
    let mut index = BTreeMap::new();
    for (piece, tensors) in pieces.iter().enumerate() {
        let file = format!("model-0000{}-of-00002.safetensors", piece + 1);
        let views = tensors.iter().map(|(name, (shape, bytes))| {
            index.insert(name.clone(), file.clone());
            (name, TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap())
        });
        fs::write(folder.join(&file), safetensors::serialize(views, None).unwrap()).unwrap();
    }
    fs::write(
        folder.join("model.safetensors.index.json"),
        serde_json::json!({ "weight_map": index }).to_string(),
    )
    .unwrap();
    let config = serde_json::json!({
        "model_type": "whisper", "encoder_attention_heads": heads, "decoder_attention_heads": heads, "activation_function": "gelu",
    });
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
}

/// A device and a voice with random weights.
pub(crate) fn random_network(slots: usize, rows: usize) -> (Box<dyn Backend>, Arc<Voice>) {
    let folder = tempfile::tempdir().unwrap();
    write_ctranslate2(folder.path(), 51_864);
    let weights = Weights::open(folder.path()).unwrap();
    let network = Network::load(&weights).unwrap();
    let tokens = Tokens::load(folder.path(), weights.format(), network.dims.vocabulary).unwrap();
    let dims = network.dims;
    let backend = Plain::new(network, Rules::new(&tokens), slots, rows);
    (Box::new(backend), Arc::new(Voice { dims, tokens }))
}

/// The same network on the processor's own backend.
pub(crate) fn random_cpu(precision: Precision, slots: usize, rows: usize) -> (Box<dyn Backend>, Arc<Voice>) {
    let folder = tempfile::tempdir().unwrap();
    write_ctranslate2(folder.path(), 51_864);
    let weights = Weights::open(folder.path()).unwrap();
    let dims = model::dims(&weights).unwrap();
    let tokens = Tokens::load(folder.path(), weights.format(), dims.vocabulary).unwrap();
    let options = CpuOptions { precision, threads: 2, slots, rows };
    let backend = Cpu::load(&weights, Rules::new(&tokens), vec![(0, 0), (0, 1)], options).unwrap();
    (Box::new(backend), Arc::new(Voice { dims, tokens }))
}

/// Has an engine's thread panic, and waits for its end.
pub(crate) fn break_down(engine: &Engine) {
    engine.scheduler.submit(URGENT, |_, _| panic!("this engine shall break down"));
    while !engine.has_ended() {
        thread::yield_now();
    }
}

/// An engine with random weights, and the folder it was loaded from.
pub(crate) fn random_engine(vocabulary: usize) -> (TempDir, Engine) {
    let folder = tempfile::tempdir().unwrap();
    write_ctranslate2(folder.path(), vocabulary);
    let engine = Engine::load(folder.path(), SETUP).unwrap();
    (folder, engine)
}

/// Transcribes on this thread.
fn transcribe(engine: &Engine, pcm: &[i16], options: &Options) -> Result<Output, Error> {
    futures::executor::block_on(engine.transcribe(pcm.into(), options.clone(), URGENT))
}

pub(crate) fn hum(seconds: usize) -> Vec<i16> {
    (0..seconds * SAMPLE_RATE).map(|i| ((i * i / 50) % 16_001) as i16 - 8_000).collect()
}

#[test]
fn nonsense_ends_and_keeps_to_its_bounds() {
    let (_folder, engine) = random_engine(51_864);
    let options = Options { tokens_max: 40, ..Options::default() };
    let output = transcribe(&engine, &hum(9), &options).unwrap();
    assert_eq!((output.language.as_str(), output.language_probability), ("en", 1.0));
    assert!(!output.spans.is_empty());
    for span in &output.spans {
        assert!(span.start_ms <= span.end_ms && span.end_ms <= 9_000, "{span:?}");
        assert!(span.tokens.len() <= 40 && !span.text.trim().is_empty(), "{span:?}");
        assert!(span.avg_logprob < 0.0 && (0.0..=1.0).contains(&span.no_speech_prob), "{span:?}");
        // Random weights guess, so the ladder is climbed to its top.
        assert_eq!(span.temperature, 1.0);
    }
}

#[test]
fn the_same_seed_gives_the_same_text_from_any_thread() {
    let (_folder, engine) = random_engine(51_864);
    let options = Options { temperatures: vec![0.8], best_of: 3, tokens_max: 20, ..Options::default() };
    let read = |seed| transcribe(&engine, &hum(3), &Options { seed, ..options.clone() }).unwrap();
    let (a, b) = thread::scope(|scope| {
        let other = scope.spawn(|| read(1));
        (read(1), other.join().unwrap())
    });
    assert_eq!(a, b);
    assert_ne!(a, read(2));
}

#[test]
fn both_formats_give_the_same_text() {
    let vocabulary = 51_865;
    let (_first, ctranslate2) = random_engine(vocabulary);
    let folder = tempfile::tempdir().unwrap();
    write_hugging_face(folder.path(), random_tensors(vocabulary, WIDTH), 2);
    write_vocabulary(folder.path(), vocabulary);
    let hugging_face = Engine::load(folder.path(), SETUP).unwrap();
    assert_ne!(ctranslate2.info().sha256, hugging_face.info().sha256);
    assert_eq!(hugging_face.info().languages.len(), 99);
    let options = Options { temperatures: vec![0.0], tokens_max: 30, ..Options::default() };
    let (a, b) = (
        transcribe(&ctranslate2, &hum(5), &options).unwrap(),
        transcribe(&hugging_face, &hum(5), &options).unwrap(),
    );
    let tokens =
        |output: &Output| output.spans.iter().flat_map(|span| span.tokens.clone()).collect::<Vec<_>>();
    assert_eq!((&a.language, tokens(&a)), (&b.language, tokens(&b)));
    assert!(a.language_probability > 0.0 && a.language_probability < 1.0);
}

#[test]
fn nothing_heard_is_nothing_said() {
    let (_folder, engine) = random_engine(51_864);
    for samples in [0, 1, 159] {
        assert_eq!(transcribe(&engine, &vec![1; samples], &Options::default()).unwrap().spans, []);
    }
}

#[test]
fn what_cannot_be_done_is_refused_with_a_reason() {
    let (_folder, english) = random_engine(51_864);
    let (_other, multilingual) = random_engine(51_865);
    let refuse = |engine: &Engine, options: Options, expected: &str| {
        let message = transcribe(engine, &[0; 16], &options).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
        assert_eq!(engine.check(&options).unwrap_err().to_string(), message);
    };
    let language = |language: &str| Options { language: Some(language.into()), ..Options::default() };
    refuse(&english, language("de"), "does not know the language \"de\"; it knows en");
    refuse(&multilingual, language("klingon"), "it knows en zh de");
    refuse(&multilingual, language("yue"), "does not know the language \"yue\"");
    refuse(
        &english,
        Options { task: Task::Translate, ..Options::default() },
        "is English-only and cannot translate",
    );
    refuse(&english, Options { temperatures: vec![], ..Options::default() }, "at least one");
    refuse(
        &english,
        Options { temperatures: vec![f32::NAN], ..Options::default() },
        "temperatures are 0 to 2",
    );
    refuse(&english, Options { best_of: 0, ..Options::default() }, "best_of is 1 to 16, not 0");
    let refused = [
        (Options { beams: 0, ..Options::default() }, "beams is 1 to 16, not 0"),
        (Options { beams: 17, ..Options::default() }, "beams is 1 to 16, not 17"),
        (Options { best_of: 99, ..Options::default() }, "best_of is 1 to 16, not 99"),
        (Options { patience: 0.0, ..Options::default() }, "patience is above 0 and at most 10, not 0"),
        (Options { patience: f32::INFINITY, ..Options::default() }, "patience is above 0"),
        (Options { length_penalty: Some(-1.0), ..Options::default() }, "length_penalty is 0 to 1"),
        (Options { length_penalty: Some(f32::NAN), ..Options::default() }, "length_penalty is 0 to 1"),
        (Options { temperatures: vec![2.1], ..Options::default() }, "temperatures are 0 to 2"),
        (Options { tokens_max: 0, ..Options::default() }, "tokens_max is at least 1"),
    ];
    for (options, expected) in refused {
        refuse(&english, options, expected);
    }
    assert!(multilingual.check(&Options { task: Task::Translate, ..language("German") }).is_ok());
    let message =
        transcribe(&english, &vec![0; SEGMENT_SAMPLES_MAX + 1], &Options::default()).unwrap_err().to_string();
    assert!(message.contains("at most 30 s"), "{message}");
}

#[test]
fn a_long_prompt_leaves_room_for_the_text() {
    let (_folder, engine) = random_engine(51_864);
    let prompt = Some("a b c d e f g h i j ".repeat(100));
    let options = Options { prompt, temperatures: vec![0.0], tokens_max: 224, ..Options::default() };
    transcribe(&engine, &hum(2), &options).unwrap();
    // The longest prefix besides: together they would be more than the decoder holds.
    let prefix = Some("a b c d e f g h i j ".repeat(50));
    let read = transcribe(&engine, &hum(30), &Options { prefix, ..options }).unwrap();
    let tokens: usize = read.spans.iter().map(|span| span.tokens.len()).sum();
    assert!(tokens > 0, "{read:?}");
}

#[test]
fn loud_shifted_and_silent_sound_is_read_like_any_other() {
    let (_folder, engine) = random_engine(51_864);
    let options = Options { temperatures: vec![0.0], tokens_max: 10, ..Options::default() };
    let clipped: Vec<i16> =
        (0..SAMPLE_RATE).map(|i| if i / 40 % 2 == 0 { i16::MAX } else { i16::MIN }).collect();
    for pcm in [clipped, vec![i16::MAX; SAMPLE_RATE], vec![i16::MIN; SAMPLE_RATE], vec![0; SAMPLE_RATE]] {
        for span in transcribe(&engine, &pcm, &options).unwrap().spans {
            assert!(span.avg_logprob.is_finite() && span.no_speech_prob.is_finite(), "{span:?}");
        }
    }
}

#[test]
fn a_text_begins_with_its_prefix_and_expects_the_hotwords() {
    let (_folder, engine) = random_engine(51_864);
    let options = Options { temperatures: vec![0.0], tokens_max: 20, ..Options::default() };
    let prefixed = Options { prefix: Some("ab c".to_owned()), ..options.clone() };
    for options in [
        prefixed.clone(),
        Options { beams: 2, ..prefixed.clone() },
        Options { timestamps: false, ..prefixed },
    ] {
        let output = transcribe(&engine, &hum(3), &options).unwrap();
        assert!(output.spans[0].text.starts_with(" ab c"), "{:?}", output.spans[0]);
    }
    let hot = Options { hotwords: Some("VoiceForge Zé".to_owned()), ..options.clone() };
    let (with, without) = (transcribe(&engine, &hum(3), &hot), transcribe(&engine, &hum(3), &options));
    assert_ne!(with.unwrap().spans, without.unwrap().spans, "the model reads them");
}

#[test]
fn speech_without_text_is_read_again_or_told() {
    let (_folder, engine) = random_engine(51_864);
    // A model of random weights says little; what it does not cover is a gap.
    let options = Options {
        temperatures: vec![0.0],
        tokens_max: 6,
        speech: std::iter::once(0..9_000).collect(),
        ..Options::default()
    };
    let told = transcribe(&engine, &hum(9), &Options { reread_gaps: false, ..options.clone() }).unwrap();
    let read = transcribe(&engine, &hum(9), &options).unwrap();
    for output in [&told, &read] {
        let covered = output.coverage;
        let gaps: u64 = output.gaps.iter().map(|gap| gap.end - gap.start).sum();
        assert!((covered - (1.0 - gaps as f32 / 9_000.0)).abs() < 1e-6, "{output:?}");
    }
    assert!(read.coverage >= told.coverage, "{} of {}", read.coverage, told.coverage);
    assert!(read.spans.is_sorted_by_key(|span| span.start_ms));
}

#[test]
fn an_engine_that_broke_down_says_so() {
    let (_folder, engine) = random_engine(51_864);
    break_down(&engine);
    let error = transcribe(&engine, &hum(1), &Options::default()).unwrap_err();
    assert!(matches!(error, Error::Device(_)), "{error}");
}

#[test]
fn damaged_weights_are_named() {
    let (folder, engine) = random_engine(51_864);
    drop(engine);
    let file = folder.path().join("model.bin");
    let whole = fs::read(&file).unwrap();
    for keep in [0, 3, 100, whole.len() / 2, whole.len() - 1] {
        fs::write(&file, &whole[..keep]).unwrap();
        let message = Engine::load(folder.path(), SETUP).err().unwrap().to_string();
        assert!(
            message.contains("model.bin is damaged") && message.contains("download the model again"),
            "{message}"
        );
    }
    // A weight that is not a number.
    let mut bad = whole.clone();
    let middle = whole.len() / 2;
    bad[middle..middle + 8].fill(0xff);
    fs::write(&file, &bad).unwrap();
    assert!(Engine::load(folder.path(), SETUP).err().unwrap().to_string().contains("not numbers"));
    fs::remove_file(&file).unwrap();
    let message = Engine::load(folder.path(), SETUP).err().unwrap().to_string();
    assert!(message.contains("model.bin or model.safetensors is missing"), "{message}");
}

/// What a folder of weights that a change was made to is refused with, in both formats.
#[track_caller]
fn refused(change: impl Fn(&mut Tensors), expected: [&str; 2]) {
    let mut tensors = random_tensors(51_864, WIDTH);
    change(&mut tensors);
    for (format, expected) in expected.into_iter().enumerate() {
        let folder = tempfile::tempdir().unwrap();
        write_vocabulary(folder.path(), 51_864);
        let file = if format == 0 {
            write_tensors(folder.path(), tensors.clone());
            "model.bin"
        } else {
            write_hugging_face(folder.path(), tensors.clone(), 2);
            "model.safetensors.index.json"
        };
        let message = Engine::load(folder.path(), SETUP).err().unwrap().to_string();
        assert!(message.contains(&format!("{file} cannot be used: {expected}")), "{message}");
    }
}

/// Numbers do not matter where shapes are refused.
fn reshape(tensors: &mut Tensors, name: &str, shape: &[usize]) {
    tensors.insert(name.to_owned(), (shape.to_owned(), vec![0.5; shape.iter().product()]));
}

#[test]
fn weights_that_do_not_fit_each_other_are_named_with_what_was_expected() {
    let mels = |mels| move |tensors: &mut Tensors| reshape(tensors, "encoder/conv1/weight", &[64, mels, 3]);
    let bands = "it hears 64 mel bands; Whisper models hear 80 or 128";
    refused(mels(64), [bands, bands]);
    refused(
        |tensors| reshape(tensors, "encoder/conv1/weight", &[64, 80, 5]),
        [
            "encoder/conv1/weight is not (width, mels, 3): not a Whisper model",
            "encoder/conv1/weight is not (width, mels, 3): not a Whisper model",
        ],
    );
    refused(
        |tensors| reshape(tensors, "decoder/layer_0/ffn/linear_0/weight", &[2 * WIDTH, WIDTH + 1]),
        [
            "decoder/layer_0/ffn/linear_0/weight has shape [128, 65] where [128, 64] was expected",
            "decoder.layers.0.fc1.weight has shape [128, 65] where [128, 64] was expected",
        ],
    );
    refused(
        |tensors| reshape(tensors, "encoder/position_encodings/encodings", &[1_499, WIDTH]),
        [
            "encoder/position_encodings/encodings has shape [1499, 64] where [1500, 64] was expected",
            "encoder.embed_positions.weight has shape [1499, 64] where [1500, 64] was expected",
        ],
    );
    refused(
        |tensors| reshape(tensors, "decoder/embeddings/weight", &[51_864 * WIDTH]),
        [
            "decoder/embeddings/weight has shape [3319296], which is not of rank 2",
            "decoder.embed_tokens.weight has shape [3319296], which is not of rank 2",
        ],
    );
    refused(
        |tensors| drop(tensors.remove("decoder/layer_0/attention/linear_2/bias")),
        [
            "it has no tensor decoder/layer_0/attention/linear_2/bias: not a Whisper model",
            "it has no tensor decoder.layers.0.encoder_attn.out_proj.bias: not a Whisper model",
        ],
    );
    // With 128 bands the same network is one of large-v3's kind.
    let folder = tempfile::tempdir().unwrap();
    let mut tensors = random_tensors(51_864, WIDTH);
    mels(128)(&mut tensors);
    write_tensors(folder.path(), tensors);
    write_vocabulary(folder.path(), 51_864);
    let engine = Engine::load(folder.path(), SETUP).unwrap();
    assert_eq!(engine.info().mels, 128);
    transcribe(&engine, &hum(1), &Options { temperatures: vec![0.0], tokens_max: 4, ..Options::default() })
        .unwrap();
}

#[test]
fn a_vocabulary_of_other_weights_is_named() {
    for (weights, vocabulary) in [(51_864, 51_865), (51_865, 51_864)] {
        let folder = tempfile::tempdir().unwrap();
        write_tensors(folder.path(), random_tensors(weights, WIDTH));
        write_vocabulary(folder.path(), vocabulary);
        let message = Engine::load(folder.path(), SETUP).err().unwrap().to_string();
        let expected = format!(
            "vocabulary.txt cannot be used: it is of a model with {vocabulary} tokens, and the weights know {weights}: \
             copy both from one model"
        );
        assert!(message.contains(&expected), "{message}");
    }
}

/// Folder of an environment variable, or a plain line saying that the test does not run.
pub(crate) fn given(variable: &str, inside: &str) -> Option<PathBuf> {
    let folder = env::var_os(variable)
        .map(|folder| PathBuf::from(folder).join(inside))
        .filter(|folder| folder.exists());
    if folder.is_none() {
        eprintln!("skipped: {variable} names no folder with {inside:?}");
    }
    folder
}

/// Samples of a 16 kHz mono WAV file with the usual 44 bytes of header.
pub(crate) fn speech(file: PathBuf) -> Vec<i16> {
    let bytes = fs::read(file).unwrap();
    assert_eq!(&bytes[36..40], b"data");
    let length = u32::from_le_bytes(bytes[40..44].try_into().unwrap()) as usize;
    bytes[44..44 + length].as_chunks().0.iter().map(|x| i16::from_le_bytes(*x)).collect()
}

fn text(output: &Output) -> String {
    output.spans.iter().map(|span| span.text.as_str()).collect()
}

#[test]
fn real_speech_is_read_as_faster_whisper_reads_it() {
    let (Some(model), Some(clips)) =
        (given("VOICEFORGE_TEST_MODELS", "tiny.en"), given("VOICEFORGE_TEST_CLIPS", "beckett.wav"))
    else {
        return;
    };
    let engine = Engine::load(&model, SETUP).unwrap();
    let clips = clips.parent().unwrap();
    let output = transcribe(&engine, &speech(clips.join("beckett.wav")), &Options::default()).unwrap();
    let times: Vec<_> =
        output.spans.iter().map(|span| (span.start_ms, span.end_ms, span.text.as_str())).collect();
    assert_eq!(
        times,
        [
            (0, 3_000, " Ever tried, ever failed."),
            (3_000, 6_000, " No matter, try again."),
            (6_000, 8_000, " Fail again."),
            (8_000, 9_963, " Fail better."),
        ]
    );
    // The tokens that faster-whisper 1.2.1 finds (float32, beam 1).
    let output = transcribe(&engine, &speech(clips.join("librivox-0870.wav")), &Options::default()).unwrap();
    #[rustfmt::skip]
    let expected = [
        50363, 843, 1770, 13, 1757, 16189, 3822, 550, 788, 24638, 284, 2074, 703, 881, 612, 1244, 307, 25220, 1473, 287,
        465, 1176, 284, 466, 329, 606, 13, 50713,
    ];
    assert_eq!(output.spans[0].tokens, expected);
    assert_eq!(output.spans[0].temperature, 0.0);
    // Two threads at once, and without timestamps.
    let pcm = speech(clips.join("librivox-0890.wav"));
    let options = Options { timestamps: false, ..Options::default() };
    let (a, b) = thread::scope(|scope| {
        let other = scope.spawn(|| transcribe(&engine, &pcm, &options).unwrap());
        (transcribe(&engine, &pcm, &options).unwrap(), other.join().unwrap())
    });
    assert_eq!(a, b);
    assert_eq!(a.spans.len(), 1);
    assert!(a.spans[0].tokens.iter().all(|token| *token < 50_256), "{:?}", a.spans[0].tokens);
    assert!(text(&a).contains("rather selfish is to be ill"), "{}", text(&a));
    // Without the padding it is the same text.
    let pcm = speech(clips.join("librivox-0870.wav"));
    let trimmed = transcribe(&engine, &pcm, &Options { trim: true, ..Options::default() }).unwrap();
    assert_eq!((trimmed.trimmed, trimmed.reread), (1, 0));
    assert_eq!(text(&trimmed), text(&output));
    // Silence is nothing said.
    assert_eq!(transcribe(&engine, &[0; 8 * SAMPLE_RATE], &Options::default()).unwrap().spans, []);
}

#[test]
fn a_multilingual_model_hears_which_language_is_spoken() {
    let (Some(model), Some(clips)) =
        (given("VOICEFORGE_TEST_MODELS", "base"), given("VOICEFORGE_TEST_CLIPS", "beckett.wav"))
    else {
        return;
    };
    let engine = Engine::load(&model, SETUP).unwrap();
    assert!(engine.info().multilingual && engine.info().languages.len() == 99);
    let pcm = speech(clips.parent().unwrap().join("librivox-0870.wav"));
    let output = transcribe(&engine, &pcm, &Options::default()).unwrap();
    assert_eq!(output.language, "en");
    assert!(output.language_probability > 0.9, "{}", output.language_probability);
    let spoken = text(&output).to_lowercase();
    assert!(spoken.contains("had then leisure to consider how much there might be"), "{spoken}");
    let given =
        transcribe(&engine, &pcm, &Options { language: Some("english".into()), ..Options::default() })
            .unwrap();
    assert_eq!((given.language_probability, given.spans), (1.0, output.spans));
}

#[test]
fn real_vocabularies_agree_with_their_lists_and_with_tokenizers() {
    let Some(models) = given("VOICEFORGE_TEST_MODELS", "tiny.en/tokenizer.json") else { return };
    let model = models.parent().unwrap();
    let tokens = Tokens::load(model, crate::model::weights::Format::Ctranslate2, 51_864).unwrap();
    // What the Python package tokenizers 0.23 gives for the same file.
    let cases: [(&str, &[u32]); 6] = [
        (
            " Hello,  world!\n\nIt's 1984's  end. ",
            &[18435, 11, 220, 995, 0, 198, 198, 1026, 338, 12844, 338, 220, 886, 13, 220],
        ),
        (
            "naïve café — 日本語テスト 😀",
            &[2616, 38776, 40304, 851, 10545, 245, 98, 17312, 105, 45739, 252, 24336, 43302, 30325, 222],
        ),
        ("don't WE'LL they're", &[9099, 470, 12887, 6, 3069, 484, 821]),
        ("   leading", &[220, 220, 3756]),
        ("tab\tand\u{a0}nbsp", &[8658, 197, 392, 1849, 77, 24145]),
        ("हिन्दी", &[11976, 117, 11976, 123, 11976, 101, 24231, 235, 11976, 99, 24231, 222]),
    ];
    for (text, expected) in cases {
        let got = tokens.encode(text);
        // The first letter of the last case follows a space in the list that it was taken from.
        assert_eq!(got[1..], expected[1..], "{text:?}");
        assert_eq!(tokens.decode(&got), text);
    }
    // openai's computed list is the configured one.
    let folder = tempfile::tempdir().unwrap();
    fs::copy(model.join("vocabulary.txt"), folder.path().join("vocabulary.txt")).unwrap();
    let computed = Tokens::load(folder.path(), crate::model::weights::Format::Ctranslate2, 51_864).unwrap();
    assert_eq!(computed.special, tokens.special);
    assert_eq!(computed.suppressed, tokens.suppressed);
    assert_eq!(computed.suppressed_first, tokens.suppressed_first);
    assert_eq!(computed.encode(cases[0].0), cases[0].1);
}
