"""``python -m services.trainer``: the training service."""

from narrative.runtime.server import serve
from narrative.settings import read_settings
from services.trainer.engine import TrainerEngine
from services.trainer.servicer import make_service
from services.trainer.settings import TrainerSettings


def make_engine(settings: TrainerSettings) -> TrainerEngine:
    """The engine that the settings name."""
    if settings.engine == "kubernetes":
        from services.trainer.engine_kubernetes import KubernetesEngine
        from services.trainer.kubernetes_api import KubernetesApi

        return KubernetesEngine(settings, KubernetesApi(settings.kubernetes_url, settings.kubernetes_credentials))
    from services.trainer.engine_process import ProcessEngine

    return ProcessEngine(settings)


if __name__ == "__main__":
    settings = read_settings(TrainerSettings)
    serve(make_service(settings, make_engine(settings)), settings)
