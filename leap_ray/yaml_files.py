"""YAML as its users mean it: version 1.2's numbers and booleans, no key twice, one sentence for what is wrong.

PyYAML reads version 1.1: `3e-5` is a string, `010` is eight, `no` is false, and the second of two equal keys wins in silence.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, ClassVar

import yaml

from leap_ray.errors import UserError

_FLOAT = re.compile(
    r"""^(?:[-+]?(?:\d[\d_]*)\.[\d_]*(?:[eE][-+]?\d+)?
        |[-+]?\.\d[\d_]*(?:[eE][-+]?\d+)?
        |[-+]?\d[\d_]*[eE][-+]?\d+
        |[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$""",
    re.VERBOSE,
)
_INT = re.compile(r"^(?:[-+]?\d[\d_]*|0o[0-7_]+|0x[\da-fA-F_]+)$")
_BOOL = re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$")
_NULL = re.compile(r"^(?:~|null|Null|NULL|)$")
_RESOLVERS = (
    ("tag:yaml.org,2002:bool", _BOOL, "tTfF"),
    ("tag:yaml.org,2002:null", _NULL, ["~", "n", "N", ""]),
    ("tag:yaml.org,2002:int", _INT, "-+0123456789"),
    ("tag:yaml.org,2002:float", _FLOAT, "-+0123456789."),
    ("tag:yaml.org,2002:merge", re.compile("^<<$"), "<"),
)


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _error("a key must be a plain word", key)
            if key.value != "<<" and key.value in keys:
                raise _error(f"{key.value!r} stands twice (first in line {keys[key.value]})", key)
            keys[key.value] = key.start_mark.line + 1
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        text = self.construct_scalar(node).replace("_", "")
        if re.match(r"^[-+]?0\d", text):
            raise _error(f"{text} begins with a zero: write {int(text)}, or quote it", node)
        return int(text, 0)

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float | int:
        """`1e3`, without a point, is the integer it stands for, which every float takes too."""
        value = float(re.sub(r"_|\.(?=[in])", "", node.value.lower()))  # Python writes inf and nan without a point
        return int(value) if "." not in node.value and value.is_integer() else value


class _Dumper(yaml.SafeDumper):
    """Quotes just those strings that `_Loader` would read as something else."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}


for _tag, _pattern, _first in _RESOLVERS:
    _Loader.add_implicit_resolver(_tag, _pattern, list(_first))
    _Dumper.add_implicit_resolver(_tag, _pattern, list(_first))
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_yaml_float)


def read_yaml(path: Path, what: str) -> Any:
    """The file's plain values. Raises UserError naming `what`, the file, and the line that is wrong."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"{what} {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{what} {path} is not UTF-8 text (byte {error.start}): save it in that encoding") from None
    return parse_yaml(text, f"{what} {path}")


def parse_yaml(text: str, source: str) -> Any:
    """The plain values of YAML text. Raises UserError naming `source` and the line that is wrong."""
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise UserError(f"{source} is not YAML that can be used: {_sentence(error)}") from None
    except (RecursionError, ValueError) as error:
        raise UserError(f"{source} is not YAML that can be used: {error}") from None


def dump_yaml(value: Any) -> str:
    """Plain values as text that `parse_yaml` reads back as they are."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def _error(problem: str, node: yaml.Node) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


def _sentence(error: yaml.YAMLError) -> str:
    """One line out of PyYAML's several: what is wrong, and where."""
    mark = getattr(error, "problem_mark", None)
    problem = " ".join(str(getattr(error, "problem", None) or getattr(error, "reason", None) or error).split())
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}" if mark else problem
