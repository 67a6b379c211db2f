"""Signatures: only the holder of the key makes them, for one kind of message, and exactly it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soulsai.errors import ConfigError, Forged
from soulsai.wire.signing import Signer, Verifier, new_key, read_signer, signer_in

SIGNER = Signer(bytes(32))
VERIFIER = Verifier(SIGNER.public)


@given(st.binary(), st.sampled_from(["manifest", "pointer"]))
def test_what_was_signed_is_accepted(message, kind):
    VERIFIER.check(kind, message, SIGNER.sign(kind, message))


@given(st.binary(min_size=1), st.integers(0), st.integers(0, 7))
def test_one_bit_of_difference_is_refused(message, where, bit):
    signature = SIGNER.sign("manifest", message)
    changed = bytearray(message)
    changed[where % len(message)] ^= 1 << bit
    with pytest.raises(Forged, match="the data were changed"):
        VERIFIER.check("manifest", bytes(changed), signature)
    damaged = bytearray(signature)
    damaged[where % 64] ^= 1 << bit
    with pytest.raises(Forged):
        VERIFIER.check("manifest", message, bytes(damaged))


def test_another_kind_another_key_or_nothing_is_refused():
    signature = SIGNER.sign("pointer", b"x")
    with pytest.raises(Forged, match="manifest belongs to another key"):
        VERIFIER.check("manifest", b"x", signature)
    with pytest.raises(Forged):
        VERIFIER.check("pointer", b"x", Signer(b"1" * 32).sign("pointer", b"x"))
    for nothing in (b"", b"short", bytes(64), bytes(10_000)):
        with pytest.raises(Forged):
            VERIFIER.check("pointer", b"x", nothing)
    with pytest.raises(Forged, match="is missing"):
        VERIFIER.check("pointer", b"x", b"")


def test_a_key_comes_from_its_file(tmp_path):
    assert signer_in(tmp_path) is None
    path = tmp_path / "manifest.key"
    path.write_text(f"{new_key()}\n")
    found = signer_in(tmp_path)
    assert found is not None
    assert found.public == read_signer(path).public
    assert path.read_text().strip() not in repr(found)
    assert new_key() != new_key()


@pytest.mark.parametrize("public", ["", "x", "ed25519:", "ed25519:AA", "ed25519:" + "A" * 44])
def test_what_is_no_key_is_refused(public):
    with pytest.raises(ConfigError, match="public key"):
        Verifier(public)
