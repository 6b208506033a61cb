"""What a remote holds of an encrypted changeset: nothing that can be read, and nothing that can be altered unnoticed."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from localstore import wire, wire_body
from localstore.changes import Changeset, Dependency, Op, RowGroup
from localstore.changeset_cipher import OVERHEAD_BYTES, ChangesetCipher, Place
from localstore.errors import MalformedChangeset, NewerFormat, ProtocolError, WrongKey
from localstore.remote_secret import KEY_BYTES, RemoteSecret
from localstore.wire import SealedChangeset
from tests.unit.wire_kit import DEVICE, OTHER, changeset, changesets, forge

pytest.importorskip("cryptography", reason="needs the extra encryption")

KEY = bytes(range(KEY_BYTES))
REMOTE = "remote-identity"
HOME = Place("todo", "default")
CIPHER = RemoteSecret(key=KEY).cipher(REMOTE)
SMALL, NEXT = wire.seal(changeset()), wire.seal(changeset([1], ["two"], number=2))
NAMED = (MalformedChangeset, WrongKey, NewerFormat)


def encrypt(sealed: SealedChangeset, cipher: ChangesetCipher = CIPHER, place: Place = HOME) -> SealedChangeset:
    (outer,) = cipher.encrypt([sealed], place)
    return outer


def decrypt(outer: SealedChangeset, cipher: ChangesetCipher = CIPHER, place: Place = HOME) -> SealedChangeset:
    (sealed,) = cipher.decrypt([outer], place)
    return sealed


def shown_as(outer: SealedChangeset, **fields: object) -> SealedChangeset:
    """An encrypted changeset with another header, by somebody who knows how digests are made and has no key."""
    changed = msgspec.structs.replace(outer, **fields)
    return wire.instead_of(changed, changed.body)


class TestWhatIsHidden:
    @given(changesets)
    def test_who_has_the_key_gets_the_changeset_bit_for_bit(self, original: Changeset) -> None:
        sealed = wire.seal(original)
        outer = encrypt(sealed)
        assert decrypt(outer) == sealed
        assert (outer.device, outer.number, outer.stamp) == (sealed.device, sealed.number, sealed.stamp)

    @given(st.binary(min_size=6, max_size=40), st.text("abcdefghijklmnopqrstuvwxyz", min_size=6, max_size=20), st.booleans())
    def test_no_value_name_or_dependency_can_be_read(self, blob: bytes, text: str, is_large: bool) -> None:
        groups = (RowGroup(f"table_{text}", Op.INSERT, (f"key_{text}",), (f"column_{text}",), [[text], [blob]]),)
        if is_large:
            groups *= 40
        sealed = wire.seal(Changeset(DEVICE, 1, 2**50, (Dependency(OTHER, 3, 2**49),), groups))
        outer = encrypt(sealed)
        seen = outer.body + outer.digest
        for secret in (text.encode(), blob, OTHER, KEY, sealed.digest, sealed.body):
            assert secret not in seen
        if not is_large:  # what is searched for would be found
            plain = wire_body.write((Dependency(OTHER, 3, 2**49),), groups)
            assert all(secret in plain for secret in (text.encode(), blob, OTHER))

    def test_how_many_rows_it_changes_is_hidden(self) -> None:
        outer = encrypt(wire.seal(changeset(list(range(50)), ["x"] * 50)))
        assert (outer.rows, outer.codec, outer.size) == (0, wire.ENCRYPTED, len(outer.body))
        wire.verify(outer)  # a remote can still see whether it is whole

    @given(changesets)
    def test_it_is_hardly_larger(self, original: Changeset) -> None:
        sealed = wire.seal(original)
        assert encrypt(sealed).byte_count - sealed.byte_count < OVERHEAD_BYTES

    def test_nor_are_the_largest_numbers(self) -> None:
        header = (wire.FORMAT, DEVICE, 2**63 - 1, 2**63 - 1, 2**32, 2, 2**32)
        sealed = SealedChangeset(*header, bytes(16), bytes(2**16))
        assert encrypt(sealed).byte_count - sealed.byte_count < OVERHEAD_BYTES


class TestOneChangesetIsAlwaysTheSameBytes:
    """A remote compares digests to tell a repeated push from a forked device."""

    @given(changesets)
    def test_on_every_device(self, original: Changeset) -> None:
        sealed = wire.seal(original)
        assert encrypt(sealed) == encrypt(sealed, RemoteSecret(key=KEY).cipher(REMOTE))

    def test_in_every_version(self) -> None:
        """These bytes lie in remotes already: what makes others is a new version of the layout."""
        assert encrypt(SMALL).body.hex() == GOLDEN
        assert decrypt(wire.instead_of(SMALL, bytes.fromhex(GOLDEN))) == SMALL

    def test_two_under_one_number_are_told_apart(self) -> None:
        one, other = (wire.seal(changeset([1], [text])) for text in ("before the copy", "after the copy"))
        assert encrypt(one).digest != encrypt(other).digest


class TestTampering:
    def test_any_bit_that_is_flipped_is_noticed(self) -> None:
        data = wire.encode(encrypt(SMALL))
        for bit in range(8 * len(data)):
            with pytest.raises(NAMED):
                decrypt(wire.decode(flipped(data, bit)))

    def test_also_by_somebody_who_makes_the_digest_fit(self) -> None:
        outer = encrypt(SMALL)
        for bit in range(8 * len(outer.body)):
            with pytest.raises(NAMED):
                decrypt(shown_as(outer, body=flipped(outer.body, bit)))

    def test_what_was_cut_off_or_added_is_noticed(self) -> None:
        outer = encrypt(SMALL)
        for body in [*(outer.body[:length] for length in range(len(outer.body))), outer.body + b"\0", outer.body * 2]:
            with pytest.raises(MalformedChangeset, match=r"(?s)Changeset 1 .*altered"):
                decrypt(shown_as(outer, body=body))

    def test_two_that_changed_places_are_noticed(self) -> None:
        one, other = encrypt(SMALL), encrypt(NEXT)
        for outer, body in ((one, other.body), (other, one.body)):
            with pytest.raises(MalformedChangeset, match="in the place of another"):
                decrypt(shown_as(outer, body=body))

    @pytest.mark.parametrize("change", [{"device": OTHER}, {"number": 2}, {"stamp": SMALL.stamp + 1}], ids=str)
    def test_one_that_is_said_to_be_another_is_noticed(self, change: dict[str, object]) -> None:
        with pytest.raises(MalformedChangeset, match="in the place of another"):
            decrypt(shown_as(encrypt(SMALL), **change))

    @pytest.mark.parametrize("change", [{"rows": 1}, {"size": 7}, {"digest": bytes(16)}, {"codec": 1}], ids=str)
    def test_so_is_a_header_that_no_writer_makes(self, change: dict[str, object]) -> None:
        with pytest.raises(NAMED):
            decrypt(msgspec.structs.replace(encrypt(SMALL), **change))

    def test_a_header_that_no_writer_makes_is_noticed_whatever_its_digest(self) -> None:
        body = encrypt(SMALL).body
        for rows, size in ((1, len(body)), (0, len(body) + 1)):
            with pytest.raises(MalformedChangeset, match="altered"):
                decrypt(forge(body, codec=wire.ENCRYPTED, rows=rows, size=size))

    @pytest.mark.parametrize("place", [Place("todo", "other"), Place("other", "default"), Place("tod", "odefault")], ids=str)
    def test_one_from_another_partition_or_application_is_noticed(self, place: Place) -> None:
        with pytest.raises(MalformedChangeset, match="in the place of another"):
            decrypt(encrypt(SMALL, place=place))

    def test_an_empty_partition_is_a_place_like_any_other(self) -> None:
        assert decrypt(encrypt(SMALL, place=Place("todo", "")), place=Place("todo", "")) == SMALL

    @given(st.binary(max_size=120))
    def test_noise_gives_a_named_error(self, noise: bytes) -> None:
        for body in (noise, encrypt(SMALL).body[:9] + noise):
            with pytest.raises(NAMED):
                decrypt(wire.instead_of(SMALL, body))


class TestKeys:
    @pytest.mark.parametrize("other", [RemoteSecret(key=KEY[::-1]).cipher(REMOTE), RemoteSecret(key=KEY).cipher("another")])
    def test_another_key_or_another_remotes_is_told_as_such(self, other: ChangesetCipher) -> None:
        with pytest.raises(WrongKey, match="another key or passphrase") as caught:
            decrypt(encrypt(SMALL, other))
        assert caught.value.hint
        assert isinstance(caught.value, ProtocolError), "the session stops"

    def test_what_is_not_encrypted_is_not_taken(self) -> None:
        with pytest.raises(WrongKey, match="Changeset 1 of device 00010203 is not encrypted"):
            decrypt(SMALL)

    def test_who_has_no_key_is_told_so(self) -> None:
        with pytest.raises(WrongKey, match=r"is encrypted, and this app was given no key.*remote=encrypted\("):
            wire.unseal(encrypt(SMALL))

    def test_a_newer_layout_or_way_to_encrypt_says_to_upgrade(self) -> None:
        outer = encrypt(SMALL)
        with pytest.raises(NewerFormat, match="Upgrade localstore"):
            decrypt(forge(outer.body, codec=wire.ENCRYPTED, rows=0, layout=wire.FORMAT + 1))
        with pytest.raises(NewerFormat, match="Upgrade localstore"):
            decrypt(shown_as(outer, body=b"\x02" + outer.body[1:]))

    def test_a_passphrase_gives_one_key_for_a_remote_however_a_system_writes_its_letters(self) -> None:
        composed, decomposed = (RemoteSecret(passphrase=text) for text in ("Gr\u00fc\u00dfe", "Gru\u0308\u00dfe"))
        outer = encrypt(SMALL, composed.cipher(REMOTE))
        assert decrypt(outer, decomposed.cipher(REMOTE)) == SMALL
        with pytest.raises(WrongKey):
            decrypt(outer, composed.cipher("another"))

    def test_it_is_worked_out_once_for_all_who_ask(self) -> None:
        secret = RemoteSecret(passphrase="correct horse")
        assert secret.cipher(REMOTE) is secret.cipher(REMOTE)

    @pytest.mark.parametrize(
        ("given_", "error"),
        [
            ({}, TypeError),
            ({"key": KEY, "passphrase": "words"}, TypeError),
            ({"key": "k" * 32}, TypeError),
            ({"key": bytearray(32)}, TypeError),
            ({"key": b"secret"}, ValueError),
            ({"passphrase": b"secret"}, TypeError),
            ({"passphrase": ""}, ValueError),
            ({"passphrase": "  \n"}, ValueError),
        ],
        ids=str,
    )
    def test_what_is_no_key_is_refused_and_not_quoted(self, given_: dict[str, object], error: type[Exception]) -> None:
        with pytest.raises(error) as caught:
            RemoteSecret(**given_)
        assert "secret" not in str(caught.value).replace("secrets.token_bytes", "")

    def test_nothing_shows_a_key(self) -> None:
        for secret in (RemoteSecret(key=KEY), RemoteSecret(passphrase="correct horse")):
            shown = repr(secret) + str(secret) + repr(secret.cipher(REMOTE))
            assert "horse" not in shown
            assert repr(KEY)[2:-1] not in shown
            assert KEY.hex() not in shown


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


GOLDEN = (
    "01c85c199df2869847640c0758afb8734b5063aff2a1f20a42e5f0b9ac4afe9bf8897c7686e943ea417fbf277251f0848765"
    "2163f2d816b02392a6daf9f80ab35a301b8560be2b021f77664e509456c7ec98405cb9f772ee76ab87b3e3f81d123b791c04"
    "e98e68d0ea052a616b6cf74381d2c94dfcb93252b5c0ba26da0fc002d792711ff15e05"
)
