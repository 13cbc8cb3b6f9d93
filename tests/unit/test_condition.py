# SPDX-License-Identifier: BSD-2-Clause
from __future__ import annotations

import ctypes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ksym.errors import Place, RequestError, Span
from ksym.language import Condition, Kind, check, evaluate, parse_condition, parse_request
from ksym.language.condition import (
    ACCESSES,
    CONSTANTS,
    FIELDS,
    NUMBER_FIELDS,
    PRECEDENCE,
    VALUE_FIELDS,
    AccessName,
    Binary,
    EnumName,
    Field,
    InFunction,
    Number,
    Text,
    Unary,
    signed,
    whole_span,
)
from ksym.language.condition_parser import parse_expression
from ksym.language.request import Index, Member
from ksym.language.tokens import Source, quote

NO = Span(0, 0)  # spans do not take part in comparisons


def read(text: str) -> Condition:
    """Without a look at types."""
    return parse_expression(Source(text, "condition"), 0)


# What is read, and how operators group: the canonical text with all parentheses written out.


@pytest.mark.parametrize(
    ("text", "grouped"),
    [
        ('new > 100 && comm == "sshd"', '((new > 100) && (comm == "sshd"))'),
        ("changed", "changed"),
        ("access == W", "(access == W)"),
        ("ip in do_sysctl", "(ip in do_sysctl)"),
        ("ip in foo.isra.0 || ip in ns::f", "((ip in foo.isra.0) || (ip in ns::f))"),
        ("pid == 1 || tid == 2 && cpu == 3", "((pid == 1) || ((tid == 2) && (cpu == 3)))"),
        ("new | old ^ pid & tid", "(new | (old ^ (pid & tid)))"),
        ("new == old < pid << tid + cpu", "(new == (old < (pid << (tid + cpu))))"),
        ("new - old - pid", "((new - old) - pid)"),
        ("new - (old - pid)", "(new - (old - pid))"),
        ("-new + ~old", "((-new) + (~old))"),
        ("!-~new", "(!(-(~new)))"),
        ("!new == old", "((!new) == old)"),
        ("new>>1>=-2", "((new >> 1) >= (-2))"),
        ("new != 0x10 || new != 010 || new != 0", "(((new != 16) || (new != 8)) || (new != 0))"),
        (r"new == 'a' || new == '\n' || new == '\\' || new == '\x7f' || new == '\''", None),
        ("new == true || new == false || new == NULL", "(((new == 1) || (new == 0)) || (new == 0))"),
        ("(((new)))", "new"),
        ("new == STATE_IDLE", "(new == STATE_IDLE)"),
        ("new.count > 3 && old . flags.x", "((new.count > 3) && old.flags.x)"),
        ("-new.slots[0x2].if[0] == old[010]", "((-new.slots[2].if[0]) == old[8])"),
    ],
)
def test_grouping(text: str, grouped: str | None) -> None:
    condition = read(text)
    if grouped is None:
        assert str(condition) == "new == 97 || new == 10 || new == 92 || new == 127 || new == 39"
    else:
        assert group(condition) == grouped
        assert read(grouped) == condition
    assert read(str(condition)) == condition


def group(node: Condition) -> str:
    match node:
        case Unary(op=op, operand=operand):
            return f"({op}{group(operand)})"
        case Binary(op=op, left=left, right=right):
            return f"({group(left)} {op} {group(right)})"
        case InFunction():
            return f"({node})"
    return str(node)


@pytest.mark.parametrize(
    ("literal", "value", "prefix"),
    [
        ('"sshd"', "sshd", False),
        ('"ssh*"', "ssh", True),
        ('"*"', "", True),
        ('""', "", False),
        (r'"a\*"', "a*", False),
        (r'"a**"', "a*", True),
        ('"a*b"', "a*b", False),
        (r'"\\*"', "\\", True),
        (r'"a\"b\t\x01"', 'a"b\t\x01', False),
        (r'"\xc3\xa9"', "\xe9", False),
        (r'"\xff"', "\udcff", False),
        ('"123456789012345*"', "123456789012345", True),
    ],
)
def test_text(literal: str, value: str, prefix: bool) -> None:
    node = Text(value, prefix, NO)
    assert read(literal) == node
    assert read(str(node)) == node


