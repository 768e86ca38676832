"""Statements in a reason about where something is, true and not seen so far. Part of the leak check.

A sentence is marked (T the thing sought, S several of its kind, P its place, O another place not seen yet), pronouns stand for
what was named before, and each clause that brings T and P together is a statement unless it guesses, asks, plans, negates or
says what people do in general. A hedge protects its own clause only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial

from leap_ray.teachers import leak_patterns as pattern
from leap_ray.teachers.wording import INSTANCE, has, numbered, unnumbered

Synonyms = Callable[[str], tuple[str, ...]]  # what else an instance's kind is called


def claims(said: str, known: str, where: Mapping[str, str], synonyms: Synonyms) -> Iterator[str]:
    """The sentences that state where a thing is. `where` maps things to places (both normal), `synonyms` tells other names."""
    others = _other_places(known, where) if where else {}
    said = _in_one_word(re.sub(r" ?\.\.\.+", " …", said), known) if where else said
    sentences = re.split(r"(?<=[.!?;])\s+", said)
    for thing, place in where.items():
        if _observed(known, thing, place):
            continue
        unseen = {
            name: new and not _same_kind(name, place) for name, new in others.items() if not _same_kind(name, thing)
        }
        marked = [_marked(sentence, thing, place, unseen, synonyms) for sentence in sentences]
        for i, sentence in enumerate(marked):
            if _sentence_states(sentence, " ".join(marked[max(0, i - 2) : i]), " ".join(marked)):
                yield sentences[i].strip()


def _sentence_states(sentence: str, before: str, reason: str) -> bool:
    """Whether a sentence, or one of its clauses, states where T is."""
    asked, answer = pattern.ASKED.search(before), pattern.SHORT_ANSWER.search(sentence)
    if asked and answer and bool(asked.group(1)) != (answer.group(1) == "P") and not _protected(sentence):
        return True
    if asked and not asked.group(1) and pattern.NAMED_FIRST.match(sentence) and not pattern.GUESS.search(sentence):
        return True
    sentence = pattern.ASKED_LAST.sub(r"\1", sentence)  # "It's in P, so why wait?" states the first
    if pattern.QUESTION.search(sentence):
        return False
    if pattern.CONSEQUENCE.search(sentence):
        return True
    sentence = pattern.RELATIVE.sub("", pattern.INSERTION.sub("", pattern.IDIOM.sub("", sentence)))
    sentence = pattern.ASIDE.sub(" ", pattern.PARENTHESIS.sub(r", \1,", sentence))
    clauses = [clause for clause in pattern.CLAUSE_ENDS.split(sentence) if clause]
    if clauses and pattern.DISLOCATED.match(clauses[-1]):
        before = f"{before} {clauses[-1]}"
    for i, clause in enumerate(clauses):
        if pattern.CONDITION.match(clause):
            return False
        hedged = i + 1 < len(clauses) and pattern.AFTERTHOUGHT.match(clauses[i + 1])
        resolved = _resolved(clause, f"{before} {' '.join(clauses[:i])}", reason)
        if not hedged and (_states(resolved) or _excludes(resolved, reason)):
            return True
        if pattern.LEADS_TO.search(clause) and re.search("[TS]", f"{before} {' '.join(clauses[:i])}"):
            return True
        if pattern.HAS_ALONE.search(resolved) and re.search(r"[TSO]|\bnot\b|n't\b", before + " ".join(clauses[:i])):
            return not (pattern.GUESS.search(sentence) or re.search(r"\b(?:closed|next|near|open)\b", resolved))
    whole = _resolved(sentence, before, reason)
    return len(clauses) > 1 and (_states(whole, whole=True) or _excludes(whole, reason))


# --- pronouns


def _resolved(clause: str, before: str, reason: str) -> str:
    """The clause with its pronouns replaced by what was named before: T, P and O where they are missing."""
    if "P" in before and "P" not in clause:
        clause = pattern.THAT_IS_T.sub("P is", pattern.THAT_IS_WHERE.sub("P is where", clause))
        if re.search("[TS]", clause) or before.rfind("P") > max(before.rfind("T"), before.rfind("S")):
            clause = pattern.CONTAINER.sub("P", clause)
        clause = pattern.IN_THERE.sub("in P", clause)
        clause = re.sub(r"\bits (?=\w+ (?:is|are|being|lies?|sits?|hides?|holds?)\b)", "P's ", clause)
    if not re.search("[TS]", clause):
        clause = _with_thing(clause, before, reason)
    return pattern.O_PRONOUN.sub("O", clause) if "O" in before and "O" not in clause else clause


def _with_thing(clause: str, before: str, reason: str) -> str:
    """The clause, which does not name T, with T for its pronoun; T may also be what the task is about, never named."""
    if re.search("[TS]", before):
        clause = pattern.ITS_PLACE.sub("T's ", clause)
        replaced = pattern.IT_BEFORE_P.sub("T", clause, count=1)
        return replaced if replaced != clause else pattern.IT_AFTER_P.sub(r"\1\2 T", clause, count=1)
    if re.search("[TS]", reason):
        return clause
    if "P" in before or not before.strip():
        subject = pattern.IT_SUBJECT.search(clause)
        if subject and "P" not in clause[: subject.start()]:  # after P, it is P
            clause = clause[: subject.start()] + "T" + clause[subject.end() :]
        if re.search(r"\bthem\b", clause):  # no single thing
            return clause
        return pattern.IT_AFTER_P.sub(r"\1\2 T", clause, count=1)
    return pattern.IT_IS_AT_P.sub("T", clause, count=1)


# --- what a clause says


def _states(clause: str, whole: bool = False) -> bool:
    """Whether a marked clause (or whole sentence) states that T is at P, promises success at P, or acts as if it were known."""
    if "P" not in clause:
        return False
    clause = pattern.NOT_BUT.sub(" ", clause).replace("  ", " ")
    if pattern.PROMISE.search(clause) and not pattern.HEDGE.search(clause) and not pattern.PUT.search(clause):
        return True
    if pattern.CERTAIN.search(clause) and (pattern.IT_IS_P.search(clause) or len(clause.split()) <= 5):
        return True
    return bool(re.search("[TS]", clause)) and _says_where(clause, whole)


def _says_where(clause: str, whole: bool) -> bool:
    """Whether a clause with T and P states that one is at the other."""
    clause = pattern.DELIBERATION.sub("", clause)
    puts, certain = pattern.PUT.search(pattern.BY_SOMEONE.sub("", clause)), pattern.CERTAIN.search(clause)
    fetch = pattern.FETCH_FROM.search(clause)
    if fetch and not pattern.GUESS.search(clause):
        return not pattern.PRESUMES_FETCH.search(clause[: fetch.start()])
    if pattern.EXCLUSIVE.search(clause):
        return True
    if pattern.GUESS.search(clause) and not certain:
        return False
    if pattern.WHERE.search(clause) and not pattern.GENERAL.search(clause):
        return True
    if any(m and not pattern.NEGATION.search(m.group(0)) for m in (p.search(clause) for _, p in pattern.STATEMENTS)):
        return not puts and not pattern.GENERAL.search(clause)
    if certain and not puts:
        return not re.search(r"\b(must|needs?|needed|once|after|heat|cool|clean|put|go(?:es)? in)\b", clause)
    if pattern.GO_AND_FETCH.search(clause):
        return not puts and not pattern.PRESUMES.search(clause)
    particular = re.search(r"T|\b(?:the|my|our|two|both|some|those|these|\d+) S\b|\bS ?[:=→@>(-]", clause)
    apart = whole and pattern.APART.search(clause)
    return bool(particular) and not (puts or apart or _protected(clause, whole))


def _protected(clause: str, whole: bool = True) -> bool:
    """Whether a clause guesses, searches, plans, negates or says what is so in general."""
    if pattern.GUESS.search(clause) or pattern.GENERAL.search(clause):
        return True
    # What comes after both in one clause no longer decides what they have to do with each other.
    both = None if whole else re.match(r".*?P.*?[TS]\b|.*?[TS]\b.*?P", clause)
    start = both.group(0) if both else clause
    return bool(pattern.INTENT.search(start) or pattern.NEGATION.search(start))


def _excludes(clause: str, reason: str) -> bool:
    """Whether a clause states that the other places, or one not seen, lack what is sought."""
    if pattern.SEEN.search(clause) or pattern.HEDGE.search(clause):
        return False
    if pattern.OTHER_LACKS.search(clause):
        return True
    return bool(re.search("[PTS]", reason)) and bool(pattern.OTHERS_WASTE.search(clause))


# --- names


def _marked(sentence: str, thing: str, place: str, others: Mapping[str, bool], synonyms: Synonyms) -> str:
    """The sentence with T for the thing, S for several of its kind, P for the place, O for other places; longer names first."""
    for name in sorted((thing, place), key=len, reverse=True):
        mark = "P" if name == place else "T"
        aliases = synonyms(name)
        if INSTANCE.fullmatch(name):
            sentence = numbered(name, aliases).sub(mark, sentence)
            sentence = unnumbered(name, aliases).sub(partial(_mark_of, mark=mark), sentence)
        else:
            sentence = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", mark, sentence)
    for name, kind_is_new in others.items():
        aliases = synonyms(name)
        sentence = numbered(name, aliases).sub("O", sentence)
        sentence = unnumbered(name, aliases).sub("O", sentence) if kind_is_new else sentence
    return re.sub(rf"\b([TS]),? (?:that |which )?{pattern.WANT}\b,?", r"\1", pattern.WANTED.sub("T", sentence))


def _in_one_word(said: str, known: str) -> str:
    """The text with "coffee table" as "coffeetable" where that is a kind that was named, so that it is no other "table"."""
    for kind in {name.rsplit(" ", 1)[0] for name in re.findall(r"\b[a-z]{6,} \d+\b", known)}:
        said = re.sub(rf"\b{'[ -]?'.join(kind)}(?=e?s?\b)", kind, said)
    return said


def _mark_of(match: re.Match[str], mark: str) -> str:
    """T, S or P of a kind's name without a number; "drawers" without an article are drawers in general."""
    name, before = match.group(0), match.string[: match.start()]
    if not name.endswith("s") or name.endswith("ss"):
        return mark
    if mark == "T":
        return "S"
    return mark if re.search(r"\b(?:the|these|those|both|our|my|two|three|four|five|all|of|\d+) $", before) else name


