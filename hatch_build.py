"""Build hook: generate the gRPC stubs under narrative/v1 before the package is built."""

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ProtoHook(BuildHookInterface[Any]):
    """Runs protoc over proto/ for wheels and editable installs alike."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        from importlib.resources import files

        from grpc_tools import protoc

        root = Path(self.root)
        sources = sorted(str(path) for path in (root / "proto").rglob("*.proto"))
        well_known = str(files("grpc_tools") / "_proto")
        arguments = ["protoc", f"-I{root / 'proto'}", f"-I{well_known}"]
        arguments += [f"--{kind}_out={root}" for kind in ("python", "pyi", "grpc_python", "mypy_grpc")]
        if protoc.main([*arguments, *sources]) != 0:
            raise RuntimeError("protoc failed; its message is above")
