"""Signed images: certificates from the key manager, Barbican, and data compared with its signature as it comes in, through cursive.

A certificate is asked for with the caller's own token, when the caller asks, and its public key is all that is kept of it: a job needs no
token. The key manager is asked through keystoneauth1 and not by the client that cursive brings, which has one failure for all: one that is
away must not look like a certificate that is not there. Libraries are imported only where an image is signed.
"""

import functools
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

from ikon import log
from ikon.config import Settings
from ikon.context import Context
from ikon.model.image import UUID
from ikon.model.signature import CERTIFICATE, HASH_METHOD, KEY_TYPE, NAMES, SIGNATURE, Proof, signed
from ikon.problems import KeyManagerDown, SignatureRefused, Unavailable
from ikon.threads import Late, Pool

if TYPE_CHECKING:
    from keystoneauth1.session import Session

#: Certificates asked for at one time.
THREADS = 4
#: Seconds after which a client should come again while the key manager is away.
AGAIN_S = 5
#: Answers of the key manager about what is not there, or not for this caller, or about a token that does not count there.
NOT_FOR_CALLER = (401, 403, 404)


class Hasher(Protocol):
    """A verifier of cursive's."""

    def update(self, data: Any) -> None:
        """Take some of the data."""

    def verify(self) -> None:
        """Raises InvalidSignature where it was not the data that was signed."""


class Verifier:
    """Compares data with its signature. Belongs to one thread at a time."""

    def __init__(self, hasher: Hasher, image_id: str) -> None:
        self._hasher, self._image_id = hasher, image_id

    def update(self, batch: Sequence[Any]) -> None:
        """Take some of the data."""
        for block in batch:
            self._hasher.update(block)

    def end(self) -> None:
        """Raises SignatureRefused where it was not the data that was signed."""
        from cryptography.exceptions import InvalidSignature

        try:
            self._hasher.verify()
        except (InvalidSignature, ValueError):  # the latter: the key is too short for such a signature
            raise SignatureRefused(self._image_id, f"the data is not what was signed, or not with this {CERTIFICATE}") from None


class Signatures:
    """Asks one key manager for certificates. Belongs to one event loop."""

    def __init__(self, settings: Settings, endpoint: Callable[[], str | None]) -> None:
        """endpoint: where the key manager is, None: nowhere; blocks, and may raise what keystoneauth1 raises. Nobody is asked yet."""
        self._settings, self._endpoint = settings, endpoint
        self._pool = Pool("signatures", THREADS, 4 * settings.keystone.timeout_s)

    async def proof(self, ctx: Context, properties: dict[str, str], image_id: str | None) -> Proof:
        """What the data of an image with these properties has to prove. image_id None: it has none yet.

        Raises SignatureRefused, naming the property, for what can never be verified, KeyManagerDown, and Unavailable where the library is
        missing.
        """
        said = signed(properties)
        if not said:
            return Proof({})
        try:
            if missing := [name for name in NAMES if name not in said]:
                raise _Wrong(f"{', '.join(missing)}: missing; a signed image has all of {', '.join(NAMES)}")
            if not UUID.fullmatch(said[CERTIFICATE]):
                raise _Wrong(f"{CERTIFICATE}: {said[CERTIFICATE]!r:.60} is not the id of a certificate")
            if ctx.token is None:
                raise _Wrong("this takes a token that the key manager can be shown")
            try:
                return await self._pool.run(self._proof, ctx.token, said)
            except Late:
                raise _down("it takes too long") from None
            except ImportError:
                raise _missing() from None
        except _Wrong as wrong:
            raise SignatureRefused(image_id, str(wrong)) from None

    def close(self) -> None:
        """Let the threads end."""
        self._pool.close()

    def _proof(self, token: str, said: dict[str, str]) -> Proof:
        """Also tries whether cursive can make something of it: a client hears now what is wrong, and not after all of its data."""
        _parts(said)
        proof = Proof(said, _public_key(self._certificate(token, said[CERTIFICATE])))
        _hasher(proof)
        return proof

    def _certificate(self, token: str, uuid: str) -> bytes:
        """What the key manager has under an id, for the owner of this token. Raises _Wrong, KeyManagerDown."""
        from keystoneauth1.exceptions import ClientException

        try:
            base = self._endpoint()
            if base is None:
                raise _down("Keystone's catalogue has no key-manager")
            url = f"{base.rstrip('/').removesuffix('/v1')}/v1/secrets/{uuid}"
            about = self._get(url, token, "application/json").json()
            kind, form = about.get("secret_type"), about.get("content_types", {}).get("default")
            if kind != "certificate" or not isinstance(form, str):
                raise _Wrong(f"{CERTIFICATE}: what the key manager has under {uuid} is not a certificate")
            return bytes(self._get(f"{url}/payload", token, form).content)
        except (ClientException, ValueError, AttributeError) as error:
            raise _down(f"{type(error).__name__}: {error}") from None

    def _get(self, url: str, token: str, form: str) -> Any:
        headers = {"X-Auth-Token": token, "Accept": form}
        answer = self._session.get(url, headers=headers, authenticated=False, raise_exc=False, redirect=False, log=False)
        if answer.status_code in NOT_FOR_CALLER:
            raise _Wrong(f"{CERTIFICATE}: the key manager has no certificate under this id that you may read")
        if answer.status_code != 200:
            raise _down(f"it answers {answer.status_code}: {answer.text[:200]}")
        return answer

    @functools.cached_property
    def _session(self) -> "Session":
        """Without an identity of its own."""
        from keystoneauth1.session import Session

        chosen = self._settings.keystone
        return Session(verify=chosen.ca_file or True, timeout=chosen.timeout_s, user_agent="ikon")


