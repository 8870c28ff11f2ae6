"""Keys, certificates and kubeconfigs of a cluster that lives for an hour."""

from __future__ import annotations

import json
import subprocess
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path

from tests.e2e.cluster.api import ClusterError

_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
_DAYS = "7"


class Authority:
    """Signs certificates into a folder: `<name>.crt` beside `<name>.key`, its own as `ca.crt` and `ca.key`."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._folder, self._environment = folder, environment
        folder.mkdir(mode=0o700)
        self._openssl("req", "-x509", *_KEY, "-subj", "/CN=ca", "-days", _DAYS, "-keyout", "ca.key", "-out", "ca.crt")

    def sign(self, name: str, subject: str, hosts: tuple[str, ...] = ()) -> None:
        """Sign a certificate for a client, or for a server at `hosts` (`DNS:...`, `IP:...`)."""
        names = f"subjectAltName={','.join(hosts)}" if hosts else ""
        (self._folder / f"{name}.ext").write_text(f"extendedKeyUsage=clientAuth,serverAuth\n{names}\n")
        self._openssl("req", *_KEY, "-subj", subject, "-keyout", f"{name}.key", "-out", f"{name}.csr")
        signing = ["-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", _DAYS, "-extfile", f"{name}.ext"]
        self._openssl("x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.crt", *signing)

    def key_pair(self, name: str) -> None:
        """Make `<name>.key` and `<name>.pub`, which sign tokens."""
        self._openssl("ecparam", "-genkey", "-noout", "-name", "prime256v1", "-out", f"{name}.key")
        self._openssl("ec", "-in", f"{name}.key", "-pubout", "-out", f"{name}.pub")

    def kubeconfig(self, name: str, server: str) -> str:
        """Make a kubeconfig for the client whose certificate is `name`."""

        def data(file: str) -> str:
            return b64encode((self._folder / file).read_bytes()).decode()

        cluster = {"server": server, "certificate-authority-data": data("ca.crt")}
        user = {"client-certificate-data": data(f"{name}.crt"), "client-key-data": data(f"{name}.key")}
        return json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "e2e", "cluster": cluster}],
                "users": [{"name": name, "user": user}],
                "contexts": [{"name": "e2e", "context": {"cluster": "e2e", "user": name}}],
                "current-context": "e2e",
            },
            indent=2,
        )

    def _openssl(self, *arguments: str) -> None:
        command = ["openssl", *arguments]
        done = subprocess.run(
            command, cwd=self._folder, env=self._environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise ClusterError(f"{' '.join(command)}: {done.stderr.strip()}")
