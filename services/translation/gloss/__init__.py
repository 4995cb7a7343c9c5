"""Russian to English scene gloss: morphology, lexicon, concept linking, phrases, clauses."""
