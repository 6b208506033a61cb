"""What a remote holds of an encrypted snapshot: nothing that can be read, and nothing that can be altered unnoticed."""

from __future__ import annotations

import hashlib
import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localstore.changeset_cipher import Place
from localstore.errors import NewerFormat, SnapshotUnusable, WrongKey
from localstore.remote_secret import KEY_BYTES, RemoteSecret
from localstore.snapshot_cipher import SALT_BYTES, SnapshotCipher, plain_bytes

pytest.importorskip("cryptography", reason="needs the extra encryption")

KEY = bytes(range(KEY_BYTES))
REMOTE = "remote-identity"
HOME = Place("todo", "default")
CIPHER = RemoteSecret(key=KEY).snapshot_cipher(REMOTE)
SALT = bytes(range(SALT_BYTES))
HEAD, CHUNK, TAG = 57, 64 * 1024, 16
STORED_CHUNK = CHUNK + TAG
LONG = random.Random(7).randbytes(3 * CHUNK + 1000)


def parts_of(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:end] for start, end in pairwise(places)]


def encrypt(plain: bytes, *, cuts: list[int] | None = None, place: Place = HOME, salt: bytes = SALT) -> bytes:
    encryption = CIPHER.encryption(place, salt)
    return b"".join([*map(encryption.update, parts_of(plain, cuts or [])), encryption.finish()])


def decrypt(stored: bytes, *, cuts: list[int] | None = None, cipher: SnapshotCipher = CIPHER, place: Place = HOME) -> bytes:
    decryption = cipher.decryption(place, "a-snapshot")
    return b"".join([*map(decryption.update, parts_of(stored, cuts or [])), decryption.finish()])


def with_fitting_check(stored: bytes) -> bytes:
    """A head by somebody who knows how its check is made and has no key."""
    return stored[:49] + hashlib.sha256(stored[:49]).digest()[:8] + stored[HEAD:]


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


STORED, SMALL = encrypt(LONG), encrypt(b"a small one")
cuts = st.lists(st.integers(0, 2**20), max_size=12)
near_ends = st.builds(lambda chunks, more: max(0, chunks * CHUNK + more), st.integers(0, 3), st.integers(-2, 2))


class TestWhatIsHidden:
    @given(near_ends, cuts, cuts)
    def test_it_comes_back_bit_for_bit_whatever_parts_it_is_given_in(
        self, length: int, written: list[int], read: list[int]
    ) -> None:
        stored = encrypt(LONG[:length], cuts=written)
        assert stored == encrypt(LONG[:length])
        assert decrypt(stored, cuts=read) == LONG[:length]

    def test_also_byte_by_byte(self) -> None:
        assert decrypt(SMALL, cuts=list(range(len(SMALL)))) == b"a small one"

    @given(near_ends)
    def test_its_size_tells_how_much_is_in_it(self, length: int) -> None:
        assert plain_bytes(len(encrypt(LONG[:length]))) == length

    @given(st.integers(0, 2**40))
    def test_whatever_size_something_has_can_be_asked_about(self, size: int) -> None:
        assert 0 <= plain_bytes(size) <= size

    def test_nothing_of_it_can_be_read_nor_seen_to_be_the_same(self) -> None:
        chunks = [encrypt(bytes(3 * CHUNK), salt=salt) for salt in (SALT, SALT[::-1])]
        seen = [one[HEAD + at : HEAD + at + 16] for one in chunks for at in range(0, 3 * STORED_CHUNK, STORED_CHUNK)]
        assert len(set(seen)) == 6
        assert bytes(16) not in b"".join(chunks)[HEAD:]

    def test_it_holds_little_whatever_the_size(self) -> None:
        """No more comes out late than a chunk, so no more can have been held."""
        encryption = CIPHER.encryption(HOME, SALT)
        given_, came = 0, 0
        for _ in range(50):
            came += len(encryption.update(LONG[:50_000]))
            given_ += 50_000
            assert given_ - came <= CHUNK

    def test_it_is_the_same_in_every_version(self) -> None:
        """These bytes lie in remotes already: what makes others is a new version of the layout."""
        assert SMALL.hex() == GOLDEN
        assert hashlib.sha256(STORED).hexdigest() == GOLDEN_LONG


