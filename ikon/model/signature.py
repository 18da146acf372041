"""What of an image's properties says by whom its data is signed. They are properties like others until data comes in."""

import re
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from ikon.problems import Conflict

SIGNATURE, HASH_METHOD, KEY_TYPE, CERTIFICATE = NAMES = (
    "img_signature",
    "img_signature_hash_method",
    "img_signature_key_type",
    "img_signature_certificate_uuid",
)
#: The base64 of a signature as openstackclient 10.5 sends it: as Python spells bytes. No base64 holds a quote.
SPELLED = re.compile(r"b'([^']*)'")


class Proof(Struct, frozen=True):
    """What an image's data has to prove. properties: how it is signed; none: it is not. key: the signer's public one, in PEM."""

    properties: dict[str, str]
    key: str = ""


def plain(name: str, value: str) -> str:
    """A property's value as whoever verifies the image again can read it."""
    spelled = SPELLED.fullmatch(value) if name == SIGNATURE else None
    return spelled[1] if spelled else value


def signed(properties: Mapping[str, str]) -> dict[str, str]:
    """Those of an image's properties that say how its data is signed."""
    return {name: properties[name] for name in NAMES if name in properties}


def proof_of(asked: Mapping[str, Any]) -> Proof | None:
    """What the data that a job brings has to prove, of what was asked of the job; None: nobody looks."""
    return msgspec.convert(asked["proof"], Proof) if "proof" in asked else None


def is_signed(asked: Mapping[str, Any]) -> bool:
    """Whether the data that a job brings has to be what was signed."""
    proof = proof_of(asked)
    return proof is not None and bool(proof.properties)


def require_same(properties: Mapping[str, str], proof: Proof | None) -> None:
    """Raises Conflict where an image's properties say something else by now than its data had to prove. proof None: nobody looks."""
    if proof is not None and signed(properties) != proof.properties:
        raise Conflict(f"Properties {', '.join(NAMES)} were changed while the image's data was looked at. Bring it again")
