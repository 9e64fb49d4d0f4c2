"""Sessions: a connection of the engine each, so that temporary tables and SET outlive a request.

Thread-safe, bounded in number and in age. This file refuses to run queries and to read a clock.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from embedded.store.connection import EngineConnection
from embedded.store.refusal import StoreRefusal
from embedded.store.request import SessionRequest


@dataclass(slots=True)
class Session:
    """A session's connection, and until when it is kept."""

    connection: EngineConnection
    expires_s: float
    busy: bool = True


class SessionTable:
    """Sessions by id. As on a server, a session serves one request at a time."""

    def __init__(self, open_connection: Callable[[], EngineConnection], sessions_max: int) -> None:
        self._open = open_connection
        self._max = sessions_max
        self._lock = threading.Lock()
        self._sessions: dict[str, Session] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def take(self, wanted: SessionRequest, now_s: float) -> Session:
        """The session, marked busy; opened if it does not exist yet.

        Raises:
            StoreRefusal: 373 when another request uses it, 372 when ``session_check=1`` and there
                is none, 202 when all sessions are busy and there is no room for one more.
        """
        with self._lock:
            self._drop_expired(now_s)
            session = self._sessions.get(wanted.id)
            if session is not None and session.busy:
                raise StoreRefusal(
                    373, "SESSION_IS_LOCKED", "Session is locked by a concurrent client"
                )
            if session is None:
                if wanted.must_exist:
                    raise StoreRefusal(372, "SESSION_NOT_FOUND", "Session not found")
                self._make_room()
                session = Session(self._open(), now_s)
                self._sessions[wanted.id] = session
            session.busy = True
            session.expires_s = now_s + wanted.timeout_s
            return session

    def give_back(self, wanted: SessionRequest, now_s: float) -> None:
        """End a request on the session; it is closed if that was asked for."""
        with self._lock:
            session = self._sessions[wanted.id]
            session.busy = False
            session.expires_s = now_s + wanted.timeout_s
            if wanted.close_after:
                self._sessions.pop(wanted.id).connection.close()

    def close(self) -> None:
        """Close every session that is not busy."""
        with self._lock:
            for name in [name for name, session in self._sessions.items() if not session.busy]:
                self._sessions.pop(name).connection.close()

    def _drop_expired(self, now_s: float) -> None:
        for name, session in list(self._sessions.items()):
            if not session.busy and session.expires_s <= now_s:
                self._sessions.pop(name).connection.close()

    def _make_room(self) -> None:
        """Close the idle session that would expire first, if there are too many."""
        if len(self._sessions) < self._max:
            return
        idle = [(s.expires_s, name) for name, s in self._sessions.items() if not s.busy]
        if not idle:
            raise StoreRefusal(
                202, "TOO_MANY_SIMULTANEOUS_QUERIES", f"All {self._max} sessions are in use"
            )
        self._sessions.pop(min(idle)[1]).connection.close()
