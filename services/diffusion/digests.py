"""Writes the digests of a model that the repository carries into its catalogue entry.

Run after new weights were exported: ``python -m services.diffusion.digests storybook``.
"""

import sys
from pathlib import Path

from narrative.catalogue import Catalogue, PathSource
from narrative.errors import WeightsError
from narrative.hashing import sha256_of


def refresh(model_id: str) -> Path:
    """Rewrites ``size_bytes`` and ``files`` of an entry from the folder it names, and returns the entry's file.

    Raises:
        ModelNotFound: no such entry.
        WeightsError: the entry's weights come from elsewhere.
    """
    catalogue = Catalogue()
    entry = catalogue.entry(model_id)
    if not isinstance(entry.source, PathSource):
        raise WeightsError(f"{model_id} is fetched from elsewhere; only entries of kind path are refreshed")
    folder = catalogue.folder / entry.source.path
    # What is written about a model may change without the model.
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".md")
    lines = [f"size_bytes: {sum(path.stat().st_size for path in files)}", "files:"]
    lines += [f"  {path.relative_to(folder).as_posix()}: {sha256_of(path)}" for path in files]
    yaml_file = catalogue.folder / f"{model_id}.yaml"
    kept = [
        line for line in _without_files(yaml_file.read_text(encoding="utf-8")) if not line.startswith("size_bytes:")
    ]
    yaml_file.write_text("\n".join([*kept, *lines]) + "\n", encoding="utf-8")
    return yaml_file


def _without_files(text: str) -> list[str]:
    lines = text.splitlines()
    return lines[: lines.index("files:")] if "files:" in lines else lines


if __name__ == "__main__":
    for name in sys.argv[1:]:
        refresh(name)
