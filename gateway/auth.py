"""API keys: only their SHA-256 is known here."""

import hashlib
import hmac

from fastapi import Request

from narrative.errors import Unauthenticated


async def require_key(request: Request) -> str:
    """Lets a caller in, and says who it is: the digest of the key, or "" where none is asked for.

    Raises:
        Unauthenticated: keys are set, and the request brings none of them.
    """
    hashes: list[str] = request.app.state.gateway.settings.api_key_hashes
    if not hashes:
        return ""
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key:
        raise Unauthenticated("send the API key in the header Authorization: Bearer KEY")
    digest = hashlib.sha256(key.strip().encode()).hexdigest()
    if not any(hmac.compare_digest(digest, known) for known in hashes):
        raise Unauthenticated("the API key is not known")
    return digest
