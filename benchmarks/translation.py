"""How fast is the embedded translation, and what does it cost to load?

Prints the load time and memory of the gloss engine, and words per second: of whole sentences, and of words that only
the encoder can tell.

    python benchmarks/translation.py
"""

import resource
import time
from pathlib import Path

from services.translation.engine_gloss import GlossEngine

SENTENCES = Path(__file__).parent.parent / "tests" / "data" / "speech" / "russian.txt"
REPEATS = 20


def main() -> None:
    started = time.perf_counter()
    engine = GlossEngine()
    engine.load()
    print(f"load: {time.perf_counter() - started:.1f} s")
    texts = SENTENCES.read_text("utf-8").splitlines()
    words = sum(len(text.split()) for text in texts)
    started = time.perf_counter()
    engine.translate(texts, "ru", "en")
    print(f"first pass: {words / (time.perf_counter() - started):.0f} words/s ({words} words)")
    started = time.perf_counter()
    for _ in range(REPEATS):
        engine.translate(texts, "ru", "en")
    print(f"again: {REPEATS * words / (time.perf_counter() - started):.0f} words/s")
    unknown = [noun for noun, part in engine._lexicon.words if part == "n"]
    started = time.perf_counter()
    engine._linker.nearest([(noun, "n") for noun in unknown])
    print(f"encoder: {len(unknown) / (time.perf_counter() - started):.0f} new words/s in one batch of {len(unknown)}")
    print(f"peak memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    main()
