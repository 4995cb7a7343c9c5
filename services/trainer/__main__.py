"""``python -m services.trainer``: the training service."""

from narrative.runtime.server import serve
from narrative.settings import read_settings
from services.trainer.engine_process import ProcessEngine
from services.trainer.servicer import make_service
from services.trainer.settings import TrainerSettings

if __name__ == "__main__":
    settings = read_settings(TrainerSettings)
    serve(make_service(settings, ProcessEngine(settings)), settings)
