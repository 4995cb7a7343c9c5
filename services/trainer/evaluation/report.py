"""Scores with what they were measured on, as JSON and as a table."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table

# Which way is better, for people who read the table.
_BETTER = dict.fromkeys(("wer", "cer", "fid", "kid", "l1"), "lower")


@dataclass(frozen=True)
class Report:
    """What an evaluation gives.

    Attributes:
        scores: by name, the names that ``--require`` knows.
        about: models, numbers of texts or pictures, spreads, what was left out.
    """

    scores: dict[str, float]
    about: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> str:
        """One object: the scores, and ``about`` beside them."""
        return json.dumps({"scores": self.scores, "about": self.about}, indent=2, ensure_ascii=False)

    def write(self, path: Path) -> None:
        """Writes the JSON whole or not at all."""
        partial = path.with_name(f".{path.name}.partial")
        partial.write_text(f"{self.as_json()}\n", encoding="utf-8")
        partial.replace(path)

    def table(self) -> Table:
        """For people."""
        table = Table("score", "value", "better")
        for name, value in self.scores.items():
            table.add_row(name, f"{value:.4f}", _BETTER.get(name, "higher"))
        return table
