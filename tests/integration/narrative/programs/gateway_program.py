"""The same beside the other one; its name is one that the supervisor knows for its own. It notes what it is sent."""

import os
from pathlib import Path

from healthy_program import Handler, serve


class Gateway(Handler):
    def do_POST(self) -> None:
        with Path(os.environ["NARRATIVE_DATA_DIR"], "posted").open("a") as posted:
            posted.write(f"{self.path}\n")
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")


os.environ["PROGRAM_PORT"] = os.environ["GATEWAY_PORT"]
serve(Gateway)
