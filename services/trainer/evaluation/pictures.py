"""Scores of pictures: against real ones, against their prompts, and among themselves."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import Identity
from torch.nn.functional import normalize
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.inception import InceptionScore
from torchmetrics.image.kid import KernelInceptionDistance

from narrative.errors import InvalidInput, InvalidParameter
from services.trainer.evaluation.folders import list_pictures, open_in_batches, prompts_of
from services.trainer.evaluation.judges import ClassifierJudge, ClipJudge, ImageJudge, VisionJudge, open_judge
from services.trainer.evaluation.report import Report

SCORES = ("similarity", "fid", "kid", "clip_i", "clip_t", "dino", "is", "l1")
DEFAULT = ("similarity", "fid", "kid")
COSINES = ("similarity", "clip_i", "dino")
_NEED_REAL = frozenset({"similarity", "fid", "kid", "clip_i", "dino", "l1"})
_BATCH_SIZE = 16
_MOST_IN_SUBSET, _SUBSETS, _SPLITS = 1000, 100, 10


@dataclass(frozen=True)
class Judges:
    """Models by catalogue id or path."""

    clip: str
    dino: str
    features: str
    classifier: str


def score_pictures(
    generated: Path,
    real: Path | None,
    prompts: Path | None,
    metrics: Sequence[str] | None,
    judges: Judges,
    *,
    seed: int,
    report: Callable[[str], None],
    baseline: Path | None = None,
) -> Report:
    """Measures a folder of pictures.

    ``clip_i``, ``dino`` and ``similarity`` are the mean cosine over all pairs of a generated and a real picture, and
    ``clip_t`` that of each picture and its prompt, as in the DreamBooth paper (Ruiz et al., 2023). ``fid`` and ``kid``
    are the distances of Heusel et al. (2017) and Binkowski et al. (2018) over the features of ``judges.features``, so
    they can be compared only where that model is the same; ``is`` is the score of Salimans et al. (2016). ``l1`` is the
    mean absolute difference, in [0, 1], of each picture and the real one at its place in the order of names.

    Args:
        baseline: pictures of the same names, for example of the same prompts and seeds without an adapter. Each of
            ``COSINES`` then has a ``NAME_gain`` over them, and ``about`` its interval of 95% over the pictures.

    Raises:
        InvalidParameter: no such metric, or one that needs what was not given.
        InvalidInput, ImageUndecodable: a folder or file cannot be used; names it.
        WeightsError, ModelNotFound: a judge is not here; says which and how to get it.
    """
    asked = tuple(dict.fromkeys(metrics or DEFAULT))
    for name in asked:
        if name not in SCORES:
            raise InvalidParameter(f"{name!r} is no metric; there are {', '.join(SCORES)}", field="metric")
        if name in _NEED_REAL and real is None:
            raise InvalidParameter(f"{name} compares with real pictures; name their folder with --real", field="real")
    paths = list_pictures(generated)
    real_paths = list_pictures(real) if real else []
    texts = prompts_of(paths, prompts) if "clip_t" in asked else []
    if {"fid", "kid"} & set(asked) and min(len(paths), len(real_paths)) < 2:
        raise InvalidInput("fid and kid need two pictures at least on each side")
    if "is" in asked and len(paths) < 4:
        raise InvalidInput(f"is needs four pictures at least; {generated} has {len(paths)}")
    before_paths = list_pictures(baseline) if baseline else []
    if baseline and [path.name for path in before_paths] != [path.name for path in paths]:
        raise InvalidInput(f"{baseline} and {generated} hold pictures of other names; compared are those of one name")
    if "l1" in asked and len(paths) != len(real_paths):
        raise InvalidInput(f"l1 compares pictures two by two: {len(paths)} are generated, {len(real_paths)} are real")
    torch.manual_seed(seed)
    scores: dict[str, float] = {}
    about: dict[str, Any] = {"generated": len(paths), "real": len(real_paths), "judges": asdict(judges)}

    def look(judge: ImageJudge, which: Sequence[Path], what: str) -> torch.Tensor:
        parts = []
        for batch in open_in_batches(which, _BATCH_SIZE):
            parts.append(judge.pictures(batch))
            report(f"{what}: {sum(map(len, parts))} of {len(which)} pictures")
        return torch.cat(parts)

    def compare(name: str, judge: ImageJudge, what: str, ours: torch.Tensor, theirs: torch.Tensor) -> None:
        cosines = mean_cosines(ours, theirs)
        scores[name] = float(cosines.mean())
        if before_paths:
            gains = cosines - mean_cosines(look(judge, before_paths, what), theirs)
            scores[f"{name}_gain"] = float(gains.mean())
            about[f"{name}_gain_interval"] = bootstrap_interval(gains)

    if {"clip_i", "clip_t"} & set(asked):
        clip: ClipJudge = open_judge(judges.clip, ClipJudge)
        drawn = look(clip, paths, "CLIP")
        if "clip_i" in asked:
            compare("clip_i", clip, "CLIP", drawn, look(clip, real_paths, "CLIP"))
        if "clip_t" in asked:
            scores["clip_t"] = float((normalize(drawn) * normalize(clip.texts(texts))).sum(1).mean())
    if "dino" in asked:
        dino: VisionJudge = open_judge(judges.dino, VisionJudge)
        compare("dino", dino, "DINO", look(dino, paths, "DINO"), look(dino, real_paths, "DINO"))
    if {"similarity", "fid", "kid"} & set(asked):
        judge: ImageJudge = open_judge(judges.features)
        drawn, there = look(judge, paths, judges.features), look(judge, real_paths, judges.features)
        if "similarity" in asked:
            compare("similarity", judge, judges.features, drawn, there)
        if "fid" in asked:
            scores["fid"] = frechet_distance(drawn, there)
        if "kid" in asked:
            scores["kid"], about["kid_spread"] = kernel_distance(drawn, there)
    if "is" in asked:
        classifier: ClassifierJudge = open_judge(judges.classifier, ClassifierJudge)
        scores["is"], about["is_spread"] = inception_score(look(classifier, paths, "classifier"))
    if "l1" in asked:
        scores["l1"] = mean_absolute_difference(paths, real_paths)
    return Report({key: scores[key] for name in asked for key in (name, f"{name}_gain") if key in scores}, about)


def mean_absolute_difference(ours: Sequence[Path], theirs: Sequence[Path]) -> float:
    """Mean over pairs of pictures, in [0, 1].

    Raises:
        InvalidInput: two that belong together are not of one size.
    """
    differences = []
    for ours_batch, theirs_batch in zip(
        open_in_batches(ours, _BATCH_SIZE), open_in_batches(theirs, _BATCH_SIZE), strict=True
    ):
        for one, other in zip(ours_batch, theirs_batch, strict=True):
            if one.size != other.size:
                raise InvalidInput(f"l1 needs pictures of one size; there are {one.size} and {other.size} pixels")
            differences.append(np.abs(np.asarray(one, np.float64) - np.asarray(other, np.float64)).mean() / 255)
    return float(np.mean(differences))


def mean_cosines(ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
    """Of each row of ours with all rows of theirs; both float32 (pictures, width), the result (pictures,)."""
    return (normalize(ours) @ normalize(theirs).T).mean(dim=1)


def bootstrap_interval(values: torch.Tensor, samples: int = 10_000) -> tuple[float, float]:
    """Where the mean of (pictures,) lies with 95% probability, by drawing as many pictures again and again."""
    chosen = torch.randint(len(values), (samples, len(values)))
    low, high = torch.quantile(values[chosen].mean(dim=1), torch.tensor([0.025, 0.975])).tolist()
    return low, high


def frechet_distance(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """FID over features that are there already, float32 (pictures, width)."""
    metric = FrechetInceptionDistance(_Given(ours.shape[1]), normalize=True)
    metric.update(theirs, real=True)
    metric.update(ours, real=False)
    return float(metric.compute())


def kernel_distance(ours: torch.Tensor, theirs: torch.Tensor) -> tuple[float, float]:
    """KID over features that are there already: mean and standard deviation over the subsets."""
    size = min(_MOST_IN_SUBSET, len(ours), len(theirs))
    with _features_may_be_kept():
        metric = KernelInceptionDistance(_Given(ours.shape[1]), subsets=_SUBSETS, subset_size=size)
    metric.update(theirs, real=True)
    metric.update(ours, real=False)
    mean, spread = metric.compute()
    return float(mean), float(spread)


def inception_score(logits: torch.Tensor) -> tuple[float, float]:
    """IS of float32 (four or more pictures, classes): mean and standard deviation over the splits."""
    splits = min(_SPLITS, len(logits) // 2)
    with _features_may_be_kept():
        metric = InceptionScore(_Given(logits.shape[1]), splits=splits)
    metric.update(logits)
    mean, spread = metric.compute()
    return float(mean), float(spread)


@contextmanager
def _features_may_be_kept() -> Iterator[None]:
    """torchmetrics warns that it will hold features in memory, where they are already."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Metric .* will save all extracted features")
        yield


class _Given(Identity):
    """In place of the Inception network: torchmetrics is handed features."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features
