"""ALFWorld's text grammar, parsed once per process and compiled: the same sentences as TextWorld's, without re-parsing.

TextWorld parses every template and query again at each step, and copies contexts deeply. Here the text is parsed by TextWorld's
own parser, once; what comes out is turned into small objects that write sentences straight from facts. Games differ only in
their task line, so that line is cut out before parsing and put back as a rule of its own.

A *binding* maps (placeholder, type) to an object's PDDL name; *facts* answer `sorted(signature)`, where a signature is
(predicate, types of its arguments).
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

from leap_ray.envs.alfworld.expressions import Expression
from leap_ray.errors import UserError

Placeholder = tuple[str, str]
Binding = dict[Placeholder, str]
Signature = tuple[str, tuple[str, ...]]

_TASK_LINE = re.compile(r'("task"\s*:\s*\[\s*\{\s*"rhs"\s*:\s*)("(?:[^"\\\n]|\\.)*")')
_PARSING = threading.Lock()  # TatSu's parsers are module globals


class Facts(Protocol):
    """What queries read."""

    def sorted(self, signature: Signature) -> Sequence[tuple[str, ...]]:
        """Arguments of the true facts with this signature, sorted."""
        ...

    def has(self, signature: Signature, arguments: tuple[str, ...]) -> bool:
        """Whether the fact is true."""
        ...


class Writer:
    """Where one sentence is written: the grammar, the facts and the objects' descriptions."""

    def __init__(self, grammar: Grammar, facts: Facts, infos: Mapping[str, Any]) -> None:
        self.grammar, self.facts, self.infos = grammar, facts, infos

    def text(self, symbol: str, binding: Binding) -> str:
        """The sentence that a nonterminal stands for."""
        return self.join(self.grammar.rule(symbol, binding, self.facts), binding)

    def join(self, symbols: Sequence[Symbol], binding: Binding) -> str:
        return "".join(symbol.write(self, binding) for symbol in symbols)


class Symbol(Protocol):
    def write(self, writer: Writer, binding: Binding) -> str: ...


@dataclass(frozen=True)
class Literal:
    """Plain text."""

    text: str

    def write(self, writer: Writer, binding: Binding) -> str:
        return self.text


@dataclass(frozen=True)
class Call:
    """`#name#`: whatever rule of that name applies."""

    name: str

    def write(self, writer: Writer, binding: Binding) -> str:
        return writer.text(self.name, binding)


@dataclass(frozen=True)
class Value:
    """`{expression}`: attributes of the bound objects' descriptions."""

    expression: Expression

    def write(self, writer: Writer, binding: Binding) -> str:
        return self.expression.value({name: writer.infos[key] for (name, _), key in binding.items()})


@dataclass(frozen=True)
class Each:
    """`{expression | query}`: the expression once per match, or once if there is no query."""

    expression: Symbol
    query: Query | None

    def parts(self, writer: Writer, binding: Binding) -> list[str]:
        matches = self.query.matches(writer.facts, binding) if self.query else [binding]
        return [self.expression.write(writer, match) for match in matches]

    def write(self, writer: Writer, binding: Binding) -> str:
        return "".join(self.parts(writer, binding))


@dataclass(frozen=True)
class Listing:
    """`[{expression | query}]`: the matches as an English list, with the grammar's own separators."""

    each: Each

    def write(self, writer: Writer, binding: Binding) -> str:
        parts = self.each.parts(writer, binding)
        if not parts:
            return writer.text("list_empty", binding)
        if len(parts) == 1:
            return parts[0]
        last = writer.text("list_last_separator", binding)
        return writer.text("list_separator", binding).join(parts[:-1]) + last + parts[-1]


class Query:
    """A conjunction of predicates, such as `holds(a:agent, o:object)`. Distinct placeholders take distinct objects."""

    def __init__(self, predicates: Sequence[tuple[str, tuple[Placeholder, ...]]], expand: Callable) -> None:
        self.predicates = predicates
        self._plan = [(phs, expand(name, tuple(type_ for _, type_ in phs))) for name, phs in predicates]

    def matches(self, facts: Facts, binding: Binding) -> list[Binding]:
        """Every extension of the binding under which all predicates are facts, in TextWorld's order."""
        return list(self._extend(facts, dict(binding), set(binding.values()), 0))

    def holds(self, facts: Facts, binding: Binding) -> bool:
        return next(self._extend(facts, dict(binding), set(binding.values()), 0), None) is not None

    def _extend(self, facts: Facts, binding: Binding, used: set[str], depth: int) -> Iterator[Binding]:
        if depth == len(self._plan):
            yield dict(binding)
            return
        placeholders, signatures = self._plan[depth]
        new = [ph for ph in dict.fromkeys(placeholders) if ph not in binding]
        if not new:
            arguments = tuple(binding[ph] for ph in placeholders)
            if any(facts.has(signature, arguments) for signature in signatures):
                yield from self._extend(facts, binding, used, depth + 1)
            return
        for signature in signatures:
            for arguments in facts.sorted(signature):
                for ph, argument in zip(placeholders, arguments):
                    bound = binding.get(ph)
                    if bound is None:
                        if argument in used:
                            break
                        binding[ph] = argument
                        used.add(argument)
                    elif bound != argument:
                        break
                else:
                    yield from self._extend(facts, binding, used, depth + 1)
                for ph in new:
                    if (argument := binding.pop(ph, None)) is not None:
                        used.discard(argument)


