"""Compares this engine with faster-whisper: the same weights, options and windows.

    python infer/compare/compare.py MODEL_FOLDER CLIPS_FOLDER [--program target/release/examples/transcribe] [--language en]

Needs faster-whisper (made with 1.2.1) in the Python that runs it, and the example built:
`cargo build --release -p infer --example transcribe`.

Clips are all .wav and .flac files of a folder, with their text in NAME.txt where it is known. Each is decoded to
16 kHz mono 16 bit and cut into windows of at most 30 s, at the quietest 20 ms of the last 5 s. Both engines read the
same windows (temperature 0, no fallback, one beam unless told otherwise), with timestamps, on the CPU in float32
unless `--precision int8` has ours quantised: then word errors are what counts.

Word errors: both sides lower-cased, numbers and abbreviations left as they are, apostrophes removed, everything
else but letters and digits taken as a space; then the edit distance between the words. `whisper-normalizer`, where it
is installed, replaces this with openai's English normaliser; the summary says which one was used.

Windows whose tokens differ are printed with both texts. `--ladder` lets both engines climb the temperatures, where
sampling makes texts differ for good reason; then only word errors are worth comparing.
"""

import argparse
import json
import pathlib
import subprocess
import tempfile
import time
import unicodedata
import wave

import faster_whisper
import numpy as np


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("clips")
    parser.add_argument("--program", default="target/release/examples/transcribe")
    parser.add_argument("--language")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--ladder", action="store_true")
    parser.add_argument("--precision", default="f32", help="of ours; theirs is always float32")
    parser.add_argument("--beams", type=int, default=1)
    parser.add_argument("--trim", action="store_true", help="encode only the sound and a margin; theirs pads")
    parser.add_argument("--words", action="store_true", help="compare the times of words")
    arguments = parser.parse_args()
    normalise, name = normaliser()
    clips = sorted(p for p in pathlib.Path(arguments.clips).iterdir() if p.suffix in (".wav", ".flac"))
    with tempfile.TemporaryDirectory() as folder:
        windows = [w for clip in clips for w in cut(clip, pathlib.Path(folder))]
        ours, ours_s = run_ours(arguments, windows)
        theirs, theirs_s = run_theirs(arguments, windows)
    seconds = sum(w["seconds"] for w in windows)
    same = 0
    for window in windows:
        path = window["path"]
        if ours[path]["tokens"] == theirs[path]["tokens"]:
            same += 1
            continue
        print(f"differs: {window['clip'].name} at {window['start']:.1f} s")
        print(f"  ours:   {ours[path]['language']} {ours[path]['text']}\n  theirs: {theirs[path]['language']} {theirs[path]['text']}")
    words = ours_errors = theirs_errors = 0
    for clip in clips:
        reference = clip.with_suffix(".txt")
        if not reference.exists():
            continue
        expected = normalise(reference.read_text()).split()
        said = lambda texts: normalise("".join(texts[w["path"]]["text"] for w in windows if w["clip"] == clip)).split()
        a, b = distance(expected, said(ours)), distance(expected, said(theirs))
        if a != b:
            print(f"errors: {clip.name}: ours {a}, theirs {b}")
        words, ours_errors, theirs_errors = words + len(expected), ours_errors + a, theirs_errors + b
    print(f"model {arguments.model}; {len(clips)} clips, {len(windows)} windows, {seconds:.0f} s; normaliser: {name}")
    print(f"tokens equal in {same} of {len(windows)} windows")
    print(f"word errors of {words}: ours {ours_errors}, faster-whisper {faster_whisper.__version__} {theirs_errors}")
    if arguments.words:
        tell_words([(ours[w["path"]]["words"], theirs[w["path"]]["words"]) for w in windows])
    print(f"time: ours {ours_s:.1f} s, faster-whisper {theirs_s:.1f} s (each {arguments.threads} threads, loading left out)")


def normaliser():
    try:
        from whisper_normalizer.english import EnglishTextNormalizer

        return EnglishTextNormalizer(), "whisper-normalizer (English)"
    except ImportError:
        return plain, "letters and digits"


