"""A process that is ready at once and writes one line; what the supervisor's tests supervise."""

import os
from http.server import BaseHTTPRequestHandler, HTTPServer


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def serve(handler: type[Handler] = Handler) -> None:
    HTTPServer(("127.0.0.1", int(os.environ["PROGRAM_PORT"])), handler).serve_forever()


if __name__ == "__main__":
    print("hello from", os.getpid(), flush=True)
    serve()