def test_spans() -> None:
    text = "new > 100 && !(old == -1)"
    condition = read(text)
    assert isinstance(condition, Binary)
    assert shown(text, condition.span) == "&&"
    assert shown(text, whole_span(condition.left)) == "new > 100"
    assert shown(text, whole_span(condition.right)) == "!(old == -1"  # without the parenthesis behind it
    member = read("1 + new . slots[ 2 ] > 3")
    assert isinstance(member, Binary)
    assert shown("1 + new . slots[ 2 ] > 3", whole_span(member.left)) == "1 + new . slots[ 2 ]"
    request = parse_request("pid_max:rw- if new > 100")
    assert isinstance(request.condition, Binary)
    assert shown(request.text, request.condition.left.span) == "new"


def shown(text: str, span: Span) -> str:
    return text[span.start : span.end]


# What is refused, why and what to do instead, and the characters above the caret.

NO_TEXT = "only comm is compared with a text, {} is compared with numbers and characters"

BAD = [
    ("", "the condition is empty; write one, as in: new > 100", (0, 0)),
    ("comm > 3", 'comm is a text, not a number; write comm == "NAME"', (7, 8)),
    ('new == "x"', f"{NO_TEXT.format('new')}; write new[0] == 'x'", (7, 10)),
    ('new.name == "it"', f"{NO_TEXT.format('new.name')}; write new.name[0] == 'i' and so on", (12, 16)),
    ('"x" != old[3]', f"{NO_TEXT.format('old[3]')}; write old[3] == 'x'", (0, 3)),
    ('new == "\'"', f"{NO_TEXT.format('new')}; write new[0] == '\\''", (7, 10)),
    ('new == ""', f"{NO_TEXT.format('new')}; write new[0] == 0", (7, 9)),
    ('new == "é"', f"{NO_TEXT.format('new')}; compare bytes as numbers, as in new[0] == 10", (7, 10)),
    ("access == 4", "an access is one of R, W, RW, X, not a number; write access == R, W, RW or X", (10, 11)),
    (
        "access == R|W",
        "'|' does not join accesses; write || access == W, or RW for an access that did both",
        (11, 12),
    ),
    (
        "access == write",
        "an access is one of R, W, RW, X, not a number; write access == R, W, RW or X",
        (10, 15),
    ),
    ('ip == "foo"', "ip is an address, not a text; write ip in foo", (6, 11)),
    ("ip == do_sysctl", "'do_sysctl' is no address; write ip in do_sysctl", (6, 15)),
    ("ip == main+0x10", "'main' is no address; write ip in main, or ip == 0xADDRESS", (6, 10)),
    ("ip in main+0x10", "a function takes no offset; write ip == 0xADDRESS for one place", (10, 11)),
    ("ip in ns::f - 1", "a function takes no offset; write ip == 0xADDRESS for one place", (12, 13)),
    ("new == 0b101", "binary numbers are not known; write 0x5", (7, 12)),
    ("new[0B2] == 1", "binary numbers are not known; write it in hexadecimal", (4, 7)),
    ("new == 0b", "binary numbers are not known; write it in hexadecimal", (7, 9)),
    ("new == 0b" + "1" * 65, "binary numbers are not known; write it in hexadecimal", (7, 74)),
    ("ip > 3", "ip is compared by == and != only; write ip in FUNCTION", (3, 4)),
    ('pid && "x"', 'a text is neither true nor false; write comm == "NAME"', (7, 10)),
    (
        "new & 1 == 0",
        "'&' needs numbers, this is a truth value; put what comes first in parentheses, as in (new & 1) == 0",
        (6, 12),
    ),
    ("1 < new < 5", "'<' compares a truth value with a number; join comparisons with &&", (8, 9)),
    ("comm == sshd", "comm is a text, 'sshd' lacks its quotes; write \"sshd\"", (8, 12)),
    ("comm == 'sshd'", 'single quotes hold one character; write "sshd" for text', (8, 14)),
    ("comm", 'a text is neither true nor false; write comm == "NAME"', (0, 4)),
    ("access", "an access is neither true nor false; write access == R, W, RW or X", (0, 6)),
    ("ip", "an address is neither true nor false; write ip in FUNCTION, or ip == 0xADDRESS", (0, 2)),
    ("new = 3", "'=' assigns, a condition compares; write ==", (4, 5)),
    ("new >", "nothing follows '>'; write what to compare with", (4, 5)),
    ("> 3", "a value is missing before '>'; write a field or a number", (0, 1)),
    ("()", "the parentheses are empty; leave them out", (0, 1)),
    (
        "new new",
        "an operator is missing between 'new' and 'new'; join them with && or ||, or compare them",
        (4, 7),
    ),
    ("new and old", "conditions are written as in C, without 'and'; write &&", (4, 7)),
    ("not new", "conditions are written as in C, without 'not'; write !", (0, 3)),
    ("new * 3", "'*' is no operator of conditions; use && || ! == != < <= > >= & | ^ + - ~ << >>", (4, 5)),
    (
        "new.next->x > 3",
        "the kernel follows no pointer for a condition; watch the member itself, "
        "or write . for a member of the variable",
        (8, 10),
    ),
    ("pid.x > 3", "pid has no members or elements, only new and old do; leave them out", (3, 4)),
    ("comm[0] == 's'", "comm has no members or elements, only new and old do; leave them out", (4, 5)),
    ("new. > 3", "a member's name is missing after '.'; write one", (5, 6)),
    ("new.5", "a member's name is missing after '.'; write one", (4, 5)),
    ("new[-1] > 3", "an index is one number, not negative; write one, as in new[0]", (4, 5)),
    ("new[i] > 3", "an index is one number, not negative; write one, as in new[0]", (4, 5)),
    ("new[1 + 2] > 3", "an index is one number, not negative; write one, as in new[0]", (4, 5)),
    ("new[] > 3", "an index is one number, not negative; write one, as in new[0]", (4, 5)),
    (
        "(new).x > 3",
        "only new and old have members and elements; write them right behind, as in new.member",
        (5, 6),
    ),
    (
        "STATE.x",
        "only new and old have members and elements; write them right behind, as in new.member",
        (5, 6),
    ),
    (
        'comm == "0123456789abcdef"',
        'comm holds at most 15 bytes, the kernel cuts longer names; write "0123456789abcde"',
        (8, 26),
    ),
    ('comm == "abc', 'the quote " is never closed; close it with "', (8, 9)),
    ('comm == "a\\qb"', "'\\q' is no escape; use \\n, \\t, \\\\, \\\", \\*, or \\xHH", (10, 12)),
    ("in foo", "a value is missing before 'in'; write ip in FUNCTION", (0, 2)),
    ("pid in foo", "only ip can be in a function; write ip in FUNCTION", (4, 6)),
    ("ip in", "a function's name is missing after 'in'; write ip in FUNCTION", (5, 5)),
    ("changed == 1", "'==' compares a truth value with a number; write changed or !changed", (8, 10)),
    ('comm < "x"', "texts have no order here; write == or !=", (5, 6)),
    ('"a" == "b"', 'only comm is compared with a text in quotes; write comm == "NAME"', (0, 10)),
    ("access < R", "accesses have no order; write == or !=", (7, 8)),
    ("new == 0xfffffffffffffffff", "the number does not fit 64 bits; write a smaller one", (7, 26)),
    ("new > 1.5", "numbers have no fraction; write a whole number", (7, 8)),
    ("new == R", "R is an access, not a number; write access == R", (7, 8)),
    (
        "(new > 1) | (old > 2)",
        "'|' needs numbers, this is a truth value; write || between comparisons, or (new | 1) == 1",
        (1, 8),
    ),
    ("!comm", 'a text is neither true nor false; write comm == "NAME"', (1, 5)),
    (
        "-changed",
        "'-' needs numbers, this is a truth value; put what comes first in parentheses, as in (new & 1) == 0",
        (1, 8),
    ),
    ("(new", "the '(' is never closed; add ')'", (0, 1)),
    ("new)", "no '(' opens this ')'; pair the brackets", (3, 4)),
    (
        "(new old)",
        "an operator is missing between 'new' and 'old'; join them with && or ||, or compare them",
        (5, 8),
    ),
    ("new == ''", "single quotes hold one character; write 0 for the end of a text", (7, 9)),
    ("new == 'é'", "only ASCII characters are one byte; write the byte as a number", (7, 10)),
    (r'comm == "\0"', "comm cannot hold a NUL; leave it out", (8, 12)),
    ("ip in foo.", "a name is missing after '.'; write the function's name", (10, 10)),
    ('pid == "x"', "pid is a number, not a text; compare a text in quotes with comm only", (7, 10)),
    ('access == "W"', "an access is not a text; write R, W, RW or X without quotes", (10, 13)),
    (
        "access == access",
        "only access is compared with R, W, RW or X; write access == R, W, RW or X",
        (0, 16),
    ),
    ("comm == comm", 'only comm is compared with a text in quotes; write comm == "NAME"', (0, 12)),
    ("ip == ip", "ip is compared with itself; write ip in FUNCTION, or ip == 0xADDRESS", (6, 8)),
    ("new + comm == 3", "'+' needs numbers, this is a text; write comm == \"NAME\"", (6, 10)),
    ("new == old == 1", "'==' compares a truth value with a number; join comparisons with &&", (11, 13)),
    ("new > 3:rw-", "':' has no meaning in a condition; put ACCESS before 'if'", (7, 8)),
]


