from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import socket
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
import uvloop

from server.http.connection import Connection
from server.http.messages import Body, StreamedResponse
from tests.app.wire import Answer, Side, Wire, head, live, post, read_answers, read_head, read_to_end, seeded

NewLoop = Callable[[], asyncio.AbstractEventLoop]
GET = b"GET /a HTTP/1.1\r\nhost: x\r\n\r\n"


def chunked(path: str, *chunks: bytes, headers: Sequence[str] = (), trailers: bytes = b"") -> bytes:
    body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    return head(path, "transfer-encoding: chunked", *headers) + body + b"0\r\n" + trailers + b"\r\n"


@pytest.fixture
def side() -> Side:
    return Side()


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop])
def new_loop(request: pytest.FixtureRequest) -> NewLoop:
    return request.param


def test_an_answer_as_it_is_sent(side: Side) -> None:
    wire = side.tell(post("/a", b"hello"))
    assert wire.written == (
        b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ndate: today\r\nx-request-id: id\r\ncontent-length: 13\r\n\r\n"
        b"POST /a hello"
    )
    assert not wire.ended


MANY = [
    (GET, b"GET /a "),
    (post("/b", b"body"), b"POST /b body"),
    (b"\r\n" + post("/empty"), b"POST /empty "),
    (chunked("/c", b"abc", b"d" * 20), b"POST /c abc" + b"d" * 20),
    (chunked("/t", b"x", headers=["trailer: t"], trailers=b"t: v\r\nHost: y\r\n"), b"POST /t x"),
    (chunked("/none"), b"POST /none "),
    (
        b'POST /e HTTP/1.1\r\nhost: x\r\ntransfer-encoding: Chunked \r\n\r\n002;a=b;c="d"\r\nhi\r\n000\r\n\r\n',
        b"POST /e hi",
    ),
    (b"GET http://x/abs?q HTTP/1.1\r\nhost: x\r\n\r\n", b"GET /abs "),
    (post("/u", b"body", "connection: Upgrade, HTTP2-Settings", "upgrade: h2c", "http2-settings: A"), b"POST /u body"),
    (chunked("/v", b"ab", headers=["connection: upgrade", "upgrade: websocket"]), b"POST /v ab"),
    (post("/refused", b"not read"), b"refused"),
    (b"OPTIONS * HTTP/1.1\r\nhost:\r\n\r\n", b"OPTIONS * "),
]
STREAM = b"".join(request for request, _ in MANY)
ANSWERS = [answer for _, answer in MANY]


def test_requests_sent_ahead_are_answered_in_their_order(side: Side) -> None:
    wire = side.tell(STREAM)
    assert wire.bodies == ANSWERS
    assert not wire.ended


def test_byte_by_byte(side: Side) -> None:
    assert side.tell_by_byte(STREAM).bodies == ANSWERS


@pytest.mark.parametrize("second", [1, 7, 100])
def test_split_anywhere(second: int) -> None:
    for at in range(1, len(STREAM)):
        wire = Side().tell(STREAM[:at]).feed(STREAM[at : at + second]).feed(STREAM[at + second :])
        assert wire.bodies == ANSWERS, at


