"""API servers that answer, and those that do not, on loopback; and what is said of the latter."""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pulumi
import pytest

from infra import reachability
from infra.kubeconfig import Context
from infra.reachability import (
    MAX_SECONDS,
    TRY_SECONDS,
    Failure,
    UnreachableError,
    require_eks_cluster,
    require_existing_cluster,
    try_server,
)

TLS_ALERT = bytes.fromhex("15 0303 0002 0228")
"""handshake_failure [RFC 8446, 6]."""
CIDR = "203.0.113.7/32"
PROVIDER = (
    "urn:pulumi:dev::model-endpoint::model-endpoint:cluster:Cluster$pulumi:providers:kubernetes::cluster-kubernetes"
)
OTHER_PROVIDER = (
    "urn:pulumi:dev::model-endpoint::model-endpoint:cluster:Cluster$eks:index:Cluster$pulumi:providers:kubernetes::own"
)
CLUSTER = "urn:pulumi:dev::model-endpoint::eks:index:Cluster$aws:eks/cluster:Cluster::cluster-eks-eksCluster"


@pytest.fixture(autouse=True)
def _direct_and_impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reachability, "MAX_SECONDS", 2.0)
    monkeypatch.setattr(reachability, "TRY_SECONDS", 0.3)
    monkeypatch.setattr(reachability, "_PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(pulumi.runtime, "is_dry_run", lambda: False)
    for scheme in ("http", "https", "no", "all"):
        monkeypatch.delenv(f"{scheme}_proxy", raising=False)
        monkeypatch.delenv(f"{scheme}_proxy".upper(), raising=False)


@contextlib.contextmanager
def serving(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """Give every connection to `answer` and close it; the port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection, contextlib.suppress(OSError):
                        answer(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def replying(data: bytes) -> Callable[[socket.socket], None]:
    def answer(connection: socket.socket) -> None:
        connection.recv(4096)
        connection.sendall(data)

    return answer


@pytest.fixture
def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@pytest.fixture
def silent_port() -> Iterator[int]:
    """Connections are made, and nothing is ever said on them."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.fixture
def dropping_port() -> Iterator[int]:
    """The backlog is full, so that no further connection is made."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(8):
            pending = stack.enter_context(socket.socket())
            pending.setblocking(False)
            pending.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


def test_a_handshake_is_an_answer(tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl to make a certificate")
    key, certificate = tmp_path / "key", tmp_path / "certificate"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=elsewhere -days 1"
    subprocess.run([*command.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    asked: list[str | None] = []
    context.sni_callback = lambda _socket, name, _context: asked.append(name)

    def shake_hands(connection: socket.socket) -> None:
        context.wrap_socket(connection, server_side=True).close()

    with serving(shake_hands) as port:
        assert try_server(f"https://127.0.0.1:{port}") is None
        assert try_server(f"https://localhost:{port}/prefix", "api.internal") is None
    assert asked == [None, "api.internal"], "as the kubeconfig's tls-server-name has it"


@pytest.mark.parametrize("data", [TLS_ALERT, b"HTTP/1.1 400 Bad Request\r\n\r\n"], ids=["alert", "plain"])
def test_a_refused_handshake_is_an_answer(data: bytes) -> None:
    with serving(replying(data)) as port:
        assert try_server(f"https://127.0.0.1:{port}") is None


def test_over_plain_http_a_connection_is_an_answer(silent_port: int) -> None:
    """As that of `kubectl proxy`."""
    assert try_server(f"http://127.0.0.1:{silent_port}") is None


def test_a_refused_connection_is_tried_again(closed_port: int) -> None:
    assert try_server(f"https://127.0.0.1:{closed_port}") == Failure("Connection refused", "127.0.0.1")


def test_a_server_that_starts_meanwhile_answers(monkeypatch: pytest.MonkeyPatch, closed_port: int) -> None:
    failed = threading.Event()

    def connect(address: tuple[str, int], tls_name: str | None) -> None:
        if not failed.is_set():
            failed.set()
            raise ConnectionRefusedError
        assert (address, tls_name) == (("127.0.0.1", closed_port), "127.0.0.1")

    monkeypatch.setattr(reachability, "_connect", connect)
    assert try_server(f"https://127.0.0.1:{closed_port}") is None


@pytest.mark.parametrize("port", ["silent_port", "dropping_port"])
def test_no_answer_ends_in_time(request: pytest.FixtureRequest, port: str) -> None:
    started = time.monotonic()
    failure = try_server(f"https://127.0.0.1:{request.getfixturevalue(port)}")
    assert failure == Failure("it takes no connection or says nothing", "127.0.0.1")
    assert time.monotonic() - started < reachability.MAX_SECONDS + 0.5


def test_a_name_with_many_silent_addresses_is_not_taken_for_one_that_is_not_looked_up(
    monkeypatch: pytest.MonkeyPatch, silent_port: int
) -> None:
    monkeypatch.setattr(reachability, "MAX_SECONDS", 0.3)
    monkeypatch.setattr(reachability, "TRY_SECONDS", 2.0)
    failure = try_server(f"https://127.0.0.1:{silent_port}")
    assert failure == Failure("it takes no connection or says nothing", "127.0.0.1")


def test_a_lookup_that_hangs_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    monkeypatch.setattr(reachability, "MAX_SECONDS", 0.3)
    monkeypatch.setattr(reachability.socket, "getaddrinfo", lambda *_, **__: release.wait(10) and [])
    failure = try_server("https://somewhere.invalid")
    release.set()
    assert failure
    assert "not looked up" in failure.reason


def test_a_connection_that_is_closed_at_once_is_no_answer() -> None:
    with serving(lambda _: None) as port:
        assert try_server(f"https://127.0.0.1:{port}") is not None


@pytest.mark.parametrize("server", ["https://[::1", "https://host:port", "https://", f"https://{'x' * 64}.example.com"])
def test_what_is_no_url_is_a_failure(server: str) -> None:
    assert try_server(server) is not None


def test_behind_a_proxy_nothing_is_asked(monkeypatch: pytest.MonkeyPatch, closed_port: int) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example.com:3128")
    assert try_server(f"https://127.0.0.1:{closed_port}") is None
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert try_server(f"https://127.0.0.1:{closed_port}") is not None


def context(port: int, *, proxied: bool = False) -> Context:
    return Context("{}", "kind-cluster", f"https://127.0.0.1:{port}", "kind", proxied=proxied)


def test_an_existing_cluster_that_does_not_answer_is_named_with_the_keys_to_set(closed_port: int) -> None:
    with pytest.raises(UnreachableError) as caught:
        require_existing_cluster(context(closed_port))
    for part in (
        f"https://127.0.0.1:{closed_port} does not answer: Connection refused; nothing was changed",
        "context kind",
        "this machine (127.0.0.1)",
        "pulumi config set context",
        "pulumi config set kubeconfig",
    ):
        assert part in str(caught.value)


def test_a_preview_goes_on_with_a_warning(monkeypatch: pytest.MonkeyPatch, closed_port: int) -> None:
    warnings: list[str] = []
    monkeypatch.setattr(pulumi.runtime, "is_dry_run", lambda: True)
    monkeypatch.setattr(pulumi.log, "warn", warnings.append)
    require_existing_cluster(context(closed_port))
    require_eks_cluster(live(closed_port, CIDR), [CIDR])
    assert ["does not answer: Connection refused" in warning for warning in warnings] == [True, True]
    assert all("`pulumi up` stops here" in warning for warning in warnings)


def test_a_kubeconfig_with_a_proxy_is_believed(closed_port: int) -> None:
    require_existing_cluster(context(closed_port, proxied=True))


def live(port: int, *cidrs: str, public: bool = True) -> dict[str, dict[str, object]]:
    access = {"endpointPublicAccess": public, "publicAccessCidrs": list(cidrs)}
    return {
        OTHER_PROVIDER: {},
        PROVIDER: {"clusterIdentifier": f"https://127.0.0.1:{port}"},
        CLUSTER: {"name": "c", "vpcConfig": access},
    }


@pytest.mark.parametrize(
    ("own", "said", "command"),
    [
        ("10.0.0.5", "(not 10.0.0.5, behind NAT)", '"$(curl -s https://checkip.amazonaws.com)/32"'),
        ("8.8.8.8", "this machine's address, 8.8.8.8,", "8.8.8.8/32"),
        (None, "on the internet is not in", '"$(curl -s https://checkip.amazonaws.com)/32"'),
    ],
)
def test_an_eks_cluster_that_does_not_answer_is_named_with_the_address_to_add(
    monkeypatch: pytest.MonkeyPatch, closed_port: int, own: str | None, said: str, command: str
) -> None:
    monkeypatch.setattr(reachability, "_own_address", lambda _: own)
    with pytest.raises(UnreachableError) as caught:
        require_eks_cluster(live(closed_port, CIDR), [CIDR])
    assert f"https://127.0.0.1:{closed_port} does not answer" in str(caught.value)
    assert said in str(caught.value)
    assert f"publicAccessCidrs ({CIDR})" in str(caught.value)
    assert f"pulumi config set --path 'publicAccessCidrs[1]' {command}\n" in str(caught.value)


def test_a_private_cluster_says_that_it_is_closed(closed_port: int) -> None:
    with pytest.raises(UnreachableError, match=r"publicAccessCidrs \(empty\)"):
        require_eks_cluster(live(closed_port, "0.0.0.0/0", public=False), [])


def test_changed_addresses_are_applied_without_asking(closed_port: int) -> None:
    """Or nobody who has moved could ever let themselves in again."""
    require_eks_cluster(live(closed_port, CIDR), [CIDR, "198.51.100.4/32"])


def test_a_new_stack_has_nothing_to_ask() -> None:
    require_eks_cluster({}, [CIDR])


def test_the_wait_is_short() -> None:
    assert 3 * TRY_SECONDS <= MAX_SECONDS <= 15
