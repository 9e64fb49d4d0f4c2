"""The error tree. Every error that Redline raises on purpose is one of these.

    Fault
    ├── ConfigFault        the user's configuration is wrong; names the field, the value, the fix
    ├── RecordInvalid      a record cannot be read: to the dead-letter topic, never retried
    ├── PriceMissing       no price is in effect; an error that is seen, never $0
    ├── Backpressure       the sink is full: pause the source, retry
    ├── DeliveryFailed     an outbound message did not arrive; says whether a retry can help
    ├── SignatureInvalid   a webhook was not signed by who it claims to be from, or too long ago
    ├── AddressInUse       a port is taken; names the component, the address and the setting
    └── ComponentFailed    a child process did not start or died; names it and its log

This file refuses to log, to translate errors of libraries, or to decide on retries.
"""

from __future__ import annotations


class Fault(Exception):
    """Base of every deliberate error; its text says what to do."""


class ConfigFault(Fault):
    """A setting is wrong. ``field`` is its dotted path, ``fix`` is what to do about it."""

    def __init__(self, field: str, value: object, problem: str, fix: str) -> None:
        super().__init__(f"{field} = {value!r}: {problem}. Fix: {fix}.")
        self.field = field
        self.value = value
        self.problem = problem
        self.fix = fix


class RecordInvalid(Fault):
    """Bytes that are not the record they claim to be. Dead-letter them; never retry."""


class PriceMissing(Fault):
    """No price row is in effect for this SKU at this instant."""


class Backpressure(Fault):
    """The next step cannot take more now. Pause the source and offer the same record again."""


class DeliveryFailed(Fault):
    """An outbound message did not arrive. ``recoverable`` says whether a retry can help."""

    def __init__(self, reason: str, *, recoverable: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.recoverable = recoverable


class SignatureInvalid(Fault):
    """A webhook whose signature or timestamp does not hold. Answer 401; do nothing."""


class AddressInUse(Fault):
    """A port that a component needs is taken."""

    def __init__(self, component: str, host: str, port: int, setting: str) -> None:
        super().__init__(
            f"{component}: {host}:{port} is already in use. "
            f"Fix: stop what listens there, or set {setting} to a free port."
        )
        self.component = component
        self.port = port
        self.setting = setting


class ComponentFailed(Fault):
    """A supervised component did not become ready or kept dying."""
