"""Configuration and command lines of the node's parts, written into the state folder before the node starts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from tests.e2e.cluster.pki import Authority
from tests.e2e.cluster.programs import Programs
from tests.e2e.cluster.slots import Slot

NODE = "node-1"
ZONE = "zone-a"
DNS_IP = "10.96.0.10"
METRICS_PORT = 4443

_PODS, _SERVICES = "10.244.0.0/16", "10.96.0.0/16"
_FIRST_SERVICE_IP = "10.96.0.1"
_CONTAINERD = "/run/containerd/containerd.sock"
_OWN_FOLDERS = {"run": "/run", "lib": "/var/lib", "var-log": "/var/log"}
"""Mount point on the node by state folder: parts use their usual paths and see no other cluster's."""


def write(slot: Slot, programs: Programs, registry_port: int) -> None:
    """Fill the state folder: keys, configuration, `kubeconfig` and the plan for node.py."""
    state = slot.folder
    files = _Files(slot, programs, registry_port)
    files.write_all()
    flags = _Flags(slot, files.folder)
    registry = ["docker-registry", "serve", str(files.folder / "registry.yaml")]
    first = [
        _part("etcd", "etcd", *flags.etcd()),
        _part("containerd", "containerd", "--config", str(files.folder / "containerd.toml")),
        # One store under one name in both networks, since plain http is trusted on loopback only.
        _part("registry", *registry),
        _part("registry-for-host", *registry, on_host_network=True),
        _part("kube-apiserver", "kube-apiserver", *flags.apiserver()),
    ]
    then = [
        _part("kube-controller-manager", "kube-controller-manager", *flags.controllers()),
        _part(
            "kube-scheduler", "kube-scheduler", f"--kubeconfig={files.kubeconfig('scheduler')}", "--leader-elect=false"
        ),
        _part("kubelet", "kubelet", *flags.kubelet()),
        _part("kube-proxy", "kube-proxy", *flags.proxy()),
        _part("coredns", "coredns", "-conf", str(files.folder / "Corefile")),
        _part("metrics-server", "metrics-server", *flags.metrics()),
        _part("balancer", "balancer", f"--kubeconfig={files.kubeconfig('admin')}", f"--pool={slot.pool}"),
        _part("policy", "policy", f"--kubeconfig={files.kubeconfig('admin')}"),
    ]
    plan = {
        "environment": dict(programs.environment),
        "mounts": [[str(state / source), target] for source, target in _OWN_FOLDERS.items()],
        "network": [
            ["ip", "link", "set", "lo", "up"],
            ["ip", "address", "add", f"{slot.node_ip}/30", "dev", "eth0"],
            ["ip", "link", "set", "eth0", "up"],
            ["ip", "route", "add", "default", "via", slot.host_ip],
            # The pool is local to the node, so that a port without a Service refuses instead of hanging.
            ["ip", "route", "add", "local", slot.pool, "dev", "lo"],
        ],
        "stages": [
            {"parts": first, "until": f"https://{slot.node_ip}:6443/readyz"},
            {"parts": then, "until": None},
        ],
    }
    (state / "kubeconfig").write_text(files.kubeconfig("admin").read_text())
    (state / "registry").write_text(files.registry)
    (state / "plan.json").write_text(json.dumps(plan))


def _part(name: str, *command: str, on_host_network: bool = False) -> dict[str, object]:
    return {"name": name, "command": command, "on_host_network": on_host_network}


