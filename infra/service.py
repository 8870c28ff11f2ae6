"""ModelService: the model's pods, what scales and guards them, and the load balancer in front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

import pulumi
import pulumi_kubernetes as k8s

from infra import naming, outputs, server_contract
from infra.build_context import Release
from infra.cluster_platform import Platform
from infra.config.schema import Architecture, ServiceSettings, Settings
from infra.load_balancer import LoadBalancer
from infra.rollout import WAIT_FOR_ADDRESS, WAIT_FOR_END, problem_of
from infra.server_contract import CONTAINER_PORT, USER_ID

POD_SECURITY_VERSION = "v1.34"
"""Pinned, so that an upgrade of the cluster never refuses pods that ran before."""

_KEY_FOLDER = "/var/run/secrets/model-endpoint"
_KEY_FILE = "api-key"
_STARTUP_PERIOD_SECONDS = 1
_MIN_READY_SECONDS = 5
"""A pod that is ready for less does not count: one that dies of its first requests never replaces a good one."""
_TMP = "/tmp"  # noqa: S108  # the container's own
_TMP_SIZE = "256Mi"
_LOAD_BALANCER_TIMEOUTS = pulumi.CustomTimeouts(create="15m", update="15m", delete="15m")
"""Clouds take minutes to make a load balancer, and to take it down."""
_MIN_LOG_REQUESTS = 5
"""kubectl's own limit of pods to follow, which may be raised only."""


@dataclass(frozen=True, kw_only=True)
class ModelServiceArgs:
    settings: ServiceSettings
    image: pulumi.Input[str]
    """By digest: a new one rolls the pods. It must run as any numeric user and listen on port 8080."""
    stack: str
    model_version: str
    """Value of the pods' version label; empty: none, as for a prebuilt image."""
    api_key: pulumi.Input[str] | None
    """Mounted as a file that the server reads; a new key rolls the pods. None: predictions are open."""
    environment: Mapping[str, str]
    """Variables for the server, besides those that are set here; another value rolls the pods."""
    pull_secret: pulumi.Input[str] | None = None
    """Text of the Docker config with which the image is pulled. None: the nodes may pull it as they are."""
    load_balancer: LoadBalancer
    https: bool
    """The load balancer's listener is TLS on 443; otherwise plain on the settings' port."""
    node_selector: Mapping[str, str]
    tolerations: Sequence[k8s.core.v1.TolerationArgs]
    architecture: Architecture
    home: str | None = None
    """Home folder, for an image whose user has none that can be written; None: as the image says."""
    protect: bool = False
    """Refuse to delete or replace what serves: the namespace, the Deployment and the Service."""

    @classmethod
    def from_settings(
        cls, settings: Settings, release: Release, image: pulumi.Input[str], platform: Platform
    ) -> ModelServiceArgs:
        key = settings.common.api_key
        return cls(
            settings=settings.service,
            image=image,
            stack=settings.stack,
            model_version="" if settings.image.image else release.model_version,
            api_key=key.output() if key else None,
            environment=settings.common.environment,
            pull_secret=platform.pull_secret,
            load_balancer=platform.load_balancer,
            https=platform.domain is not None,
            node_selector=platform.node_selector,
            tolerations=platform.tolerations,
            architecture=settings.image.architecture,
            home=_TMP if release.is_own_build else None,
            protect=settings.cluster.protect,
        )


