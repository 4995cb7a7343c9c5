"""From chunks to an English sentence: what belongs to which noun, the order inside each clause, punctuation."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import takewhile

from services.translation.gloss.chunks import Chunk

_FRONT = frozenset({"conjunction", "relative"})
_QUESTIONS = frozenset({"что", "кто", "сколько", "какой"})
Government = Mapping[tuple[str, str], str]


def sentence(chunks: Sequence[Chunk], government: Government) -> str:
    """Renders the chunks of one sentence.

    Args:
        chunks: of the whole sentence, in Russian order.
        government: (verb lemma, Russian preposition) to the English preposition that the verb asks for.
    """
    pieces: list[str] = []
    clause: list[Chunk] = []
    for chunk in _join_nouns(_attach(list(chunks), government)):
        if chunk.kind == "punctuation" or _opens_clause(chunk, clause):
            pieces += [_clause(clause, government)]
            clause = []
        if chunk.kind == "punctuation":
            pieces.append(chunk.english)
        else:
            clause.append(chunk)
    return _tidy(" ".join(filter(None, [*pieces, _clause(clause, government)])))


def _opens_clause(chunk: Chunk, clause: Sequence[Chunk]) -> bool:
    return chunk.kind == "conjunction" and any(before.kind == "verb" for before in clause)


def _attach(chunks: list[Chunk], government: Government) -> list[Chunk]:
    """Gives nouns their participial phrases ("горы, покрытые снегом,"), relative clauses and "with ..."."""
    attached: list[Chunk] = []
    at = 0
    while at < len(chunks):
        comma = _is_comma(chunks[at])
        opener = chunks[at + 1] if comma and at + 1 < len(chunks) else chunks[at]
        owner = attached[-1] if attached else None
        if owner and owner.kind in ("noun", "place") and opener.kind in ("participle", "relative"):
            start = at + 1 if comma else at
            end = next((i for i in range(start, len(chunks)) if chunks[i].kind == "punctuation"), len(chunks))
            inner = _attach(chunks[start:end], government)
            if opener.kind == "participle":
                attached[-1] = replace(owner, english=f"{owner.english} {_participial(inner)}".strip())
            else:
                attached[-1] = replace(owner, tail=_relative(inner, government))
            at = end + 1 if end < len(chunks) and _is_comma(chunks[end]) else end
        elif owner and owner.kind == "noun" and owner.english and chunks[at].preposition in ("with", "without"):
            attached[-1] = replace(owner, english=f"{owner.english} {chunks[at].text}")
            at += 1
        else:
            attached.append(chunks[at])
            at += 1
    return attached


def _participial(inner: Sequence[Chunk]) -> str:
    """ "покрытые снегом" -> "covered with snow"."""
    words = [inner[0].english]
    for chunk in inner[1:]:
        instrument = chunk.kind == "noun" and chunk.word.case == "ablt" and "pssv" in inner[0].word.tags
        words.append(f"with {chunk.english}" if instrument and chunk.english else chunk.text)
    return " ".join(filter(None, words))


def _relative(inner: Sequence[Chunk], government: Government) -> str:
    """ "на котором лежит яблоко" -> "with an apple lying on it"; "который спит" -> "sleeping"."""
    which, rest = inner[0], _clause(inner[1:], government)
    if which.preposition:
        return f"with {rest} {which.preposition} {'them' if which.word.plural else 'it'}" if rest else ""
    subject = any(chunk.kind == "noun" and "nomn" in chunk.cases for chunk in inner[1:])
    return f"that {rest}" if "accs" in which.cases and subject and rest else rest


def _join_nouns(chunks: Sequence[Chunk]) -> list[Chunk]:
    """ "горы и озеро" becomes one chunk where both stand in the same case and no verb follows the second."""
    joined: list[Chunk] = []
    at = 0
    while at < len(chunks):
        chunk = chunks[at]
        if joined and at + 1 < len(chunks) and chunk.english in ("and", "or") and chunk.kind == "conjunction":
            left, right = joined[-1], chunks[at + 1]
            verb_before = any(before.kind == "verb" for before in joined)
            verb_follows = verb_before and at + 2 < len(chunks) and chunks[at + 2].kind == "verb"
            if left.kind == right.kind == "noun" and left.cases & right.cases and not verb_follows:
                both = f" {chunk.english} ".join(filter(None, (left.english, right.english)))
                tail = " ".join(filter(None, (left.tail, right.tail)))
                joined[-1] = replace(left, english=both, cases=left.cases & right.cases, tail=tail)
                at += 2
                continue
        joined.append(chunk)
        at += 1
    return joined


def _clause(chunks: Sequence[Chunk], government: Government) -> str:
    """One clause: subject, verb, object, place."""
    front = list(takewhile(lambda chunk: chunk.kind in _FRONT or chunk.word.lemma in _QUESTIONS, chunks))
    rest = list(chunks[len(front) :])
    position = next((i for i, chunk in enumerate(rest) if chunk.kind == "verb"), None)
    if position is None:
        return _render([*front, *_owner_first(rest)])
    verb, before, after = rest[position], rest[:position], rest[position + 1 :]
    before, after = ([_governed(chunk, verb, government) for chunk in part] for part in (before, after))
    subject = _inverted_subject(verb, before, after)
    if subject is None:
        return _render([*front, *before, verb, *_objects_first(after)])
    after.remove(subject)
    # A relative clause would part a subject that has moved forward from its verb.
    moved = [replace(subject, tail=""), verb, *_objects_first(after), *before]
    return " ".join(filter(None, (_render([*front, *moved]), subject.tail)))


def _render(chunks: Sequence[Chunk]) -> str:
    return " ".join(filter(None, (part for chunk in chunks for part in (chunk.text, chunk.tail))))


def _owner_first(chunks: Sequence[Chunk]) -> list[Chunk]:
    """ "у девочки длинные волосы" -> "a girl with long hair"."""
    if len(chunks) > 1 and chunks[0].source == "у" and "anim" in chunks[0].word.tags and chunks[1].kind == "noun":
        return [replace(chunks[0], preposition=""), replace(chunks[1], preposition="with"), *chunks[2:]]
    return list(chunks)


def _governed(chunk: Chunk, verb: Chunk, government: Government) -> Chunk:
    """ "смотреть на" is "look at", whatever "на" means elsewhere; "копать лопатой" is "dig with a shovel"."""
    if chunk.kind == "noun" and chunk.cases == {"ablt"} and "tran" in verb.word.tags and verb.english:
        return replace(chunk, preposition="with")
    meaning = government.get((verb.word.lemma, f"{chunk.source}+{chunk.word.case}"))
    return chunk if meaning is None else replace(chunk, preposition=meaning)


def _inverted_subject(verb: Chunk, before: Sequence[Chunk], after: Sequence[Chunk]) -> Chunk | None:
    """The subject where it stands after its verb: "на столе стоит лампа"."""
    if verb.word.pos in ("GRND", "INFN") or "impr" in verb.word.tags:
        return None
    nouns = [chunk for chunk in after if chunk.kind == "noun" and "nomn" in chunk.cases]
    certain = [chunk for chunk in nouns if "accs" not in chunk.cases]
    if any(chunk.kind == "foreign" or (chunk.kind == "noun" and "nomn" in chunk.cases) for chunk in before):
        sure_before = any(chunk.kind != "place" and "accs" not in chunk.cases for chunk in before)
        return None if sure_before or not certain or "tran" not in verb.word.tags else certain[0]
    if certain:
        return certain[0]
    intransitive = "tran" not in verb.word.tags or verb.word.pos in ("PRTS", "ADJS")
    return nouns[0] if nouns and (intransitive or nouns[0].word.case == "nomn") else None


def _objects_first(chunks: Sequence[Chunk]) -> list[Chunk]:
    """ "держа в руке зонт" -> "holding an umbrella in the hand"."""
    first_place = next((i for i, chunk in enumerate(chunks) if chunk.kind in ("place", "adverb")), None)
    if first_place is None or any(chunk.kind == "verb" for chunk in chunks):
        return list(chunks)
    objects = [c for c in chunks[first_place:] if c.kind == "noun" and "accs" in c.cases]
    others = [c for c in chunks[first_place:] if c not in objects]
    return [*chunks[:first_place], *objects, *others]


def _is_comma(chunk: Chunk) -> bool:
    return chunk.kind == "punctuation" and chunk.english == ","


def _tidy(text: str) -> str:
    text = re.sub(r"\s+([,.;:!?…»)])", r"\1", text)
    text = re.sub(r"([«(])\s+", r"\1", text)
    text = re.sub(r"^[\s,;:]+", "", text)
    text = re.sub(r"(,\s*)+(?=[,.;:!?…]|$)", "", text).strip()
    # "iPhone" keeps its own capitals.
    return text[:1].upper() + text[1:] if text.partition(" ")[0].islower() else text