class _Files:
    """Writes the parts' configuration into a folder of the state."""

    _CLIENTS: Mapping[str, str] = {
        "admin": "/O=system:masters/CN=admin",
        "controllers": "/CN=system:kube-controller-manager",
        "scheduler": "/CN=system:kube-scheduler",
        "proxy": "/CN=system:kube-proxy",
        "kubelet": f"/O=system:nodes/CN=system:node:{NODE}",
    }

    def __init__(self, slot: Slot, programs: Programs, registry_port: int) -> None:
        self._slot, self._programs = slot, programs
        self.registry = f"127.0.0.1:{registry_port}"
        self.folder = slot.folder / "etc"

    def kubeconfig(self, client: str) -> Path:
        return self.folder / f"{client}.kubeconfig"

    def write_all(self) -> None:
        self.folder.mkdir(mode=0o700)
        self._write_keys()
        (self.folder / "resolv.conf").write_text("")
        (self.folder / "registry.yaml").write_text(
            f"""\
version: 0.1
log: {{level: warn, accesslog: {{disabled: true}}}}
storage: {{filesystem: {{rootdirectory: /var/lib/registry}}, delete: {{enabled: true}}}}
http: {{addr: "{self.registry}", secret: both processes take part in an upload}}
"""
        )
        hosts = self.folder / "registries" / self.registry
        hosts.mkdir(parents=True)
        (hosts / "hosts.toml").write_text(f'server = "http://{self.registry}"\n')
        network = self.folder / "net.d"
        network.mkdir()
        (network / "10-pods.conflist").write_text(json.dumps(self._network()))
        (self.folder / "containerd.toml").write_text(self._containerd(network))
        (self.folder / "kubelet.json").write_text(json.dumps(self._kubelet()))
        (self.folder / "Corefile").write_text(self._corefile())

    def _write_keys(self) -> None:
        pki = self.folder / "pki"
        authority = Authority(pki, self._programs.environment)
        for client, subject in self._CLIENTS.items():
            authority.sign(client, subject)
            text = authority.kubeconfig(client, f"https://{self._slot.node_ip}:6443")
            self.kubeconfig(client).write_text(text)
        authority.sign("aggregator", "/CN=aggregator")
        names = [f"DNS:kubernetes{suffix}" for suffix in ("", ".default", ".default.svc")]
        addresses = [f"IP:{ip}" for ip in (self._slot.node_ip, _FIRST_SERVICE_IP, "127.0.0.1")]
        authority.sign("apiserver", "/CN=kube-apiserver", (*names, *addresses))
        authority.key_pair("tokens")

    def _network(self) -> dict[str, object]:
        """Make the CNI configuration: point-to-point links, so that traffic between pods passes the packet filter."""
        addresses = {
            "type": "host-local",
            "ranges": [[{"subnet": _PODS.replace("/16", "/24")}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        }
        return {
            "cniVersion": "1.0.0",
            "name": "pods",
            "plugins": [
                {"type": "ptp", "ipMasq": False, "ipam": addresses},
                {"type": "portmap", "capabilities": {"portMappings": True}},
            ],
        }

    def _containerd(self, network: Path) -> str:
        criteria = "io.containerd.grpc.v1.cri"
        plugins = self._programs.find("ptp").parent
        return f"""\
version = 2
[grpc]
  address = "{_CONTAINERD}"
[plugins."{criteria}"]
  sandbox_image = "{self.registry}/pause:latest"
  restrict_oom_score_adj = true  # some machines, such as CI's containers, may not lower it
[plugins."{criteria}".containerd]
  snapshotter = "{self._snapshotter()}"
[plugins."{criteria}".cni]
  bin_dir = "{plugins}"
  conf_dir = "{network}"
[plugins."{criteria}".registry]
  config_path = "{self.folder / "registries"}"
"""

    def _snapshotter(self) -> str:
        """Choose the snapshotter: overlayfs cannot be stacked, so copy if the state is on one, as in a container."""
        mounts = [line.split(" - ") for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        holding = [(left.split()[4], right.split()[0]) for left, right in mounts]
        inside = [mount for mount in holding if self._slot.folder.is_relative_to(mount[0])]
        return "native" if max(inside, key=lambda mount: len(mount[0]))[1] == "overlay" else "overlayfs"

    def _kubelet(self) -> dict[str, object]:
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(self.folder / "pki/ca.crt")},
            },
            "authorization": {"mode": "Webhook"},
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{self._slot.name}",
            "clusterDNS": [DNS_IP],
            "clusterDomain": "cluster.local",
            "containerRuntimeEndpoint": f"unix://{_CONTAINERD}",
            "enforceNodeAllocatable": [],
            # A developer's nearly full disk must not evict the pods under test.
            "evictionHard": {"nodefs.available": "0%", "imagefs.available": "0%", "memory.available": "100Mi"},
            "imageGCHighThresholdPercent": 100,
            "failCgroupV1": False,
            "failSwapOn": False,
            "resolvConf": str(self.folder / "resolv.conf"),
            "serializeImagePulls": False,
            "syncFrequency": "10s",
            "volumePluginDir": "/var/lib/kubelet/volume-plugins",
        }

    def _corefile(self) -> str:
        return f"""\
.:53 {{
    bind {self._slot.node_ip}
    errors
    ready {self._slot.node_ip}:8181
    kubernetes cluster.local in-addr.arpa {{
        kubeconfig {self.kubeconfig("admin")}
        ttl 5
    }}
    cache 5
    loadbalance
}}
"""