_CONTENTS = re.compile(r"(?:(?:on|in) the ([a-z]+ \d+), you see|the ([a-z]+ \d+) is open\. in it, you see) ([^.]*)")


def _other_places(known: str, where: Mapping[str, str]) -> dict[str, bool]:
    """Instances that were named, are no contents of what was seen and were not looked into -> whether none of the kind was."""
    seen, contents = set(), set()
    for on, inside, things in _CONTENTS.findall(known):
        seen.add(on or inside)
        contents |= set(re.findall(r"[a-z]+ \d+", things))
    kinds_seen = {name.rsplit(" ", 1)[0] for name in seen}
    named = dict.fromkeys(re.findall(r"\b[a-z]+ \d+\b", known))
    places = [name for name in named if name not in seen | contents | set(where)]
    return {name: name.rsplit(" ", 1)[0] not in kinds_seen for name in places}


def _same_kind(name: str, other: str) -> bool:
    return name.rsplit(" ", 1)[0] == other.rsplit(" ", 1)[0]


def _observed(known: str, thing: str, place: str) -> bool:
    """Whether one sentence of what was seen holds both."""
    kind = re.sub(r" \d+$", "", thing)  # "the fridge 1 is open. in it, you see …" is one
    return any(
        has(part, place) and has(part, kind)
        for part in re.split(r"(?<=\.) (?!in it)|\n", known)
        if "you see" in part or "pick up" in part or "move the" in part or " in it" in part
    )