def refuse(text: str) -> RequestError:
    with pytest.raises(RequestError) as caught:
        parse_condition(text)
    assert caught.value.place is not None
    return caught.value


@pytest.mark.parametrize(("text", "reason", "span"), BAD, ids=[text for text, _, _ in BAD])
def test_bad(text: str, reason: str, span: tuple[int, int]) -> None:
    error = refuse(text)
    assert error.line() == f"cannot read condition {quote(text)}: {reason}"
    assert error.place == Place(text, Span(*span))


@pytest.mark.parametrize(
    ("text", "span", "todo"),
    [
        ("pidd == 3", (0, 4), "did you mean pid?"),
        ("new > 3 && coment == 3", (11, 17), "did you mean comm?"),
        ("new > 3 && !FOO", (12, 15), "the fields are new, old, "),
        ("(pid == AAA) == (new == BBB)", (8, 11), "the fields are new, old, "),
    ],
)
def test_names_that_no_value_explains(text: str, span: tuple[int, int], todo: str) -> None:
    error = refuse(text)
    assert error.why.endswith("is no field, and enum names are compared only with new or old")
    assert error.todo.startswith(todo)
    assert error.place == Place(text, Span(*span))


def test_limits() -> None:
    parse_condition("!" * 40 + "new")
    assert refuse("!" * 41 + "new").why == "more than 40 levels are nested"
    parse_condition("(" * 40 + "new" + ")" * 40)
    assert refuse("(" * 41 + "new" + ")" * 41).why == "more than 40 levels are nested"
    long = parse_condition("new" + " + 1" * 200)
    assert parse_condition(str(long)) == long
    assert hash(long) == hash(parse_condition(str(long)))
    assert evaluate(long, {"new": -200}) is False
    assert refuse("new" + "+1" * 201).why == "a condition has at most 200 operators"
    assert refuse('comm == "\0"').why == "comm cannot hold a NUL"
    assert "UTF-8" in refuse('comm == "\ud800"').why


