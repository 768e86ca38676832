"""Runs inside a sandbox: one turn of a Python session, or the tests of a finished one.

This file is not imported by the program: its text is given to the sandbox's Python. Two processes share the work, so that no code
of the student's can decide its own case. One runs what the student wrote and does what it is asked: run a piece, call a function.
The other runs the tests. For it a name of the student's is a `Remote`, which asks the first process, and what comes back is plain
data, compared here. The first process never sees a test, only the arguments of its calls: it began before they were read.

The session's earlier pieces of code are run again first, without their output, so that no process has to live from one turn to
the next. One JSON object comes on standard input: `history` (pieces of code), `code` (the new one, or ""), `setup` and `tests`
(statements, the latter to try one by one), `names` (what the tests mean by the student's, where a builtin has the same name).
One JSON list goes out.
"""

import ast
import builtins
import contextlib
import ctypes
import io
import json
import os
import sys

SHOWN = 20000  # characters of one output
FAMILIES = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}
LOOKS = {"list": list, "len": len, "str": str, "repr": repr, "int": int, "float": float, "bool": bool}


class Failed(Exception):
    """What was asked for raised; the message is the error's."""


def shown(code):
    """The code as an interactive interpreter takes it: a lone expression is printed."""
    try:
        tree = ast.parse(code.strip())
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # what is no program, or nothing that can be parsed
        return code
    quiet = (ast.Assign, ast.Import, ast.ImportFrom)
    names = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    if any(isinstance(node, quiet) for node in ast.walk(tree)) or "print" in names:
        return code
    if len(tree.body) == 1 and isinstance(tree.body[0], ast.Expr):
        return "print(" + ast.unparse(tree.body[0].value) + ")"
    return code


def encode(value, keep):
    """A value as JSON: plain data by what it holds, any other object by the number that `keep` gives it."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    for base in (int, float, str):  # subclasses go as what they extend
        if isinstance(value, base):
            return base(value)
    for name, family in FAMILIES.items():
        if isinstance(value, family):
            return {name: [encode(each, keep) for each in value]}
    if isinstance(value, dict):
        return {"dict": [[encode(key, keep), encode(each, keep)] for key, each in value.items()]}
    if isinstance(value, (bytes, bytearray)):
        return {"bytes": bytes(value).decode("latin-1")}
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    if isinstance(value, type) and vars(builtins).get(value.__name__) is value:
        return {"type": value.__name__}
    return {"object": keep(value)}


def decode(data, find):
    """The value that `encode` made JSON of; `find` gives the object that has a number."""
    if not isinstance(data, dict):
        return data
    ((name, held),) = data.items()
    if name in FAMILIES:
        return FAMILIES[name](decode(each, find) for each in held)
    if name == "dict":
        return {decode(key, find): decode(each, find) for key, each in held}
    if name == "bytes":
        return held.encode("latin-1")
    if name == "type":
        return getattr(builtins, held)
    return complex(held[0], held[1]) if name == "complex" else find(held)


class Interpreter:
    """The student's process: a namespace, and the objects that the other process has a number of."""

    def __init__(self):
        self.names = {"__name__": "__main__"}
        self.objects = []

    def keep(self, value):
        self.objects.append(value)
        return len(self.objects) - 1

    def find(self, number):
        return self.objects[number]

    def serve(self, requests, replies):
        for line in requests:
            replies.write(json.dumps(self.reply(json.loads(line))) + "\n")
            replies.flush()

    def reply(self, request):
        out, err = io.StringIO(), io.StringIO()
        reply = {}
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                value = getattr(self, request["do"])(*(decode(each, self.find) for each in request["given"]))
                reply["value"] = encode(value, self.keep)
        except SystemExit:
            reply["failed"] = "the program tried to exit"
        except BaseException as error:
            reply["failed"] = str(error)
        return {**reply, "out": out.getvalue(), "err": err.getvalue()}

    def run(self, code):
        exec(compile(code, "<turn>", "exec"), self.names)

    def name(self, name):
        if name not in self.names:
            raise NameError(f"name {name!r} is not defined")
        return self.names[name]

    def call(self, called, given, named):
        return called(*given, **named)

    def get(self, owner, name):
        return getattr(owner, name)

    def set(self, owner, name, value):
        setattr(owner, name, value)

    def item(self, owner, key):
        return owner[key]

    def look(self, value, how):
        return LOOKS[how](value)


