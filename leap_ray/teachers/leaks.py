"""Does a reason say what only the privileged state holds? (LEAP: a correction must be realizable by the student.)

Four kinds of leak are looked for, by the kinds of the privileged state's secrets:

- *name*: an instance, attribute, option or product that the student has not seen ("apple 3", "stain resistant");
- *code*: a program or its output: its tokens, literals and values, also read aloud and rounded ("just above eight hundred");
- *claim*: where something is, stated as a fact, before the student has seen it there ("the apple is in the fridge");
- *source*: words that give away where the knowledge comes from ("according to the privileged state").

What the student has seen (task, observations, candidate actions so far) is no secret. A guess is no claim: "mugs are often near
the sink" is what a teacher should say. The check reads words, not meaning: `experiments/benchmarks/leaks.py` measures it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from leap_ray.envs.base import DOMAINS, PrivilegedState, Secret, load_domain
from leap_ray.errors import UserError
from leap_ray.teachers import leak_names
from leap_ray.teachers.leak_claims import claims
from leap_ray.teachers.leak_code import CODE, code, output, roughly
from leap_ray.teachers.wording import INSTANCE, has, mended, normal
from leap_ray.types import Episode

LOCATIONS = ("locations", "targets", "lights")  # entries of a privileged state's facts that map a thing to its place
FACTS = {
    "product": "product",
    "price_upper": "price",
    "gold": "code",
    "output": "output",
}  # other entries that are secrets
_SOLUTION = r"(command|query|answer|output|solution|standard|label|code|program|script|statement|result|list)"
_SOURCE = re.compile(
    r"\b(privileged|hidden (state|information|info|facts?|tests?|attributes?|goal|criteria|requirements?)"
    r"|ground[- ]truth"
    rf"|(gold(en)?|reference) {_SOLUTION}|(answer|solution) key|simulator('s)? (state|facts?)|oracle|cheat ?sheet"
    r"|(i|we) (was|were|am|have been) (told|given|shown|informed) (that|where|the)|secretly|had (i|we) not (known"
    r"|been told)|behind the scenes"
    r"|(evaluation|grading|scoring) (criteria|criterion|rules?)|(the|my|a) (hints?|clues?|notes?) (says?|tells?"
    r"|points?|shows?)"
    r"|(the|hidden|unit) (tests?|assertions?|asserts?)( \w+)* (calls?|expects?|asks?|wants?|requires?|demands?"
    r"|needs?)"
    r"|target (product|item|command|location) is|(i know|expected) (the )?(output|result|answer) (is|of|starts"
    r"|begins|ends|contains|has|shows|reads)"
    r"|according to the (state|facts|teacher|coach|notes))\b"
)
_MONEY = re.compile(r"[$]|\b(price[ds]?|costs?|limit|dollars?|bucks|budget|cheap\w*|spend|pay|afford\w*|expensive)\b")


@dataclass(frozen=True, slots=True)
class Leak:
    """One thing given away: its kind (name, code, claim, source) and the words."""

    kind: str
    words: str


def find_leaks(reason: str, seen: str, privileged: PrivilegedState) -> list[Leak]:
    """What `reason` gives away to one who has seen only `seen`. Empty where it is clean."""
    secrets = list(_secrets(privileged))
    reason = mended(reason, (name for s in secrets if s.kind == "instance" for name in (s.text, *s.aliases)))
    said, known = normal(reason), normal(seen)
    leaks = [Leak("source", m.group(0)) for m in [_SOURCE.search(said)] if m]
    leaks += [leak for secret in secrets if (leak := _leak(secret, reason, seen))]
    maps = [privileged.facts.get(key) for key in LOCATIONS]
    where = {normal(str(k)): normal(str(v)) for entry in maps if isinstance(entry, Mapping) for k, v in entry.items()}
    declared = {normal(secret.text): secret.aliases for secret in secrets}

    def synonyms(name: str) -> tuple[str, ...]:
        return declared[name] if name in declared else _aliases(privileged.domain, name)

    leaks += [Leak("claim", sentence) for sentence in claims(said, known, where, synonyms)]
    return list(dict.fromkeys(leaks))


def seen_until(episode: Episode, t: int) -> str:
    """All that the student has seen when it chooses action t: the task, its actions so far, and what each step showed."""
    parts = [episode.instruction]
    for step in episode.steps[:t]:
        parts += [step.observation, "\n".join(step.candidates), step.action]
    step = episode.steps[t]
    return "\n".join([*parts, step.observation, "\n".join(step.candidates)])


# --- secrets and their kinds


def _secrets(privileged: PrivilegedState) -> Iterator[Secret]:
    """The secrets, each once, with the kind and the aliases that they have; and what the facts hold besides."""
    declared = [secret if isinstance(secret, Secret) else Secret("text", secret) for secret in privileged.secrets]
    facts = [Secret(kind, str(privileged.facts[key])) for key, kind in FACTS.items() if privileged.facts.get(key)]
    facts += [Secret("attribute", text) for text in _texts(privileged.facts.get("attributes", ()))]
    facts += [Secret("option", text) for text in _texts(_values(privileged.facts.get("options", ())))]
    if any(privileged.facts.get(key) for key in LOCATIONS):
        texts = " | ".join(_texts(privileged.facts))
        declared += [Secret("instance", name) for name in re.findall(r"\b[a-z]+ \d+\b", texts)]
    known_kinds = {secret.text: secret for secret in (*facts, *declared) if secret.kind != "text"}
    for text in dict.fromkeys(secret.text for secret in (*facts, *declared)):
        secret = known_kinds.get(text) or Secret(_kind_of(text), text)
        yield replace(secret, aliases=(*secret.aliases, *_aliases(privileged.domain, text)))


@lru_cache(maxsize=4096)
def _aliases(domain: str, text: str) -> tuple[str, ...]:
    """Other wordings that a registered domain declares; a domain of one's own declares them with its secrets."""
    try:
        return load_domain(domain).aliases(text) if domain in DOMAINS else ()
    except UserError:  # not installed
        return ()