def test_a_request_calls_itself_one() -> None:
    with pytest.raises(RequestError) as caught:
        parse_request("pid_max:rw- if comm > 3")
    why = 'comm is a text, not a number; write comm == "NAME"'
    assert caught.value.line() == f"cannot read request 'pid_max:rw- if comm > 3': {why}"
    assert caught.value.place is not None
    assert caught.value.place.caret().splitlines()[1] == " " * 24 + "^"


def test_check_without_a_text() -> None:
    assert check(read("new + 1")) is Kind.INT
    assert check(read("new > 1")) is Kind.BOOL
    with pytest.raises(RequestError) as caught:
        check(read("comm > 3"))
    assert caught.value.line().startswith("cannot read condition 'comm > 3': comm is a text, not a number")
    assert caught.value.place is None


# Round trips.

WORDS = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,9}", fullmatch=True).filter(
    lambda word: word not in (*FIELDS, *ACCESSES, *CONSTANTS, "in", "if", "and", "or", "not", "is")
)
COMMS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=5).filter(
    lambda text: len(text.encode()) <= 15
)
PATHS = st.lists(
    st.builds(Member, st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,9}", fullmatch=True), st.just(NO))
    | st.builds(Index, st.integers(0, 2**64 - 1), st.just(NO)),
    max_size=3,
).map(tuple)
LEAVES: st.SearchStrategy[Condition] = st.one_of(
    st.builds(Number, st.integers(0, 2**64 - 1), st.just(NO)),
    st.builds(Text, COMMS, st.booleans(), st.just(NO)),
    st.builds(Field, st.sampled_from(FIELDS), st.just(NO)),
    st.builds(Field, st.sampled_from(VALUE_FIELDS), st.just(NO), PATHS),
    st.builds(AccessName, st.sampled_from(ACCESSES), st.just(NO)),
    st.builds(EnumName, WORDS, st.just(NO)),
    st.builds(
        InFunction, st.builds(str.__add__, WORDS, st.sampled_from(["", ".isra.0", "::f"])), st.just(NO)
    ),
)
OPERATORS = sorted(set(PRECEDENCE) - {"in"})


