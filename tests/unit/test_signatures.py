"""Signed images, as far as nobody has to be asked; with a real key manager they are in tests/wire/test_signatures.py."""

import sys
from collections.abc import Iterator

import pytest

from ikon.config import Settings
from ikon.context import Context
from ikon.model.image import parse_new
from ikon.model.signature import CERTIFICATE, HASH_METHOD, KEY_TYPE, NAMES, SIGNATURE, Proof, is_signed, proof_of, require_same
from ikon.problems import Conflict, SignatureRefused, Unavailable
from ikon.signatures import Signatures, verifier
from tests.wire.server import UNUSED_ID

FIELDS = {SIGNATURE: "c2ln", HASH_METHOD: "SHA-256", KEY_TYPE: "RSA-PSS", CERTIFICATE: UNUSED_ID}
CALLER = Context("user", "home", token="token")


def nobody() -> str | None:
    raise AssertionError("the key manager was looked for")


@pytest.fixture
def signatures() -> Iterator[Signatures]:
    made = Signatures(Settings(), nobody)
    yield made
    made.close()


async def test_an_image_without_these_properties_proves_nothing(signatures: Signatures) -> None:
    proof = await signatures.proof(CALLER, {"img_signature_other": "x"}, "id")

    assert (proof, verifier(proof, "id")) == (Proof({}), None)


@pytest.mark.parametrize("name", NAMES)
async def test_what_is_missing_is_named_before_anybody_is_asked(signatures: Signatures, name: str) -> None:
    with pytest.raises(SignatureRefused, match=f"^Signature verification failed for image id: {name}: missing"):
        await signatures.proof(CALLER, {key: value for key, value in FIELDS.items() if key != name}, "id")


@pytest.mark.parametrize(
    ("ctx", "changes", "said"),
    [
        (CALLER, {CERTIFICATE: f"{UNUSED_ID}/payload"}, f"{CERTIFICATE}: "),
        (CALLER, {HASH_METHOD: "sha-256"}, f"{HASH_METHOD}: 'sha-256' is none that can be verified; allowed: SHA-224"),
        (CALLER, {KEY_TYPE: "ECC_SECT571K1"}, f"{KEY_TYPE}: 'ECC_SECT571K1' is none that can be verified; allowed: DSA, ECC_SECP384R1"),
        (Context("user", "home"), {}, "this takes a token"),
    ],
)
async def test_what_can_never_be_verified_is_refused_before_anybody_is_asked(
    signatures: Signatures, ctx: Context, changes: dict[str, str], said: str
) -> None:
    with pytest.raises(SignatureRefused) as refused:
        await signatures.proof(ctx, FIELDS | changes, None)

    assert str(refused.value).startswith(f"Signature verification failed: {said}")


async def test_without_the_library_nothing_signed_is_taken(signatures: Signatures, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cursive", None)

    with pytest.raises(Unavailable, match="cannot be verified here"):
        await signatures.proof(CALLER, FIELDS, "id")
    with pytest.raises(Unavailable, match="cannot be verified here"):
        verifier(Proof(FIELDS, "key"), "id")


def test_a_signature_that_is_spelled_as_python_spells_bytes_is_kept_as_base64() -> None:
    made = parse_new({SIGNATURE: "b'c2ln'", HASH_METHOD: "b'x'", "other": "b'x'"})

    assert made.properties == {SIGNATURE: "c2ln", HASH_METHOD: "b'x'", "other": "b'x'"}


def test_a_job_knows_what_its_data_has_to_prove() -> None:
    cases: list[tuple[dict[str, object], Proof | None, bool]] = [
        ({}, None, False),
        ({"proof": {"properties": {}, "key": ""}}, Proof({}), False),
        ({"proof": {"properties": FIELDS, "key": "key"}}, Proof(FIELDS, "key"), True),
    ]
    for asked, proof, signed in cases:
        assert (proof_of(asked), is_signed(asked)) == (proof, signed)


def test_data_proves_nothing_for_properties_that_came_later() -> None:
    require_same(FIELDS | {"other": "x"}, Proof(FIELDS))
    require_same({}, Proof({}))
    require_same(FIELDS, None)

    for properties, proof in ((FIELDS, Proof({})), ({}, Proof(FIELDS)), (FIELDS | {SIGNATURE: "x"}, Proof(FIELDS))):
        with pytest.raises(Conflict, match=SIGNATURE):
            require_same(properties, proof)
