"""What an API is: its key, the versions offered, its request and its response.

``Api`` compiles both directions once per version. The file refuses to say which APIs exist:
``api_data``, ``api_groups`` and ``api_admin`` do, and ``catalogue`` lists them.
"""

from __future__ import annotations

from functools import cached_property

from embedded.broker.wire import (
    INT8,
    INT16,
    INT32,
    NULLABLE_STRING,
    STRING,
    Array,
    Chunks,
    Cursor,
    Field,
    Fields,
    Malformed,
    Message,
    Read,
    Write,
    compile_reader,
    compile_writer,
)

# Field shapes that many messages share.
ERROR_CODE = Field("error_code", INT16)
ERROR_MESSAGE = Field("error_message", NULLABLE_STRING)
INDEX = Field("index", INT32)
NAME = Field("name", STRING)
GROUP_ID = Field("group_id", STRING)
MEMBER_ID = Field("member_id", STRING)
GENERATION_ID = Field("generation_id", INT32)
RESOURCE_TYPE = Field("resource_type", INT8)
RESOURCE_NAME = Field("resource_name", STRING)
TIMEOUT_MS = Field("timeout_ms", INT32)


def throttle_since(version: int) -> Field:
    """``throttle_time_ms``, which responses carry from ``version`` on (always 0 here)."""
    return Field("throttle_time_ms", INT32, since=version)


def topics_of(*partition_fields: Field) -> Field:
    """The usual nesting: topics by name, each with its partitions."""
    partitions = Field("partitions", Array(partition_fields))
    return Field("topics", Array((NAME, partitions)))


class Api:
    """One request and its response, in versions ``first`` to ``last``."""

    def __init__(
        self, key: int, name: str, versions: tuple[int, int], *, request: Fields, response: Fields
    ) -> None:
        self.key = key
        self.name = name
        self.first, self.last = versions
        self.request = request
        self.response = response

    @cached_property
    def _codecs(self) -> dict[int, tuple[Read, Write, Write, Read]]:
        return {
            version: (
                compile_reader(self.request, version),
                compile_writer(self.response, version),
                compile_writer(self.request, version),
                compile_reader(self.response, version),
            )
            for version in range(self.first, self.last + 1)
        }

    def offers(self, version: int) -> bool:
        """Whether this broker speaks ``version`` of the API."""
        return self.first <= version <= self.last

    def read_request(self, version: int, cursor: Cursor) -> Message:
        """The request's fields. Raises ``Malformed``, also when bytes are left over."""
        message: Message = self._codecs[version][0](cursor)
        if cursor.remaining:
            raise Malformed(f"{self.name} v{version}: {cursor.remaining} bytes too many")
        return message

    def write_response(self, version: int, message: Message) -> Chunks:
        """The response's bytes, in pieces; record batches are not copied."""
        chunks: Chunks = []
        self._codecs[version][1](chunks, message)
        return chunks

    def write_request(self, version: int, message: Message) -> bytes:
        """The request's bytes, as a client sends them (tests speak the protocol with it)."""
        chunks: Chunks = []
        self._codecs[version][2](chunks, message)
        return b"".join(chunks)

    def read_response(self, version: int, cursor: Cursor) -> Message:
        """A response's fields, as a client reads them."""
        message: Message = self._codecs[version][3](cursor)
        return message