Rules = dict[str, list[tuple[Query | None, tuple[Symbol, ...]]]]


class Grammar:
    """Production rules: per nonterminal, (condition, symbols) in order; the first whose condition holds is taken."""

    def __init__(self, rules: Rules, templates: dict[str, tuple[Symbol, ...]], feedback: dict[str, tuple[Symbol, ...]]):
        self.rules, self.templates, self.feedback = rules, templates, feedback

    def with_rules(self, rules: Rules) -> Grammar:
        """The same grammar with some nonterminals replaced; everything else is shared."""
        return Grammar({**self.rules, **rules}, self.templates, self.feedback)

    def rule(self, name: str, binding: Binding, facts: Facts) -> tuple[Symbol, ...]:
        """The symbols that a nonterminal becomes under a binding. Raises KeyError for a name without rules."""
        for condition, symbols in self.rules[name]:
            if condition is None or condition.holds(facts, binding):
                return symbols
        raise KeyError(f"no rule of {name!r} applies")

    def queried(self, symbols: Sequence[Symbol]) -> set[str]:
        """Names of the predicates that the symbols' own queries read."""
        names: set[str] = set()
        for symbol in symbols:
            each = symbol.each if isinstance(symbol, Listing) else symbol
            if isinstance(each, Each) and each.query:
                names |= {name for name, _ in each.query.predicates}
        return names


TypeTree = tuple[tuple[str, tuple[str, ...]], ...]  # (type, its supertypes), as the translator lists them


def load_grammar(text: str, types: TypeTree) -> Grammar:
    """Compile a game's grammar; all but its task line is shared between games. Raises UserError where it is none."""
    from tatsu.exceptions import ParseException

    try:
        return _load(text, types)
    except (ParseException, ValueError) as error:
        line = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"its grammar cannot be read: {line}; `leap-ray data alfworld` gets the games again") from None


def _load(text: str, types: TypeTree) -> Grammar:
    found = _TASK_LINE.findall(text)
    if len(found) != 1:
        return _compiled(text, types)
    shared = _compiled(_TASK_LINE.sub(r'\1""', text), types)
    return shared.with_rules(_Compiler(types).rules({"task": [{"rhs": json.loads(found[0][1])}]}))


@lru_cache(maxsize=8)
def _compiled(text: str, types: TypeTree) -> Grammar:
    from textworld.envs.pddl.logic import GameLogic

    with _PARSING:
        logic = GameLogic(domain="", grammar=text)
    compiler = _Compiler(types)
    templates = compiler.rules({name: [{"rhs": a.template}] for name, a in logic.actions.items()})
    feedback = compiler.rules({name: [{"rhs": a.feedback_rule}] for name, a in logic.actions.items()})
    return Grammar(
        compiler.convert(logic.grammar),
        {name: rules[0][1] for name, rules in templates.items()},
        {name: rules[0][1] for name, rules in feedback.items()},
    )


def forget_grammars() -> None:
    """Drop the compiled grammars of this process."""
    _compiled.cache_clear()


class _Compiler:
    """Turns TextWorld's parsed symbols into this module's."""

    def __init__(self, types: TypeTree) -> None:
        from textworld.logic import Type, TypeHierarchy

        self._types = TypeHierarchy()
        for name, supertypes in reversed(dict(reversed(types)).items()):  # a type listed again: its first entry counts
            self._types.add(Type(name, list(supertypes)))

    def rules(self, source: Mapping[str, Any]) -> Rules:
        """Parse and compile rules written as the grammar's JSON."""
        from textworld.envs.pddl.textgen import ContextSensitiveGrammar

        with _PARSING:
            parsed = ContextSensitiveGrammar.parse(json.dumps(source))
        return self.convert(parsed)

    def convert(self, grammar: Any) -> Rules:
        return {
            name: [(self.query(rule.condition), tuple(map(self.symbol, rule.rhs))) for rule in rules]
            for name, rules in grammar._rules.items()
        }

    def symbol(self, symbol: Any) -> Symbol:
        from textworld.envs.pddl import textgen

        if isinstance(symbol, textgen.TerminalSymbol):
            return Literal(str(symbol))
        if isinstance(symbol, textgen.NonterminalSymbol):
            return Call(str(symbol))
        if isinstance(symbol, textgen.EvalSymbol):
            return Value(Expression.read(symbol.expression))
        if isinstance(symbol, textgen.ConditionalSymbol):
            return Each(self.symbol(symbol.expression), self.query(symbol.given))
        if isinstance(symbol, textgen.ListSymbol):
            return Listing(self.symbol(symbol.symbol))  # pyright: ignore[reportArgumentType]
        raise TypeError(f"unknown grammar symbol {symbol!r}")

    def query(self, text: str | None) -> Query | None:
        from textworld.logic import Rule

        if not text:
            return None
        with _PARSING:
            rule = Rule.parse_conjunctive_query(text)
        return Query(
            [(p.name, tuple((ph.name, ph.type) for ph in p.parameters)) for p in rule.preconditions], self.expand
        )

    def expand(self, name: str, types: tuple[str, ...]) -> list[Signature]:
        """Signatures that a predicate over these types covers, subtypes included, in TextWorld's order."""
        own = [self._types.get(t) for t in types]
        return [(name, tuple(t.name for t in subtypes)) for subtypes in self._types.multi_subtypes(own)]