def _values(entry: Any) -> Any:
    return list(entry.values()) if isinstance(entry, Mapping) else entry


def _texts(value: Any) -> Iterator[str]:
    """All texts in plain values."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from _texts([*value, *value.values()])
    elif isinstance(value, Iterable):
        for inner in value:
            yield from _texts(inner)


def _kind_of(text: str) -> str:
    """What a plain text looks like: an instance, an option, a product's title, code, an attribute."""
    plain = normal(text)
    if leak_names.option_value(plain):
        return "option"
    if INSTANCE.fullmatch(plain):
        return "instance"
    if _looks_like_a_title(text):
        return "product"
    if CODE.search(text) or any(c.isdigit() for c in plain) or plain[:1] in ("[", "("):
        return "code"
    return "product" if len(plain.split()) >= 4 else "attribute"


def _looks_like_a_title(secret: str) -> bool:
    """Four words or more, most of them written with a capital: no sentence, no command."""
    parts = secret.split()
    return len(parts) >= 4 and 2 * sum(bool(re.match(r"\W?[A-Z][a-z]", part)) for part in parts) > len(parts)


def _leak(secret: Secret, reason: str, seen: str) -> Leak | None:
    """The leak of one secret, looked for by its kind."""
    said, known, plain = normal(reason), normal(seen), normal(secret.text)
    if not plain or has(known, plain):
        return None
    if secret.kind in ("code", "output"):
        words = {"code": code, "output": output}[secret.kind](secret, reason, seen)
        return Leak("code", words) if words else None
    if secret.kind == "product":
        words = leak_names.title(secret, reason, said, known)
    elif secret.kind == "price":
        words = next(
            (w for s in re.split(r"(?<=[.!?;])\s+", said) if _MONEY.search(s) and (w := roughly(plain, s, known))), ""
        )
    else:
        rules = {"instance": leak_names.instance, "option": leak_names.option, "attribute": leak_names.attribute}
        words = rules[secret.kind](secret, said, known)
    return Leak("name", words) if words else None
