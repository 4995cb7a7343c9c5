"""``python -m services.translation``: the translation service."""

from narrative.runtime.server import serve
from services.translation.servicer import make_service
from services.translation.settings import TranslationSettings

if __name__ == "__main__":
    settings = TranslationSettings()
    serve(make_service(settings), settings)