def grow(leaves: st.SearchStrategy[Condition], operators: list[str]) -> st.SearchStrategy[Condition]:
    return st.recursive(
        leaves,
        lambda inner: (
            st.builds(Unary, st.sampled_from("!-~"), inner, st.just(NO))
            | st.builds(Binary, st.sampled_from(operators), inner, inner, st.just(NO))
        ),
        max_leaves=12,
    )


@given(grow(LEAVES, OPERATORS))
def test_round_trip(condition: Condition) -> None:
    assert read(str(condition)) == condition


@given(st.text(max_size=40))
def test_arbitrary_text_is_read_or_refused(text: str) -> None:
    try:
        condition = parse_condition(text)
    except RequestError:
        return
    assert parse_condition(str(condition)) == condition


@given(grow(LEAVES, OPERATORS), st.integers(0, 3))
def test_what_is_checked_can_be_evaluated(condition: Condition, value: int) -> None:
    """Types are checked well enough if no condition that passes fails when it runs."""
    try:
        check(condition)
    except RequestError:
        return
    env: dict[str, int | str] = dict.fromkeys((*FIELDS, *names_in(condition)), value)
    env |= {"comm": "sshd", "access": "W", "function": "do_sysctl"}
    assert evaluate(condition, env) in (True, False)
    assert parse_condition(str(condition)) == condition


def names_in(node: Condition) -> set[str]:
    match node:
        case EnumName() | Field():
            return {str(node)}
        case Unary(operand=operand):
            return names_in(operand)
        case Binary(left=left, right=right):
            return names_in(left) | names_in(right)
    return set()


# What conditions mean.

