"""`python -m services.trainer.cli RECIPE`: runs one training and prints its result as JSON; `narrate train` calls it.

Standard output gets one JSON object, standard error everything else. Exit status: 0 trained, 1 something was wrong,
143 stopped by a signal with a checkpoint saved.
"""

import contextlib
import importlib
import json
import os
import pkgutil
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from narrative import interrupts
from narrative.errors import Cancelled, NarrativeError, NotFound, ServiceUnavailable
from services.trainer import launch, preflight, recipes
from services.trainer.arguments import read_config
from services.trainer.command_line import INTERRUPTED, STOPPED
from services.trainer.config import RecipeConfig, Settings


def names() -> list[str]:
    """All recipes."""
    return sorted(module.name for module in pkgutil.iter_modules(recipes.__path__) if module.ispkg)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help"):
        _list_recipes()
        return 0
    recipe, *rest = arguments
    result: dict[str, Any] = {"success": False}
    try:
        interrupts.release()
        config_class = _config_class(recipe)
        if {"-h", "--help"} & set(rest):
            _help(recipe, config_class)
            return 0
        config = read_config(config_class, rest)
        preflight.check(config)
        if (count := launch.wanted()) > 1:
            # Resolved here, since standard input can be read once only.
            settings = json.dumps(config.model_dump(mode="json"))
            command = [sys.executable, "-m", __spec__.name, recipe, "--json", settings]
            return launch.run(command, count, on_cpu=_is_for_cpu(config))
        result = _train(recipe, config)
        status = 0
    except NarrativeError as error:
        Console(stderr=True).print(f"[bold red]{error.title}:[/] {escape(error.message)}", highlight=False)
        result |= {"error": error.message, "errorType": type(error).__name__, "field": error.field}
        status = STOPPED if isinstance(error, Cancelled) else 1
    except KeyboardInterrupt:  # before or after the loop, which saves a checkpoint and raises Cancelled
        result["error"] = "interrupted"
        status = INTERRUPTED
    if _is_first_process():
        sys.stdout.write(f"{json.dumps(result, ensure_ascii=False)}\n")
    return status


def _is_first_process() -> bool:
    """Of several that train together (torchrun, accelerate launch), one speaks."""
    return os.environ.get("RANK", "0") == "0"


def _is_for_cpu(config: RecipeConfig) -> bool:
    import torch

    return config.device == "cpu" or not torch.cuda.is_available()


def _train(recipe: str, config: RecipeConfig) -> dict[str, Any]:
    # What takes seconds to import comes after everything that can be wrong with the settings.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        from services.trainer.failures import clear_errors
        from services.trainer.progress import Progress

        training = importlib.import_module(f"{recipes.__name__}.{recipe}.train")
    except ModuleNotFoundError as error:
        raise ServiceUnavailable(
            f"the trainer is not installed ({error.name} is missing): pip install 'colorized-narrative[trainer]'"
        ) from error
    # Libraries that print must not spoil the result's JSON.
    with clear_errors(), contextlib.redirect_stdout(sys.stderr):
        result: dict[str, Any] = training.run(
            config, Progress(config.progress, quiet=not _is_first_process())
        ).model_dump(mode="json", by_alias=True, exclude_none=True)
    return result


def _config_class(recipe: str) -> type[RecipeConfig]:
    if recipe not in names():
        raise NotFound(f"no recipe {recipe!r}; there are {', '.join(names())}", field="recipe")
    config: type[RecipeConfig] = importlib.import_module(f"{recipes.__name__}.{recipe}.config").Config
    return config


def _list_recipes() -> None:
    out = Console()
    out.print("Usage: narrate train RECIPE [--SETTING VALUE ...]\n\nRecipes:", highlight=False)
    for name in names():
        summary = (importlib.import_module(f"{recipes.__name__}.{name}").__doc__ or "").strip().splitlines()[0]
        out.print(f"  {name:<14} {summary}", highlight=False, soft_wrap=True)
    out.print("\n`narrate train RECIPE --help` lists the settings of a recipe.", highlight=False)


def _help(recipe: str, config: type[RecipeConfig]) -> None:
    """Settings under the heading of the class that brings them, those of the recipe first."""
    out = Console(highlight=False)
    package = importlib.import_module(f"{recipes.__name__}.{recipe}")
    out.print(f"Usage: narrate train {recipe} [--config FILE] [--json TEXT] [--SETTING VALUE ...]\n", markup=False)
    out.print(f"{(package.__doc__ or '').strip()}\n", markup=False, soft_wrap=True)
    out.print(
        "FILE is YAML or JSON ('-' reads it from standard input); flags win over both. Names may be written\n"
        "--train-batch-size, train_batch_size or trainBatchSize. Switches: --NAME or --no-NAME.",
        markup=False,
        soft_wrap=True,
    )
    shown: set[str] = set()
    for group in [cls for cls in config.__mro__ if issubclass(cls, Settings)]:
        fields = [name for name in vars(group).get("__annotations__", {}) if name in config.model_fields.keys() - shown]
        shown |= set(fields)
        if not fields:
            continue
        table = Table.grid(padding=(0, 2))
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold", max_width=28)
        for name in fields:
            field = config.model_fields[name]
            default = "required" if field.is_required() else _shown(field.get_default(call_default_factory=True))
            table.add_row(f"--{name.replace('_', '-')}", f"[dim]{escape(default)}[/]", escape(field.description or ""))
        out.print(f"\n[bold]{(group.__doc__ or group.__name__).splitlines()[0]}[/]")
        out.print(Padding(table, (0, 0, 0, 2)))


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return "-" if value is None or value == "" else str(value)


if __name__ == "__main__":
    raise SystemExit(main())