class _Wrong(Exception):
    """What the client has said cannot be verified."""


def verifier(proof: Proof | None, image_id: str) -> Verifier | None:
    """What has to see an image's data as it comes in; None where it proves nothing. Raises Unavailable where the library is missing."""
    if proof is None or not proof.properties:
        return None
    try:
        return Verifier(_hasher(proof), image_id)
    except ImportError:
        raise _missing() from None


def _missing() -> Unavailable:
    log.get().error("signatures cannot be verified", because="what verifies them is not installed: pip install 'ikon[openstack]'")
    return Unavailable("Signatures cannot be verified here. The operator has been told")


def _down(because: str) -> KeyManagerDown:
    log.get().warning("key manager cannot be asked", because=because)
    return KeyManagerDown(retry_after_s=AGAIN_S)


def _parts(said: dict[str, str]) -> tuple[Any, Any, bytes]:
    """Key type and hash method as cursive knows them, and the signature. Raises _Wrong."""
    from cursive import signature_utils as cursive
    from cursive.exception import CursiveException

    kinds = cursive.SignatureKeyType.REGISTERED_TYPES
    for name, known in ((HASH_METHOD, cursive.HASH_METHODS), (KEY_TYPE, kinds)):
        if said[name] not in known:
            raise _Wrong(f"{name}: {said[name]!r:.60} is none that can be verified; allowed: {', '.join(sorted(known))}")
    try:
        signature = cursive.get_signature(said[SIGNATURE])
    except (CursiveException, ValueError):
        signature = b""
    if not signature:
        raise _Wrong(f"{SIGNATURE}: not the base64 of a signature")
    return kinds[said[KEY_TYPE]], cursive.HASH_METHODS[said[HASH_METHOD]], signature


def _public_key(content: bytes) -> str:
    """Of a certificate, PEM or DER, that is valid now. Whether its issuer is to be trusted is for who uses the image. Raises _Wrong."""
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    try:
        pem = content.lstrip().startswith(b"-----BEGIN")
        certificate = x509.load_pem_x509_certificate(content) if pem else x509.load_der_x509_certificate(content)
        key = certificate.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, UnsupportedAlgorithm):
        raise _Wrong(f"{CERTIFICATE}: not an X.509 certificate with a usable key") from None
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not begin <= datetime.now(UTC) <= end:
        raise _Wrong(f"{CERTIFICATE}: the certificate is valid from {begin:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC, and not now")
    return key.decode()


def _hasher(proof: Proof) -> Hasher:
    """Raises _Wrong where the certificate's key is of another type than the properties say."""
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    kind, method, signature = _parts(proof.properties)
    key = load_pem_public_key(proof.key.encode())
    if not isinstance(key, kind.public_key_type):
        raise _Wrong(f"{KEY_TYPE}: {kind.name} is not the type of the certificate's key")
    hasher: Hasher = kind.create_verifier(signature, method, key)
    return hasher
