"""Texts that a careless writer of event streams would stumble over."""

ODD_TEXTS = [
    "a line\nand another",
    "a carriage\rreturn",
    "both\r\nof them\r\n",
    "\n\ndata: {}\n\nevent: complete\nid: 0-0-0-a0\ndata: {}\n\n",
    "\r\revent: error\r\r",
    "data: x",
    "id: 7",
    "event: reset",
    "retry: 1",
    ": a comment",
    ":",
    " a leading blank",
    "a trailing blank ",
    "\t",
    "\u2028 a line's separator \u2029 a paragraph's",
    "\u0085 a next line",
    "\x0b\x0c\x1c\x1d\x1e other ends of lines",
    "\ufeff a byte order mark \ufeff",
    "\x01\x08\x1b[31m\x7f\x9f control characters",
    "😀 👩\u200d👩\u200d👧 🏳\ufe0f\u200d🌈 e\u0301 \U0010ffff \uffff \ufffe \ufffd",
    "\u202e from right to left \u2066",
    '"quotes" \\ \\n \\u0000 \\ud800 / \\/',
    "</script><!-- ]]> &amp; %0A %00",
    "__proto__",
    "",
]
"""All that PostgreSQL can store and JSON can say."""

ODD_NAMES = [*ODD_TEXTS, "\u2028" * 200, "\r\n" * 100, "💡" * 200, "".join(ODD_TEXTS)[:200]]
"""What jobs may be called, the longest names among them."""

UNSTORABLE = {
    "a\0b\0": "ab",
    "\0": "",
    "a lone \ud800 surrogate": "a lone ? surrogate",
    "\udfff\ud83d": "??",
    "\udcff from a name of a file": "? from a name of a file",
}
"""What a handler may yield all the same, and what is stored of it."""
