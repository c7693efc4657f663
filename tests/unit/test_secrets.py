"""Which parameters are secret, and how their values are taken out of what a handler says."""

import base64
import html
import json
import time
from statistics import median
from typing import Annotated, Any, TypedDict
from urllib.parse import quote, quote_plus, urlencode

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Meta, Struct

from shared.errors import Invalid
from shared.kinds.mask import SHORTEST, Mask, parts
from shared.kinds.secret import HIDDEN, SECRET, Secret, has_secrets, redact, secret_values
from shared.web.validation import convert


class ByKey(Struct, tag="key", rename="camel"):
    private_key: Secret


class Open(Struct, tag="open"):
    user: str


class Typed(TypedDict):
    token: Secret
    host: str


class Tree(Struct):
    pin: Secret | None = None
    more: "list[Tree]" = []


class Transfer(Struct, rename="camel", forbid_unknown_fields=True):
    host: str
    password: Annotated[Secret, Meta(min_length=8, max_length=20)]
    spare: Secret | None = None
    tokens: list[Secret] = []
    by_host: dict[str, Secret] = {}
    by_token: dict[Secret, int] = {}
    headers: Annotated[dict[str, str], SECRET] = {}
    cookies: Annotated[dict[str, int], SECRET] | None = None
    login: ByKey | Open | None = None
    either: Secret | int = 0
    pair: tuple[str, Secret] | None = None
    typed: Typed | None = None
    code: Annotated[int, SECRET] = 0
    tree: Tree | None = None


PARAMS: dict[str, Any] = {
    "host": "example.org",
    "password": "pass word 1",
    "spare": None,
    "tokens": ["token-1", "token-2"],
    "byHost": {"a": "secret of a"},
    "byToken": {"token-3": 3},
    "headers": {"Authorization": "Bearer 4"},
    "login": {"type": "key", "privateKey": "key-5"},
    "either": "six 6",
    "pair": ["open", "seven 7"],
    "typed": {"token": "eight 8", "host": "open"},
    "code": 99999,
    "tree": {"pin": None, "more": [{"pin": "ten 10", "more": []}]},
}

SECRETS = {
    "pass word 1", "token-1", "token-2", "secret of a", "token-3", "Bearer 4", "key-5", "six 6", "seven 7", "eight 8",
    "99999", "ten 10",
}  # fmt: skip


def test_what_is_marked_is_found_wherever_it_stands() -> None:
    msgspec.convert(PARAMS, Transfer)
    assert set(secret_values(PARAMS, Transfer)) == SECRETS


def test_what_is_shown_of_parameters_holds_none_of_them() -> None:
    shown = redact(PARAMS, Transfer)
    assert shown == {
        "host": "example.org",
        "password": HIDDEN,
        "spare": None,
        "tokens": [HIDDEN, HIDDEN],
        "byHost": {"a": HIDDEN},
        "byToken": HIDDEN,
        "headers": HIDDEN,
        "login": {"type": "key", "privateKey": HIDDEN},
        "either": HIDDEN,
        "pair": ["open", HIDDEN],
        "typed": {"token": HIDDEN, "host": "open"},
        "code": HIDDEN,
        "tree": {"pin": None, "more": [{"pin": HIDDEN, "more": []}]},
    }
    assert redact({"login": {"type": "open", "user": "u"}, "either": 6}, Transfer) == {
        "login": {"type": "open", "user": "u"},
        "either": 6,
    }


def test_of_a_kind_that_is_not_known_nothing_is_shown() -> None:
    assert redact({"a": [1, {"b": "x"}], "c": None}, None) == {"a": HIDDEN, "c": None}


def test_a_type_without_marks_costs_nothing() -> None:
    assert has_secrets(Transfer)
    assert not has_secrets(Open)
    params = {"user": "u"}
    assert redact(params, Open) is params
    assert not Mask(secret_values(params, Open))


