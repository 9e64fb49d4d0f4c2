"""A mapping file: how a line of a JSON access log says what a RequestRecord says.

Unknown keys, fields that a record does not have, and units that do not fit are refused when the
file is loaded, with the field and the line. This file refuses to read log lines.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from redline.errors import ConfigFault
from redline.records import RequestRecord

SHIPPED = Path(__file__).parent
INSTANTS = frozenset({"ts_arrival_us", "ts_end_us", "ts_first_token_us"})
# seq counts the lines; tokens_known follows from which tokens a line has; the third is the writer's
TARGETS = (frozenset(RequestRecord.__struct_fields__) | INSTANTS) - {
    "seq",
    "tokens_known",
    "dropped_before",
}
Scalar = bool | int | float | str


class Part(BaseModel):
    """Base: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class FieldRule(Part):
    """Where the value of one field is. ``path`` may be several: the first that is there counts.

    ``part`` takes the host and port out of a URL; ``pick`` one of several values in a string, as
    nginx writes them after a retry; ``values`` replaces values that it names.
    """

    path: str | list[str] = []
    constant: Scalar | None = None
    default: Scalar | None = None
    unit: Literal["s", "ms", "us", "ns", "rfc3339"] | None = None
    part: Literal["host"] | None = None
    pick: Literal["first", "last", "sum"] | None = None
    values: dict[Scalar, Scalar] = {}

    @model_validator(mode="after")
    def _has_a_source(self) -> FieldRule:
        if bool(self.paths) == (self.constant is not None):
            raise ValueError("give either path or constant")
        return self

    @property
    def paths(self) -> list[str]:
        """All paths, in the order in which they are tried."""
        return [self.path] if isinstance(self.path, str) else self.path


class Condition(Part):
    """Lines are requests only if the value at ``path`` is one of ``one_of``, or none of ``not_in``.

    Text matches by its beginning, so that a path matches with its query.
    """

    path: str
    one_of: list[Scalar] = []
    not_in: list[Scalar] = []


class Mapping(Part):
    """One mapping file. ``absent`` are texts that mean that a value is not there."""

    version: Literal[1]
    name: str = Field(min_length=1)
    description: str = ""
    absent: list[str] = ["", "-"]
    only: list[Condition] = []
    fields: dict[str, FieldRule]

    @model_validator(mode="after")
    def _fields_fit(self) -> Mapping:
        for field, rule in self.fields.items():
            if field not in TARGETS:
                raise ValueError(f"{field} is no field; use one of: {', '.join(sorted(TARGETS))}")
            timed = field.endswith("_us") and rule.constant is None
            if timed and rule.unit is None:
                raise ValueError(f"{field} needs a unit: s, ms, us, ns or rfc3339")
            if rule.unit is not None and not timed:
                raise ValueError(f"{field} is not a time and takes no unit")
            if rule.unit == "rfc3339" and field not in INSTANTS:
                raise ValueError(f"{field} is a duration: its unit is s, ms, us or ns")
        instants = {"ts_arrival_us", "ts_end_us"} & set(self.fields)
        if not instants or ("e2e_us" not in self.fields and len(instants) == 1):
            raise ValueError("give two of ts_arrival_us, ts_end_us and e2e_us")
        if "request_id" not in self.fields:
            raise ValueError("request_id is missing")
        return self


def load_mapping(name: str) -> Mapping:
    """A shipped mapping by its name, or one of the user's by its path.

    Raises:
        ConfigFault: there is none, or it is wrong; the text names the field and the line.
    """
    shipped = SHIPPED / f"{name}.yaml"
    path = shipped if name.isidentifier() and shipped.is_file() else Path(name)
    try:
        text = path.read_text(encoding="utf-8")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        return Mapping.model_validate(yaml.safe_load(text))
    except (OSError, UnicodeDecodeError) as error:
        known = ", ".join(sorted(file.stem for file in SHIPPED.glob("*.yaml")))
        fix = f"name a file that can be read, or one of: {known}"
        raise ConfigFault("mapping", name, str(error), fix) from error
    except yaml.YAMLError as error:
        raise ConfigFault("mapping", name, f"not YAML: {error}", "correct the file") from error
    except ValidationError as error:
        found = error.errors(include_url=False)[0]
        field, line = _place(root, found["loc"], found["msg"])
        fix = f"correct {path.name}, see docs/sources.md"
        raise ConfigFault(
            f"{path.name}:{line} {field}".strip(), _short(found["input"]), found["msg"], fix
        ) from error


def _place(root: yaml.Node | None, location: tuple[int | str, ...], text: str) -> tuple[str, int]:
    """The dotted field and its line; a check of the whole names its field in ``text``."""
    node, line, walked = root, 1 if root is None else root.start_mark.line + 1, []
    named = text.removeprefix("Value error, ").split(" ")[0]
    for part in location or ("fields", named):
        found = _child(node, part)
        if found is None:
            break
        key, node = found
        line = key.start_mark.line + 1
        walked.append(str(part))
    return ".".join(walked or [str(part) for part in location]), line


def _child(node: yaml.Node | None, part: int | str) -> tuple[yaml.Node, yaml.Node] | None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == str(part):
                return key, value
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        return node.value[part], node.value[part]
    return None


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."
