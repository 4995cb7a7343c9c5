"""``python -m services.translation``: the translation service."""

from narrative.runtime.server import serve
from narrative.settings import read_settings
from services.translation.servicer import make_service
from services.translation.settings import TranslationSettings

if __name__ == "__main__":
    settings = read_settings(TranslationSettings)
    serve(make_service(settings), settings)
