"""Stack `dev` as the README has it, on this cluster: AWS and EKS are stood in, the image and its service are real."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.cluster import Cluster
from tests.e2e.providers import registry
from tests.e2e.providers.builder import Builder
from tests.e2e.stack import SMALL, Stack
from tests.standins.aws import REPOSITORY
from tests.standins.cloud import KUBECONFIG_VARIABLE, REGISTRY_VARIABLE
from tests.support.engine_project import find_cli

NODE_POOLS = """\
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: nodepools.karpenter.sh}
spec:
  group: karpenter.sh
  scope: Cluster
  names: {kind: NodePool, plural: nodepools, singular: nodepool}
  versions:
    - name: v1
      served: true
      storage: true
      schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
"""
"""What EKS Auto Mode brings: node pools, and nodes that say which one they are of."""


@pytest.fixture(scope="module")
def dev(live: Cluster, daemon: Builder, base_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    live.kubectl("apply", "-f", "-", stdin=NODE_POOLS)
    live.kubectl("label", "nodes", "--all", "--overwrite", "karpenter.sh/nodepool=cluster-model")
    made = Stack.start(tmp_path_factory.mktemp("dev"), find_cli(), "dev", live, daemon)
    made.environment |= {KUBECONFIG_VARIABLE: str(live.kubeconfig), REGISTRY_VARIABLE: live.registry}
    made.configure({**SMALL, "baseImage": base_image, "publicAccessCidrs": '["203.0.113.7/32"]', "cpu": "100m"})
    try:
        yield made
    finally:
        made.pulumi("destroy", "--yes", "--skip-preview")
        live.kubectl("delete", "-f", "-", stdin=NODE_POOLS)
        live.kubectl("label", "nodes", "--all", "karpenter.sh/nodepool-")


def test_one_stack_from_the_network_to_the_endpoint(dev: Stack) -> None:
    dev.pulumi("preview")
    dev.up()
    answer = dev.predict('{"input": [1, 2, 3]}', dev.endpoint()).json()
    assert answer["model"] == {"name": "iris", "version": "1"}
    assert answer["prediction"]


def test_the_image_is_in_the_stacks_own_repository(dev: Stack) -> None:
    repository = dev.cloud.only(REPOSITORY).id
    assert registry.layers(dev.live.registry, repository, dev.output("imageDigest"))
    (image,) = {pod["spec"]["containers"][0]["image"] for pod in dev.ready()}
    assert image == f"{dev.live.registry}/{repository}@{dev.output('imageDigest')}"


def test_pods_are_on_the_stacks_own_nodes_behind_an_nlb(dev: Stack) -> None:
    assert dev.pods()[0]["spec"]["nodeSelector"]["karpenter.sh/nodepool"] == "cluster-model"
    assert dev.live.kubectl("get", "nodepools", "-o", "jsonpath={.items[*].metadata.name}") == "cluster-model"
    (service,) = dev.objects("services")
    assert service["spec"]["loadBalancerClass"] == "eks.amazonaws.com/nlb"
    assert "nodePort" not in service["spec"]["ports"][0]


def test_nothing_changes_without_a_change(dev: Stack) -> None:
    dev.up("--expect-no-changes")