ENV: dict[str, int | str] = {
    "new": 65536,
    "old": 32768,
    "pid": 4711,
    "tid": 4712,
    "cpu": 1,
    "uid": 0,
    "comm": "sshd",
    "access": "W",
    "ip": 0xFFFFFFFF8110BEEF,
    "function": "do_sysctl",
    "changed": 1,
    "STATE": 65536,
    "new.count": 7,
    "old.slots[2]": -1,
}


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ('new > 100 && comm == "sshd"', True),
        ("changed", True),
        ("!changed || uid", False),
        ('comm == "ssh*"', True),
        ('comm != "ssh*"', False),
        ('comm == "ssh"', False),
        (r'comm == "ssh\*"', False),
        ('"*" == comm', True),
        ("access == W", True),
        ("access == RW", False),
        ("access != R", True),
        ("ip == 0xffffffff8110beef", True),
        ("ip in do_sysctl", True),
        ("ip in do_syscall", False),
        ("new == STATE", True),
        ("old == STATE >> 1", True),
        ("new.count == 7 && old.slots[2] < 0 && new.count != new", True),
        ("new.count == STATE", False),
        ("-1 == 0xffffffffffffffff", True),
        ("0x8000000000000000 < 0", True),
        ("0x7fffffffffffffff + 1 < 0", True),
        ("-8 >> 1 == -4", True),
        ("1 << 65 == 2", True),
        ("1 << -1 == 0x8000000000000000", True),
        ("~0 == -1", True),
        ("- 0x8000000000000000 == 0x8000000000000000", True),
        ("(new & 0x10000) == 0x10000 && (new ^ old) == 0x18000 && (new | 1) == 65537", True),
        ("new <= 65536 && new >= 65536 && !(new < 65536) && new != 1", True),
        ("(new > old) == changed", True),
        ("tid - pid", True),
        ("0", False),
        (r'comm == "\x73*"', True),
    ],
)
def test_evaluate(text: str, kept: bool) -> None:
    assert evaluate(parse_condition(text), ENV) is kept


def test_a_name_is_compared_byte_by_byte() -> None:
    """The kernel cuts a name behind its 15th byte, and so may a prefix be cut."""
    assert evaluate(parse_condition(r'comm == "\xc3*"'), {"comm": "\xe9"})
    assert evaluate(parse_condition(r'comm == "\xc3*"'), {"comm": "\udcc3"})
    assert not evaluate(parse_condition(r'comm == "\xc3"'), {"comm": "\xe9"})


def test_evaluate_passes_over_what_decides_nothing() -> None:
    assert evaluate(parse_condition("new || old"), {"new": 1})
    assert not evaluate(parse_condition("new && old"), {"new": 0})
    with pytest.raises(KeyError):
        evaluate(parse_condition("new && old"), {"new": 1})


def test_every_field_has_a_type() -> None:
    for name in FIELDS:
        assert (check_of(name) is not None) == (name in (*NUMBER_FIELDS, "changed"))


def check_of(text: str) -> Kind | None:
    try:
        return check(read(text))
    except RequestError:
        return None


NUMBERS = st.integers(-(2**63), 2**64 - 1) | st.integers(-70, 70)
ARITHMETIC: st.SearchStrategy[Condition] = st.builds(
    Field, st.sampled_from(["new", "old", "pid"]), st.just(NO)
) | st.builds(Number, st.integers(0, 2**64 - 1) | st.integers(0, 70), st.just(NO))


@given(grow(ARITHMETIC, OPERATORS), st.tuples(NUMBERS, NUMBERS, NUMBERS))
def test_arithmetic_is_that_of_64_bits(condition: Condition, values: tuple[int, int, int]) -> None:
    env = dict(zip(("new", "old", "pid"), values, strict=True))
    assert evaluate(condition, env) is (long_value(condition, env) != 0)


def long_value(node: Condition, env: dict[str, int]) -> int:
    """What a machine would compute: each result is stored in a 64-bit integer."""
    if isinstance(node, Number):
        return ctypes.c_int64(node.value).value
    if isinstance(node, Field):
        return ctypes.c_int64(env[node.name]).value
    if isinstance(node, Unary):
        value = long_value(node.operand, env)
        return ctypes.c_int64({"-": -value, "~": -1 - value, "!": 0 if value else 1}[node.op]).value
    assert isinstance(node, Binary)
    left, right = long_value(node.left, env), long_value(node.right, env)
    distance = right % 64
    results = {
        "+": left + right,
        "-": left - right,
        "&": left & right,
        "|": left | right,
        "^": left ^ right,
        "<<": left * 2**distance,
        ">>": left // 2**distance,
        "==": left == right,
        "!=": left != right,
        "<": left < right,
        "<=": left <= right,
        ">": left > right,
        ">=": left >= right,
        "&&": bool(left and right),
        "||": bool(left or right),
    }
    return ctypes.c_int64(results[node.op]).value


@given(st.integers())
def test_signed(value: int) -> None:
    assert -(2**63) <= signed(value) < 2**63
    assert (signed(value) - value) % 2**64 == 0
