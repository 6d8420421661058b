"""Windows a second of Hugging Face's transformers on this GPU, as windows.rs measures ours: models of Whisper's sizes with random
weights in bf16, 30 s of sound and 110 tokens a window. SDPA attention; a compiled forward pass over a static cache where that
works, else as it comes; the best of several batches. Prints a section in Markdown, and what is missing instead.

python3 rival.py [MODEL ...]
"""

import statistics
import sys
import time


TOKENS = 110
ROUNDS = 3
SIZES = {
    "tiny": (80, 384, 6, 4, 4, 51865),
    "base": (80, 512, 8, 6, 6, 51865),
    "small": (80, 768, 12, 12, 12, 51865),
    "medium": (80, 1024, 16, 24, 24, 51865),
    "large-v3": (128, 1280, 20, 32, 32, 51866),
    "turbo": (128, 1280, 20, 32, 4, 51866),
}


def main():
    print("## transformers\n")
    try:
        import torch
        import transformers
    except ImportError as error:
        print(f"Not measured: {error}.")
        return
    if not torch.cuda.is_available():
        print("Not measured: PyTorch finds no GPU.")
        return
    print(f"transformers {transformers.__version__}, PyTorch {torch.__version__}; the best batch of each.\n")
    print("| model | windows/s | batch | compiled |\n|---|--:|--:|---|")
    for name in sys.argv[1:] or SIZES:
        best = (0.0, 0, "")
        for compiled in (True, False):
            for batch in (1, 16, 64, 128):
                try:
                    rate = measure(torch, transformers, SIZES[name], batch, compiled)
                except Exception as error:  # Whatever it cannot do is told, and the rest measured.
                    print(f"{name}, batch {batch}, compiled {compiled}: {type(error).__name__}: {error}", file=sys.stderr)
                    break
                best = max(best, (rate, batch, "yes" if compiled else "no"))
        print(f"| {name} | {best[0]:.1f} | {best[1]} | {best[2]} |", flush=True)


def measure(torch, transformers, size, batch, compiled):
    mels, width, heads, encoder_layers, decoder_layers, vocabulary = size
    config = transformers.WhisperConfig(
        vocab_size=vocabulary,
        num_mel_bins=mels,
        d_model=width,
        encoder_layers=encoder_layers,
        decoder_layers=decoder_layers,
        encoder_attention_heads=heads,
        decoder_attention_heads=heads,
        encoder_ffn_dim=4 * width,
        decoder_ffn_dim=4 * width,
        attn_implementation="sdpa",
    )
    with torch.device("cuda"):
        model = transformers.WhisperForConditionalGeneration(config).to(torch.bfloat16).eval()
    options = {"min_new_tokens": TOKENS, "max_new_tokens": TOKENS, "do_sample": False}
    if compiled:
        options["cache_implementation"] = "static"
        model.forward = torch.compile(model.forward, mode="reduce-overhead", fullgraph=True)
    features = torch.randn(batch, mels, 3000, device="cuda", dtype=torch.bfloat16)
    prompt = torch.tensor([[50258, 50259, 50359]] * batch, device="cuda")
    times = []
    with torch.no_grad():
        for _ in range(ROUNDS + 2):
            torch.cuda.synchronize()
            begun = time.perf_counter()
            model.generate(input_features=features, decoder_input_ids=prompt, **options)
            torch.cuda.synchronize()
            times.append(time.perf_counter() - begun)
    del model
    torch.cuda.empty_cache()
    return batch / statistics.median(times[2:])


main()
