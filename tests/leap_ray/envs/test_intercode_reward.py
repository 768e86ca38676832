"""InterCode's rewards and quoting, against independent computations of them."""

import struct
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leap_ray.envs.intercode import seccomp, sql
from leap_ray.envs.intercode.bash import MALFORMED, Session, resolve, words
from leap_ray.envs.intercode.bash_reward import State, parse_status, score, similarity
from leap_ray.envs.intercode.games import visible
from leap_ray.envs.intercode.sql import Answer

TEXTS = st.text(alphabet="ab c.12\n", max_size=40)


@given(TEXTS, TEXTS)
@settings(max_examples=150, deadline=None)
def test_similarity_is_scikit_learns(one, other):
    from sklearn.feature_extraction.text import TfidfVectorizer

    try:
        matrix = TfidfVectorizer().fit_transform([one, other])
        expected = (matrix * matrix.T).toarray()[0][1]
    except ValueError:  # no words in either
        expected = float(one == other)
    assert similarity(one, other) == pytest.approx(expected, abs=1e-9)


def test_an_answer_that_could_not_be_read_is_like_no_text():
    assert similarity("words here", None) == 0.0
    assert similarity(None, None) == 1.0


def test_full_marks_are_exactly_one():
    state = State((("a.txt", "??"), ("b", "M")), {"a.txt": "hash"}, "the answer")
    result = score(state, state)
    assert result.total == 1.0
    assert result.parts == {"p1": 0.33, "p2": 0.33, "p3": 0.33}


def test_each_third_falls_by_its_own_fault():
    gold = State((("a.txt", "??"), ("b.txt", "??")), {"a.txt": "1", "b.txt": "2"}, "alpha beta")
    wrong_contents = score(State(gold.changes, {"a.txt": "1", "b.txt": "9"}, "alpha beta"), gold)
    assert wrong_contents.parts == {"p1": 0.33, "p2": 0.17, "p3": 0.33}
    one_missing = score(State((("a.txt", "??"),), {"a.txt": "1"}, "alpha beta"), gold)
    assert one_missing.parts == {"p1": 0.05, "p2": 0.33, "p3": 0.33}  # 0.33 * (1 - erf(1)) = 0.0519
    assert one_missing.missing == (("b.txt", "??"),)
    wrong_answer = score(State(gold.changes, dict(gold.hashes), "gamma"), gold)
    assert wrong_answer.parts == {"p1": 0.33, "p2": 0.33, "p3": 0.0}


def test_contents_of_paths_without_a_dot_always_count_as_right():
    changes = (("folder/", "??"),)
    assert score(State(changes, {"folder/": "1"}, ""), State(changes, {"folder/": "2"}, "")).contents == 0.33


def test_status_is_split_at_white_space():
    assert parse_status(" M a.txt\n?? b/\n") == (("a.txt", "M"), ("b/", "??"))
    assert parse_status('?? "a b"\n D c\n') == (('"a', "??"), ("D", 'b"'))


def test_docker_quoting_loses_inner_double_quotes():
    assert words('grep "two words" f', "docker") == ["/bin/bash", "-c", "grep two", "words f"]
    assert words('grep "two words" f', "plain") == ["/bin/bash", "-c", 'grep "two words" f']
    assert words(r"tr -d '\\n'", "docker")[2] == r"tr -d '\n'"
    for broken in ('echo "', "a\0b"):
        with pytest.raises(ValueError):
            words(broken, "docker")


def test_bad_quoting_is_a_malformed_command_without_a_sandbox():
    outcome = Session(sandbox=None).execute('echo "')
    assert (outcome.text, outcome.ran) == (MALFORMED, False)
    assert Session(sandbox=None).execute("cdrom").text == MALFORMED


@pytest.mark.parametrize(
    ("folder", "target", "result"),
    [("/", "a/b", "/a/b"), ("/a", "../..", "/"), ("/a/b", "./c/../d", "/a/b/d"), ("/a", "/x/", "/x"), ("/a", "", "/a")],
)
def test_folders_are_worked_out_on_the_text(folder, target, result):
    assert resolve(folder, target) == result


