"""Transcribes a clip with the official `openai` client and checks everything such a client relies on.

Usage: openai_client.py BASE_URL CLIP EXPECTED_TEXT [--key KEY] [--words-missing N]

BASE_URL ends in /v1. EXPECTED_TEXT is what is said in CLIP; case and punctuation do not count, and N of its words (by
default a tenth) may be missing. Exits with 0 when all holds, else with 1 and the first thing that does not.
"""

import argparse
import re
import sys

import openai


def words(text):
    return re.findall(r"[a-z0-9']+", text.lower())


def missing(expected, heard):
    """Words of `expected` that `heard` lacks, by the longest common subsequence."""
    before = [0] * (len(heard) + 1)
    for word in expected:
        row = [0]
        for at, other in enumerate(heard):
            row.append(before[at] + 1 if word == other else max(row[at], before[at + 1]))
        before = row
    return len(expected) - before[-1]


def check(holds, what):
    if not holds:
        sys.exit(f"openai_client: {what}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base_url")
    parser.add_argument("clip")
    parser.add_argument("expected")
    parser.add_argument("--key", default="none")
    parser.add_argument("--words-missing", type=int)
    given = parser.parse_args()
    expected = words(given.expected)
    allowed = len(expected) // 10 if given.words_missing is None else given.words_missing
    client = openai.OpenAI(base_url=given.base_url, api_key=given.key)

    def transcribe(**options):
        with open(given.clip, "rb") as clip:
            return client.audio.transcriptions.create(file=clip, model="whisper-1", **options)

    def check_words(text, what):
        lost = missing(expected, words(text))
        check(lost <= allowed, f"{what} lacks {lost} of {len(expected)} words: {text!r}")

    plain = transcribe()
    check_words(plain.text, "json")
    check(plain.usage.type == "duration" and plain.usage.seconds > 0, f"json tells no usage: {plain}")

    verbose = transcribe(response_format="verbose_json", timestamp_granularities=["segment"], temperature=0)
    check_words(verbose.text, "verbose_json")
    check(verbose.text == plain.text, "the same audio gave another text the second time")
    check(verbose.language == "english", f"the language is {verbose.language!r}, not its English name")
    check(abs(verbose.duration - plain.usage.seconds) <= 1, f"the duration is {verbose.duration!r}")
    check(len(verbose.segments) > 0, "verbose_json has no segments")
    last = 0.0
    for segment in verbose.segments:
        check(0.0 <= segment.start <= segment.end <= verbose.duration + 1.0, f"a segment is out of the audio: {segment}")
        check(segment.start >= last - 0.01, f"segments are out of order: {segment}")
        check(segment.tokens and segment.avg_logprob <= 0.0, f"a segment lacks what the model said of it: {segment}")
        last = segment.start

    text = transcribe(response_format="text")
    check(isinstance(text, str) and text.strip() == plain.text.strip(), f"text is {text!r}")
    srt = transcribe(response_format="srt")
    check(srt.startswith("1\n00:00:") and " --> " in srt, f"srt begins {srt[:40]!r}")
    vtt = transcribe(response_format="vtt")
    check(vtt.startswith("WEBVTT\n"), f"vtt begins {vtt[:40]!r}")

    names = [model.id for model in client.models.list()]
    check(names, "there are no models")

    once = client.with_options(max_retries=0)
    try:
        once.audio.transcriptions.create(file=("empty.wav", b""), model="whisper-1")
        check(False, "an empty file was transcribed")
    except openai.BadRequestError as error:
        check(error.type == "invalid_request_error" and error.param == "file", f"an empty file gave {error!r}")
        check(error.request_id is not None, "an error has no request id")
    try:
        once.audio.transcriptions.create(file=("talk.wav", b"RIFF"), model="gpt-none")
        check(False, "a model that does not exist transcribed")
    except openai.BadRequestError as error:
        check(error.param == "model" and names[0] in error.message, f"an unknown model gave {error!r}")

    print(f"openai {openai.__version__}: {len(expected)} words, {missing(expected, words(plain.text))} missing; {len(verbose.segments)} segments")


if __name__ == "__main__":
    main()
