"""English word forms that the scene gloss needs: plurals, -ing forms, past participles, articles."""

VOWELS = "aeiou"


def plural(noun: str) -> str:
    """Regular plural; of a compound, that of its last word."""
    if noun.endswith(("s", "x", "z", "ch", "sh")):
        return noun + "es"
    if noun.endswith("y") and noun[-2:-1] not in VOWELS:
        return noun[:-1] + "ies"
    return noun + "s"


def ing(verb: str) -> str:
    """Regular -ing form; of a phrasal verb, that of its first word."""
    first, _, rest = verb.partition(" ")
    if first.endswith("e") and not first.endswith(("ee", "oe", "ye")):
        first = first[:-1]
    elif _doubles(first):
        first += first[-1]
    return f"{first}ing {rest}".strip()


def participle(verb: str) -> str:
    """Regular past participle; of a phrasal verb, that of its first word."""
    first, _, rest = verb.partition(" ")
    if first.endswith("e"):
        first += "d"
    elif first.endswith("y") and first[-2:-1] not in VOWELS:
        first = first[:-1] + "ied"
    else:
        first += (first[-1] if _doubles(first) else "") + "ed"
    return f"{first} {rest}".strip()


def with_article(phrase: str) -> str:
    """Puts "a" or "an" before a phrase, by its first letter."""
    first = phrase.lower()
    an = first[:1] in VOWELS and not first.startswith(("uni", "use", "eu", "one"))
    return f"{'an' if an or first.startswith('hour') else 'a'} {phrase}"


def _doubles(verb: str) -> bool:
    """One syllable that ends in consonant, vowel, consonant: sit, swim, grab."""
    return (
        len(verb) > 2
        and verb[-1] not in VOWELS + "wxy"
        and verb[-2] in VOWELS
        and verb[-3] not in VOWELS
        and sum(letter in VOWELS for letter in verb) == 1
    )
