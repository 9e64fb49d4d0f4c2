"""The chain notices whatever is done to it."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from alerting import audit
from alerting.state import AuditHead
from redline.records import AuditEntry


def chain(payloads: list[dict[str, str]]) -> list[AuditEntry]:
    head, entries = AuditHead(), []
    for number, payload in enumerate(payloads):
        head, entry = audit.append(head, "alerting", "event", payload, number)
        entries.append(entry)
    return entries


payload_lists = st.lists(
    st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3), min_size=2, max_size=8
)


@given(payload_lists, st.data())
def test_it_holds_until_anything_is_changed_removed_or_moved(
    payloads: list[dict[str, str]], data: st.DataObject
) -> None:
    entries = chain(payloads)
    assert audit.verify(entries) == ""
    assert audit.verify(entries[1:], AuditHead(seq=1, hash=entries[0].hash)) == ""
    at = data.draw(st.integers(0, len(entries) - 2))
    field, value = data.draw(
        st.sampled_from(
            [("payload", '{"x":1}'), ("actor", "eve"), ("event", "other"), ("ts_us", 10**15)]
        )
    )
    changed = [*entries]
    changed[at] = msgspec.structs.replace(entries[at], **{field: value})
    assert "was changed" in audit.verify(changed)
    assert audit.verify([*entries[:at], *entries[at + 1 :]]) != ""
    assert audit.verify([*entries[: at + 1], entries[at], *entries[at + 1 :]]) != ""
