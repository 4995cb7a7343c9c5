"""The same beside the other one; its name is one that the supervisor knows for its own."""

import os

from healthy_program import serve

os.environ["PROGRAM_PORT"] = os.environ["GATEWAY_PORT"]
serve()
