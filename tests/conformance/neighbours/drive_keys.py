"""A key manager in memory, for castellan, and images signed by a key of its own: certificates are no part of the image service."""

import base64
import datetime
import uuid
from typing import Any

from castellan.common.objects.x_509 import X509
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import NameOID

KEPT: dict[str, X509] = {}


class Keys:
    """What castellan makes of `[key_manager] backend`."""

    def __init__(self, configuration: Any = None) -> None: ...

    def get(self, context: Any, managed_object_id: str, metadata_only: bool = False) -> X509:
        """A certificate that was kept."""
        return KEPT[managed_object_id]


def signed(data: bytes) -> dict[str, str]:
    """The properties of an image whose data is signed, with the certificate kept."""
    key = rsa.generate_private_key(65537, 2048)
    name, now, day = (
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "signer")]),
        datetime.datetime.now(datetime.UTC),
        datetime.timedelta(1),
    )
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
    certificate = made.not_valid_before(now - day).not_valid_after(now + day).sign(key, hashes.SHA256())
    known_as = str(uuid.uuid4())
    KEPT[known_as] = X509(certificate.public_bytes(serialization.Encoding.DER))
    signature = key.sign(data, padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.MAX_LENGTH), hashes.SHA256())
    return {
        "img_signature": base64.b64encode(signature).decode(),
        "img_signature_hash_method": "SHA-256",
        "img_signature_key_type": "RSA-PSS",
        "img_signature_certificate_uuid": known_as,
    }