def test_the_schema_tells_forms_that_it_is_a_password() -> None:
    properties = msgspec.json.schema(Transfer)["$defs"]["Transfer"]["properties"]
    assert properties["password"].items() >= {"writeOnly": True, "format": "password", "maxLength": 20}.items()
    assert properties["headers"]["writeOnly"]


WRONG: list[dict[str, Any]] = [
    {"password": "hunter2"},  # too short
    {"password": "hunter2" * 9},  # too long
    {"password": {"hunter2": ["hunter2", 1]}},
    {"password": ["hunter2", "hunter2"]},
    {"password": "hunter2hunter2", "tokens": "hunter2"},
    {"tokens": [{"hunter2": 1}, 5]},
    {"byHost": {"a": ["hunter2"]}},
    {"byToken": {"hunter2": "x"}},
    {"byToken": {"hunter2": {"hunter2": 3}}},
    {"headers": {"hunter2": 7}},
    {"headers": "hunter2"},
    {"cookies": {"hunter2": "hunter2"}},
    {"login": {"type": "hunter2", "privateKey": "hunter2"}},
    {"login": {"type": "key", "privateKey": {"hunter2": 1}}},
    {"either": ["hunter2"]},
    {"pair": ["hunter2"]},
    {"pair": ["a", {"hunter2": 1}]},
    {"typed": {"token": {"hunter2": 1}}},
    {"tree": {"more": [{"pin": {"hunter2": 2}}]}},
]


@pytest.mark.parametrize("change", WRONG, ids=str)
def test_a_refusal_does_not_repeat_the_value(change: dict[str, Any]) -> None:
    with pytest.raises(Invalid) as caught:
        convert({"host": "h", "password": "correct horse"} | change, Transfer)
    assert caught.value.errors
    assert "hunter2" not in msgspec.json.encode(caught.value.errors).decode()


class Strict(Struct):
    password: Secret

    def __post_init__(self) -> None:
        raise ValueError(f"{self.password!r} is too weak, and so is {self.password.encode().hex()}")


def test_a_kinds_own_rule_that_repeats_the_value_is_masked() -> None:
    with pytest.raises(Invalid) as caught:
        convert({"password": "hunter2"}, Strict)
    assert caught.value.errors
    assert caught.value.errors[0].message == f"'{HIDDEN}' is too weak, and so is {HIDDEN}"


VALUES = [
    "hunter2",
    "correct horse battery",
    "quo\"te's & <tags>/\\back\\\\slash",
    "Schlüssel-€-😀-x",
    "a+b/c=d%20e",
    "tab\there",
    r"\u0041bc\n",
    "p@ss:word#1?&x=1",
]


def ways(value: str) -> list[str]:
    """How programs write a text when they show it somewhere."""
    data = value.encode()
    return [
        value,
        repr(value),
        repr({"password": value}),
        repr(data),
        ascii(value),
        json.dumps(value),
        json.dumps(value, ensure_ascii=False),
        json.dumps(json.dumps({"inner": value})),
        msgspec.json.encode(value).decode(),
        quote(value),
        quote(value, safe=""),
        quote_plus(value),
        quote(quote(value, safe=""), safe=""),
        urlencode({"password": value}),
        html.escape(value),
        data.hex(),
        data.hex().upper(),
        *(base64.b64encode(before + data + b"@host").decode() for before in (b"", b"u:", b"user", b"us:")),
        *(base64.urlsafe_b64encode(before + data).decode().rstrip("=") for before in (b"", b"u", b"us")),
        quote(base64.b64encode(data).decode(), safe=""),
    ]


@pytest.mark.parametrize("value", VALUES)
def test_a_value_is_found_however_it_is_written(value: str) -> None:
    mask = Mask([value])
    for way in ways(value):
        masked = mask(f"before {way} after")
        assert HIDDEN in masked, way
        assert masked.startswith("before ")
        assert masked.endswith(" after")
        assert len(masked) < len("before  after") + 40, (way, masked)
        core = value[1:-1]
        assert core not in masked


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=SHORTEST, max_size=40))
@settings(max_examples=200, deadline=None)
def test_any_value_is_found_in_what_holds_it(value: str) -> None:
    (*_, longest) = sorted(parts([value]), key=len) or [""]
    mask = Mask([value])
    for way in (value, json.dumps(value), repr(value), quote(value, safe="")) if longest == value else (value,):
        assert longest == "" or HIDDEN in mask(f"x {way} y")
    assert mask("nothing to see") == "nothing to see" or any(part in "nothing to see" for part in parts([value]))