def plain(text):
    text = unicodedata.normalize("NFKC", text.lower()).replace("'", "").replace("\u2019", "")
    return " ".join("".join(c if c.isalnum() else " " for c in text).split())


def cut(clip, folder):
    """Decodes a clip and writes its windows as WAV files."""
    samples = faster_whisper.decode_audio(str(clip), sampling_rate=16000)
    pcm = np.clip(np.round(samples * 32768), -32768, 32767).astype("<i2")
    start = 0
    while start < len(pcm):
        end = min(start + 30 * 16000, len(pcm))
        if end < len(pcm):
            tail = pcm[end - 5 * 16000 : end].astype(np.float64).reshape(-1, 320)
            end = end - 5 * 16000 + int(np.argmin((tail**2).sum(axis=1))) * 320
        path = folder / f"{clip.stem}-{start}.wav"
        with wave.open(str(path), "wb") as file:
            file.setparams((1, 2, 16000, 0, "NONE", ""))
            file.writeframes(pcm[start:end].tobytes())
        yield {"clip": clip, "path": str(path), "pcm": pcm[start:end], "start": start / 16000, "seconds": (end - start) / 16000}
        start = end


def run_ours(arguments, windows):
    command = [arguments.program, arguments.model, "--threads", str(arguments.threads)]
    command += ["--precision", arguments.precision, "--beams", str(arguments.beams)]
    command += [] if arguments.ladder else ["--greedy"]
    command += ["--trim"] if arguments.trim else []
    command += ["--words"] if arguments.words else []
    command += ["--language", arguments.language] if arguments.language else []
    lines = subprocess.run(command + [w["path"] for w in windows], check=True, capture_output=True, text=True).stdout
    results = [json.loads(line) for line in lines.splitlines()]
    texts = {
        r["file"]: {
            "tokens": [t for span in r["spans"] for t in span["tokens"]],
            "text": "".join(span["text"] for span in r["spans"]),
            "language": r["language"],
            "words": [(start / 1000, end / 1000, word) for span in r["spans"] for start, end, word, _ in span["words"]],
        }
        for r in results
    }
    return texts, sum(r["took_ms"] for r in results) / 1000


def run_theirs(arguments, windows):
    model = faster_whisper.WhisperModel(
        arguments.model, device="cpu", compute_type="float32", cpu_threads=arguments.threads
    )
    temperatures = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0] if arguments.ladder else [0.0]
    texts = {}
    started = time.monotonic()
    for window in windows:
        audio = window["pcm"].astype(np.float32) / 32768
        segments, info = model.transcribe(
            audio,
            beam_size=arguments.beams,
            temperature=temperatures,
            language=arguments.language,
            word_timestamps=arguments.words,
        )
        segments = list(segments)
        texts[window["path"]] = {
            "tokens": [t for s in segments for t in s.tokens],
            "text": "".join(s.text for s in segments),
            "language": info.language,
            "words": [(w.start, w.end, w.word) for s in segments for w in s.words or []],
        }
    return texts, time.monotonic() - started


def tell_words(pairs):
    """Compares the times of words where both engines heard the same words in a window."""
    starts, ends, unlike = [], [], 0
    for ours, theirs in pairs:
        if [w[2].strip() for w in ours] != [w[2].strip() for w in theirs]:
            unlike += 1
            continue
        starts += [abs(a[0] - b[0]) for a, b in zip(ours, theirs)]
        ends += [abs(a[1] - b[1]) for a, b in zip(ours, theirs)]
    print(f"word times of {len(starts)} words ({unlike} windows with other words left out), ms apart from faster-whisper's:")
    for name, apart in (("starts", starts), ("ends", ends)):
        if apart:
            median, p95 = 1000 * np.median(apart), 1000 * np.percentile(apart, 95)
            print(f"  {name}: median {median:.0f}, 95 of 100 within {p95:.0f}, at most {1000 * max(apart):.0f}")


def distance(expected, said):
    row = list(range(len(said) + 1))
    for i, a in enumerate(expected, 1):
        previous, row[0] = row[0], i
        for j, b in enumerate(said, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (a != b))
    return row[-1]


main()
