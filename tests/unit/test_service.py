"""ModelService on the wire: the workload checklist of the Pod Security standard, the EKS guide and our own design."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pulumi
import pulumi_kubernetes as k8s
import pytest

from infra.config.schema import ServiceSettings
from infra.load_balancer import nlb, plain
from infra.rollout import GIVEN_UP, WAIT_FOR_ADDRESS, WAIT_FOR_END
from infra.server_contract import RESERVED_VARIABLES
from infra.service import ModelService, ModelServiceArgs, NoAddressError, burst
from tests.unit import mocked

IMAGE = f"registry.example.com/team/model@sha256:{'a' * 64}"
KEY = "correct-horse-battery-staple"
SETTINGS = ServiceSettings(
    replicas=3, max_replicas=10, cpu_target_percent=70, cpu="500m", memory="512Mi", gpus=0, service_port=80,
    source_ranges=(), rollout_timeout_seconds=600, liveness_path="/live", readiness_path="/ready",
)  # fmt: skip
ARGS = ModelServiceArgs(
    settings=SETTINGS,
    image=IMAGE,
    stack="dev",
    model_version="7",
    api_key=None,
    environment={},
    load_balancer=nlb(health_path="/ready"),
    https=False,
    node_selector={"pool": "model"},
    tolerations=[k8s.core.v1.TolerationArgs(key="gpu", operator="Exists")],
    architecture="arm64",
)
SELECTOR = {"app.kubernetes.io/name": "model-endpoint", "app.kubernetes.io/instance": "model"}
NAMESPACED = (
    "ServiceAccount",
    "NetworkPolicy",
    "Deployment",
    "HorizontalPodAutoscaler",
    "PodDisruptionBudget",
    "Service",
)

Run = mocked.Run[ModelService]


def named(resource: mocked.Resource) -> dict[str, Any]:
    """What the provider answers: an automatic name, and a load balancer for the Service."""
    answer: dict[str, Any] = {"metadata": {**resource.inputs.get("metadata", {}), "name": f"{resource.name}-1a2b"}}
    if resource.type == "kubernetes:core/v1:Service":
        answer["status"] = {"loadBalancer": {"ingress": [{"hostname": "lb.example.com"}]}}
    return answer


def build(
    args: ModelServiceArgs = ARGS,
    *,
    status: dict[str, Any] | None = None,
    rollout: dict[str, Any] | None = None,
    preview: bool = False,
) -> Run:
    kinds = ("core/v1:Namespace", "core/v1:ServiceAccount", "core/v1:Secret", "apps/v1:Deployment", "core/v1:Service")
    outputs: dict[str, Any] = {f"kubernetes:{kind}": named for kind in kinds}
    if status is not None:
        outputs["model-service"] = {"status": status}
    if rollout is not None:
        outputs["model-deployment"] = {"status": rollout}

    def program() -> ModelService:
        provider = k8s.Provider("cluster", cluster_identifier="cluster")
        return ModelService("model", args, pulumi.ResourceOptions(provider=provider))

    return mocked.run(program, outputs=outputs, preview=preview)


def deployment(args: ModelServiceArgs = ARGS) -> dict[str, Any]:
    return build(args).one("Deployment").inputs["spec"]


def pod(args: ModelServiceArgs = ARGS) -> dict[str, Any]:
    return deployment(args)["template"]["spec"]


def container(args: ModelServiceArgs = ARGS) -> dict[str, Any]:
    [only] = pod(args)["containers"]
    return only


def environment(args: ModelServiceArgs = ARGS) -> dict[str, str]:
    return {entry["name"]: entry["value"] for entry in container(args)["env"]}


def at(value: Any, path: str) -> Any:
    for step in path.split("."):
        value = value[int(step)] if isinstance(value, list) else value.get(step)
    return value


@pytest.fixture(scope="module")
def run() -> Run:
    return build()


def test_the_namespace_enforces_the_restricted_standard_of_a_pinned_version(run: Run) -> None:
    labels = run.one("Namespace").inputs["metadata"]["labels"]
    for mode in ("enforce", "audit", "warn"):
        assert labels[f"pod-security.kubernetes.io/{mode}"] == "restricted"
        assert labels[f"pod-security.kubernetes.io/{mode}-version"] == "v1.34"


def test_everything_is_in_the_namespace_through_the_clusters_provider_and_a_child(run: Run) -> None:
    for kind in NAMESPACED:
        resource = run.one(kind)
        assert resource.inputs["metadata"]["namespace"] == "model-namespace-1a2b"
        assert "name" not in resource.inputs["metadata"], "names are Pulumi's, so that a replacement can overlap"
        assert "model-namespace" in resource.dependencies, "so that destroy takes it before the namespace"
    for resource in run.resources:
        if resource.type.startswith("kubernetes:"):
            assert (resource.provider, resource.parent) == ("cluster", "model"), resource.name
            annotations = resource.inputs["metadata"]["annotations"]
            assert annotations["pulumi.com/patchForce"] == "true", "a hand edit is mended, not a conflict"
            assert "pulumi.com/skipAwait" not in annotations
            assert not resource.retain_on_delete
            assert not resource.deleted_with


def test_the_service_account_has_no_token(run: Run) -> None:
    assert run.one("ServiceAccount").inputs["automountServiceAccountToken"] is False
    assert pod()["automountServiceAccountToken"] is False
    assert pod()["serviceAccountName"] == "model-account-1a2b"
    assert "imagePullSecrets" not in run.one("ServiceAccount").inputs


def test_a_private_registry_is_pulled_from_with_a_secret() -> None:
    run = build(replace(ARGS, pull_secret='{"auths": {}}'))
    secret = run.one("kubernetes:core/v1:Secret")
    assert secret.inputs["type"] == "kubernetes.io/dockerconfigjson"
    assert secret.inputs["stringData"] == {".dockerconfigjson": '{"auths": {}}'}
    assert any(path.startswith("stringData") for path in secret.secrets)
    assert run.one("ServiceAccount").inputs["imagePullSecrets"] == [{"name": "model-pull-1a2b"}]


DEPLOYMENT = {
    "replicas": 3,
    "selector.matchLabels": SELECTOR,
    "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
    "minReadySeconds": 5,
    "progressDeadlineSeconds": 600,
    "revisionHistoryLimit": 5,
}


@pytest.mark.parametrize("path", DEPLOYMENT)
def test_the_deployment(path: str) -> None:
    assert at(deployment(), path) == DEPLOYMENT[path]


def test_the_selector_is_a_part_of_the_pods_labels_and_of_everything_that_selects(run: Run) -> None:
    labels = run.one("Deployment").inputs["spec"]["template"]["metadata"]["labels"]
    assert labels.items() >= {**SELECTOR, "app.kubernetes.io/version": "7"}.items()
    assert run.one("Service").inputs["spec"]["selector"] == SELECTOR
    assert run.one("NetworkPolicy").inputs["spec"]["podSelector"] == {"matchLabels": SELECTOR}
    assert run.one("PodDisruptionBudget").inputs["spec"]["selector"] == {"matchLabels": SELECTOR}


def test_another_model_version_touches_nothing_but_the_deployment() -> None:
    before, after = build(), build(replace(ARGS, model_version="8"))
    changed = [a.name for b, a in zip(before.resources, after.resources, strict=True) if a.inputs != b.inputs]
    assert changed == ["model-deployment"]


def test_other_numbers_of_replicas_leave_the_deployment_to_the_autoscaler() -> None:
    more = build(replace(ARGS, settings=replace(SETTINGS, replicas=4, max_replicas=20)))
    changed = [a.name for b, a in zip(build().resources, more.resources, strict=True) if a.inputs != b.inputs]
    assert changed == ["model-deployment", "model-autoscaler"]
    assert more.one("Deployment").ignore_changes == ["spec.replicas"], "the engine drops the first of the two"
    assert more.one("HorizontalPodAutoscaler").inputs["spec"]["minReplicas"] == 4


POD = {
    "enableServiceLinks": False,
    "securityContext": {
        "runAsNonRoot": True,
        "runAsUser": 10001,
        "runAsGroup": 10001,
        "fsGroup": 10001,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    },
    "nodeSelector": {"pool": "model", "kubernetes.io/os": "linux", "kubernetes.io/arch": "arm64"},
    "tolerations": [{"key": "gpu", "operator": "Exists"}],
    "topologySpreadConstraints": [
        {
            "maxSkew": 1,
            "topologyKey": key,
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": SELECTOR},
            "matchLabelKeys": ["pod-template-hash"],
        }
        for key in ("topology.kubernetes.io/zone", "kubernetes.io/hostname")
    ],
    "volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": "256Mi"}}],
    "hostNetwork": None,
    "hostPID": None,
    "hostIPC": None,
}


@pytest.mark.parametrize("path", POD)
def test_the_pod(path: str) -> None:
    assert at(pod(), path) == POD[path]


CONTAINER = {
    "image": IMAGE,
    "imagePullPolicy": "IfNotPresent",
    "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}],
    "resources": {
        "requests": {"cpu": "500m", "memory": "512Mi", "ephemeral-storage": "128Mi"},
        "limits": {"cpu": "1000m", "memory": "512Mi", "ephemeral-storage": "512Mi"},
    },
    "securityContext": {
        "allowPrivilegeEscalation": False,
        "privileged": False,
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
        "runAsUser": 10001,
        "runAsGroup": 10001,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    },
    "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108  # in the container
    "startupProbe": {
        "httpGet": {"path": "/ready", "port": "http"}, "periodSeconds": 1, "timeoutSeconds": 2, "failureThreshold": 600,
    },
    "readinessProbe": {
        "httpGet": {"path": "/ready", "port": "http"}, "periodSeconds": 5, "timeoutSeconds": 2, "failureThreshold": 2,
    },
    "livenessProbe": {
        "httpGet": {"path": "/live", "port": "http"}, "periodSeconds": 10, "timeoutSeconds": 2, "failureThreshold": 3,
    },
}  # fmt: skip


@pytest.mark.parametrize("path", CONTAINER)
def test_the_container(path: str) -> None:
    assert at(container(), path) == CONTAINER[path]


@pytest.mark.parametrize(("balancer", "drain"), [(nlb(health_path="/"), 120), (plain(), 5)], ids=["nlb", "plain"])
def test_a_leaving_pod_serves_as_long_as_it_is_sent_requests_and_then_finishes_them(balancer: Any, drain: int) -> None:
    args = replace(ARGS, load_balancer=balancer)
    assert container(args)["lifecycle"] == {"preStop": {"sleep": {"seconds": drain}}}
    told = environment(args)
    assert told == {"PORT": "8080", "DRAIN_SECONDS": "1", "GRACE_SECONDS": "25"}
    needed = drain + int(told["DRAIN_SECONDS"]) + int(told["GRACE_SECONDS"])
    assert pod(args)["terminationGracePeriodSeconds"] >= needed + 5


@pytest.mark.parametrize(("timeout_ms", "grace"), [("1000", 25), ("25001", 26), ("90000", 90), ("soon", 25)])
def test_a_leaving_pod_has_the_time_of_the_longest_request_that_the_config_allows(timeout_ms: str, grace: int) -> None:
    args = replace(ARGS, environment={"TIMEOUT_MS": timeout_ms})
    assert environment(args)["GRACE_SECONDS"] == str(grace)
    assert pod(args)["terminationGracePeriodSeconds"] == 120 + 1 + grace + 10


def test_gpus_are_requested_and_limited_alike() -> None:
    resources = container(replace(ARGS, settings=replace(SETTINGS, gpus=2)))["resources"]
    assert resources["requests"]["nvidia.com/gpu"] == resources["limits"]["nvidia.com/gpu"] == "2"


@pytest.mark.parametrize(("cpu", "limit"), [("500m", "1000m"), ("2", "4000m"), ("0.25", "1000m"), ("1.5", "3000m")])
def test_the_cpu_limit_leaves_room_for_a_burst_and_a_start(cpu: str, limit: str) -> None:
    assert burst(cpu) == limit


def test_the_api_key_is_an_immutable_secret_in_a_file_that_the_server_can_read() -> None:
    args = replace(ARGS, api_key=KEY)
    run = build(args)
    secret = run.one("kubernetes:core/v1:Secret")
    assert secret.inputs["stringData"] == {"api-key": KEY}
    assert any(path.startswith("stringData") for path in secret.secrets)
    assert secret.inputs["immutable"] is True
    assert "name" not in secret.inputs["metadata"], "an automatic name changes with the key and rolls the pods"
    assert at(pod(args), "volumes.1") == {
        "name": "api-key",
        "secret": {
            "secretName": "model-api-key-1a2b",
            "defaultMode": 0o440,
            "items": [{"key": "api-key", "path": "api-key"}],
        },
    }
    mount = container(args)["volumeMounts"][1]
    assert mount == {"name": "api-key", "mountPath": "/var/run/secrets/model-endpoint", "readOnly": True}
    assert environment(args)["API_KEY_FILE"] == "/var/run/secrets/model-endpoint/api-key"
    others = [r for r in run.resources if r is not secret]
    assert KEY not in str(others)


def test_the_environment_of_the_config_is_told_by_name_and_rolls_the_pods() -> None:
    args = replace(ARGS, api_key=KEY, environment={"QUEUE_SECONDS": "2", "LOG_LEVEL": "debug"})
    assert list(environment(args))[-2:] == ["LOG_LEVEL", "QUEUE_SECONDS"]
    assert environment(args) == {**environment(replace(ARGS, api_key=KEY)), "QUEUE_SECONDS": "2", "LOG_LEVEL": "debug"}
    before, after = build(replace(ARGS, api_key=KEY)), build(args)
    changed = [a.name for b, a in zip(before.resources, after.resources, strict=True) if a.inputs != b.inputs]
    assert changed == ["model-deployment"]


def test_what_kubernetes_would_replace_in_a_variable_stays_what_it_is() -> None:
    assert environment(replace(ARGS, environment={"A": "$(PORT) $$ $HOME"}))["A"] == "$$(PORT) $$$$ $$HOME"


def test_every_variable_that_is_set_here_is_refused_in_the_config() -> None:
    assert set(environment(replace(ARGS, api_key=KEY))) <= set(RESERVED_VARIABLES)


def test_the_address_to_listen_on_is_the_config_s_to_choose() -> None:
    assert "HOST" not in environment(ARGS)
    assert environment(replace(ARGS, environment={"HOST": "0.0.0.0"}))["HOST"] == "0.0.0.0"


def test_without_a_key_there_is_no_secret(run: Run) -> None:
    assert not run.all("kubernetes:core/v1:Secret")


def test_the_network_policy_lets_callers_to_the_port_and_the_pods_to_nothing(run: Run) -> None:
    policy = run.one("NetworkPolicy")
    assert policy.inputs["spec"] == {
        "podSelector": {"matchLabels": SELECTOR},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"ports": [{"port": 8080, "protocol": "TCP"}]}],
        "egress": [],
    }
    assert policy.name in run.one("Deployment").dependencies


def test_the_autoscaler(run: Run) -> None:
    assert run.one("HorizontalPodAutoscaler").type == "kubernetes:autoscaling/v2:HorizontalPodAutoscaler"
    spec = run.one("HorizontalPodAutoscaler").inputs["spec"]
    assert spec["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": "model-deployment-1a2b"}
    assert (spec["minReplicas"], spec["maxReplicas"]) == (3, 10)
    assert spec["metrics"] == [
        {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 70}}}
    ]
    assert spec["behavior"]["scaleUp"]["stabilizationWindowSeconds"] == 0
    assert spec["behavior"]["scaleDown"]["stabilizationWindowSeconds"] == 300


def test_the_budget_lets_one_pod_go_and_any_that_does_not_work(run: Run) -> None:
    spec = run.one("PodDisruptionBudget").inputs["spec"]
    assert spec["maxUnavailable"] == 1
    assert "minAvailable" not in spec
    assert spec["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


def test_the_service_behind_an_nlb(run: Run) -> None:
    service = run.one("kubernetes:core/v1:Service")
    ours = {"pulumi.com/patchForce": "true", **WAIT_FOR_ADDRESS}
    assert service.inputs["metadata"]["annotations"] == {**ours, **ARGS.load_balancer.annotations}
    assert service.inputs["spec"] == {
        "type": "LoadBalancer",
        "loadBalancerClass": "eks.amazonaws.com/nlb",
        "allocateLoadBalancerNodePorts": False,
        "externalTrafficPolicy": "Cluster",
        "selector": SELECTOR,
        "ports": [{"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP"}],
    }
    assert service.custom_timeouts == {"create": "15m", "update": "15m", "delete": "15m"}


def test_the_service_behind_a_plain_balancer_with_source_ranges() -> None:
    args = replace(
        ARGS, load_balancer=plain(), settings=replace(SETTINGS, service_port=8000, source_ranges=("203.0.113.0/24",))
    )
    spec = build(args).one("kubernetes:core/v1:Service").inputs["spec"]
    assert "loadBalancerClass" not in spec
    assert spec["allocateLoadBalancerNodePorts"] is True
    assert spec["loadBalancerSourceRanges"] == ["203.0.113.0/24"]
    assert spec["ports"][0]["port"] == 8000


def test_https_listens_on_443() -> None:
    run = build(replace(ARGS, https=True, settings=replace(SETTINGS, service_port=8000)))
    [port] = run.one("kubernetes:core/v1:Service").inputs["spec"]["ports"]
    assert port == {"name": "https", "port": 443, "targetPort": "http", "protocol": "TCP"}
    assert run.result.port == 443
    assert mocked.resolve(run.result.hostname).value == "lb.example.com"


def test_pulumi_waits_for_the_end_of_a_rollout_and_outlasts_one_that_moves(run: Run) -> None:
    """One pod after the other is replaced, and each may take the whole time without progress."""
    made = run.one("Deployment")
    assert made.inputs["metadata"]["annotations"].items() >= WAIT_FOR_END.items()
    assert made.custom_timeouts["create"] == made.custom_timeouts["update"]
    assert int(made.custom_timeouts["create"].removesuffix("s")) >= (
        SETTINGS.rollout_timeout_seconds * SETTINGS.max_replicas
    )


@pytest.mark.parametrize("protect", [False, True])
def test_what_serves_is_protected_where_the_stack_is(protect: bool) -> None:
    run = build(replace(ARGS, protect=protect))
    for kind in ("Namespace", "Deployment", "kubernetes:core/v1:Service"):
        assert run.one(kind).protect is protect
    assert not run.one("HorizontalPodAutoscaler").protect


def test_a_rollout_that_was_given_up_is_a_problem() -> None:
    given_up = {"type": "Progressing", "status": "False", "reason": GIVEN_UP, "message": "it has timed out progressing"}
    run = build(rollout={"conditions": [given_up]})
    assert "it has timed out progressing" in mocked.resolve(run.result.rollout_problem).value


def test_outputs(run: Run) -> None:
    found = run.result
    assert mocked.resolve(found.namespace).value == "model-namespace-1a2b"
    assert mocked.resolve(found.deployment_name).value == "model-deployment-1a2b"
    assert mocked.resolve(found.hostname).value == "lb.example.com"
    assert found.port == 80
    assert mocked.resolve(found.logs_command).value == (
        "kubectl logs --namespace model-namespace-1a2b --selector app.kubernetes.io/name=model-endpoint,"
        "app.kubernetes.io/instance=model --prefix --follow --max-log-requests 10"
    )


def test_an_address_may_be_an_ip() -> None:
    run = build(status={"loadBalancer": {"ingress": [{"ip": "2001:db8::7"}]}})
    assert mocked.resolve(run.result.hostname).value == "2001:db8::7"


@pytest.mark.parametrize("status", [{}, {"loadBalancer": {}}, {"loadBalancer": {"ingress": []}}])
def test_no_address_is_an_error_that_says_so(status: dict[str, Any]) -> None:
    with pytest.raises(NoAddressError, match="neither a host name nor an address"):
        build(status=status)


def test_the_first_preview_knows_no_address(run: Run) -> None:
    preview = build(preview=True)
    assert sorted(r.name for r in preview.resources) == sorted(r.name for r in run.resources)
    for output in (preview.result.hostname, preview.result.namespace, preview.result.logs_command):
        assert not mocked.resolve(output).known


def test_a_service_without_paths_is_asked_for_a_connection_and_has_a_home_that_can_be_written() -> None:
    settings = replace(SETTINGS, liveness_path=None, readiness_path=None)
    run = build(replace(ARGS, settings=settings, home="/home/service"))
    (container,) = run.one("kubernetes:apps/v1:Deployment").inputs["spec"]["template"]["spec"]["containers"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["tcpSocket"] == {"port": "http"}
        assert "httpGet" not in container[probe]
    assert {"name": "HOME", "value": "/home/service"} in container["env"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