def test_values_that_overlap_leave_nothing_of_each_other() -> None:
    assert Mask(["big hello", "hello world"])("a big hello world!") == f"a {HIDDEN}!"
    assert Mask(["aaaa"])("aaaaaa") == HIDDEN
    assert Mask(["abcd", "abcdefgh"])("abcdefgh abcd") == f"{HIDDEN} {HIDDEN}"


def test_each_line_of_a_key_file_is_one_too() -> None:
    key = "-----BEGIN KEY-----\nMIIEvQIBADANBg\nkqhkiG9w0BAQE\n}\n-----END KEY-----\n"
    mask = Mask([key])
    assert mask("line: kqhkiG9w0BAQE.") == f"line: {HIDDEN}."
    assert mask(key) == HIDDEN + "\n"
    assert mask(json.dumps(key)) == f'"{HIDDEN}\\n"'
    assert mask("}") == "}"


@pytest.mark.parametrize("length", [127, 128, 129, 256, 300, 1000])
def test_a_long_value_is_hidden_as_one(length: int) -> None:
    value = "".join(f"{number}\\'+/" for number in range(length))[:length]
    mask = Mask([value])
    for way in (value, json.dumps(value), quote(value, safe="")):
        whole = way.strip('"')
        assert mask(f"<{whole}>") == f"<{HIDDEN}>"
    for before in ("", "u", "us"):
        encoded = base64.b64encode((before + value + "..").encode()).decode()
        assert len(mask(encoded)) < 12


def test_very_short_values_are_left() -> None:
    assert not Mask(["abc", " a ", ""])
    assert Mask(["abcd"])


def test_results_are_masked_and_stay_json() -> None:
    mask = Mask(["hunter2", '":"a', "1234", "true"])
    result = {"a": ["hunter2", {"x hunter2": 1}], "n": 1234, "m": 12345, "t": True, "q": 'has ":"a in it', "z": 1.5}
    assert json.loads(mask.json(json.dumps(result).encode())) == {
        "a": [HIDDEN, {f"x {HIDDEN}": 1}], "n": HIDDEN, "m": 12345, "t": True, "q": f"has {HIDDEN} in it", "z": 1.5,
    }  # fmt: skip
    untouched = b'{ "spaced" : 1e400 }'.replace(b"1e400", b"10")
    assert mask.json(untouched) is untouched


NASTY = [
    "a" * 50_000,
    '"' * 50_000,
    '\t%\t"' * 9_000,
    "".join(map(str, range(9_000))),
    "\\" * 60 + "x",
    '"' * 60,
    "%25" * 30,
    "&amp;" * 30,
    "\\\t\t" * 20,
    "\\'" * 40,
    "%" * 60,
    " +" * 30,
    "a" * 60,
    '\\"' * 30,
    "\\u0022" * 12,
]


@pytest.mark.parametrize("value", NASTY)
def test_no_value_makes_it_slow(value: str) -> None:
    """Four times the text takes about four times as long, and not sixteen times."""
    mask = Mask([value])

    def once(size: int) -> float:
        began = time.thread_time()  # of this thread alone: others may be busy
        for unit in (value[:-1], "\\", "%25", "&amp;", '\\\\"', '"'):
            mask((unit * size)[:size])
        return time.thread_time() - began

    def ratio() -> float:
        """The middle of several: clocks of virtual machines err either way."""
        return median(once(32_000) / max(once(8_000), 0.02) for _ in range(3))

    assert any(ratio() < 10 for _ in range(3))
