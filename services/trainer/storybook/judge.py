"""The judge of evaluations: a small network that says how well a picture fits an account of it.

It scores accounts (`Description`), not texts, so that it cannot be wrong about wordings. Where a thing is seen is found
by looking for it at every position; its colour is then read there.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from services.trainer.storybook import concepts, dataset
from services.trainer.storybook.concepts import Concept
from services.trainer.storybook.drawings import COLOURS
from services.trainer.storybook.hard_captions import shows_style, shows_time
from services.trainer.storybook.light import TIMES, WEATHERS
from services.trainer.storybook.places import PLACES
from services.trainer.storybook.plan import MAX_SUBJECTS, Description
from services.trainer.storybook.styles import STYLES

UNSEEN = -100
"""Label of what cannot be told from the picture; ``cross_entropy`` leaves it out."""

SHIPPED = Path(__file__).with_name("judge.safetensors")
"""The judge behind the figures in docs/storybook.md."""

_SCENERY = {"place": tuple(PLACES), "time": TIMES, "weather": WEATHERS, "style": tuple(STYLES)}
_COLOURS = tuple(COLOURS)


class JudgeError(ValueError):
    """A judge's file is damaged, or was trained for other concepts."""


@dataclass(frozen=True, slots=True)
class JudgeSize:
    """Shape of a judge; the default learns from some ten thousand pictures in minutes."""

    width: int = 32
    size_px: int = 128


def labels(description: Description, numbers: dict[str, int]) -> list[int]:
    """Return place, time, weather, style, then concept and colour of each subject; ``UNSEEN`` where nothing shows.

    Args: numbers: the number of each concept's name.
    """
    style = STYLES[description.style]
    scenery = [
        _SCENERY["place"].index(description.place),
        TIMES.index(description.time) if shows_time(description) else UNSEEN,
        WEATHERS.index(description.weather) if style.colourful and PLACES[description.place].weathers else UNSEEN,
        _SCENERY["style"].index(description.style) if shows_style(description) else UNSEEN,
    ]
    subjects = []
    for subject in description.subjects[:MAX_SUBJECTS]:
        colour = _COLOURS.index(subject.colour) if subject.colour else UNSEEN
        subjects += [numbers[subject.concept.name], colour]
    return scenery + subjects + [UNSEEN] * (2 * (MAX_SUBJECTS) - len(subjects))


