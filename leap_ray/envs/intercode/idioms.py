"""Common idioms: what a person tries first, from the words of a task alone."""

from __future__ import annotations

import re
import shlex

PATH = re.compile(r"(?<![\w.])/[\w.-]+(?:/[\w.*-]+)*")
EXTENSION = re.compile(r"[\"'*]*\.([A-Za-z]\w{0,4})\b[\"']?(?=\s*(?:files?|scripts?|documents?)|[\"'])")
QUOTED = re.compile(r"[\"']([^\"']{2,40})[\"']")
PERMISSION = re.compile(r"\b([0-7]{3})\b")


def bash_idiom(query: str) -> str:
    """A command for the task; a plain listing where no idiom fits."""
    words = query.lower()
    paths = [path.rstrip(".") for path in PATH.findall(query)]
    place = paths[0] if paths else "."
    found = EXTENSION.search(query)
    kind = "d" if re.search(r"\b(director|folder)", words) and not re.search(r"\bfiles?\b", words) else "f"
    chosen = f"find {place} -type {kind}"
    if found:
        chosen += f" -name '*.{found[1]}'"
    if "empty" in words:
        chosen += " -empty"
    if (mode := PERMISSION.search(query)) and "permission" in words:
        chosen += f" -perm {mode[1]}"
    return _action(words, query, chosen, place, paths)


def _action(words: str, query: str, chosen: str, place: str, paths: list[str]) -> str:
    quoted = [text for text in QUOTED.findall(query) if not text.startswith((".", "/", "*"))]
    rules = (
        (r"\blines?\b.*\b(all|total|files)|\bcount\b.*\blines?\b", f"{chosen} | xargs cat | wc -l"),
        (r"\bcontain|\bsearch|\bgrep", f"grep -r {shlex.quote(quoted[0])} {place}" if quoted else ""),
        (r"\b(count|how many|number of)\b", f"{chosen} | wc -l"),
        (r"\b(delete|remove)\b", f"{chosen} -delete"),
        (r"\b(symbolic|soft|sym) ?links?\b", f"ln -s {place} /"),
        (r"\b(disk usage|disk space|size of)\b", f"du -sh {place}"),
        (r"\btree\b", f"tree {place}"),
        (r"\bfirst line\b", f"head -n1 {place}"),
        (r"\blast line\b", f"tail -n1 {place}"),
        (r"\bmd5", f"{chosen} -exec md5sum {{}} +"),
        (r"\bmove\b", f"mv {place} {paths[1]}" if len(paths) > 1 else ""),
        (r"\bcopy\b", f"cp -r {place} {paths[1]}" if len(paths) > 1 else ""),
        (r"\bcreate\b.*\bdirector|\bmake\b.*\bdirector", f"mkdir -p {place}"),
        (r"\b(content|print|display|show)\b.*\bfile\b", f"cat {place}" if paths else ""),
        (r"\b(find|list|search|display|show|print)\b", chosen),
    )
    for pattern, command in rules:
        if command and re.search(pattern, words):
            return command
    return f"ls -la {place}"


def sql_idiom(query: str, tables: list[str]) -> list[str]:
    """A look at the table that the question names (its singular or plural), then its rows or their number."""
    words = set(re.findall(r"\w+", query.lower()))
    words |= {word.rstrip("s") for word in words}
    named = [t for t in tables if t.lower() in words or t.lower().rstrip("s") in words]
    table = (named or tables or [""])[0]
    if not table:
        return []
    counting = re.search(r"\b(how many|count|number of)\b", query.lower())
    return [f"DESC {table}", f"SELECT {'count(*)' if counting else '*'} FROM {table}"]