def test_a_request_is_answered_alike_when_its_head_is_known_by_its_bytes() -> None:
    side, count = Side(), 0
    for _ in range(3):
        for request, answer in MANY:
            wire = side.tell(request)
            assert wire.bodies == [answer]
            assert wire.feed(request).bodies == [answer] * 2
            wire.lose()
            count += 2 * (answer != b"refused")
    assert len(side.core.handled) == count
    assert side.shared.body_bytes == 0
    for first in range(len(side.core.handled)):  # the same bytes give the same request
        request = side.core.handled[first]
        assert request.headers == side.core.handled[first % (count // 3)].headers
        assert request.keep_alive


@pytest.mark.parametrize(
    "stream",
    [
        post("/a", b"abcde")[:-1],
        post("/a", b"abcde") + b"x",
        post("/a", b"abcde") + GET,
        post("/a", b"abcde")[:-5] + GET,
        b"\r\n\r\n" + post("/a", b"abcde"),
        post("/a", b"\r\n\r\n") + post("/a", b"abcde"),
        post("/a", post("/a", b"abcde")),
        post("/a", b"abcde", "connection: close"),
        post("/a", b"abcde").replace(b"HTTP/1.1", b"HTTP/1.0"),
        post("/a", b"abcde", "expect: 100-continue"),
        post("/a", b"abcde", "connection: upgrade", "upgrade: h2c"),
        post("/refused", b"abcde"),
        post("/a", b"", "x: " + "x" * 3_000),
        chunked("/a", b"abcde"),
        GET,
        b"abcde",
        b"",
    ],
)
def test_a_known_head_changes_nothing(side: Side, stream: bytes) -> None:
    """The same bytes are answered alike by the parser alone, byte by byte, and once their head is known."""
    slow = Side().tell_by_byte(stream)
    for before in (post("/a", b"abcde"), post("/a"), GET, post("/refused", b"abcde"), stream):
        side.tell(before).lose()
    known = side.tell(stream)
    assert known.written == slow.written
    assert known.ended == slow.ended
    assert known.connection.unanswered == slow.connection.unanswered
    known.lose()
    assert side.shared.body_bytes == 0


def test_known_heads_are_bounded(side: Side) -> None:
    for number in range(3_000):
        side.tell(GET.replace(b"/a", b"/%d" % number)).lose()
        side.tell(GET.replace(b"/a", b"/" + b"a" * 3_000)).lose()
    assert len(side.shared.heads) <= 512
    assert max(map(len, side.shared.heads)) < 3_000


def test_known_heads_are_held_to_the_limits_that_change() -> None:
    side = Side(all_bodies_bytes=1_500)
    assert side.tell(post("/a", b"x" * 1_000)).statuses == [200]
    assert side.tell(post("/later", b"x" * 1_000)).statuses == []
    assert side.tell(post("/a", b"x" * 1_000)).statuses == [429]
    side.shared.draining = True
    wire = side.tell(post("/a", b"x" * 100)).feed(post("/a", b"x" * 100))
    assert wire.statuses == [200]
    assert wire.eof


def test_a_slow_one_first_holds_the_others_back(side: Side) -> None:
    wire = side.tell(post("/later", b"1") + STREAM + post("/later", b"2") + GET)
    assert wire.written == b""
    side.core.finish(side.core.waiting[0])
    assert wire.bodies == [b"POST /later 1", *ANSWERS]
    side.core.finish(side.core.waiting[0])
    assert wire.bodies == [b"POST /later 1", *ANSWERS, b"POST /later 2", b"GET /a "]


@pytest.mark.parametrize("slow", ["none", "first", "each"])
def test_thousands_sent_ahead_take_neither_the_stack_nor_the_memory(side: Side, slow: str) -> None:
    count = 5_000
    paths = [f"/later{n}" if slow == "each" or (slow, n) == ("first", 0) else f"/{n}" for n in range(count)]
    wire = side.tell(b"".join(head(path, method="GET") for path in paths))
    if slow != "none":
        assert not wire.reading
        assert wire.written == b""
    most = 0
    while side.core.waiting:
        most = max(most, len(wire.connection._queue))
        side.core.finish(side.core.waiting[0])
    assert wire.bodies == [f"GET {path} ".encode() for path in paths]
    assert most < 500
    assert wire.reading
    assert not wire.ended


def test_thousands_of_upgrades_sent_ahead(side: Side) -> None:
    upgrade = post("/u", b"x", "connection: upgrade", "upgrade: h2c")
    assert side.tell(upgrade * 3_000).bodies == [b"POST /u x"] * 3_000


def test_while_requests_wait_the_rest_is_left_in_the_kernel_and_is_not_late() -> None:
    side = Side(read_seconds=1)
    wire = side.tell(post("/later") + GET * 30 + GET[:10])
    assert not wire.reading
    side.pass_time(5)
    side.core.finish(side.core.waiting[0])
    assert wire.reading
    side.pass_time(0.5)
    wire.feed(GET[10:])
    assert wire.statuses == [200] * 32


def test_head_has_no_body_but_its_length(side: Side) -> None:
    found, rest = side.tell(head("/a", method="HEAD") + GET).written.split(b"\r\n\r\n", 1)
    status, headers = read_head(found)
    assert (status, headers["content-length"]) == (200, "8")
    assert [answer.body for answer in read_answers(rest)] == [b"GET /a "]


@pytest.mark.parametrize(
    "request_",
    [
        b"GET /a HTTP/1.0\r\n\r\n",
        b"GET /a HTTP/1.0\r\nconnection: keep-alive\r\n\r\n",
        b"GET /a HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
        b"GET /a HTTP/1.1\r\nhost: x\r\nConnection: foo,  Close\r\n\r\n",
        b"GET /a HTTP/1.1\r\nhost: x\r\nconnection: close, upgrade\r\nupgrade: h2c\r\n\r\n",
    ],
)
@pytest.mark.parametrize("rest", [b"", GET, b"garbage"])
def test_a_last_request_ends_the_connection_and_the_rest_is_unread(side: Side, request_: bytes, rest: bytes) -> None:
    wire = side.tell(request_ + rest)
    wire.feed(GET)
    assert wire.bodies == [b"GET /a "]
    assert wire.answers[0].headers["connection"] == "close"
    assert wire.eof
    assert side.core.problems == []
    wire.lose()


@pytest.mark.parametrize(
    "last",
    [
        b"POST /later HTTP/1.0\r\nconnection: keep-alive\r\ncontent-length: 1\r\n\r\n1",
        post("/later", b"1", "connection: close"),
    ],
)
def test_what_follows_a_slow_last_request_is_neither_kept_nor_judged(side: Side, last: bytes) -> None:
    wire = side.tell(last + GET + post("/a", b"x" * 1_000) * 50).feed(GET).feed(b"garbage\r\n\r\n")
    assert wire.reading
    assert (side.shared.body_bytes, wire.connection.unanswered) == (1, 1)
    side.core.finish(side.core.waiting[0])
    assert wire.bodies == [b"POST /later 1"]
    assert wire.eof
    assert side.core.problems == []


def test_expect_continue(side: Side) -> None:
    wire = side.tell(post("/a", b"body", "Expect: 100-Continue")[:-4])
    assert wire.written == b"HTTP/1.1 100 Continue\r\n\r\n"
    wire.feed(b"body")
    assert wire.statuses == [100, 200]
    assert wire.answers[1].body == b"POST /a body"


@pytest.mark.parametrize(("path", "length", "status"), [("/refused", 10, 401), ("/a", 200_000, 413)])
def test_a_body_that_is_not_wanted_is_not_asked_for(side: Side, path: str, length: int, status: int) -> None:
    wire = side.tell(head(path, "expect: 100-continue", length=length))
    assert wire.statuses == [status]
    assert wire.eof


def test_expect_continue_waits_for_the_answers_before_it_and_is_not_for_old_clients(side: Side) -> None:
    wire = side.tell(post("/later") + post("/a", b"x", "expect: 100-continue")[:-1])
    assert wire.written == b""
    side.core.finish(side.core.waiting[0])
    assert wire.feed(b"x").answers[-1].body == b"POST /a x"
    old = Side().tell(b"POST /a HTTP/1.0\r\nexpect: 100-continue\r\ncontent-length: 1\r\n\r\n")
    assert old.written == b""


def test_another_expectation_is_passed_over(side: Side) -> None:
    assert side.tell(post("/a", b"", "expect: more")).statuses == [200]


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/a?b=c", "/a"),
        ("/a?b?c#d", "/a"),
        ("/%61%2Fb", "/a/b"),
        ("/%C3%A9%FF", "/é\ufffd"),
        ("/%zz%", "/%zz%"),
        ("/%0d%0aSet-Cookie:%20a", "/\r\nSet-Cookie: a"),
        ("http://host/a?b", "/a"),
        ("HTTPS://user@host:1/a", "/a"),
        ("http://host", "/"),
        ("http://host?a", "/"),
        ("*", "*"),
        ("/http://host/a", "/http://host/a"),
    ],
)
def test_the_target_s_path(side: Side, target: str, path: str) -> None:
    side.tell(f"GET {target} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
    assert [request.path for request in side.core.handled] == [path]


def test_headers_are_found_in_any_case_and_joined(side: Side) -> None:
    side.tell(b"GET / HTTP/1.1\r\nHOST: x\r\nX-A:  1 \t\r\nx-a:2\r\nX-Empty:\r\nX-B: \xe9\r\n\r\n")
    (request,) = side.core.handled
    assert request.headers == {b"host": b"x", b"x-a": b"1, 2", b"x-empty": b"", b"x-b": b"\xe9"}
    assert request.header(b"x-b") == "é"
    assert request.header(b"x-c") is None


HEAD = b"POST / HTTP/1.1\r\nhost: x\r\n"
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"


MALFORMED = {
    400: [
        *(b"hello\r\n\r\n", b"\x16\x03\x01\x02\x00\x01", b"\x00", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        *(b"get / HTTP/1.1\r\nhost: x\r\n\r\n", b"NONSENSE / HTTP/1.1\r\nhost: x\r\n\r\n"),
        *(b"GET / HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nhost: x\r\nhost: y\r\n\r\n"),
        *(b"GET / HTTP/1.1\nhost: x\n\n", b"GET / HTTP/1.1\r\nhost: x\r\n\n", b"GET / HTTP/1.2\r\nhost: x\r\n\r\n"),
        *(b"GET %b HTTP/1.1\r\nhost: x\r\n\r\n" % target for target in (b"/ b", b"a", b"/\xff\x01")),
        *(
            HEAD + line + b"\r\n\r\n"
            for line in (b"a: b\rc: d", b"a: b\nc: d", b"a: b\0", b"a: b\r\n c", b"a: b\r\n\tc")
        ),
        *(HEAD + line + b"\r\n\r\n" for line in (b" a: b", b"a : b", b": b", b"a")),
        *(HEAD + b"content-length:%b\r\n\r\n" % length for length in (b" 1\r\ncontent-length: 1", b" 1, 1", b"")),
        *(HEAD + b"content-length: %b\r\n\r\n" % length for length in (b"+1", b"-1", b"1_0", b"0x1", b"9" * 20)),
        HEAD + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n",
        HEAD + b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n",
        *(HEAD + b"transfer-encoding: chunked, %b\r\n\r\n" % coding for coding in (b"chunked", b"identity")),
        HEAD + b"transfer-encoding:\r\n\r\n",
        *(CHUNKED + size + b"\r\n" for size in (b"xyz", b"-1", b"0x1", b" 1", b"f" * 18, b"3\r\nabcd", b"3\nabc")),
        CHUNKED + b"0\r\n\n",
        CHUNKED + b"0\r\ntrailer\r\n\r\n",
    ],
    413: [HEAD + b"content-length: 18446744073709551615\r\n\r\n"],
    501: [
        *(HEAD + b"transfer-encoding: %b\r\n\r\n" % coding for coding in (b"xchunked", b"gzip", b"gzip, chunked")),
        *(b"CONNECT x:443 HTTP/1.1\r\nhost: x\r\n\r\nwhatever", b"CONNECT / HTTP/1.1\r\nhost: x\r\n\r\n"),
    ],
    505: [
        *(b"GET / HTTP/2.0\r\nhost: x\r\n%b\r\n" % more for more in (b"", b"connection: keep-alive\r\n")),
        *(b"GET / HTTP/0.9\r\nhost: x\r\n\r\n", b"GET /\r\n\r\n"),
    ],
}


@pytest.mark.parametrize(
    ("bytes_sent", "status"), [(sent, status) for status, cases in MALFORMED.items() for sent in cases]
)
def test_what_is_not_http_is_answered_and_ends_the_connection(side: Side, bytes_sent: bytes, status: int) -> None:
    wire = side.tell(GET + bytes_sent)
    assert wire.statuses == [200, status]
    assert wire.answers[1].headers["connection"] == "close"
    assert wire.eof
    assert len(side.core.problems) == 1
    assert len(side.core.handled) == 1
    wire.feed(GET)
    wire.lose()
    assert (side.shared.body_bytes, len(side.shared.connections)) == (0, 0)

    assert side.tell_by_byte(bytes_sent).statuses == [status]


@pytest.mark.parametrize("path", ["/", "/later"])
def test_a_bad_one_is_answered_after_the_good_ones_before_it(side: Side, path: str) -> None:
    wire = side.tell(post("/later", b"1") + post(path, b"2") + b"garbage\r\n\r\n" + GET)
    while side.core.waiting:
        assert not wire.ended
        side.core.finish(side.core.waiting[0])
    assert wire.statuses == [200, 200, 400]
    assert wire.eof


@pytest.mark.parametrize("good", [0, 3])
def test_a_bad_one_is_answered_once_the_client_takes_its_answers(side: Side, good: int) -> None:
    wire = side.connect()
    wire.connection.pause_writing()
    wire.feed(GET * good + b"garbage\r\n\r\n")
    assert wire.written == b""
    wire.connection.resume_writing()
    assert wire.statuses == [200] * good + [400]
    assert wire.eof


@pytest.mark.parametrize(
    "head",
    [
        b"GET /" + b"a" * 2_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\na: " + b"a" * 2_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\n" + b"a" * 2_000 + b": b\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\n" + b"a:\r\n" * 300 + b"\r\n",
        chunked("/", b"x", trailers=b"a: b\r\n" * 300),
    ],
)
def test_the_head_is_bounded(head: bytes) -> None:
    side = Side(head_bytes=1_000)
    for wire in (side.tell(head), side.tell(head[:500]).feed(head[500:1000]).feed(head[1000:])):
        assert wire.statuses == [431]
        assert wire.eof
        wire.lose()
    assert side.shared.body_bytes == 0


@pytest.mark.parametrize(
    "start",
    [
        b"GET /",
        b"GET / HTTP/1.1\r\nhost: x\r\na: ",
        b"GET / HTTP/1.1\r\nhost: x\r\na",
        CHUNKED + b"0\r\na: ",
        CHUNKED + b"1\r\nx\r\n0\r\na",
        CHUNKED + b"1;",
    ],
)
def test_what_never_ends_is_not_kept_by_the_parser(start: bytes) -> None:
    wire = Side(head_bytes=10_000).tell(start)
    for _ in range(30):
        wire.feed(b"a" * 1_000)
    assert wire.statuses == [431]


def test_a_head_just_within_the_limit_is_taken_however_it_comes() -> None:
    head = b"GET / HTTP/1.1\r\nhost: x\r\na: " + b"a" * 900 + b"\r\n\r\n"
    assert Side(head_bytes=1_000).tell_by_byte(head * 3).statuses == [200] * 3


@pytest.mark.parametrize("later", [b"", post("/later", b"1")])
def test_a_body_that_is_too_long(later: bytes) -> None:
    side = Side(body_bytes=1_000)
    wires = [
        side.tell(later + post("/a", b"x" * 1_001)),
        side.tell(later + post("/a", b"x" * 1_001)[:-1_001]),
        side.tell(later + chunked("/a", b"x" * 600, b"x" * 401)),
        side.tell(later + chunked("/a", *[b"x"] * 2_000)),
    ]
    for wire in wires:
        side.core.finish_all()
        assert wire.statuses[-1] == 413
        assert wire.eof
        wire.lose()
    assert side.shared.body_bytes == 0
    assert side.tell(post("/a", b"x" * 1_000) + chunked("/a", *[b"x"] * 1_000)).statuses == [200, 200]


def test_a_body_in_many_small_pieces_takes_no_more_than_its_bytes(side: Side) -> None:
    chance = seeded(1)
    pieces = [chance.randbytes(chance.choice([1, 2, 2, 2, 900, 1_023, 1_024, 2_000])) for _ in range(100)]
    pieces += [b"ab"] * 5_000
    wires = [side.tell(chunked("/a", *pieces)[:-5]), side.tell(post("/a", b"".join(pieces))[:-10_000])]
    for _ in range(4_999):
        wires[1].feed(b"ab")
    wires[1].feed(b"a")
    for wire in wires:
        assert len(wire.connection._incoming.parts) < 100
        assert sum(len(piece) for piece in wire.connection._incoming.parts) == wire.connection._incoming.body_bytes
    wires[0].feed(b"0\r\n\r\n")
    wires[1].feed(b"b")
    assert [request.body for request in side.core.handled] == [b"".join(pieces)] * 2
    assert side.shared.body_bytes == 0


def test_all_bodies_together_are_bounded() -> None:
    side = Side(body_bytes=1_000, all_bodies_bytes=2_500)
    first, second = side.tell(post("/later", b"x" * 1_000)), side.tell(post("/later", b"x" * 1_000)[:-1])
    third = side.tell(post("/later", b"x" * 1_000))
    assert third.statuses == [429]
    assert third.answers[0].headers["retry-after"] == "1"
    assert third.eof
    assert side.shared.body_bytes == 1_999
    assert side.tell(post("/a", b"x" * 400)).statuses == [200]
    second.lose()
    assert side.shared.body_bytes == 1_000
    fourth = side.tell(post("/later", b"x" * 1_000))
    side.core.finish_all()
    assert first.statuses == fourth.statuses == [200]
    assert side.shared.body_bytes == 0


@pytest.mark.parametrize(
    "begun",
    [b"G", b"GET / HTTP/1.1\r\n", b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nabc", CHUNKED + b"5\r\nab"],
)
def test_a_slow_request(begun: bytes) -> None:
    side = Side(read_seconds=3)
    wire = side.tell(GET + begun)
    side.pass_time(2.9)
    assert wire.statuses == [200]
    side.pass_time(0.2)
    assert wire.statuses == [200, 408]
    assert wire.eof
    assert side.shared.body_bytes == 0
    side.pass_time(1)
    assert not wire.aborted
    side.pass_time(2)
    assert wire.aborted


def test_a_slow_request_behind_one_that_is_worked_on() -> None:
    side = Side(read_seconds=3)
    wire = side.tell(post("/later") + GET[:5])
    side.pass_time(3.1)
    assert wire.written == b""
    side.core.finish(side.core.waiting[0])
    assert wire.statuses == [200, 408]
    assert wire.eof


def test_an_idle_connection_is_closed_but_not_one_that_waits_for_its_answer() -> None:
    side = Side(idle_seconds=75)
    silent, blank, used, waits = side.connect(), side.tell(b"\r\n\r\n"), side.tell(GET), side.tell(post("/later"))
    side.pass_time(74)
    assert not any(wire.ended for wire in (silent, blank, used, waits))
    used.feed(GET)
    side.pass_time(2)
    assert [wire.closing for wire in (silent, blank, used, waits)] == [True, True, False, False]
    side.pass_time(74)
    assert used.closing
    assert not waits.closing
    side.core.finish(side.core.waiting[0])
    side.pass_time(74)
    assert not waits.closing
    side.pass_time(2)
    assert waits.closing


def test_a_client_that_never_takes_its_answers_is_cut_off_and_not_worked_for() -> None:
    side = Side(read_seconds=30)
    wire = side.tell(GET)
    wire.connection.pause_writing()
    wire.feed(post("/a", b"x" * 100) * 2_000)
    assert len(side.core.handled) == 1
    assert not wire.reading
    assert len(wire.connection._queue) < 100
    side.pass_time(29)
    assert not wire.aborted
    side.pass_time(2)
    assert wire.aborted
    wire.lose()
    assert side.shared.body_bytes == 0


def test_a_last_answer_is_given_time_to_flow_out() -> None:
    side = Side(read_seconds=30)
    wire = side.tell(b"GET / HTTP/1.0\r\n\r\n")
    wire.unflushed = 1_000
    side.pass_time(29)
    assert not wire.aborted
    side.pass_time(2)
    assert wire.aborted


VITAL = head("/vital", method="GET")


@pytest.mark.parametrize("known", [False, True])
def test_beyond_the_limit_of_connections_only_what_is_vital_is_answered(known: bool) -> None:
    side = Side(connections=2, spare_connections=3)
    first, second = side.connect(), side.connect()
    if known:
        assert first.feed(GET).feed(VITAL).feed(post("/a", b"x")).statuses == [200] * 3
    spare = [side.tell(sent) for sent in (VITAL, GET, post("/a", b"x"))]
    assert [wire.statuses for wire in spare] == [[200], [503], [503]]
    assert all(wire.eof and wire.answers[0].headers["connection"] == "close" for wire in spare)
    assert spare[1].answers[0].headers["retry-after"] == "1"
    assert b"2 clients" in spare[1].bodies[0]
    assert side.shared.refused == 2
    for wire in (first, second):
        before = len(wire.statuses)
        assert wire.feed(GET).statuses[before:] == [200]
    assert not any(wire.aborted for wire in (first, second, *spare))
    assert side.shared.body_bytes == 0


def test_a_spare_connection_answers_one_request() -> None:
    side = Side(connections=1)
    side.connect()
    wire = side.tell(VITAL * 3)
    assert wire.statuses == [200]
    assert wire.eof
    assert side.shared.refused == 0


def test_of_the_spare_connections_the_oldest_makes_room_for_a_new_one() -> None:
    side = Side(connections=1, spare_connections=2)
    clients = [side.connect() for _ in range(5)]
    assert [wire.aborted for wire in clients] == [False, True, True, False, False]
    assert side.shared.refused == 2
    assert side.tell(VITAL).statuses == [200]
    assert side.tell(GET).statuses == [503]
    assert side.shared.refused == 5
    for _ in range(4):
        assert side.tell(VITAL).statuses == [200]
    assert side.shared.refused == 5, "one that was answered is not refused"


def test_a_spare_connection_is_like_any_other_once_there_is_room() -> None:
    side = Side(connections=2)
    first, _, third = (side.connect() for _ in range(3))
    first.lose()
    assert third.feed(GET).feed(GET).statuses == [200, 200]
    assert not third.ended
    assert side.tell(GET).statuses == [503]
    third.lose()
    assert side.tell(GET).feed(GET).statuses == [200, 200]
    assert side.shared.refused == 1


def test_a_client_that_asks_takes_the_place_of_the_one_that_has_been_idle_for_longest() -> None:
    side = Side(connections=5)
    working, reading = side.tell(post("/later")), side.tell(GET[:1])
    deaf = side.tell(GET)
    deaf.unflushed = 1
    asked, silent = side.tell(GET), side.connect()
    side.pass_time(1)
    asked.feed(GET)
    side.pass_time(1)
    waiting = side.connect()
    assert side.tell(VITAL).statuses == [200]
    assert not any(wire.closing for wire in (working, reading, deaf, asked, silent, waiting))
    newcomer = side.tell(GET).feed(GET)
    assert (newcomer.statuses, newcomer.ended, silent.closing, asked.closing) == ([200, 200], False, True, False)
    silent.lose()
    assert waiting.feed(post("/later")).statuses == []
    assert asked.closing
    assert not waiting.closing
    asked.lose()
    assert side.tell(GET).statuses == [503], "those within the limit have requests or just had"
    side.pass_time(1)
    assert side.tell(GET).statuses == [200]
    assert newcomer.closing
    assert not any(wire.closing for wire in (working, reading, deaf, waiting))
    assert side.shared.refused == 4


def test_one_that_has_asked_since_it_was_found_idle_keeps_its_place() -> None:
    side = Side(connections=3)
    first, second, third = side.connect(), side.connect(), side.connect()
    side.pass_time(1)
    assert side.tell(GET).statuses == [200]
    assert first.closing + second.closing + third.closing == 1
    for wire in (first, second, third):
        wire.feed(GET)
    assert side.tell(GET).statuses == [503]


def test_idle_clients_are_looked_through_once_a_tick(monkeypatch: pytest.MonkeyPatch) -> None:
    side = Side(connections=200, spare_connections=400)
    for _ in range(100):
        side.connect()
    for _ in range(100):
        side.tell(GET[:1])
    side.pass_time(1)
    looks: list[Connection] = []
    look = Connection.idle.fget
    assert look
    monkeypatch.setattr(Connection, "idle", property(lambda each: looks.append(each) or look(each)))
    statuses = [side.tell(GET).statuses for _ in range(300)]
    assert statuses == [[200]] * 100 + [[503]] * 200
    assert len(looks) < 500


def test_connections_beyond_the_limit_leave_nothing_behind() -> None:
    side = Side(connections=1, spare_connections=2)
    clients = [side.tell(sent) for sent in (b"", b"", GET[:5], GET, VITAL, post("/later"), b"")]
    for wire in clients:
        wire.lose()
    assert (side.shared.connections, side.shared.spare, side.shared.body_bytes) == (set(), {}, 0)


@pytest.mark.parametrize(("size", "stays"), [(0, True), (65_536, True), (65_537, False)])
def test_an_unwanted_body_is_read_over_if_short_or_ends_the_connection(side: Side, size: int, stays: bool) -> None:
    wire = side.tell(post("/refused", b"x" * size) + GET)
    assert wire.bodies[0] == b"refused"
    assert wire.statuses == ([401, 200] if stays else [401])
    assert wire.eof != stays
    assert side.shared.body_bytes == 0


def test_what_follows_an_answer_that_ends_the_connection_is_read_and_thrown_away(side: Side) -> None:
    wire = side.tell(chunked("/refused", b"x" * 10)[:-10])
    assert wire.statuses == [401]
    for _ in range(10):
        wire.feed(GET * 1_000)
    assert wire.statuses == [401]
    assert wire.reading
    assert not wire.closing


def test_while_draining_every_answer_is_the_last(side: Side) -> None:
    working, ahead, reading, idle = (
        side.tell(post("/later", b"1")),
        side.tell(post("/later", b"2") + GET * 3),
        side.tell(GET + post("/a", b"x")[:-1]),
        side.tell(GET),
    )
    side.shared.draining = True
    fresh = side.tell(GET * 3)
    side.core.finish_all()
    reading.feed(b"x" + GET)
    idle.feed(GET)
    for wire, count in ((working, 1), (ahead, 1), (reading, 2), (idle, 2), (fresh, 1)):
        assert wire.statuses == [200] * count
        assert wire.answers[-1].headers["connection"] == "close"
        assert wire.eof
    assert side.shared.body_bytes == 0


def test_stop_closes_what_is_idle_only(side: Side) -> None:
    wires = [side.tell(sent) for sent in (b"", GET, GET[:5], post("/a", b"x")[:-1], post("/later"))]
    for connection in list(side.shared.connections):
        connection.close_if_idle()
    assert [wire.closing for wire in wires] == [True, True, False, False, False]
    assert [wire.connection.unanswered for wire in wires] == [0, 0, 1, 1, 1]


def test_who_has_left_is_known_to_have_left_and_is_not_answered(side: Side) -> None:
    wire = side.tell(post("/later", b"1") + post("/later", b"2"))
    (request,) = side.core.handled
    wire.lose()
    assert request.abandoned
    side.core.finish(request)
    assert wire.written == b""
    assert len(side.core.handled) == 1
    assert side.shared.body_bytes == 0


def test_a_second_answer_to_a_request_is_not_taken_for_the_next_one_s(side: Side) -> None:
    wire = side.tell(post("/later", b"1") + post("/later", b"2"))
    first = side.core.waiting[0]
    side.core.finish(first)
    side.core.finish(first)
    assert wire.bodies == [b"POST /later 1"]
    side.core.finish(side.core.waiting[0])
    assert wire.bodies == [b"POST /later 1", b"POST /later 2"]


def test_a_connection_that_has_ended_leaves_nothing_to_the_garbage_collector(side: Side) -> None:
    gc.disable()
    try:
        wire = side.tell(GET * 3 + post("/later"))
        gone = weakref.ref(wire.connection)
        wire.lose()
        del wire.connection  # as event loops do
        assert gone() is None
    finally:
        gc.enable()


def random_request(chance: random.Random, path: str) -> bytes:
    body = chance.randbytes(chance.choice([0, 0, 10, 10, 500, 3_000]))
    kind = chance.randrange(8)
    if kind == 0:
        return head(path, method="GET")
    if kind == 1:
        cut = sorted(chance.randrange(len(body) + 1) for _ in range(2))
        chunks = [body[: cut[0]], body[cut[0] : cut[1]], body[cut[1] :]]
        return chunked(path, *[chunk for chunk in chunks if chunk], trailers=chance.choice([b"", b"a: b\r\n"]))
    if kind == 2:
        return post("/refused", body)
    if kind == 3:
        return post(path, body, "expect: 100-continue")
    if kind == 4:
        return post(path, body, "connection: upgrade", "upgrade: h2c")
    return post(path, body)


def mutate(chance: random.Random, data: bytes) -> bytes:
    at = chance.randrange(len(data) + 1)
    insert = chance.choice(
        [b"", b"\r\n", b"\n", b"\0", b"\xff", b" ", b":", b"9" * 25, b"A" * 3_000, chance.randbytes(3)]
    )
    return data[:at] + insert + data[at + chance.choice([0, 0, 1, 2, 30]) :]


@pytest.mark.parametrize("seed", range(40))
def test_random_abuse_leaves_the_accounts_even(seed: int) -> None:
    """Clients in every state at once: the counts hold after every event, and are zero at the end."""
    chance = seeded(seed)
    side = Side(body_bytes=5_000, all_bodies_bytes=20_000, head_bytes=2_000, read_seconds=3, idle_seconds=5)
    clients: list[tuple[Wire, bytearray]] = []

    def held(connection: Connection) -> int:
        active = connection._active
        waiting = [*connection._queue, *([active] if active else [])]
        return connection._incoming.body_bytes + sum(len(request.body) for request in waiting)

    for step in range(400):
        action = chance.randrange(10)
        if action == 0 or not clients:
            paths = chance.choices(["/a", "/later"], k=chance.choice([1, 1, 3, 40]))
            stream = b"".join(random_request(chance, path) for path in paths)
            if chance.random() < 0.3:
                stream = mutate(chance, stream)
            clients.append((side.connect(), bytearray(stream)))
        wire, stream = chance.choice(clients)
        connection = wire.connection
        if action <= 4 and wire.reading:
            size = chance.choice([1, 10, 300, 30_000, len(stream)])
            wire.feed(bytes(stream[:size]))
            del stream[:size]
        elif action <= 6 and side.core.waiting:
            side.core.finish(chance.choice(side.core.waiting))
        elif action == 7 and not wire.lost:
            if connection._blocked_since is None:
                connection.pause_writing()
            else:
                connection.resume_writing()
        elif action == 8:
            side.pass_time(chance.choice([0.2, 0.2, 1, 3]))
            side.shared.draining = chance.random() < 0.1
        elif action == 9:
            wire.lose()
        for other, _ in clients:
            if other.closing:  # as a loop does soon after
                other.lose()
        clients = [client for client in clients if not client[0].lost]
        assert side.shared.body_bytes == sum(held(each) for each in side.shared.connections), step
        assert all(len(each._queue) < 600 for each in side.shared.connections)
        assert len(side.shared.connections) == len(clients)
    for wire, _ in clients:
        assert set(wire.statuses) <= {100, 200, 400, 401, 408, 413, 429, 431, 501, 505}
        wire.lose()
    assert (side.shared.body_bytes, len(side.shared.connections)) == (0, 0)


@pytest.mark.parametrize("seed", range(20))
def test_answers_come_in_order_whatever_the_pieces_and_the_work(side: Side, seed: int) -> None:
    chance = seeded(seed)
    paths = [f"/{chance.choice(['a', 'later'])}{number}" for number in range(300)]
    stream = b"".join(post(path, path.encode() * chance.randrange(50)) for path in paths)
    wire = side.connect()
    while stream or side.core.waiting:
        if chance.random() < 0.2:
            wire.connection.pause_writing()
        if wire.reading:
            size = chance.choice([1, 100, 5_000, 60_000])
            wire.feed(stream[:size])
            stream = stream[size:]
        if side.core.waiting:
            side.core.finish(side.core.waiting[0])
        wire.connection.resume_writing()
    assert [body.split(b" ")[1].decode() for body in wire.bodies] == paths
    assert side.shared.body_bytes == 0


@pytest.mark.parametrize("refused", [post("/refused", b"x" * 3_000_000), chunked("/refused", b"x" * 3_000_000)])
def test_an_early_answer_is_read_by_a_client_that_still_sends(new_loop: NewLoop, refused: bytes) -> None:
    with live(new_loop) as server, server.connect() as client:
        (answer,) = _exchange(client, refused)
        assert (answer.status, answer.headers["connection"]) == (401, "close")


def _exchange(client: socket.socket, data: bytes) -> list[Answer]:
    """Read the answers while `data` is still being sent."""
    with ThreadPoolExecutor(1) as pool:
        sent = pool.submit(client.sendall, data)
        answers = read_answers(read_to_end(client))
        assert sent.exception() is None or isinstance(sent.exception(), OSError)
        return answers


def test_the_clock_is_held_to_by_itself(new_loop: NewLoop) -> None:
    with live(new_loop, read_seconds=0.3, idle_seconds=0.6) as server:
        with server.connect() as slow, server.connect() as idle:
            slow.sendall(post("/a", b"x")[:-1])
            assert read_answers(read_to_end(slow))[0].status == 408
            assert read_to_end(idle) == b""
        with server.connect() as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            deaf.settimeout(10)
            with pytest.raises(ConnectionError):
                deaf.sendall(post("/a", b"x" * 50_000) * 2_000)


def test_thousands_sent_ahead_over_a_socket(new_loop: NewLoop) -> None:
    with live(new_loop) as server, server.connect() as client:
        stream = post("/later") + b"".join(post(f"/{number}", b"x" * 100) for number in range(5_000))
        answers = _exchange(client, stream + b"GET /end HTTP/1.0\r\n\r\n")
    assert len(answers) == 5_002
    assert [answer.body.split(b" ")[1] for answer in answers[1:-1]] == [b"/%d" % number for number in range(5_000)]


def test_random_clients_over_sockets(new_loop: NewLoop) -> None:
    with live(new_loop, body_bytes=5_000, all_bodies_bytes=20_000, read_seconds=0.5, idle_seconds=0.5) as server:

        def abuse(seed: int) -> None:
            chance = seeded(seed)
            for _ in range(60):
                with server.connect() as client:
                    client.settimeout(0.05)
                    stream = b"".join(random_request(chance, chance.choice(["/a", "/later"])) for _ in range(3))
                    if chance.random() < 0.5:
                        stream = mutate(chance, stream)
                    if chance.random() < 0.5:
                        stream = stream[: chance.randrange(len(stream))]
                    if chance.random() < 0.2:  # leaves with a reset
                        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                    with contextlib.suppress(OSError):
                        client.sendall(stream)
                        if chance.random() < 0.5:
                            client.shutdown(socket.SHUT_WR)
                        if chance.random() < 0.5:
                            client.recv(100_000)

        with ThreadPoolExecutor(6) as pool:
            list(pool.map(abuse, range(6)))
        with server.connect() as client:
            client.sendall(post("/later", b"still here", "connection: close"))
            assert read_answers(read_to_end(client))[0].body == b"POST /later still here"
    assert server.transport._shared.body_bytes == 0
    assert (server.transport.connections, server.transport.in_flight) == (0, 0)


class Pieces:
    """A producer of the pieces that it is told to send."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def start(self, body: Body) -> None:
        self.body = body

    def resume(self) -> None:
        self.told.append("resume")

    def cancel(self) -> None:
        self.told.append("cancel")


def begin(side: Side) -> Pieces:
    pieces = Pieces()
    side.core.waiting.pop(0).reply(StreamedResponse(200, (), b"", producer=pieces))
    return pieces


def test_an_answer_in_pieces_as_it_is_sent_and_what_follows_waits_for_its_end(side: Side) -> None:
    wire = side.tell(post("/later", b"body") + GET)
    assert side.shared.body_bytes == 4
    pieces = begin(side)
    assert pieces.body.write(b"0123456789abcdef")
    start = b"HTTP/1.1 200 OK\r\ndate: today\r\nx-request-id: id\r\ntransfer-encoding: chunked\r\n\r\n"
    assert wire.written == start + b"10\r\n0123456789abcdef\r\n"
    side.pass_time(1000)
    assert not wire.ended
    pieces.body.end()
    assert side.shared.body_bytes == 0
    sent, _, rest = wire.written.partition(b"\r\n0\r\n\r\n")
    assert sent == start + b"10\r\n0123456789abcdef"
    assert [answer.body for answer in read_answers(rest)] == [b"GET /a "]
    pieces.body.write(b"late")
    pieces.body.end()
    assert wire.written.endswith(rest)
    assert pieces.told == []


def test_while_draining_an_answer_in_pieces_is_the_last(side: Side) -> None:
    wire = side.tell(post("/later") + GET)
    pieces = begin(side)
    side.shared.draining = True
    pieces.body.end()
    assert wire.eof
    assert wire.written.endswith(b"\r\n\r\n0\r\n\r\n")


def test_who_does_not_take_the_pieces_is_waited_for_and_then_cut_off(side: Side) -> None:
    wire = side.tell(post("/later"))
    pieces = begin(side)
    wire.connection.pause_writing()
    assert not pieces.body.write(b"a")
    wire.connection.resume_writing()
    assert pieces.told == ["resume"]
    assert pieces.body.write(b"b")
    wire.connection.pause_writing()
    side.pass_time(31)
    assert wire.aborted
    wire.lose()
    assert pieces.told == ["resume", "cancel"]
    pieces.body.end()
    assert side.shared.connections == set()
