"""Secrets that have to wait in the database, closed with a key that only the settings hold."""

import base64
import hashlib
import os
from typing import TYPE_CHECKING

from ikon.problems import SealBroken

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

NONCE_BYTES = 12


def seal(secret: str, text: str, place: str) -> str:
    """A text that can be read with the same secret only, and only for the place that it was sealed for, such as the id of a job."""
    nonce = os.urandom(NONCE_BYTES)
    return base64.b64encode(nonce + _cipher(secret).encrypt(nonce, text.encode(), place.encode())).decode()


def unseal(secret: str, sealed: str, place: str) -> str:
    """What was sealed. Raises SealBroken where that was with another secret, or for another place."""
    from cryptography.exceptions import InvalidTag

    try:
        raw = base64.b64decode(sealed)
        return _cipher(secret).decrypt(raw[:NONCE_BYTES], raw[NONCE_BYTES:], place.encode()).decode()
    except (InvalidTag, ValueError):
        raise SealBroken from None


def _cipher(secret: str) -> "AESGCM":
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # 30 ms that a server without regions need not pay

    return AESGCM(hashlib.sha256(b"ikon: what jobs keep\0" + secret.encode()).digest())