class TestTampering:
    def test_any_bit_that_is_flipped_is_noticed_as_damage(self) -> None:
        for bit in range(8 * len(SMALL)):
            with pytest.raises(SnapshotUnusable, match="a-snapshot was altered or cut short"):
                decrypt(flipped(SMALL, bit))

    def test_also_in_a_head_whose_check_is_made_to_fit(self) -> None:
        for bit in range(8 * 49):
            with pytest.raises((SnapshotUnusable, WrongKey, NewerFormat)):
                decrypt(with_fitting_check(flipped(SMALL, bit)))

    @given(st.integers(0, 8 * len(STORED) - 1), cuts)
    def test_also_in_one_of_many_chunks(self, bit: int, read: list[int]) -> None:
        with pytest.raises(SnapshotUnusable):
            decrypt(flipped(STORED, bit), cuts=read)

    def test_no_chunk_that_was_altered_is_given(self) -> None:
        decryption = CIPHER.decryption(HOME, "a-snapshot")
        assert decryption.update(STORED[: HEAD + STORED_CHUNK + 1]) == LONG[:CHUNK]
        with pytest.raises(SnapshotUnusable):
            decryption.update(flipped(STORED, 8 * (HEAD + STORED_CHUNK + 5))[HEAD + STORED_CHUNK + 1 :])

    def test_a_small_one_cut_off_anywhere_is_noticed(self) -> None:
        for length in range(len(SMALL)):
            with pytest.raises(SnapshotUnusable):
                decrypt(SMALL[:length])

    @given(st.integers(0, len(STORED) - 1) | st.builds(lambda n: HEAD + n * STORED_CHUNK, st.integers(0, 3)), cuts)
    def test_a_long_one_cut_off_anywhere_is_noticed(self, length: int, read: list[int]) -> None:
        with pytest.raises(SnapshotUnusable):
            decrypt(STORED[:length], cuts=read)

    @given(st.binary(min_size=1, max_size=40))
    def test_what_was_added_is_noticed(self, more: bytes) -> None:
        for longer in (STORED + more, SMALL + more, encrypt(b"") + more):
            with pytest.raises(SnapshotUnusable):
                decrypt(longer)

    @pytest.mark.parametrize("length", [4 * CHUNK, len(LONG)], ids=["whole chunks", "a shorter last one"])
    def test_chunks_that_changed_places_are_missing_or_come_twice_are_noticed(self, length: int) -> None:
        stored = encrypt((LONG * 2)[:length])
        head, chunks = stored[:HEAD], [stored[at : at + STORED_CHUNK] for at in range(HEAD, len(stored), STORED_CHUNK)]
        count = len(chunks)
        for order in [
            *([*range(at), at + 1, at, *range(at + 2, count)] for at in range(count - 1)),
            *([*range(at), *range(at + 1, count)] for at in range(count)),
            *([*range(at), at, *range(at, count)] for at in range(count)),
        ]:
            with pytest.raises(SnapshotUnusable):
                decrypt(head + b"".join(chunks[index] for index in order))

    def test_a_chunk_of_another_snapshot_is_noticed(self) -> None:
        other = encrypt(LONG[::-1], salt=SALT[::-1])
        for at in range(HEAD, len(STORED), STORED_CHUNK):
            with pytest.raises(SnapshotUnusable):
                decrypt(STORED[:at] + other[at : at + STORED_CHUNK] + STORED[at + STORED_CHUNK :])

    @pytest.mark.parametrize("place", [Place("todo", "other"), Place("other", "default"), Place("tod", "odefault")], ids=str)
    def test_one_from_another_partition_or_application_is_noticed(self, place: Place) -> None:
        with pytest.raises(SnapshotUnusable, match="in the place of another"):
            decrypt(encrypt(LONG, place=place))

    @given(st.binary(max_size=200))
    def test_noise_is_noticed(self, noise: bytes) -> None:
        for stored in (noise, SMALL[:HEAD] + noise):
            with pytest.raises(SnapshotUnusable):
                decrypt(stored)


class TestKeys:
    @pytest.mark.parametrize(
        "other", [RemoteSecret(key=KEY[::-1]).snapshot_cipher(REMOTE), RemoteSecret(key=KEY).snapshot_cipher("another")]
    )
    def test_another_key_or_another_remotes_is_told_as_such(self, other: SnapshotCipher) -> None:
        with pytest.raises(WrongKey, match="a-snapshot was encrypted with another key or passphrase") as caught:
            decrypt(STORED, cipher=other)
        assert caught.value.hint

    def test_the_key_is_what_counts_and_not_what_it_is_called(self) -> None:
        forged = SnapshotCipher(CIPHER.key_id, bytes(32))
        with pytest.raises(SnapshotUnusable):
            decrypt(STORED, cipher=forged)

    def test_a_plain_one_is_told_as_such(self) -> None:
        with pytest.raises(WrongKey, match="a-snapshot is not encrypted"):
            decrypt(b"SQLite format 3\0" + bytes(4080))

    def test_a_newer_way_to_encrypt_says_to_upgrade(self) -> None:
        with pytest.raises(NewerFormat, match="in the way 2"):
            decrypt(with_fitting_check(SMALL[:8] + b"\x02" + SMALL[9:]))

    def test_nothing_shows_a_key(self) -> None:
        assert "_key=" not in repr(CIPHER)


GOLDEN = (
    "6c736e702d656e6301c85c199df2869847000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f38"
    "44f811df45f2d1da9ab4cfac8e9a4c2bc7e0f3742251dc1072de2d58e61c574f651e"
)
GOLDEN_LONG = "3d4c799a5bb80a3f0f3f885640949fcf4280502a0d84fa4b7302691995ac7bf8"