def _log_likelihood(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    return -functional.cross_entropy(logits, wanted, ignore_index=UNSEEN, reduction="none")


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.GroupNorm(8, width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.GroupNorm(8, width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        added: torch.Tensor = self.layers(x)
        return x + added


class Judge(nn.Module):
    """Pictures to logits of everything an account may say."""

    def __init__(self, known: dict[str, Concept], size: JudgeSize) -> None:
        super().__init__()
        self.size, self.concepts = size, known
        self.numbers = {name: number for number, name in enumerate(known)}
        w = size.width
        self.trunk = nn.Sequential(
            nn.Conv2d(3, w // 2, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(w // 2, w, 3, stride=2, padding=1),
            _Block(w),
            nn.Conv2d(w, 2 * w, 3, stride=2, padding=1),
            _Block(2 * w),
            _Block(2 * w),
            nn.Conv2d(2 * w, 4 * w, 3, stride=2, padding=1),
            _Block(4 * w),
            _Block(4 * w),
            nn.GroupNorm(8, 4 * w),
            nn.SiLU(),
        )
        self.scenery = nn.ModuleDict(
            {name: nn.Linear((8 if name == "style" else 4) * w, len(words)) for name, words in _SCENERY.items()}
        )
        self.things = nn.Conv2d(4 * w, len(known), 1)
        self.colour = nn.Linear(4 * w, len(_COLOURS))

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return (n, 4 w, h, w) for float32 (n, 3, size, size) pixels in [-1, 1]."""
        maps: torch.Tensor = self.trunk(pixels)
        return maps

    def log_likelihoods(
        self, maps: torch.Tensor, wanted: torch.Tensor, centres: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return float32 (n, 4 + 2 * MAX_SUBJECTS): how likely each label of ``labels`` is; 0 where it is ``UNSEEN``.

        Args:
            maps: of ``features``.
            wanted: int64 (n, 4 + 2 * MAX_SUBJECTS).
            centres: float (n, MAX_SUBJECTS, 2), (x, y) as fractions of the picture: where alone each subject is looked
                for. A judge that is told where to look learns many times as fast.
        """
        flat, spread = maps.flatten(2), self.things(maps).flatten(2)
        present = wanted[:, 4::2] != UNSEEN
        numbers = wanted[:, 4::2].clamp(min=0)
        if centres is None:
            evidence = spread.logsumexp(dim=2)[:, None].expand(-1, MAX_SUBJECTS, -1)
            where = spread.gather(1, numbers[..., None].expand(-1, -1, spread.shape[2])).softmax(dim=2)
            looks = torch.einsum("nkp,ncp->nkc", where, flat)
        else:
            side = maps.shape[-1]
            columns, rows = (centres * side).long().clamp(0, side - 1).unbind(dim=2)
            cells = (rows * side + columns)[:, None]
            evidence, looks = (
                found.gather(2, cells.expand(-1, found.shape[1], -1)).transpose(1, 2) for found in (spread, flat)
            )
        own = functional.one_hot(numbers, spread.shape[1]).bool() & present[..., None]
        # The other things that are there are no competitors of a thing.
        rivals = evidence.masked_fill(own.any(dim=1, keepdim=True) & ~own, -1e4)
        pooled = flat.mean(dim=2)
        # Some styles are seen in cut-outs only, and so where the subjects are.
        drawn = (looks * present[..., None]).sum(dim=1) / present.sum(dim=1, keepdim=True).clamp(min=1)
        found = [
            head(torch.cat([pooled, drawn], dim=1) if name == "style" else pooled)
            for name, head in self.scenery.items()
        ]
        found += [logits for k in range(MAX_SUBJECTS) for logits in (rivals[:, k], self.colour(looks[:, k]))]
        return torch.stack([_log_likelihood(logits, wanted[:, k]) for k, logits in enumerate(found)], dim=1)

    @torch.no_grad()
    def scores(self, pixels: torch.Tensor, accounts: Sequence[Description]) -> torch.Tensor:
        """Return float32 (len(accounts),): how well one picture, (3, size, size), fits each account; more is better."""
        wanted = torch.tensor([labels(account, self.numbers) for account in accounts])
        maps = self.features(pixels[None]).expand(len(accounts), -1, -1, -1)
        return self.log_likelihoods(maps, wanted).sum(dim=1)

    def save(self, path: Path, about: dict[str, str]) -> None:
        """Write the weights as float16."""
        path.parent.mkdir(parents=True, exist_ok=True)
        weights = {name: value.half().cpu().contiguous() for name, value in self.state_dict().items()}
        said = {
            "size": json.dumps(asdict(self.size)),
            "edition": dataset.EDITION,
            "concepts": json.dumps([*self.numbers]),
        }
        save_file(weights, path, metadata=about | said)

    @staticmethod
    def load(path: Path) -> Judge:
        """Read a file of ``save``.

        Raises:
            FileNotFoundError: if there is none.
            JudgeError: if it was trained for another edition of the scenes, or of things that are no longer known.
        """
        if not path.exists():
            raise FileNotFoundError(f"no judge at {path}: train one with the `judge` command")
        with safe_open(path, framework="pt") as file:
            about = dict(file.metadata() or {})
            weights = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
        names, known = json.loads(about.get("concepts", "[]")), concepts.load()
        if about.get("edition") != dataset.EDITION or not set(names) <= set(known):
            raise JudgeError(f"{path} was trained for other scenes: edition {about.get('edition')}")
        judge = Judge({name: known[name] for name in names}, JudgeSize(**json.loads(about["size"])))
        judge.load_state_dict(weights)
        return judge.eval()
