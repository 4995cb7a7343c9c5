"""Reads our Dockerfile: the stages of an image and what they do, as far as our own file goes."""

import json
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[3]
DOCKERFILE = ROOT / "deploy" / "docker" / "Dockerfile"


@dataclass
class Stage:
    """One FROM and the instructions below it, those of the stage it builds on first."""

    name: str
    base: str
    instructions: list[tuple[str, str]] = field(default_factory=list)

    def all(self, instruction: str) -> list[str]:
        return [text for name, text in self.instructions if name == instruction]

    def last(self, instruction: str) -> str:
        return self.all(instruction)[-1]

    @property
    def environment(self) -> dict[str, str]:
        pairs = [pair.split("=", 1) for text in self.all("ENV") for pair in shlex.split(text)]
        return dict(pairs)  # type: ignore[arg-type]

    @property
    def labels(self) -> dict[str, str]:
        return dict(pair.split("=", 1) for text in self.all("LABEL") for pair in shlex.split(text))  # type: ignore[misc]

    @property
    def entrypoint(self) -> list[str]:
        command: list[str] = json.loads(self.last("ENTRYPOINT"))
        return command

    @property
    def healthcheck(self) -> list[str]:
        """The command; empty for NONE."""
        text = self.last("HEALTHCHECK")
        command: list[str] = [] if text == "NONE" else json.loads(text[text.index("[") :])
        return command


def stages() -> dict[str, Stage]:
    """All stages by name."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    found: dict[str, Stage] = {}
    stage: Stage | None = None
    for line in filter(None, map(str.strip, text.splitlines())):
        name, _, rest = line.partition(" ")
        if name == "FROM":
            base, _, called = rest.partition(" AS ")
            stage = found[called] = Stage(called, base, list(found[base].instructions) if base in found else [])
        elif stage is not None:
            stage.instructions.append((name, rest.strip()))
    return found


def images() -> dict[str, Stage]:
    """The stages that become images: those with something to run."""
    return {name: stage for name, stage in stages().items() if stage.all("ENTRYPOINT")}
