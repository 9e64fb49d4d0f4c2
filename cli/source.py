"""``redline source check``: what a mapping makes of a log, before anything is collected."""

from __future__ import annotations

import json
from pathlib import Path

from collectors.lines import LINE_BYTES_MAX, Position, split
from collectors.request_log import WriterSequence, read_lines
from collectors.sources.mapping import load_mapping
from collectors.sources.translate import translation
from redline.codec import encode_json
from redline.errors import ConfigFault
from redline.records import DeadLetter, RequestRecord

READ_BYTES = 4 * 1024 * 1024


def run_source_check(mapping: str, log: Path, shown: int, fixed: dict[str, str]) -> int:
    """Print the first ``shown`` records and errors of ``log``; 1 if a line cannot be read.

    Raises:
        ConfigFault: the mapping is wrong or the log cannot be read.
    """
    translate = translation(load_mapping(mapping), fixed)
    try:
        with log.open("rb") as file:
            window = file.read(READ_BYTES)
    except OSError as error:
        raise ConfigFault("LOGFILE", str(log), str(error), "name a log that exists") from error
    _, lines = split(Position(), window, LINE_BYTES_MAX, ended=len(window) < READ_BYTES)
    _, reading = read_lines(WriterSequence(), lines, str(log), 0, translate=translate)
    found = [record for entry in reading.entries for record in entry.records]
    records = [record for record in found if isinstance(record, RequestRecord)]
    letters = [record for record in found if isinstance(record, DeadLetter)]
    for record in records[:shown]:
        print(json.dumps(json.loads(encode_json(record)), indent=2, ensure_ascii=False))
    for letter in letters[:shown]:
        print(f"{log}: byte {letter.offset}: {letter.reason}")
    passed_over = len(lines) - len(found)
    print(f"{len(records)} requests, {len(letters)} errors, {passed_over} lines about other things")
    return 1 if letters or not records else 0
