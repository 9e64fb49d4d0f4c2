"""Bodies in and out of compression, and bombs that do not go off."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedded.store.compression import choose_encoding, compress, decompress
from embedded.store.refusal import StoreRefusal

ENCODINGS = ["gzip", "deflate", "zstd", "lz4"]


@given(st.binary(max_size=4000), st.sampled_from(ENCODINGS))
def test_what_goes_in_comes_out(body: bytes, encoding: str) -> None:
    assert decompress(compress(body, encoding), encoding, bytes_max=4000) == body


@given(st.binary(max_size=400), st.binary(max_size=400), st.sampled_from(["gzip", "zstd", "lz4"]))
def test_frames_behind_each_other_are_all_read(first: bytes, second: bytes, encoding: str) -> None:
    body = compress(first, encoding) + compress(second, encoding)
    assert decompress(body, encoding, bytes_max=800) == first + second


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_bomb_is_refused_at_the_limit(encoding: str) -> None:
    bomb = compress(bytes(3_000_000), encoding)
    with pytest.raises(StoreRefusal) as caught:
        decompress(bomb, encoding, bytes_max=2_999_999)
    assert caught.value.http_status == 413
    assert len(decompress(bomb, encoding, bytes_max=3_000_000)) == 3_000_000


@pytest.mark.parametrize("encoding", [*ENCODINGS, "br"])
def test_garbage_and_unknown_encodings_are_refused(encoding: str) -> None:
    with pytest.raises(StoreRefusal) as caught:
        decompress(b"\x00garbage", encoding, bytes_max=100)
    assert caught.value.http_status == 400


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_cut_body_is_refused_and_not_taken_for_a_short_one(encoding: str) -> None:
    whole = compress(bytes(range(256)) * 40, encoding)
    with pytest.raises(StoreRefusal):
        decompress(whole[: len(whole) // 2], encoding, bytes_max=1_000_000)


@pytest.mark.parametrize(
    ("accept", "encoding"),
    [
        ("gzip, deflate, br", "gzip"),
        ("lz4;q=0.5, zstd", "lz4"),
        ("zstd, lz4;q=0", "zstd"),
        ("br", ""),
        ("", ""),
    ],
)
def test_the_fastest_accepted_encoding_is_taken(accept: str, encoding: str) -> None:
    assert choose_encoding(accept) == encoding
