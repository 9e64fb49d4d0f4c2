"""Late requests on a closed window: pairs of lines that sum to zero, and the requests' own rows.

The closed lines stand for ever. What a late request is given is taken out of the window's idle
money, under an id that names the message, so that a replay makes the same lines again.
"""

from __future__ import annotations

from redline.records import LedgerEntry, RequestCost, Series
from streams.windows import (
    FAILED,
    METHOD,
    METHOD_FROM_ARRIVAL,
    QUEUE_KNOWN,
    WINDOW_US,
    Residences,
    SettledWindow,
    read_ids,
)


def correction_lines(
    instance: str,
    window: SettledWindow,
    late: Residences,
    given: list[tuple[int, int]],
    correction_id: str,
) -> tuple[list[LedgerEntry], list[RequestCost]]:
    """One line per series, one that takes their sum out of idle, and the requests' own rows."""
    by_series: dict[tuple[Series, bool], list[tuple[int, int]]] = {}
    for at, nusd in given:
        series = late.series[int(late.series_of[at])]
        by_series.setdefault((series, bool(late.flags[at] & FAILED)), []).append((at, nusd))

    def entry(**fields: object) -> LedgerEntry:
        return LedgerEntry(
            gpu_group=window.gpu_group,
            instance=instance,
            window_start_us=window.start_us,
            window_end_us=window.start_us + WINDOW_US,
            kind="correction",
            status="correction",
            revision=(window.last_offset + 1) << 1 | 1,
            bill_nusd=window.bill_nusd or 0,
            correction_id=correction_id,
            **fields,  # type: ignore[arg-type]
        )

    lines, costs, taken = [], [], 0
    ended = late.ends_in(window.start_us)
    request_ids = read_ids(late.request_ids)
    for (series, failed), members in sorted(by_series.items()):
        nusd = sum(part for _, part in members)
        known = all(late.flags[at] & QUEUE_KNOWN for at, _ in members)
        taken += nusd
        lines.append(
            entry(
                cost_nusd=nusd,
                requests=sum(1 for at, _ in members if ended[at]),
                method=METHOD if known else METHOD_FROM_ARRIVAL,
                reason="failed" if failed else "late",
                **series._asdict(),
            )
        )
        costs += [
            RequestCost(
                request_id=request_ids[at],
                instance=instance,
                window_start_us=window.start_us,
                cost_nusd=part,
                method=METHOD if late.flags[at] & QUEUE_KNOWN else METHOD_FROM_ARRIVAL,
                **series._asdict(),
            )
            for at, part in members
        ]
    if lines:
        lines.append(entry(cost_nusd=-taken, method=METHOD, reason="no_request"))
    return lines, costs
