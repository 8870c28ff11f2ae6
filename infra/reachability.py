"""Asks whether an API server answers from here, before the engine and its providers wait minutes for it."""

from __future__ import annotations

import queue
import socket
import ssl
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies_environment, proxy_bypass

import pulumi

from infra.kubeconfig import Context
from infra.state import Resources, outputs_of

MAX_SECONDS = 12.0
"""For all tries together, however many addresses the name has and however slow its lookup is."""
TRY_SECONDS = 4.0
"""For a connection to one address, and for the handshake on it."""
_TRIES = 3
_PAUSE_SECONDS = 1.0


@dataclass(frozen=True)
class Failure:
    """An API server does not answer."""

    reason: str
    own_address: str | None = None
    """Address from which this machine sends to the server; behind NAT the server sees another one. None: unknown."""


class UnreachableError(pulumi.RunError):
    """The API server does not answer; the message names it, this machine's address, and the key to set."""

    def __init__(self, server: str, failure: Failure, advice: str) -> None:
        self.server = server
        self.failure = failure
        super().__init__(
            f"the Kubernetes API server {server} does not answer: {failure.reason}; nothing was changed.\n{advice}"
        )


def require_existing_cluster(context: Context) -> None:
    """Raise UnreachableError when the kubeconfig's API server does not answer; a preview goes on with a warning."""
    failure = None if context.proxied else try_server(context.server, context.tls_server_name)
    if failure:
        own = f" ({failure.own_address})" if failure.own_address else ""
        _refuse(
            context.server,
            failure,
            f"    It is that of the kubeconfig's context {context.name}. Is the cluster up, and does this machine{own} "
            "reach it, by VPN for example?\n"
            "    Choose another context, or another kubeconfig, with\n"
            "        pulumi config set context <name>\n"
            "        pulumi config set kubeconfig <path>",
        )


def require_eks_cluster(resources: Resources, public_access_cidrs: Sequence[str]) -> None:
    """Raise UnreachableError when the API server of the stack's live cluster does not answer; a preview only warns.

    Nothing is asked before there is a cluster, nor where `public_access_cidrs` is to change: that is how it is mended.
    """
    provider = outputs_of(resources, "model-endpoint:cluster:Cluster$pulumi:providers:kubernetes")
    server: str | None = provider.get("clusterIdentifier")
    if not server or _live_cidrs(outputs_of(resources, "aws:eks/cluster:Cluster")) != set(public_access_cidrs):
        return
    if failure := try_server(server):
        _refuse(server, failure, _eks_advice(public_access_cidrs, failure.own_address))


def _refuse(server: str, failure: Failure, advice: str) -> None:
    error = UnreachableError(server, failure, advice)
    if not pulumi.runtime.is_dry_run():
        raise error
    # The provider previews without its cluster, and pull requests are previewed where nobody lets them in.
    pulumi.log.warn(f"{error}\n    This preview compares what runs there with the state alone; `pulumi up` stops here.")


def _live_cidrs(cluster: Mapping[str, Any]) -> set[str]:
    access: Mapping[str, Any] = cluster.get("vpcConfig") or {}
    return set(access.get("publicAccessCidrs") or ()) if access.get("endpointPublicAccess") else set()


def _eks_advice(cidrs: Sequence[str], own: str | None) -> str:
    if own and ip_address(own).is_global:
        whose, cidr = f"this machine's address, {own},", str(ip_network(own))
    else:
        behind_nat = f" (not {own}, behind NAT)" if own else ""
        whose = f"the address that this machine has on the internet{behind_nat}"
        cidr = '"$(curl -s https://checkip.amazonaws.com)/32"'
    return (
        f"    Most often {whose} is not in publicAccessCidrs ({', '.join(cidrs) or 'empty'}). "
        "Add it, and the next `pulumi up` opens the API server first:\n"
        f"        pulumi config set --path 'publicAccessCidrs[{len(cidrs)}]' {cidr}\n"
        "    Or run Pulumi where the API server can be reached, for example inside its VPC."
    )


def try_server(server: str, tls_server_name: str | None = None) -> Failure | None:
    """Ask the API server at the URL `server`, a few times in MAX_SECONDS at most; None when it answers.

    A TLS handshake is an answer, also one that the server refuses; over plain http a connection is. Behind a proxy of
    the environment nothing is asked: whether that lets the providers through is its own matter.
    """
    try:
        url = urlsplit(server if "//" in server else f"https://{server}")
        address = url.hostname or "", url.port or (80 if url.scheme == "http" else 443)
    except ValueError as error:
        return Failure(f"its URL is wrong: {error}")
    if url.scheme in getproxies_environment() and not proxy_bypass(address[0]):
        return None
    tls_name = None if url.scheme == "http" else tls_server_name or address[0]
    outcomes: queue.SimpleQueue[Failure | None] = queue.SimpleQueue()
    # In a thread, because the lookup of a name has no deadline.
    threading.Thread(target=_try_repeatedly, args=(address, tls_name, outcomes), daemon=True).start()
    deadline, outcome = time.monotonic() + MAX_SECONDS, Failure(f"its name is not looked up in {MAX_SECONDS:.0f} s")
    for _ in range(1 + _TRIES):
        try:
            outcome = outcomes.get(timeout=max(deadline - time.monotonic(), 0))
        except queue.Empty:
            break
        if outcome is None:
            break
    return outcome


def _try_repeatedly(
    address: tuple[str, int], tls_name: str | None, outcomes: queue.SimpleQueue[Failure | None]
) -> None:
    own_address = _own_address(address)
    silence = Failure("it takes no connection or says nothing", own_address)
    outcomes.put(silence)  # until it answers: one try may use up the time, where its name has many addresses
    for _ in range(_TRIES):
        try:
            _connect(address, tls_name)
        except TimeoutError:
            outcomes.put(silence)
        except (OSError, ValueError) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
            outcomes.put(Failure(reason, own_address))
        else:
            outcomes.put(None)
            return
        time.sleep(_PAUSE_SECONDS)


def _connect(address: tuple[str, int], tls_name: str | None) -> None:
    with socket.create_connection(address, TRY_SECONDS) as connection:
        if tls_name is None:
            return
        # Nothing but the handshake is sent: who the server is, the provider verifies.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        try:
            context.wrap_socket(connection, server_hostname=tls_name).close()
        except ssl.SSLEOFError:
            raise ConnectionResetError("it closes every connection") from None
        except ssl.SSLError:
            return


def _own_address(address: tuple[str, int]) -> str | None:
    try:
        for family, kind, _, _, found in socket.getaddrinfo(*address, type=socket.SOCK_DGRAM):
            with socket.socket(family, kind) as way:
                way.connect(found)  # sends nothing
                return str(way.getsockname()[0])
    except (OSError, ValueError):
        return None
    return None