class Student:
    """The student's process as the other one sees it."""

    def __init__(self, requests, replies):
        self.requests, self.replies = requests, replies

    def ask(self, do, *given):
        """What the process answers, its output written to ours. Raises Failed where it failed or has ended."""
        request = {"do": do, "given": [encode(each, numbered) for each in given]}
        try:
            self.requests.write(json.dumps(request) + "\n")
            self.requests.flush()
            reply = json.loads(self.replies.readline())
        except (OSError, ValueError):
            raise Failed("the interpreter ended") from None
        sys.stdout.write(reply["out"])
        sys.stderr.write(reply["err"])
        if "failed" in reply:
            raise Failed(reply["failed"])
        return decode(reply["value"], lambda number: Remote(self, number))


class Remote:
    """An object of the student's process that is no plain data. It equals nothing but itself, whatever it says of itself."""

    def __init__(self, student, number):
        object.__setattr__(self, "ask", student.ask)
        object.__setattr__(self, "number", number)

    def __call__(self, *given, **named):
        return self.ask("call", self, given, named)

    def __getattr__(self, name):
        return self.ask("get", self, name)

    def __setattr__(self, name, value):
        self.ask("set", self, name, value)

    def __getitem__(self, key):
        return self.ask("item", self, key)

    def __iter__(self):
        return iter(self.ask("look", self, "list"))


def numbered(value):
    if not isinstance(value, Remote):
        raise TypeError(f"a {type(value).__name__} cannot be given to the student's code")
    return object.__getattribute__(value, "number")


def looking(how):
    return lambda remote: remote.ask("look", remote, how)


for kind in ("len", "str", "repr", "int", "float", "bool"):
    setattr(Remote, f"__{kind}__", looking(kind))


class Names(dict):
    """The tests' names: those they set themselves, Python's own, and the student's."""

    def __init__(self, student, theirs):
        super().__init__()
        self.student, self.theirs = student, theirs

    def __missing__(self, name):
        if name not in self.theirs and hasattr(builtins, name):
            raise KeyError(name)
        return self.student.ask("name", name)


def attempt(do, *given):
    """What comes of it: its output and its error, as the original's server reports them."""
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            do(*given)
    except BaseException as error:
        return {"error": "Error: " + str(error)}
    return {"output": out.getvalue().strip()[:SHOWN], "error": err.getvalue().strip()[:SHOWN]}


def judge(student, request):
    """The results of a request, in order: of the code, if any, and of each test."""
    for code in request["history"]:
        attempt(student.ask, "run", shown(code))
    results = [attempt(student.ask, "run", shown(request["code"]))] if request["code"] else []
    names = Names(student, request["names"])

    def check(statement):
        exec(compile(statement, "<test>", "exec"), {}, names)

    attempt(check, request["setup"])
    return results + [attempt(check, test) for test in request["tests"]]


def start():
    """Begin the student's process; returns it. What this process reads and writes is out of the other's reach."""
    (asked, ask), (answered, answer) = os.pipe(), os.pipe()
    if os.fork() == 0:
        nothing = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(nothing, fd)
        os.close(ask)
        os.close(answered)
        Interpreter().serve(os.fdopen(asked), os.fdopen(answer, "w"))
        os._exit(0)
    os.close(asked)
    os.close(answer)
    if ctypes.CDLL(None).prctl(4, 0, 0, 0, 0) != 0:  # PR_SET_DUMPABLE: no other process opens our memory or descriptors
        sys.exit("prctl(PR_SET_DUMPABLE) failed")
    return Student(os.fdopen(ask, "w"), os.fdopen(answered))


def main():
    if hasattr(sys, "set_int_max_str_digits"):
        sys.set_int_max_str_digits(0)
    student = start()
    results = judge(student, json.load(sys.stdin))
    sys.stdout.write(json.dumps(results))
    sys.stdout.flush()
    os._exit(0)


main()