def sql_score_by_hand(mine, theirs):
    """The rule of the original, spelled out with scipy on whole lists."""
    from collections import Counter

    from scipy.stats import kendalltau

    a, b = [str(r) for r in mine], [str(r) for r in theirs]
    union = Counter(a) | Counter(b)
    if not union:
        return 1.0
    shared = Counter(a) & Counter(b)
    value = sum(shared.values()) / sum(union.values())

    def take(rows):
        left, out = dict(shared), []
        for row in rows:
            if left.get(row, 0):
                left[row] -= 1
                out.append(row)
        return out

    if shared:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ranks = {row: i for i, row in enumerate(sorted(union))}
            tau = kendalltau([ranks[r] for r in take(a)], [ranks[r] for r in take(b)])[0]
        if tau == tau:
            value = round(tau * value, 2)
    return value


@given(st.lists(st.integers(0, 4), max_size=7), st.lists(st.integers(0, 4), max_size=7))
@settings(max_examples=100, deadline=None)
def test_sql_score_is_overlap_times_tau(one, other):
    mine, theirs = [(x,) for x in one], [(x,) for x in other]
    assert sql.score(Answer(mine), Answer(theirs)) == pytest.approx(sql_score_by_hand(mine, theirs))


def test_sql_score_of_known_cases():
    rows = [(1,), (2,), (3,)]
    assert sql.score(Answer(rows), Answer(rows)) == 1.0
    assert sql.score(Answer(rows[::-1]), Answer(rows)) == -1.0
    assert sql.score(Answer(rows[:2]), Answer(rows)) == 0.67
    assert sql.score(Answer(None, "no such table"), Answer(rows)) == 0.0
    assert sql.score(Answer([]), Answer([])) == 1.0


def run_filter(program: bytes, number: int, arch: int, argument: int = 0, flags: int = 0) -> int:
    """What the kernel would do with a call: an interpreter of the few instructions the filter uses."""
    data = {0: number, 4: arch, 16: argument, 40: flags}
    holds = {seccomp.EQUAL: int.__eq__, seccomp.AT_LEAST: int.__ge__, seccomp.HAS_BIT: int.__and__}
    lines = [struct.unpack_from("=HBBI", program, i) for i in range(0, len(program), 8)]
    at = value = 0
    while True:
        code, yes, no, k = lines[at]
        if code == seccomp.RETURN:
            return k
        if code == seccomp.LOAD:
            value, step = data[k], 0
        else:
            step = yes if holds[code](value, k) else no
        at += 1 + step


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filter_refuses_what_it_lists_and_nothing_else(machine):
    column, arch = seccomp.MACHINES[machine]
    program = seccomp.program(machine)
    refused = {row[column] for row in seccomp.REFUSED.values()} - {None}
    sockets = {seccomp.SOCKET[column], seccomp.SOCKETPAIR[column]}
    for number in range(470):
        expected = seccomp.REFUSE if number in refused else seccomp.ALLOW
        assert run_filter(program, number, arch, argument=2) == expected, number
    for number in sockets:
        assert run_filter(program, number, arch, argument=40) == seccomp.REFUSE  # AF_VSOCK
        assert run_filter(program, number, arch, argument=1) == seccomp.ALLOW
    for flags, verdict in (
        (0x22, seccomp.ALLOW),
        (0x02, seccomp.ALLOW),
        (0x21, seccomp.REFUSE),
        (0x03, seccomp.REFUSE),
    ):
        assert run_filter(program, seccomp.MMAP[column], arch, flags=flags) == verdict, flags  # MAP_PRIVATE, MAP_SHARED
    assert run_filter(program, 0, arch ^ 1) == seccomp.REFUSE  # another architecture's calls
    assert run_filter(program, seccomp.X32 | 1, arch) == seccomp.REFUSE


def test_no_filter_for_an_unknown_machine():
    assert seccomp.program("pdp11") is None


def test_shown_output_is_cut_in_the_middle_and_harmless():
    assert visible("a\x1b[2J\x00b\tc\n", 100) == "a\\x1b[2J\\x00b\tc\n"
    shown = visible("x" * 500 + "end", 90)
    assert shown.startswith("x" * 60) and shown.endswith("end") and "413 characters left out" in shown
