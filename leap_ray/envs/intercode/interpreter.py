"""Runs inside a sandbox: one turn of a Python session, or the tests of a finished one.

This file is not imported by the program: its text is given to the sandbox's Python. The session's earlier pieces of code are run
again first, without their output, so that no process has to live from one turn to the next. One JSON object in, as the last
argument: `history` (pieces of code), `code` (the new one, or ""), `tests` (statements to try one by one). One JSON list out.
"""

import ast
import contextlib
import io
import json
import os
import sys


def shown(code):
    """The code as an interactive interpreter takes it: a lone expression is printed."""
    try:
        tree = ast.parse(code.strip())
    except SyntaxError:
        return code
    quiet = (ast.Assign, ast.Import, ast.ImportFrom)
    names = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    if any(isinstance(node, quiet) for node in ast.walk(tree)) or "print" in names:
        return code
    if len(tree.body) == 1 and isinstance(tree.body[0], ast.Expr):
        return "print(" + ast.unparse(tree.body[0].value) + ")"
    return code


def attempt(code, names):
    """What running the code gives: its output and its error, as the original's server reports them."""
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            exec(compile(code, "<turn>", "exec"), names)
    except SystemExit:
        return {"error": "Error: the program tried to exit"}
    except BaseException as error:
        return {"error": "Error: " + str(error)}
    return {"output": out.getvalue().strip()[:20000], "error": err.getvalue().strip()[:20000]}


def main():
    request = json.loads(sys.argv[-1])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    names = {"__name__": "__main__"}
    for code in request["history"]:
        attempt(shown(code), names)
    results = [attempt(shown(request["code"]), names)] if request["code"] else []
    results += [attempt(test, names) for test in request["tests"]]
    answers.write(json.dumps(results))
    answers.flush()
    os._exit(0)


main()
