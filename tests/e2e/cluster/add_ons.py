"""Add-ons that an EKS cluster has as well, DNS and metrics, served from the node instead of from pods."""

from __future__ import annotations

import json

from tests.e2e.cluster.plan import DNS_IP, METRICS_PORT


def manifests(node_ip: str) -> str:
    """Make the objects by which the API server and the pods find the add-ons, for `kubectl apply`."""
    dns = [("dns", "UDP", 53, 53), ("dns-tcp", "TCP", 53, 53)]
    metrics = [("https", "TCP", 443, METRICS_PORT)]
    items = [
        *_service("kube-dns", dns, node_ip, cluster_ip=DNS_IP),
        *_service("metrics-server", metrics, node_ip),
        {
            "apiVersion": "apiregistration.k8s.io/v1",
            "kind": "APIService",
            "metadata": {"name": "v1beta1.metrics.k8s.io"},
            "spec": {
                "group": "metrics.k8s.io",
                "version": "v1beta1",
                "service": {"namespace": "kube-system", "name": "metrics-server"},
                "insecureSkipTLSVerify": True,
                "groupPriorityMinimum": 100,
                "versionPriority": 100,
            },
        },
    ]
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": items})


def _service(
    name: str, ports: list[tuple[str, str, int, int]], node_ip: str, cluster_ip: str | None = None
) -> list[dict[str, object]]:
    """Make a Service without a selector, and its one endpoint. Ports are (name, protocol, Service port, node port)."""
    metadata = {"name": name, "namespace": "kube-system"}
    labels = {"kubernetes.io/service-name": name}
    front = [{"name": port, "protocol": protocol, "port": outer} for port, protocol, outer, _ in ports]
    back = [{"name": port, "protocol": protocol, "port": inner} for port, protocol, _, inner in ports]
    return [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": metadata,
            "spec": {"ports": front, **({"clusterIP": cluster_ip} if cluster_ip else {})},
        },
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {**metadata, "labels": labels},
            "addressType": "IPv4",
            "endpoints": [{"addresses": [node_ip], "conditions": {"ready": True}}],
            "ports": back,
        },
    ]
