"""The whole stack: from a trained model to an endpoint that answers.

In creation order: network, cluster, registry and domain (`infra/eks.py`) or the cluster and repository of the config
(`infra/kubernetes.py`); the model's image; its service; the check that the endpoint has answered a prediction.
Target `local` runs the same app as a process on this machine.
"""

from pathlib import Path

import pulumi

from infra.config.load import load_settings
from infra.endpoint_check import EndpointCheck, EndpointCheckArgs
from infra.own_build import stage_release
from infra.stack_pin import pin_stack

root = Path(__file__).parent
settings = load_settings(root)
release = stage_release(settings, root)
pin_stack("Target", settings.common.target)

# Each target imports only what it needs: `local` no cloud SDK, `kubernetes` no AWS.
if settings.common.target == "local":
    from infra.local.component import LocalService, LocalServiceArgs

    service = LocalService("model", LocalServiceArgs.from_settings(settings, release))
    check = EndpointCheckArgs.from_settings(settings, release, url=service.url)
    pulumi.export("logFile", service.log_file)
else:
    from infra.image import ModelImage, ModelImageArgs
    from infra.service import ModelService, ModelServiceArgs

    if settings.common.target == "eks":
        from infra.eks import eks_platform as make_platform
    else:
        from infra.kubernetes import existing_platform as make_platform

    platform = make_platform(settings)
    image = ModelImage("model", ModelImageArgs.from_settings(settings, release, platform.repository))
    workload = ModelServiceArgs.from_settings(settings, release, image.reference, platform)
    service = ModelService("model", workload, platform.workloads)
    check = EndpointCheckArgs.from_settings(
        settings,
        release,
        url=platform.url(service.hostname, service.port),
        deployed=image.digest,
        settle_seconds=platform.load_balancer.drain_seconds,
        kubeconfig=platform.kubeconfig,
        namespace=service.namespace,
        rollout_problem=service.rollout_problem,
    )
    pulumi.export("imageDigest", image.digest)
    pulumi.export("logs", service.logs_command)

endpoint = EndpointCheck("endpoint", check, pulumi.ResourceOptions(depends_on=[service]))
pulumi.export("modelName", endpoint.model_name)
pulumi.export("modelVersion", endpoint.model_version)
pulumi.export("endpoint", endpoint.url)