class _Flags:
    def __init__(self, slot: Slot, folder: Path) -> None:
        self._slot, self._folder, self._pki = slot, folder, folder / "pki"

    def etcd(self) -> list[str]:
        client, peer = "http://127.0.0.1:2379", "http://127.0.0.1:2380"
        return [
            "--data-dir=/var/lib/etcd",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
        ]

    def apiserver(self) -> list[str]:
        pki = self._pki
        return [
            f"--advertise-address={self._slot.node_ip}",
            "--allow-privileged=true",
            "--authorization-mode=Node,RBAC",
            f"--client-ca-file={pki / 'ca.crt'}",
            "--enable-admission-plugins=NodeRestriction",
            "--enable-aggregator-routing=true",
            "--etcd-servers=http://127.0.0.1:2379",
            f"--kubelet-client-certificate={pki / 'admin.crt'}",
            f"--kubelet-client-key={pki / 'admin.key'}",
            "--kubelet-preferred-address-types=InternalIP",
            f"--proxy-client-cert-file={pki / 'aggregator.crt'}",
            f"--proxy-client-key-file={pki / 'aggregator.key'}",
            "--requestheader-allowed-names=aggregator",
            f"--requestheader-client-ca-file={pki / 'ca.crt'}",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-username-headers=X-Remote-User",
            "--secure-port=6443",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            f"--service-account-key-file={pki / 'tokens.pub'}",
            f"--service-account-signing-key-file={pki / 'tokens.key'}",
            f"--service-cluster-ip-range={_SERVICES}",
            f"--tls-cert-file={pki / 'apiserver.crt'}",
            f"--tls-private-key-file={pki / 'apiserver.key'}",
        ]

    def controllers(self) -> list[str]:
        pki = self._pki
        return [
            f"--kubeconfig={self._folder / 'controllers.kubeconfig'}",
            "--allocate-node-cidrs=true",
            f"--cluster-cidr={_PODS}",
            f"--cluster-signing-cert-file={pki / 'ca.crt'}",
            f"--cluster-signing-key-file={pki / 'ca.key'}",
            "--flex-volume-plugin-dir=/var/lib/kubelet/volume-plugins",
            "--horizontal-pod-autoscaler-sync-period=5s",
            "--leader-elect=false",
            f"--root-ca-file={pki / 'ca.crt'}",
            f"--service-account-private-key-file={pki / 'tokens.key'}",
            "--use-service-account-credentials=true",
        ]

    def kubelet(self) -> list[str]:
        return [
            f"--config={self._folder / 'kubelet.json'}",
            f"--kubeconfig={self._folder / 'kubelet.kubeconfig'}",
            f"--hostname-override={NODE}",
            f"--node-ip={self._slot.node_ip}",
            f"--node-labels=topology.kubernetes.io/region=region-a,topology.kubernetes.io/zone={ZONE}",
        ]

    def proxy(self) -> list[str]:
        return [
            f"--kubeconfig={self._folder / 'proxy.kubeconfig'}",
            f"--hostname-override={NODE}",
            f"--cluster-cidr={_PODS}",
            "--proxy-mode=iptables",
            "--conntrack-max-per-core=0",  # the machine's own; only its first network may set it
            "--iptables-min-sync-period=100ms",
        ]

    def metrics(self) -> list[str]:
        admin = self._folder / "admin.kubeconfig"
        return [
            f"--kubeconfig={admin}",
            f"--authentication-kubeconfig={admin}",
            f"--authorization-kubeconfig={admin}",
            f"--bind-address={self._slot.node_ip}",
            f"--secure-port={METRICS_PORT}",
            "--cert-dir=/run/metrics-server",
            "--kubelet-request-timeout=5s",
            "--kubelet-insecure-tls",  # the kubelet signs its own certificate
            "--kubelet-preferred-address-types=InternalIP",
            "--metric-resolution=10s",
        ]
