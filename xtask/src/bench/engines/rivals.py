"""A rival engine behind the line protocol of the measurement.

    python rivals.py faster-whisper MODEL_FOLDER SETTINGS
    python rivals.py whisper.cpp MODEL_FILE SETTINGS
    python rivals.py decode FOLDER FILE...

SETTINGS is a JSON object: `beam`; `threads` of each worker; `workers` that each have a request in hand; for
faster-whisper `batch`, the most requests (or windows of one recording) that are read together, 0 without; for
whisper.cpp `flash`, flash attention, and `trim`, encoding no more than the clip and a margin.

Says {"ready": SECONDS} once the model is loaded, imports left out, then reads lines
{"id": 1, "path": "16 kHz mono.wav", "options": {"beam": 1, "timestamps": true, "language": "en"}} and answers each, as it is done, with
{"id": 1, "text": "...", "seconds": SINCE_IT_WAS_READ} or {"id": 1, "error": "..."}. Ends with its input.

A clip of at most 30 s is one window, a longer one is read in the engine's own way. Temperature 0, no fallback, no text
of the window before.

`decode` writes each FILE, whatever its format, to FOLDER/NAME.wav as 16 kHz mono 16 bit.
"""

import json
import math
import pathlib
import queue
import sys
import threading
import time
import wave

import numpy as np

RATE = 16000
WINDOW = 30 * RATE
# What a trimmed encoder keeps: positions of 20 ms, for 3 s beyond the clip; with less than 15 s in all it goes astray.
POSITIONS, MARGIN_S, LEAST_S = 50, 3, 15


class FasterWhisper:
    def __init__(self, folder, settings):
        import faster_whisper

        self.batch = settings.get("batch", 0)
        self.begun = time.monotonic()
        self.model = faster_whisper.WhisperModel(
            folder,
            device="cpu",
            compute_type="int8",
            cpu_threads=settings["threads"],
            num_workers=settings.get("workers", 1),
        )
        self.pipeline = faster_whisper.BatchedInferencePipeline(self.model)

    def transcribe(self, requests):
        """The texts of requests that share their options; several only where there is a batch size."""
        clips = [read(request["path"]) for request in requests]
        options = requests[0]["options"]
        common = {"beam_size": options["beam"], "language": options["language"], "temperature": [0.0]}
        common["without_timestamps"] = not options["timestamps"]
        if not self.batch:
            segments, _ = self.model.transcribe(clips[0], condition_on_previous_text=False, **common)
            return ["".join(segment.text for segment in segments)]
        if len(clips[0]) > WINDOW:
            segments, _ = self.pipeline.transcribe(clips[0], batch_size=self.batch, **common)
            return ["".join(segment.text for segment in segments)]
        # One recording with a given place for each clip. Clips begin at whole hundredths of a second, the unit of `seek`.
        clips = [np.pad(clip, (0, -len(clip) % 160)) for clip in clips]
        ends = np.cumsum([len(clip) for clip in clips])
        places = [{"start": (end - len(clip)) / RATE, "end": end / RATE} for clip, end in zip(clips, ends)]
        segments, _ = self.pipeline.transcribe(
            np.concatenate(clips), clip_timestamps=places, batch_size=self.batch, **common
        )
        texts = [""] * len(clips)
        for segment in segments:
            texts[int(np.searchsorted(ends, (segment.seek + 2) * 160))] += segment.text
        return texts

    def workers(self, count):
        return [self] * count


class WhisperCpp:
    def __init__(self, file, settings):
        from pywhispercpp.model import Model

        self.begun = time.monotonic()
        self.batch = 0
        self.settings = settings
        self.file = file
        self.trim = settings.get("trim", False)
        beam = settings["beam"]
        self.model = Model(
            file,
            params_sampling_strategy=int(beam > 1),
            redirect_whispercpp_logs_to=None,
            context_params={"use_gpu": False, "flash_attn": settings.get("flash", False)},
            n_threads=settings["threads"],
            print_progress=False,
            greedy={"best_of": 1},
            beam_search={"beam_size": beam, "patience": -1.0},
            temperature_inc=0.0,
            no_context=True,
            suppress_nst=True,
        )

    def transcribe(self, requests):
        clip = read(requests[0]["path"])
        short = len(clip) <= WINDOW
        positions = 0
        if short and self.trim:
            seconds = max(LEAST_S, len(clip) / RATE + MARGIN_S)
            positions = min(1500, math.ceil(seconds * POSITIONS / 64) * 64)
        segments = self.model.transcribe(
            clip,
            language=requests[0]["options"]["language"],
            no_timestamps=not requests[0]["options"]["timestamps"],
            single_segment=short,
            audio_ctx=positions,
        )
        return [" ".join(segment.text for segment in segments)]

    def workers(self, count):
        """A context transcribes one clip at a time, so each worker has its own."""
        return [self] + [WhisperCpp(self.file, self.settings) for _ in range(count - 1)]


def read(path):
    with wave.open(path) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (RATE, 1, 2), path
        return np.frombuffer(file.readframes(file.getnframes()), dtype="<i2").astype(np.float32) / 32768


def decode(folder, files):
    from faster_whisper import decode_audio

    for name in map(pathlib.Path, files):
        pcm = np.clip(np.round(decode_audio(str(name), sampling_rate=RATE) * 32768), -32768, 32767).astype("<i2")
        with wave.open(str(pathlib.Path(folder) / f"{name.stem}.wav"), "wb") as file:
            file.setparams((1, 2, RATE, 0, "NONE", ""))
            file.writeframes(pcm.tobytes())


def serve(engine, count):
    requests = queue.Queue()
    printing = threading.Lock()

    def say(**line):
        with printing:
            print(json.dumps(line), flush=True)

    def work(worker):
        while (first := requests.get()) is not None:
            taken = [first]
            while len(taken) < worker.batch and not requests.empty():
                if (more := requests.get()) is None:
                    requests.put(None)
                    break
                taken.append(more)
            try:
                texts = worker.transcribe(taken)
            except Exception as error:
                texts = None
                for request in taken:
                    say(id=request["id"], error=str(error))
            for request, text in zip(taken, texts or []):
                say(id=request["id"], text=text.strip(), seconds=time.monotonic() - request["came"])

    threads = [threading.Thread(target=work, args=[worker]) for worker in engine.workers(count)]
    for thread in threads:
        thread.start()
    say(ready=time.monotonic() - engine.begun)
    for line in sys.stdin:
        request = json.loads(line)
        request["came"] = time.monotonic()
        requests.put(request)
    for _ in threads:
        requests.put(None)


def main():
    kind, place, *rest = sys.argv[1:]
    if kind == "decode":
        return decode(place, rest)
    settings = json.loads(rest[0])
    engine = {"faster-whisper": FasterWhisper, "whisper.cpp": WhisperCpp}[kind](place, settings)
    serve(engine, settings.get("workers", 1))


main()
