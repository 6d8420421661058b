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

Windows whose tokens differ are printed with both texts. In float32 with one beam and without the ladder also with the
first token that differs and how far our likeliest logit was above the second there: sums in another order may turn what
is nearly a tie (below 1e-2), and what follows is another text; a difference anywhere else is a fault, and the script
ends with 1. `--ladder` lets both engines climb the temperatures, where
sampling makes texts differ for good reason; then only word errors are worth comparing.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import time
import unicodedata
import wave

import faster_whisper
import numpy as np

# Logits nearer than this may come out in another order where sums are taken in another order.
TIE = 1e-2


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
        differing = [w["path"] for w in windows if ours[w["path"]]["tokens"] != theirs[w["path"]]["tokens"]]
        is_exact = arguments.precision == "f32" and arguments.beams == 1 and not (arguments.ladder or arguments.trim)
        chosen = tell_chosen(arguments, differing) if is_exact else {}
    seconds = sum(w["seconds"] for w in windows)
    same = ties = 0
    for window in windows:
        path = window["path"]
        if ours[path]["tokens"] == theirs[path]["tokens"]:
            same += 1
            continue
        print(f"differs: {window['clip'].name} at {window['start']:.1f} s")
        print(f"  ours:   {ours[path]['language']} {ours[path]['text']}\n  theirs: {theirs[path]['language']} {theirs[path]['text']}")
        if path in chosen:
            first, token, margin = part(ours[path]["tokens"], theirs[path]["tokens"], chosen[path])
            ties += margin < TIE
            verdict = "a tie" if margin < TIE else "NO TIE"
            print(f"  at token {first} ({token}) the second logit is {margin:.5f} below the first: {verdict}")
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
    faults = len(differing) - ties if is_exact else 0
    if is_exact:
        print(f"where they part: {ties} at a tie (logits within {TIE:g}), {faults} elsewhere")
    print(f"word errors of {words}: ours {ours_errors}, faster-whisper {faster_whisper.__version__} {theirs_errors}")
    if arguments.words:
        tell_words([(ours[w["path"]]["words"], theirs[w["path"]]["words"]) for w in windows])
    print(f"time: ours {ours_s:.1f} s, faster-whisper {theirs_s:.1f} s (each {arguments.threads} threads, loading left out)")
    sys.exit(1 if faults else 0)


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


def tell_chosen(arguments, paths):
    """What we choose in some windows: tokens, each with its margin over the second."""
    command = [arguments.program, arguments.model, "--threads", str(arguments.threads), "--precision", "f32"]
    command += ["--greedy", "--margins"] + (["--language", arguments.language] if arguments.language else [])
    lines = subprocess.run(command + paths, check=True, capture_output=True, text=True).stdout.splitlines()
    return {told["file"]: told["chosen"] for told in map(json.loads, lines)}


def part(ours, theirs, chosen):
    """Where two lists of tokens part: index, our token there (none at our end), and the margin of its choice.

    What was chosen holds more than the text: ends, and what stood unfinished behind the last timestamp of a window. Where
    such stand before the token, the choice that parted may have been one of them, so the smallest margin counts.
    """
    first = next((i for i, (a, b) in enumerate(zip(ours, theirs)) if a != b), min(len(ours), len(theirs)))
    at = 0
    for token in ours[:first]:
        at = next(i for i in range(at, len(chosen)) if chosen[i][0] == token) + 1
    token = ours[first] if first < len(ours) else None
    end = next((i for i in range(at, len(chosen)) if chosen[i][0] == token), at)
    return first, token, min(margin for _, margin in chosen[at : end + 1])


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
