"""From chunks to an English sentence: what belongs to which noun, the order inside each clause, punctuation."""

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile

from services.translation.gloss.chunks import Chunk

_FRONT = frozenset({"conjunction", "relative"})
_QUESTIONS = frozenset({"что", "кто", "сколько", "какой"})


def sentence(chunks: Sequence[Chunk]) -> str:
    """Renders the chunks of one sentence."""
    pieces: list[str] = []
    clause: list[Chunk] = []
    for chunk in _join_nouns(_attach(list(chunks))):
        if chunk.kind == "punctuation" or _opens_clause(chunk, clause):
            pieces += [_clause(clause)]
            clause = []
        if chunk.kind == "punctuation":
            pieces.append(chunk.english)
        else:
            clause.append(chunk)
    return _tidy(" ".join(filter(None, [*pieces, _clause(clause)])))


def _opens_clause(chunk: Chunk, clause: Sequence[Chunk]) -> bool:
    return chunk.kind == "conjunction" and any(before.kind == "verb" for before in clause)


def _attach(chunks: list[Chunk]) -> list[Chunk]:
    """Gives nouns their participial phrases ("горы, покрытые снегом,") and relative clauses."""
    attached: list[Chunk] = []
    at = 0
    while at < len(chunks):
        comma = _is_comma(chunks[at])
        opener = chunks[at + 1] if comma and at + 1 < len(chunks) else chunks[at]
        owner = attached[-1] if attached else None
        if owner and owner.kind in ("noun", "place") and opener.kind in ("participle", "relative"):
            start = at + 1 if comma else at
            end = next((i for i in range(start, len(chunks)) if chunks[i].kind == "punctuation"), len(chunks))
            inner = chunks[start:end]
            if opener.kind == "participle":
                attached[-1] = replace(owner, english=f"{owner.english} {_participial(inner)}".strip())
            else:
                attached[-1] = replace(owner, tail=_relative(inner))
            at = end + 1 if end < len(chunks) and _is_comma(chunks[end]) else end
            continue
        attached.append(chunks[at])
        at += 1
    return attached


def _participial(inner: Sequence[Chunk]) -> str:
    """ "покрытые снегом" -> "covered with snow"."""
    words = [inner[0].english]
    for chunk in inner[1:]:
        instrument = chunk.kind == "noun" and chunk.word.case == "ablt" and "pssv" in inner[0].word.tags
        words.append(f"with {chunk.english}" if instrument and chunk.english else chunk.english)
    return " ".join(filter(None, words))


def _relative(inner: Sequence[Chunk]) -> str:
    """ "на котором лежит яблоко" -> "with an apple lying on it"; "который спит" -> "sleeping"."""
    which, rest = inner[0], _clause(inner[1:])
    if which.english:
        return f"with {rest} {which.english} {'them' if which.word.plural else 'it'}" if rest else ""
    subject = any(chunk.kind == "noun" and "nomn" in chunk.word.cases for chunk in inner[1:])
    return f"that {rest}" if which.word.case != "nomn" and subject and rest else rest


def _join_nouns(chunks: Sequence[Chunk]) -> list[Chunk]:
    """ "горы и озеро" becomes one chunk where both stand in the same case and no verb follows the second."""
    joined: list[Chunk] = []
    at = 0
    while at < len(chunks):
        chunk = chunks[at]
        if joined and at + 1 < len(chunks) and chunk.english in ("and", "or") and chunk.kind == "conjunction":
            left, right = joined[-1], chunks[at + 1]
            verb_follows = at + 2 < len(chunks) and chunks[at + 2].kind == "verb"
            same_case = left.kind == right.kind == "noun" and left.word.cases & right.word.cases
            if same_case and not verb_follows and left.english and right.english:
                both = f"{left.english} {chunk.english} {right.english}"
                joined[-1] = replace(left, english=both, tail=" ".join(filter(None, (left.tail, right.tail))))
                at += 2
                continue
        joined.append(chunk)
        at += 1
    return joined


def _clause(chunks: Sequence[Chunk]) -> str:
    """One clause, subject before verb before object before place."""
    front = list(takewhile(lambda chunk: chunk.kind in _FRONT or chunk.word.lemma in _QUESTIONS, chunks))
    rest = list(chunks[len(front) :])
    verb = next((i for i, chunk in enumerate(rest) if chunk.kind == "verb"), None)
    if verb is not None:
        before, after = rest[:verb], rest[verb + 1 :]
        if not any(_may_be_subject(chunk) for chunk in before):
            subject = next((chunk for chunk in after if _is_inverted_subject(chunk, rest[verb])), None)
            if subject:
                after.remove(subject)
                rest = [subject, rest[verb], *_objects_first(after), *before]
            else:
                rest = [*before, rest[verb], *_objects_first(after)]
        else:
            rest = [*before, rest[verb], *_objects_first(after)]
    tails = [chunk.tail for chunk in rest]
    return " ".join(filter(None, [chunk.english for chunk in (*front, *rest)] + tails))


def _may_be_subject(chunk: Chunk) -> bool:
    return chunk.kind == "foreign" or (chunk.kind == "noun" and chunk.word.case == "nomn")


def _is_inverted_subject(chunk: Chunk, verb: Chunk) -> bool:
    if chunk.kind != "noun" or "nomn" not in chunk.word.cases | {chunk.word.case}:
        return False
    if verb.word.pos in ("GRND", "INFN") or "impr" in verb.word.tags:
        return False
    return chunk.word.case == "nomn" or "intr" in verb.word.tags or verb.word.pos in ("PRTS", "ADJS")


def _objects_first(chunks: Sequence[Chunk]) -> list[Chunk]:
    """ "держа в руке зонт" -> "holding an umbrella in a hand"."""
    first_place = next((i for i, chunk in enumerate(chunks) if chunk.kind == "place"), None)
    if first_place is None or any(chunk.kind == "verb" for chunk in chunks):
        return list(chunks)
    objects = [c for c in chunks[first_place:] if c.kind == "noun" and "accs" in c.word.cases]
    others = [c for c in chunks[first_place:] if c not in objects]
    return [*chunks[:first_place], *objects, *others]


def _is_comma(chunk: Chunk) -> bool:
    return chunk.kind == "punctuation" and chunk.english == ","


def _tidy(text: str) -> str:
    text = re.sub(r"\s+([,.;:!?…»)])", r"\1", text)
    text = re.sub(r"([«(])\s+", r"\1", text)
    text = re.sub(r"^[\s,;:]+", "", text)
    text = re.sub(r"(,\s*)+(?=[,.;:!?…]|$)", "", text)
    return text.strip()
