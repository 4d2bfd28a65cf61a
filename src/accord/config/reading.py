"""From a YAML file and dotted flags to checked settings, with errors that say where."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from accord.config.presets import over_defaults
from accord.errors import ConfigError

S = TypeVar("S", bound=BaseModel)


def read_config(schema: type[S], path: Path | None = None, flags: Sequence[str] = ()) -> S:
    """Build `schema` from a YAML file and flags such as `--kl.coef 0.1` or `--strict`.

    Raises ConfigError with the file and line (or the flag) of the first setting that is wrong.
    """
    values: dict[str, Any] = {}
    lines: dict[str, int] = {}
    if path is not None:
        values, lines = _read_yaml(path)
    flag_values = _parse_flags(flags)
    for dotted, value in flag_values.items():
        _set(values, dotted, value)
    try:
        return schema.model_validate(over_defaults(schema, values))
    except ValidationError as error:
        raise ConfigError(_explain(error, schema, path, lines, flag_values)) from None


def with_overrides(schema: type[S], section: str, values: Mapping[str, Any], **fixed: Any) -> S:
    """A stage's settings from a section of a run file, with what the loop itself decides put in."""
    clash = sorted(set(values) & set(fixed))
    if clash:
        raise ConfigError(f"{section}.{clash[0]} is decided by the loop and cannot be set; remove it")
    try:
        return schema.model_validate(over_defaults(schema, {**values, **fixed}))
    except ValidationError as error:
        raise ConfigError(_explain(error, schema, None, {}, {}, prefix=f"{section}.")) from None


def _read_yaml(path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; give an existing YAML file to --config") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from None
    try:
        values = yaml.safe_load(text)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise ConfigError(f"{where}: not valid YAML ({getattr(error, 'problem', error)})") from None
    if values is None:
        return {}, {}
    if not isinstance(values, dict):
        raise ConfigError(
            f"{path}:1: expected settings as `key: value` lines, found a {type(values).__name__}"
        )
    lines: dict[str, int] = {}
    _collect_lines(node, "", lines)
    return values, lines


def _collect_lines(node: Any, prefix: str, lines: dict[str, int]) -> None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            dotted = f"{prefix}{key.value}"
            lines[dotted] = key.start_mark.line + 1
            _collect_lines(value, f"{dotted}.", lines)


def _parse_flags(flags: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    rest = list(flags)
    while rest:
        flag = rest.pop(0)
        if not flag.startswith("--") or flag == "--":
            raise ConfigError(f"unexpected argument {flag!r}; settings are given as --name VALUE")
        name, equals, value = flag[2:].partition("=")
        if not equals:
            value = rest.pop(0) if rest and not _is_flag(rest[0]) else "true"
        found[name.replace("-", "_")] = yaml.safe_load(value) if value else ""
        if isinstance(found[name.replace("-", "_")], str):
            found[name.replace("-", "_")] = _number(value)
    return found


def _is_flag(text: str) -> bool:
    return text.startswith("--") and len(text) > 2


def _number(text: str) -> Any:
    """YAML 1.1 reads 1e-4 as text; people mean a number."""
    try:
        return float(text)
    except ValueError:
        return text


def _set(values: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    for parent in parents:
        nested = values.setdefault(parent, {})
        if not isinstance(nested, dict):
            raise ConfigError(f"--{dotted}: {parent} is a single value, not a section")
        values = nested
    values[last] = value


def _explain(
    error: ValidationError,
    schema: type[BaseModel],
    path: Path | None,
    lines: Mapping[str, int],
    flags: Mapping[str, Any],
    prefix: str = "",
) -> str:
    # An unknown key is the likelier slip when another seems to be missing.
    errors = error.errors()
    first = next((e for e in errors if e["type"] == "extra_forbidden"), errors[0])
    dotted = ".".join(str(part) for part in first["loc"])
    where = f"--{dotted}" if dotted in flags else prefix + dotted
    if path is not None and dotted in lines and dotted not in flags:
        where = f"{path}:{lines[dotted]}: {dotted}"
    if first["type"] == "extra_forbidden":
        known = _known_keys(schema, [str(p) for p in first["loc"][:-1]])
        close = difflib.get_close_matches(str(first["loc"][-1]), known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known here: {', '.join(sorted(known))}"
        return f"{where}: unknown setting; {hint}"
    if first["type"] == "missing":
        return f"{prefix}{dotted} is missing; give it as --{dotted} VALUE or in the YAML file"
    return f"{where}: {first['msg'].lower()}, got {first['input']!r}"


def _known_keys(schema: type[BaseModel], parents: Sequence[str]) -> list[str]:
    for parent in parents:
        field = schema.model_fields.get(parent)
        if field is None:
            return []
        options = [field.annotation, *get_args(field.annotation)]
        nested = [o for o in options if isinstance(o, type) and issubclass(o, BaseModel)]
        if not nested:
            return []
        schema = nested[0]
    return list(schema.model_fields)


def _shown(value: object) -> str:
    """On one line; text of nothing but white space in quotes, else nobody would see it."""
    return repr(value) if isinstance(value, str) and not value.strip() else str(value)


def describe(schema: type[BaseModel], prefix: str = "") -> list[tuple[str, str, str, str]]:
    """(name, type, default, description) of every setting, nested ones dotted, for `--help`."""
    rows: list[tuple[str, str, str, str]] = []
    for name, field in schema.model_fields.items():
        options = [field.annotation, *get_args(field.annotation)]
        nested = [o for o in options if isinstance(o, type) and issubclass(o, BaseModel)]
        if nested:
            default = field.get_default(call_default_factory=True)
            rows += [
                (n, t, str(getattr(default, n.rsplit(".", 1)[-1], d)) if default is not None else d, text)
                for n, t, d, text in describe(nested[0], f"{prefix}{name}.")
            ]
            continue
        required = field.is_required()
        default_text = "required" if required else _shown(field.get_default(call_default_factory=True))
        kind = getattr(field.annotation, "__name__", str(field.annotation))
        if get_origin(field.annotation) is Literal:
            kind = " | ".join(map(str, get_args(field.annotation)))
        rows.append((prefix + name, kind, default_text, field.description or ""))
    return rows
