"""Every message survives the wire in every version, and damaged bytes are refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedded.broker import wire
from embedded.broker.api import Api
from embedded.broker.api_admin import ADMIN_APIS
from embedded.broker.api_data import DATA_APIS, FETCH
from embedded.broker.api_groups import GROUP_APIS
from embedded.broker.wire import Array, Cursor, Fields, Malformed, Primitive

APIS = (*DATA_APIS, *GROUP_APIS, *ADMIN_APIS)
TEXT = st.text(max_size=20)


def integers(bits: int) -> st.SearchStrategy[int]:
    return st.integers(-(1 << (bits - 1)), (1 << (bits - 1)) - 1)


SCALARS: dict[str, st.SearchStrategy[Any]] = {
    wire.INT8.name: integers(8),
    wire.INT16.name: integers(16),
    wire.INT32.name: integers(32),
    wire.INT64.name: integers(64),
    wire.BOOL.name: st.booleans(),
    wire.STRING.name: TEXT,
    wire.NULLABLE_STRING.name: st.none() | TEXT,
    wire.BYTES.name: st.binary(max_size=40),
    wire.NULLABLE_BYTES.name: st.none() | st.binary(max_size=40),
}


def values_of(kind: Primitive | Array | Fields, version: int) -> st.SearchStrategy[Any]:
    """Everything that the wire can carry for ``kind`` in ``version``."""
    if isinstance(kind, Primitive):
        return SCALARS[kind.name]
    if isinstance(kind, Array):
        several = st.lists(values_of(kind.of, version), max_size=3)
        return st.none() | several if kind.nullable else several
    return st.fixed_dictionaries(
        {
            field.name: values_of(field.kind, version)
            for field in kind
            if field.since <= version <= field.until
        }
    )


VERSIONS = [(api, version) for api in APIS for version in range(api.first, api.last + 1)]


@pytest.mark.parametrize(("api", "version"), VERSIONS, ids=lambda v: getattr(v, "name", f"v{v}"))
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_requests_and_responses_round_trip(api: Api, version: int, data: st.DataObject) -> None:
    request = data.draw(values_of(api.request, version))
    assert api.read_request(version, Cursor(api.write_request(version, request))) == request
    response = data.draw(values_of(api.response, version))
    written = b"".join(api.write_response(version, response))
    cursor = Cursor(written)
    assert api.read_response(version, cursor) == response
    assert cursor.remaining == 0


@given(data=st.data())
def test_a_cut_request_is_malformed(data: st.DataObject) -> None:
    api, version = data.draw(st.sampled_from(VERSIONS))
    whole = api.write_request(version, data.draw(values_of(api.request, version)))
    if whole:
        cut = data.draw(st.integers(0, len(whole) - 1))
        with pytest.raises(Malformed):
            api.read_request(version, Cursor(whole[:cut]))
    with pytest.raises(Malformed):
        api.read_request(version, Cursor(whole + b"\x00"))


@given(data=st.data(), noise=st.binary(max_size=200))
def test_noise_is_read_or_malformed_and_nothing_else(data: st.DataObject, noise: bytes) -> None:
    api, version = data.draw(st.sampled_from(VERSIONS))
    try:
        request = api.read_request(version, Cursor(noise))
    except Malformed:
        return
    assert api.read_request(version, Cursor(api.write_request(version, request))) == request


def test_a_huge_count_is_refused_before_it_is_believed() -> None:
    announced = b"\xff" * 17 + b"\x7f\xff\xff\xff"
    with pytest.raises(Malformed, match="elements announced"):
        FETCH.read_request(4, Cursor(announced))


def test_only_versions_before_the_flexible_ones_are_offered() -> None:
    # First flexible version of each API, from the protocol guide.
    flexible = {0: 9, 1: 12, 2: 6, 3: 9, 8: 8, 9: 6, 10: 3, 11: 6, 12: 4, 13: 4, 14: 4, 15: 5}
    flexible |= {16: 3, 18: 3, 19: 5, 20: 4, 21: 2, 22: 2, 23: 4, 32: 4, 33: 2, 37: 2, 42: 2, 44: 1}
    for api in APIS:
        assert api.last < flexible.get(api.key, 1 << 15), api.name
    assert len({api.key for api in APIS}) == len(APIS)
    transactions = {24, 25, 26, 28}
    assert not transactions & {api.key for api in APIS}
