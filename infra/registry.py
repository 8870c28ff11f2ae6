"""Registry: the ECR repository of the model's images, and the login to it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import pulumi
import pulumi_aws as aws

from infra import kms
from infra.config.schema import RegistrySettings


@dataclass(frozen=True, kw_only=True)
class RegistryArgs:
    settings: RegistrySettings
    """Without `registry_force_delete` a repository that holds images stops `destroy`."""
    tags: Mapping[str, str]
    """Tags of every resource."""


class Registry(pulumi.ComponentResource):
    """A private repository whose tags never move, scanned and encrypted with a key of its own."""

    repository_url: pulumi.Output[str]
    """Push to it and pull from it; no tag, no scheme."""
    server: pulumi.Output[str]
    """Host name to log in to; known before the repository exists."""
    username: pulumi.Output[str]
    """For `server`."""
    password: pulumi.Output[str]
    """Secret; for `server`; valid for 12 hours, a new one each run."""

    def __init__(self, name: str, args: RegistryArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("model-endpoint:registry:Registry", name, None, opts)
        settings = args.settings
        prefix = f"{pulumi.get_project()}-{pulumi.get_stack()}"
        tags = {**args.tags, "Name": f"{prefix}-images"}
        invoke_opts = pulumi.InvokeOutputOptions(parent=self)
        guarded = pulumi.ResourceOptions(parent=self, protect=settings.protect)
        key = kms.make_key(
            f"{name}-key",
            f"Images of {prefix}",
            # ECR's use is granted by whoever makes the repository.
            policy=aws.get_caller_identity_output(opts=invoke_opts).arn.apply(kms.key_policy),
            tags=tags,
            protect=settings.protect,
            parent=self,
        )
        repository = aws.ecr.Repository(
            f"{name}-repository",
            image_tag_mutability="IMMUTABLE",
            image_scanning_configuration=aws.ecr.RepositoryImageScanningConfigurationArgs(scan_on_push=True),
            encryption_configurations=[
                aws.ecr.RepositoryEncryptionConfigurationArgs(encryption_type="KMS", kms_key=key.arn)
            ],
            force_delete=settings.registry_force_delete,
            tags=tags,
            opts=guarded,
        )
        aws.ecr.LifecyclePolicy(
            f"{name}-lifecycle",
            repository=repository.name,
            policy=lifecycle_policy(settings.keep_images),
            opts=pulumi.ResourceOptions(parent=self),
        )
        login = aws.ecr.get_authorization_token_output(opts=invoke_opts)
        self.repository_url = repository.repository_url
        self.server = login.proxy_endpoint.apply(host_of)
        self.username = login.user_name
        self.password = pulumi.Output.secret(login.password)
        self.register_outputs({"repositoryUrl": self.repository_url})


def lifecycle_policy(keep_images: int) -> str:
    """Keep the newest `keep_images` tagged images; what lost its last tag, or never had one, goes after a day.

    ECR does not expire an image that a kept multi-platform image refers to.
    """
    untagged = {"tagStatus": "untagged", "countType": "sinceImagePushed", "countUnit": "days", "countNumber": 1}
    tagged = {
        "tagStatus": "tagged",
        "tagPatternList": ["*"],
        "countType": "imageCountMoreThan",
        "countNumber": keep_images,
    }
    rules = [("untagged images", untagged), (f"all but the newest {keep_images} images", tagged)]
    return json.dumps(
        {
            "rules": [
                {"rulePriority": rank, "description": text, "selection": selection, "action": {"type": "expire"}}
                for rank, (text, selection) in enumerate(rules, start=1)
            ]
        }
    )


def host_of(endpoint: str) -> str:
    """The host name in ECR's `https://...` endpoint."""
    return endpoint.removeprefix("https://").rstrip("/")
