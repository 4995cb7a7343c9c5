"""How well a model draws what it is told: retrieval among hard captions, KID, time and memory, on held-out scenes."""

from __future__ import annotations

import logging
import resource
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from services.trainer.storybook.hard_captions import alternatives, complete
from services.trainer.storybook.judge import Judge
from services.trainer.storybook.plan import HELD_OUT_SEED, Description
from services.trainer.storybook.scenes import Composer

logger = logging.getLogger(__name__)


class Illustrator(Protocol):
    """What is evaluated."""

    def draw(self, prompt: str, seed: int) -> Image.Image:
        """Return a square RGB picture."""


@dataclass(frozen=True, slots=True)
class Retrieval:
    """Attributes: accuracy: share of pictures whose own caption won. lost_to: how often each kind of wrong one won."""

    accuracy: float
    pictures: int
    lost_to: dict[str, int]


def pixels_of(image: Image.Image, size_px: int) -> torch.Tensor:
    """Return float32 (3, size, size) in [-1, 1]."""
    array = np.asarray(image.convert("RGB").resize((size_px, size_px), Image.Resampling.BOX), dtype=np.float32)
    return torch.from_numpy(array.transpose(2, 0, 1) / 127.5 - 1.0)


def retrieval(judge: Judge, images: Sequence[Image.Image], accounts: Sequence[Description]) -> Retrieval:
    """Let a judge choose among 20 accounts for each picture: its own and 19 that differ from it in one thing."""
    lost: Counter[str] = Counter()
    for number, (image, account) in enumerate(zip(images, accounts, strict=True)):
        wrong = alternatives(account, judge.concepts, number)
        scores = judge.scores(pixels_of(image, judge.size.size_px), [account, *(other for _, other in wrong)])
        best = int(scores.argmax())
        if best != 0:
            lost[wrong[best - 1][0]] += 1
    return Retrieval(1.0 - lost.total() / len(images), len(images), dict(lost))


@torch.no_grad()
def features(judge: Judge, images: Sequence[Image.Image]) -> npt.NDArray[np.float64]:
    """Return float64 (n, channels): the judge's mean features, in which ``kid`` compares pictures."""
    rows = [judge.features(pixels_of(image, judge.size.size_px)[None]).mean(dim=(2, 3))[0] for image in images]
    return torch.stack(rows).double().numpy()


def kid(first: npt.NDArray[np.float64], second: npt.NDArray[np.float64]) -> float:
    """Return the kernel distance of two sets of features: unbiased MMD² with a cubic kernel (arXiv:1801.01401)."""
    width = first.shape[1]

    def kernel(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        values: npt.NDArray[np.float64] = (a @ b.T / width + 1.0) ** 3
        return values

    def within(a: npt.NDArray[np.float64]) -> float:
        values = kernel(a, a)
        return float((values.sum() - np.trace(values)) / (len(a) * (len(a) - 1)))

    return within(first) + within(second) - 2.0 * float(kernel(first, second).mean())


def evaluate(
    illustrator: Illustrator,
    judge: Judge,
    composer: Composer,
    pictures: int,
    seed: int = 0,
) -> dict[str, Any]:
    """Return the figures of a model, and those of real composites to hold them against.

    Args:
        composer: of the judge's concepts.
        pictures: how many held-out scenes; as many again, others, are the real ones of KID.
        seed: of the pictures' noise; picture ``i`` has ``seed + i``.
    """
    real = [composer.compose(HELD_OUT_SEED + number) for number in range(2 * pictures)]
    accounts = [scene.description for scene in real[:pictures]]
    composites = [scene.image for scene in real]
    drawn, started = [], time.monotonic()
    for number, account in enumerate(accounts):
        drawn.append(illustrator.draw(complete(account), seed + number))
        if (number + 1) % 20 == 0:
            logger.info("%d of %d pictures", number + 1, pictures)
    seconds = (time.monotonic() - started) / pictures
    others = features(judge, composites[pictures:])
    return {
        "retrieval": _plain(retrieval(judge, drawn, accounts)),
        "retrieval_of_composites": _plain(retrieval(judge, composites[:pictures], accounts)),
        "kid": kid(features(judge, drawn), others),
        "kid_of_composites": kid(features(judge, composites[:pictures]), others),
        "seconds_a_picture": seconds,
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "threads": torch.get_num_threads(),
    }


def _plain(result: Retrieval) -> dict[str, Any]:
    return {"accuracy": result.accuracy, "pictures": result.pictures, "lost_to": result.lost_to}
