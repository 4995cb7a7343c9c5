"""Settings -> application -> serve, until SIGTERM or SIGINT."""

import gc
import logging
import signal
import socket
import sys
from types import FrameType

import uvicorn

from gateway.app import create_app
from gateway.settings import GatewaySettings
from narrative.runtime.logging import configure_logging
from narrative.runtime.tracing import setup_tracing
from narrative.settings import read_settings

# New objects are searched for garbage as Python does it by default; what outlives that after a thousand such searches,
# not after ten. Of 100 narratives in flight that is much: a search takes 5 to 90 ms, in which nothing else is done, and
# finds next to nothing. The price is some 25 MiB.
_GARBAGE_THRESHOLDS = (700, 1000, 10)


class _Server(uvicorn.Server):
    """Ends event streams at the first signal, so that they do not hold up the drain."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        # What was made so far stays, and is not looked through again.
        gc.freeze()
        gc.set_threshold(*_GARBAGE_THRESHOLDS)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        gateway = getattr(self.config.loaded_app.app.state, "gateway", None) if self.config.loaded else None
        if gateway is not None:
            gateway.events.close()
        # uvicorn would raise the signal again after the shutdown; a drained process has ended well.
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True


def main() -> int:
    settings = read_settings(GatewaySettings)
    configure_logging(settings.common, "gateway")
    tracing = setup_tracing(settings.common.otlp_endpoint, "gateway")
    app = create_app(settings, tracing=tracing)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=int(settings.drain_s) or None,
    )
    # The application has said why it does not start.
    logging.getLogger("uvicorn.error").addFilter(lambda record: not record.getMessage().startswith("Traceback"))
    _Server(config).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
