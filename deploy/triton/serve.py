"""Runs a Triton Inference Server with the models of this folder: ``python deploy/triton/serve.py [options]``.

It serves gRPC on 127.0.0.1:8001, HTTP on 8000 and metrics on 8002, and loads a model when a service asks for it (or at
once: ``--load-model asr``). Options are handed on to ``tritonserver``, so that any of that can be had otherwise.
``deploy/tools/triton.py`` fetches the server into the place where it is looked for; TRITON_HOME names another one.
Settings of the models are those of the services, from the environment: NARRATIVE_DIFFUSION__MODELS and so on.
"""

import os
import sys
import sysconfig
from pathlib import Path

HERE = Path(__file__).resolve().parent
HOME = Path(os.environ.get("TRITON_HOME", Path(sys.prefix) / "triton"))


def main(options: list[str]) -> None:
    server = HOME / "pytriton" / "tritonserver"
    program = server / "bin" / "tritonserver"
    if not program.is_file():
        raise SystemExit(f"{program} is missing; fetch it with `python deploy/tools/triton.py {HOME}`")
    environment = dict(os.environ)
    # The processes of the models start this environment's Python, and find its library.
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    libraries = [str(sysconfig.get_config_var("LIBDIR")), *filter(None, [environment.get("LD_LIBRARY_PATH")])]
    environment["LD_LIBRARY_PATH"] = os.pathsep.join(libraries)
    # The models import the project as it stands here; where it is installed, that is the same.
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HERE.parents[1]), environment.get("PYTHONPATH")]))
    defaults = {
        "--model-repository": str(HERE / "models"),
        "--backend-directory": str(server / "backends"),
        "--model-control-mode": "explicit",
        "--grpc-address": "127.0.0.1",
        # Services ping every 30 s (narrative.runtime.triton); by default the server hangs up on such a client in the
        # middle of a call that is silent for minutes.
        "--grpc-http2-min-recv-ping-interval-without-data": "10000",
        "--http-address": "127.0.0.1",
        "--metrics-address": "127.0.0.1",
        "--allow-gpu-metrics": "false",
        "--exit-timeout-secs": "30",
    }
    given = {option.partition("=")[0] for option in options}
    arguments = [f"{name}={value}" for name, value in defaults.items() if name not in given]
    os.execve(program, [str(program), *arguments, *options], environment)  # noqa: S606


if __name__ == "__main__":
    main(sys.argv[1:])
