"""Composition of the log sources: which directories, which pattern, read how."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from collectors.directories import source_directories
from collectors.request_log import Translate
from collectors.sources.mapping import load_mapping
from collectors.sources.translate import translation
from redline.settings import CollectorSettings, LogSource


def open_sources(
    settings: CollectorSettings, taken: Iterable[Path]
) -> tuple[list[tuple[Path, str]], dict[str, Translate]]:
    """What the tailer has to watch, and how it reads what is in there.

    Raises:
        ConfigFault: a directory or a mapping is wrong.
    """
    paths = source_directories(settings, taken)
    both = list(zip(paths, settings.log_sources, strict=True))
    watched = [(path, source.pattern) for path, source in both]
    return watched, {str(path): _translation(source) for path, source in both}


def _translation(source: LogSource) -> Translate:
    fields = ("instance", "model", "version", "region", "tenant")
    fixed = {field: str(getattr(source, field)) for field in fields}
    if source.precision != "unknown":
        fixed["precision"] = source.precision
    return translation(load_mapping(source.mapping), fixed)
