"""Where in the object store what lies."""

NARRATIVES = "narratives"


def narrative_key(narrative_id: str) -> str:
    """Prefix of everything that belongs to a narrative."""
    return f"{NARRATIVES}/{narrative_id}"


def audio_key(narrative_id: str) -> str:
    return f"{narrative_key(narrative_id)}/audio"


def transcript_key(narrative_id: str) -> str:
    return f"{narrative_key(narrative_id)}/transcript.json"


def speaker_key(narrative_id: str, number: int) -> str:
    return f"{narrative_key(narrative_id)}/speakers/{number}.json"


def story_key(narrative_id: str) -> str:
    return f"{narrative_key(narrative_id)}/story.json"


def image_key(narrative_id: str, index: int) -> str:
    return f"{narrative_key(narrative_id)}/images/{index}.png"


def dataset_key(dataset_id: str) -> str:
    """Prefix of a data set's files."""
    return f"datasets/{dataset_id}"


def fine_tune_key(fine_tune_id: str) -> str:
    """Prefix of what belongs to a fine-tune."""
    return f"fine-tunes/{fine_tune_id}"


def sample_key(fine_tune_id: str, step: int, name: str) -> str:
    return f"{fine_tune_key(fine_tune_id)}/samples/{step}/{name}.png"