class ModelService(pulumi.ComponentResource):
    """Namespace, workload, autoscaler, budget, network policy and Service.

    Give it the cluster's provider in `opts`: destroy then takes the load balancer and the pods before the cluster.
    """

    namespace: pulumi.Output[str]
    deployment_name: pulumi.Output[str]
    rollout_problem: pulumi.Output[str]
    """Says how the latest rollout failed; empty: it is complete."""
    hostname: pulumi.Output[str]
    """The load balancer's address, a host name or an IP, as soon as it has one. Point a domain here."""
    port: int
    """The load balancer's listener."""
    logs_command: pulumi.Output[str]
    """Follows all pods' logs."""

    def __init__(self, name: str, args: ModelServiceArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("model-endpoint:service:ModelService", name, None, opts)
        self._name = name
        self._args = args
        self._selector = naming.selector(name)
        self._labels = naming.labels(name, stack=args.stack)
        self._child = pulumi.ResourceOptions(parent=self)
        self._serving = pulumi.ResourceOptions(parent=self, protect=args.protect)
        self.port = 443 if args.https else args.settings.service_port
        self.namespace = self._namespace()
        self._metadata = k8s.meta.v1.ObjectMetaArgs(
            namespace=self.namespace, labels=self._labels, annotations=naming.TAKES_FIELDS_BACK
        )
        policy = self._network_policy()
        deployment = self._deployment(self._service_account(), self._key_secret(), policy)
        self.deployment_name = deployment.metadata.apply(_name)
        self.rollout_problem = deployment.status.apply(problem_of)
        self._autoscaler()
        self._disruption_budget()
        self.hostname = self._service().status.apply(_address)
        self.logs_command = self.namespace.apply(self._logs_command)
        self.register_outputs(
            {
                "namespace": self.namespace,
                "deployment_name": self.deployment_name,
                "hostname": self.hostname,
                "logs_command": self.logs_command,
            }
        )

    def _namespace(self) -> pulumi.Output[str]:
        labels = {**self._labels, **_pod_security()}
        namespace = k8s.core.v1.Namespace(
            f"{self._name}-namespace",
            metadata=k8s.meta.v1.ObjectMetaArgs(labels=labels, annotations=naming.TAKES_FIELDS_BACK),
            opts=self._serving,
        )
        return namespace.metadata.apply(_name)

    def _network_policy(self) -> k8s.networking.v1.NetworkPolicy:
        """Let callers reach the serving port and nothing else, and the pods nothing at all.

        Sources are not narrowed here: behind a load balancer they are its own or the nodes' addresses. The Service's
        source ranges do that at the door.
        """
        v1 = k8s.networking.v1
        port = v1.NetworkPolicyPortArgs(port=CONTAINER_PORT, protocol="TCP")
        return v1.NetworkPolicy(
            f"{self._name}-network-policy",
            metadata=self._metadata,
            spec=v1.NetworkPolicySpecArgs(
                pod_selector=k8s.meta.v1.LabelSelectorArgs(match_labels=self._selector),
                policy_types=["Ingress", "Egress"],
                ingress=[v1.NetworkPolicyIngressRuleArgs(ports=[port])],
                egress=[],
            ),
            opts=self._child,
        )

    def _service_account(self) -> pulumi.Output[str]:
        """Make the pods' account, with the registry's login if pulling needs one; its name."""
        pull_secrets = None
        if self._args.pull_secret is not None:
            login = k8s.core.v1.Secret(
                f"{self._name}-pull",
                metadata=self._metadata,
                type="kubernetes.io/dockerconfigjson",
                string_data={".dockerconfigjson": pulumi.Output.secret(self._args.pull_secret)},
                opts=self._child,
            )
            pull_secrets = [k8s.core.v1.LocalObjectReferenceArgs(name=login.metadata.apply(_name))]
        account = k8s.core.v1.ServiceAccount(
            f"{self._name}-account",
            metadata=self._metadata,
            automount_service_account_token=False,
            image_pull_secrets=pull_secrets,
            opts=self._child,
        )
        return account.metadata.apply(_name)

    def _key_secret(self) -> pulumi.Output[str] | None:
        """Make the secret with the API key, if there is a key; its name."""
        if self._args.api_key is None:
            return None
        secret = k8s.core.v1.Secret(
            f"{self._name}-api-key",
            metadata=self._metadata,
            # Immutable and named by Pulumi: a new key is a new name, so the pods roll and old ones keep theirs.
            immutable=True,
            string_data={_KEY_FILE: pulumi.Output.secret(self._args.api_key)},
            opts=self._child,
        )
        return secret.metadata.apply(_name)

    def _deployment(
        self,
        account: pulumi.Output[str],
        key_secret: pulumi.Output[str] | None,
        policy: k8s.networking.v1.NetworkPolicy,
    ) -> k8s.apps.v1.Deployment:
        args = self._args
        versioned = naming.labels(self._name, stack=args.stack, version=args.model_version)
        # Outlasts every rollout that moves, one pod after the other: Kubernetes itself gives up one that does not.
        timeout = f"{args.settings.rollout_timeout_seconds * (args.settings.max_replicas + 1)}s"
        return k8s.apps.v1.Deployment(
            f"{self._name}-deployment",
            metadata=k8s.meta.v1.ObjectMetaArgs(
                namespace=self.namespace, labels=versioned, annotations={**naming.TAKES_FIELDS_BACK, **WAIT_FOR_END}
            ),
            spec=k8s.apps.v1.DeploymentSpecArgs(
                replicas=args.settings.replicas,
                selector=k8s.meta.v1.LabelSelectorArgs(match_labels=self._selector),
                strategy=k8s.apps.v1.DeploymentStrategyArgs(
                    type="RollingUpdate",
                    rolling_update=k8s.apps.v1.RollingUpdateDeploymentArgs(max_unavailable=0, max_surge=1),
                ),
                min_ready_seconds=_MIN_READY_SECONDS,
                progress_deadline_seconds=args.settings.rollout_timeout_seconds,
                revision_history_limit=5,
                template=k8s.core.v1.PodTemplateSpecArgs(
                    metadata=k8s.meta.v1.ObjectMetaArgs(labels=versioned),
                    spec=_pod(args, self._selector, account, key_secret),
                ),
            ),
            opts=pulumi.ResourceOptions.merge(
                self._serving,
                pulumi.ResourceOptions(
                    depends_on=[policy],  # no pod before its policy
                    # The autoscaler owns the number once the Deployment exists [pulumi-kubernetes#2491].
                    ignore_changes=["spec.replicas"],
                    custom_timeouts=pulumi.CustomTimeouts(create=timeout, update=timeout, delete="10m"),
                ),
            ),
        )

    def _autoscaler(self) -> None:
        v2, settings = k8s.autoscaling.v2, self._args.settings
        target = v2.MetricTargetArgs(type="Utilization", average_utilization=settings.cpu_target_percent)
        v2.HorizontalPodAutoscaler(
            f"{self._name}-autoscaler",
            metadata=self._metadata,
            spec=v2.HorizontalPodAutoscalerSpecArgs(
                scale_target_ref=v2.CrossVersionObjectReferenceArgs(
                    api_version="apps/v1", kind="Deployment", name=self.deployment_name
                ),
                min_replicas=settings.replicas,
                max_replicas=settings.max_replicas,
                metrics=[
                    v2.MetricSpecArgs(type="Resource", resource=v2.ResourceMetricSourceArgs(name="cpu", target=target))
                ],
                # Up at once, down slowly: a replica too many costs less than a refused request.
                behavior=v2.HorizontalPodAutoscalerBehaviorArgs(
                    scale_up=v2.HPAScalingRulesArgs(
                        stabilization_window_seconds=0,
                        select_policy="Max",
                        policies=[
                            v2.HPAScalingPolicyArgs(type="Percent", value=100, period_seconds=30),
                            v2.HPAScalingPolicyArgs(type="Pods", value=4, period_seconds=30),
                        ],
                    ),
                    scale_down=v2.HPAScalingRulesArgs(
                        stabilization_window_seconds=300,
                        policies=[v2.HPAScalingPolicyArgs(type="Percent", value=25, period_seconds=60)],
                    ),
                ),
            ),
            opts=self._child,
        )

    def _disruption_budget(self) -> None:
        k8s.policy.v1.PodDisruptionBudget(
            f"{self._name}-budget",
            metadata=self._metadata,
            spec=k8s.policy.v1.PodDisruptionBudgetSpecArgs(
                selector=k8s.meta.v1.LabelSelectorArgs(match_labels=self._selector),
                max_unavailable=1,
                # A pod that does not work must not keep its node from being drained.
                unhealthy_pod_eviction_policy="AlwaysAllow",
            ),
            opts=self._child,
        )

    def _service(self) -> k8s.core.v1.Service:
        args, balancer, v1 = self._args, self._args.load_balancer, k8s.core.v1
        annotations = {**naming.TAKES_FIELDS_BACK, **WAIT_FOR_ADDRESS, **balancer.annotations}
        scheme = "https" if args.https else "http"
        return v1.Service(
            f"{self._name}-service",
            metadata=k8s.meta.v1.ObjectMetaArgs(namespace=self.namespace, labels=self._labels, annotations=annotations),
            spec=v1.ServiceSpecArgs(
                type="LoadBalancer",
                load_balancer_class=balancer.load_balancer_class,
                load_balancer_source_ranges=list(args.settings.source_ranges) or None,
                allocate_load_balancer_node_ports=balancer.node_ports,
                # Local would keep the caller's address, which nothing here reads, and lose requests on nodes without a
                # pod.
                external_traffic_policy="Cluster",
                selector=self._selector,
                ports=[v1.ServicePortArgs(name=scheme, port=self.port, target_port="http", protocol="TCP")],
            ),
            opts=pulumi.ResourceOptions.merge(
                self._serving, pulumi.ResourceOptions(custom_timeouts=_LOAD_BALANCER_TIMEOUTS)
            ),
        )

    def _logs_command(self, namespace: str) -> str:
        query = ",".join(f"{key}={value}" for key, value in self._selector.items())
        pods = max(self._args.settings.max_replicas, _MIN_LOG_REQUESTS)
        return f"kubectl logs --namespace {namespace} --selector {query} --prefix --follow --max-log-requests {pods}"


class NoAddressError(pulumi.RunError):
    """The Service is up, and its load balancer has no address."""

    def __init__(self) -> None:
        super().__init__("the load balancer has neither a host name nor an address: does the cluster provide one?")


def _pod_security() -> dict[str, str]:
    prefix = "pod-security.kubernetes.io"
    modes = ("enforce", "audit", "warn")
    return {
        **{f"{prefix}/{mode}": "restricted" for mode in modes},
        **{f"{prefix}/{mode}-version": POD_SECURITY_VERSION for mode in modes},
    }


def _pod(
    args: ModelServiceArgs,
    selector: Mapping[str, str],
    account: pulumi.Output[str],
    key_secret: pulumi.Output[str] | None,
) -> k8s.core.v1.PodSpecArgs:
    drain, grace = args.load_balancer.drain_seconds, server_contract.grace_seconds(args.environment)
    volumes = [k8s.core.v1.VolumeArgs(name="tmp", empty_dir=k8s.core.v1.EmptyDirVolumeSourceArgs(size_limit=_TMP_SIZE))]
    if key_secret is not None:
        volumes.append(
            k8s.core.v1.VolumeArgs(
                name="api-key",
                secret=k8s.core.v1.SecretVolumeSourceArgs(
                    secret_name=key_secret,
                    default_mode=0o440,
                    items=[k8s.core.v1.KeyToPathArgs(key=_KEY_FILE, path=_KEY_FILE)],
                ),
            )
        )
    return k8s.core.v1.PodSpecArgs(
        service_account_name=account,
        automount_service_account_token=False,
        enable_service_links=False,
        termination_grace_period_seconds=server_contract.termination_grace_seconds(drain, grace),
        security_context=k8s.core.v1.PodSecurityContextArgs(
            run_as_non_root=True,
            run_as_user=USER_ID,
            run_as_group=USER_ID,
            fs_group=USER_ID,
            fs_group_change_policy="OnRootMismatch",
            seccomp_profile=k8s.core.v1.SeccompProfileArgs(type="RuntimeDefault"),
        ),
        node_selector={**args.node_selector, "kubernetes.io/os": "linux", "kubernetes.io/arch": args.architecture},
        tolerations=list(args.tolerations),
        topology_spread_constraints=[
            _spread(key, selector) for key in ("topology.kubernetes.io/zone", "kubernetes.io/hostname")
        ],
        containers=[_container(args, drain, grace, with_key=key_secret is not None)],
        volumes=volumes,
    )


def _spread(key: str, selector: Mapping[str, str]) -> k8s.core.v1.TopologySpreadConstraintArgs:
    """Spread evenly over `key`, each version by itself; a full or unlabelled zone does not stop a rollout."""
    return k8s.core.v1.TopologySpreadConstraintArgs(
        max_skew=1,
        topology_key=key,
        when_unsatisfiable="ScheduleAnyway",
        label_selector=k8s.meta.v1.LabelSelectorArgs(match_labels=selector),
        match_label_keys=["pod-template-hash"],
    )


def _container(args: ModelServiceArgs, drain: int, grace: int, *, with_key: bool) -> k8s.core.v1.ContainerArgs:
    settings = args.settings
    env = {
        "PORT": str(CONTAINER_PORT),
        "DRAIN_SECONDS": str(server_contract.DRAIN_SECONDS),
        "GRACE_SECONDS": str(grace),
    }
    if args.home and "HOME" not in args.environment:
        env["HOME"] = args.home
    mounts = [k8s.core.v1.VolumeMountArgs(name="tmp", mount_path=_TMP)]
    if with_key:
        env["API_KEY_FILE"] = f"{_KEY_FOLDER}/{_KEY_FILE}"
        mounts.append(k8s.core.v1.VolumeMountArgs(name="api-key", mount_path=_KEY_FOLDER, read_only=True))
    # Kubernetes takes `$$` for `$`, and `$(NAME)` for a variable: doubled, a value is what it is on every target.
    given = {name: value.replace("$", "$$") for name, value in sorted(args.environment.items())}
    return k8s.core.v1.ContainerArgs(
        name="server",
        image=args.image,
        image_pull_policy="IfNotPresent",  # a digest is never stale
        ports=[k8s.core.v1.ContainerPortArgs(name="http", container_port=CONTAINER_PORT, protocol="TCP")],
        env=[k8s.core.v1.EnvVarArgs(name=key, value=value) for key, value in {**env, **given}.items()],
        resources=_resources(settings),
        startup_probe=_probe(
            settings.readiness_path,
            period=_STARTUP_PERIOD_SECONDS,
            failures=max(settings.rollout_timeout_seconds // _STARTUP_PERIOD_SECONDS, 1),
        ),
        readiness_probe=_probe(settings.readiness_path, period=5, failures=2),
        liveness_probe=_probe(settings.liveness_path, period=10, failures=3),
        lifecycle=k8s.core.v1.LifecycleArgs(
            pre_stop=k8s.core.v1.LifecycleHandlerArgs(sleep=k8s.core.v1.SleepActionArgs(seconds=drain))
        ),
        security_context=k8s.core.v1.SecurityContextArgs(
            allow_privilege_escalation=False,
            privileged=False,
            read_only_root_filesystem=True,
            run_as_non_root=True,
            run_as_user=USER_ID,
            run_as_group=USER_ID,
            capabilities=k8s.core.v1.CapabilitiesArgs(drop=["ALL"]),
            seccomp_profile=k8s.core.v1.SeccompProfileArgs(type="RuntimeDefault"),
        ),
        volume_mounts=mounts,
    )


def _probe(path: str | None, *, period: int, failures: int) -> k8s.core.v1.ProbeArgs:
    """Ask for the path, or without one for a connection alone."""
    return k8s.core.v1.ProbeArgs(
        http_get=k8s.core.v1.HTTPGetActionArgs(path=path, port="http") if path else None,
        tcp_socket=None if path else k8s.core.v1.TCPSocketActionArgs(port="http"),
        period_seconds=period,
        timeout_seconds=2,
        failure_threshold=failures,
    )


def _resources(settings: ServiceSettings) -> k8s.core.v1.ResourceRequirementsArgs:
    requests = {"cpu": settings.cpu, "memory": settings.memory, "ephemeral-storage": "128Mi"}
    limits = {"cpu": burst(settings.cpu), "memory": settings.memory, "ephemeral-storage": "512Mi"}
    if settings.gpus:
        for group in (requests, limits):
            group["nvidia.com/gpu"] = str(settings.gpus)
    return k8s.core.v1.ResourceRequirementsArgs(requests=requests, limits=limits)


def burst(cpu: str) -> str:
    """Compute the limit for a requested CPU quantity: twice as much, and at least the one core that a start takes.

    At a limit equal to the request, use could never exceed the target by much, and scaling up would go in small steps.
    """
    millicores = Decimal(cpu[:-1]) if cpu.endswith("m") else Decimal(cpu) * 1000
    return f"{max(int(2 * millicores), 1000)}m"


def _name(metadata: k8s.meta.v1.outputs.ObjectMeta) -> str:
    # Before the cluster exists, a preview may have nothing but the inputs.
    return metadata.name or outputs.NOT_KNOWN_YET


def _address(status: k8s.core.v1.outputs.ServiceStatus | None) -> str:
    balancer = status.load_balancer if status else None
    for ingress in (balancer.ingress if balancer else None) or []:
        if address := ingress.hostname or ingress.ip:
            return address
    raise NoAddressError
