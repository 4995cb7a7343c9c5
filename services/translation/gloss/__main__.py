"""``python -m services.translation.gloss``: embeds the concepts anew, after the vocabulary was edited."""

from services.translation.gloss.lexicon import Lexicon
from services.translation.gloss.linker import embed_concepts

if __name__ == "__main__":
    embed_concepts(Lexicon().concepts)
