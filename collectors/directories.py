"""Finds the log files: ``<directory>/*`` and ``<directory>/<instance>/*``, by the name pattern.

A listing that was taken while files were being renamed may miss one or show it twice, so a listing
that differs from the last one is taken again until two in a row agree. It refuses to open files.
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterable
from pathlib import Path

from collectors.rotation import Listed, parse_name
from redline.errors import ConfigFault
from redline.settings import CollectorSettings

# Log name (its path without the rotation number) to its files.
Listing = dict[str, tuple[Listed, ...]]

_LOOKS_MAX = 5


def log_directories(settings: CollectorSettings, data_dir: Path) -> list[Path]:
    """The directories to watch, real paths, each once. The default one is created.

    Raises:
        ConfigFault: a directory that the user named is missing or cannot be read.
    """
    if not settings.log_directories:
        default = data_dir / "logs"
        default.mkdir(parents=True, exist_ok=True)
        return [default.resolve()]
    for number, path in enumerate(settings.log_directories):
        _check_directory(f"collectors.log_directories.{number}", path)
    return list(dict.fromkeys(path.resolve() for path in settings.log_directories))


def source_directories(settings: CollectorSettings, taken: Iterable[Path]) -> list[Path]:
    """The directories of ``log_sources``, real paths, in order.

    Raises:
        ConfigFault: one is missing, cannot be read, or its lines would be read by two.
    """
    others = list(taken)
    found: list[Path] = []
    for number, source in enumerate(settings.log_sources):
        field = f"collectors.log_sources.{number}.directory"
        _check_directory(field, source.directory)
        path = source.directory.resolve()
        for other in others:
            if path.is_relative_to(other) or other.is_relative_to(path):
                fix = "give each source a directory of its own"
                raise ConfigFault(field, str(path), f"{other} is read as well", fix)
        found.append(path)
        others.append(path)
    return found


def _check_directory(field: str, path: Path) -> None:
    if not path.exists():
        fix = f"create it (mkdir -p {path}) or correct the path"
        raise ConfigFault(field, str(path), "the directory does not exist", fix)
    if not path.is_dir():
        raise ConfigFault(field, str(path), "not a directory", "name the directory of the logs")
    if not os.access(path, os.R_OK | os.X_OK):
        fix = "let this user read it (chmod a+rx) or run as one who can"
        raise ConfigFault(field, str(path), "the directory cannot be read", fix)


class DirectoryScan:
    """Lists the log files again and again. ``errors`` holds what could not be listed, and why.

    ``others`` are directories with a pattern of their own.
    """

    def __init__(
        self,
        directories: Iterable[Path],
        pattern: str,
        others: Iterable[tuple[Path, str]] = (),
    ) -> None:
        watched = [*((path, pattern) for path in directories), *others]
        self._watched = [(str(path), pattern) for path, pattern in watched]
        self._last: Listing = {}
        self._steady: Listing = {}  # of each log, what two looks in a row agreed on
        self.errors: dict[str, str] = {}

    def list_files(self) -> Listing:
        """All log files, by log. Logs of a directory that cannot be listed keep their files.

        A log whose files are renamed faster than two looks agree keeps its last steady listing: in
        a listing that misses a file, a newer one would be read before it.
        """
        listing = self._look()
        for _ in range(_LOOKS_MAX):
            if _names(listing) == _names(self._last):
                break
            self._last, listing = listing, self._look()
        before, now = _names(self._last), _names(listing)
        self._last = listing
        steady = {}
        for name, files in listing.items():
            if now[name] == before.get(name):
                steady[name] = files
            elif name in self._steady:
                steady[name] = self._steady[name]
        self._steady = steady
        return steady

    def _look(self) -> Listing:
        self.errors = {}
        found: dict[str, list[Listed]] = {}
        for directory, pattern in self._watched:
            for folder in self._list_folder(directory, pattern, found):
                self._list_folder(folder, pattern, found)
        listing = {name: _without_copies(files) for name, files in found.items()}
        for name, files in self._last.items():
            if name not in listing and any(name.startswith(path + os.sep) for path in self.errors):
                listing[name] = files
        return listing

    def _list_folder(self, folder: str, pattern: str, found: dict[str, list[Listed]]) -> list[str]:
        """Add the log files of ``folder`` to ``found``; return its sub-folders."""
        folders: list[str] = []
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.is_dir():
                        folders.append(entry.path)
                    elif fnmatch.fnmatchcase(entry.name, pattern):
                        self._add_file(folder, entry, found)
        except OSError as error:
            self.errors[folder] = str(error)
        return folders

    def _add_file(
        self, folder: str, entry: os.DirEntry[str], found: dict[str, list[Listed]]
    ) -> None:
        parsed = parse_name(entry.name)
        if parsed is None or not entry.is_file():
            return
        try:
            status = entry.stat()
        except FileNotFoundError:  # renamed since it was listed; the next look shows it
            return
        base, number = parsed
        listed = Listed(entry.path, status.st_ino, status.st_size, number)
        found.setdefault(os.path.join(folder, base), []).append(listed)  # noqa: PTH118 - hot path


def _without_copies(files: list[Listed]) -> tuple[Listed, ...]:
    """``files`` without those that gzip is still writing: it deletes the original at the end."""
    paths = {file.path for file in files}
    return tuple(
        file
        for file in files
        if not (file.path.endswith(".gz") and file.path.removesuffix(".gz") in paths)
    )


def _names(listing: Listing) -> dict[str, set[tuple[str, int]]]:
    return {log: {(file.path, file.inode) for file in files} for log, files in listing.items()}
