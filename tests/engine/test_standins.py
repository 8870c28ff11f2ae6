"""The stand-ins are as strict as what they stand in for: each test breaks one thing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.standins import component, schema, wire
from tests.standins.aws import EKS_CLUSTER, KEY, LOG_GROUP, ROUTE_TABLE, Aws
from tests.standins.behaviour import HalfDone, Request
from tests.standins.cloud import REGISTRY_VARIABLE, Cloud, CloudError, Thing
from tests.standins.docker import Docker
from tests.standins.kubernetes import CLUSTER, Kubernetes, server_of
from tests.standins.sign_in import ACCESS_ENTRY, DEPLOYER

REPOSITORY = "aws:ecr/repository:Repository"
VPC = "aws:ec2/vpc:Vpc"
SUBNET = "aws:ec2/subnet:Subnet"
ROUTE = "aws:ec2/route:Route"
DEPLOYMENT = "kubernetes:apps/v1:Deployment"
SERVICE = "kubernetes:core/v1:Service"
IMAGE = "docker:index/image:Image"
SERVER = "https://10.0.0.1"
KUBECONFIG = f"""{{"current-context": "a", "contexts": [{{"name": "a", "context": {{"cluster": "c"}}}}],
                  "clusters": [{{"name": "c", "cluster": {{"server": "{SERVER}"}}}}]}}"""


@pytest.fixture
def cloud(tmp_path: Path) -> Cloud:
    return Cloud(tmp_path / "cloud")


@pytest.fixture
def aws(cloud: Cloud) -> Aws:
    service = Aws(cloud)
    service.configure({"region": "us-east-1"})
    return service


@pytest.fixture
def kubernetes(cloud: Cloud) -> Kubernetes:
    cloud.add(Thing(type=CLUSTER, id=SERVER))
    service = Kubernetes(cloud)
    service.configure({"kubeconfig": KUBECONFIG})
    return service


def failures(token: str, inputs: dict[str, Any]) -> dict[str, str]:
    found = schema.resource_class(token)
    assert found is not None
    return dict(schema.failures(schema.args_class(found), inputs))


def request(type_: str, inputs: dict[str, Any], name: str = "x", **more: Any) -> Request:
    return Request(type_, f"urn:pulumi:dev::p::{type_}::{name}", inputs, **more)


# --- inputs ---


def test_a_right_input_has_no_failures() -> None:
    scanning = {"scanOnPush": True}
    assert not failures(REPOSITORY, {"imageScanningConfiguration": scanning, "tags": {"a.b/c": "d"}, "name": None})


@pytest.mark.parametrize(
    ("token", "inputs", "path", "reason"),
    [
        (REPOSITORY, {"imageTagMutabilty": "IMMUTABLE"}, "imageTagMutabilty", "no such property"),
        (
            REPOSITORY,
            {"imageScanningConfiguration": {"scanOnPsh": True}},
            "imageScanningConfiguration.scanOnPsh",
            "no such",
        ),
        (REPOSITORY, {"imageScanningConfiguration": {}}, "imageScanningConfiguration.scanOnPush", "missing"),
        (REPOSITORY, {"imageScanningConfiguration": []}, "imageScanningConfiguration", "must be an object"),
        (REPOSITORY, {"forceDelete": "true"}, "forceDelete", "must be a boolean"),
        (REPOSITORY, {"encryptionConfigurations": {"kmsKey": "k"}}, "encryptionConfigurations", "must be a list"),
        (REPOSITORY, {"encryptionConfigurations": [{"kmsKye": "k"}]}, "encryptionConfigurations[0].kmsKye", "no such"),
        (REPOSITORY, {"tags": {"size": 3}}, 'tags["size"]', "must be a string"),
        (SUBNET, {"cidrBlock": "10.0.0.0/24"}, "vpcId", "missing"),
        ("aws:kms/key:Key", {"deletionWindowInDays": 7.5}, "deletionWindowInDays", "must be a whole number"),
        ("aws:kms/key:Key", {"deletionWindowInDays": True}, "deletionWindowInDays", "must be a whole number"),
        (DEPLOYMENT, {"spec": {"selector": {}, "template": {}, "replica": 3}}, "spec.replica", "no such property"),
        (DEPLOYMENT, {"spec": {"selector": {}, "template": {}, "replicas": "3"}}, "spec.replicas", "whole number"),
        (DEPLOYMENT, {"spec": {"template": {}}}, "spec.selector", "missing"),
        (DEPLOYMENT, {"kind": "Pod", "spec": {"selector": {}, "template": {}}}, "kind", "must be 'Deployment'"),
        (SERVICE, {"spec": {"ports": [{"port": "80"}]}}, "spec.ports[0].port", "must be a whole number"),
        (IMAGE, {"imageName": "a:b", "build": {"contxt": "."}}, "build.contxt", "no such property"),
        (IMAGE, {"imageName": "a:b", "build": {"builderVersion": "Kit"}}, "build.builderVersion", "must be one of"),
        (IMAGE, {}, "imageName", "missing"),
    ],
)
def test_unknown_missing_and_mistyped_inputs_fail(token: str, inputs: dict[str, Any], path: str, reason: str) -> None:
    found = failures(token, inputs)
    assert path in found, found
    assert reason in found[path]


def test_ports_may_be_numbers_or_names() -> None:
    for port in (8080, "http"):
        assert not failures(SERVICE, {"spec": {"ports": [{"port": 80, "targetPort": port}]}})
    assert failures(SERVICE, {"spec": {"ports": [{"port": 80, "targetPort": True}]}})


def test_unknown_and_secret_values_are_looked_through() -> None:
    assert not failures(REPOSITORY, {"forceDelete": wire.UNKNOWN})
    assert not failures(REPOSITORY, {"forceDelete": wire.secret(True)})
    assert failures(REPOSITORY, {"forceDelete": wire.secret("yes")})


def test_types_and_functions_that_the_sdk_has_not_are_unknown() -> None:
    assert schema.resource_class("aws:ecr/repository:Repositori") is None
    assert schema.function("aws:index/getRegions2:getRegions2") is None


def test_arguments_of_functions_are_checked() -> None:
    found = schema.function("aws:index/getAvailabilityZones:getAvailabilityZones")
    assert found is not None
    assert not schema.function_failures(found, {"state": "available", "filters": [{"name": "a", "values": ["b"]}]})
    wrong = dict(
        schema.function_failures(found, {"stat": "available", "excludeNames": "a", "filters": [{"name": "a"}]})
    )
    assert wrong.keys() == {"stat", "excludeNames", "filters[0].values"}


def test_a_function_without_an_answer_is_an_error(aws: Aws) -> None:
    with pytest.raises(CloudError, match="no answer"):
        aws.invoke("aws:ec2/getAmi:getAmi", {})


def test_provider_configuration_is_checked() -> None:
    args = schema.provider_args("kubernetes")
    assert not schema.failures(args, {"kubeconfig": "{}", "enableServerSideApply": "true"}, encoded=True)
    wrong = {"kubeconfig": "{}", "enableServerSideAply": "true", "deleteUnreachable": "perhaps"}
    assert dict(schema.failures(args, wrong, encoded=True)).keys() == {"enableServerSideAply", "deleteUnreachable"}


# --- eks ---

EKS = {"autoMode": {"enabled": True}, "authenticationMode": "API", "skipDefaultNodeGroup": True}


def test_eks_takes_auto_mode_with_access_entries() -> None:
    scope = {"type": "cluster"}
    entry = {"principalArn": wire.UNKNOWN, "accessPolicies": {"admin": {"policyArn": "a", "accessScope": scope}}}
    assert not component.mistakes({**EKS, "accessEntries": {"ci": entry}, "privateSubnetIds": wire.UNKNOWN})


@pytest.mark.parametrize(
    ("inputs", "path"),
    [
        ({"authenticationMode": "CONFIG_MAP"}, "authenticationMode"),
        ({"authenticationMode": "IAM"}, "authenticationMode"),
        ({"publicAccessCidrs": ["203.0.113.7/32"], "endpointPublicAccess": False}, "publicAccessCidrs"),
        ({"subnetIds": ["subnet-1"], "privateSubnetIds": ["subnet-1"]}, "subnetIds"),
        ({"autoMode": {"enabled": wire.UNKNOWN}}, "autoMode.enabled"),
        ({"autoMode": {"enable": True}}, "autoMode.enable"),
        ({"corednsAddonOptions": {"enabled": "no"}}, "corednsAddonOptions.enabled"),
        ({"upgradePolicy": {"supportTyp": "STANDARD"}}, "upgradePolicy.supportTyp"),
        ({"accessEntries": {"ci": {}}}, 'accessEntries["ci"].principalArn'),
    ],
)
def test_eks_mistakes(inputs: dict[str, Any], path: str) -> None:
    assert path in dict(component.mistakes({**EKS, **inputs}))


CREDENTIALS = {"roleArn": "arn:aws:iam::123456789012:role/admin", "profileName": "team"}
PARTS = {"name": "c", "server": SERVER, "authority": "", "region": "us-east-1", "credentials": CREDENTIALS}


def test_the_kubeconfig_of_eks_has_the_profile_only_where_the_component_itself_signs_in() -> None:
    given: list[list[str]] = []
    for with_profile in (False, True):
        (user,) = component._kubeconfig(PARTS, with_profile=with_profile)["users"]
        given.append(user["user"]["exec"]["args"])
    token = ["--region", "us-east-1", "eks", "get-token", "--cluster-name", "c", "--output", "json"]
    assert given[0] == [*token, "--role", CREDENTIALS["roleArn"]]
    assert given[1] == [*given[0], "--profile", "team"]


CLUSTER_INPUTS = {
    "name": "c",
    "roleArn": "arn",
    "vpcConfig": {"subnetIds": [], "endpointPrivateAccess": True},
    "computeConfig": {"enabled": True},
    "storageConfig": {"blockStorage": {"enabled": True}},
    "kubernetesNetworkConfig": {"elasticLoadBalancing": {"enabled": True}},
    "accessConfig": {"authenticationMode": "API", "bootstrapClusterCreatorAdminPermissions": True},
}


def test_coredns_does_not_come_up_under_auto_mode(aws: Aws) -> None:
    aws.create(request("aws:eks/cluster:Cluster", CLUSTER_INPUTS))
    aws.create(request("aws:eks/addon:Addon", {"clusterName": "c", "addonName": "metrics-server"}))
    with pytest.raises(CloudError, match="DEGRADED"):
        aws.create(request("aws:eks/addon:Addon", {"clusterName": "c", "addonName": "coredns"}))


def test_auto_mode_is_all_or_nothing(aws: Aws) -> None:
    with pytest.raises(CloudError, match="all be automatic"):
        aws.create(request("aws:eks/cluster:Cluster", {**CLUSTER_INPUTS, "storageConfig": {}}))


def entry_of(principal: str) -> Request:
    return request(ACCESS_ENTRY, {"clusterName": "c", "principalArn": principal})


def test_whoever_makes_a_cluster_has_an_access_entry_and_cannot_get_another(aws: Aws) -> None:
    made = aws.create(request("aws:eks/cluster:Cluster", CLUSTER_INPUTS))
    for own in (DEPLOYER, "arn:aws:iam::123456789012:role/team/deployer"):
        with pytest.raises(CloudError, match="409 ResourceInUseException"):
            aws.create(entry_of(own))
    aws.create(entry_of("arn:aws:iam::123456789012:role/colleague"))
    aws.delete(request("aws:eks/cluster:Cluster", {}, id=made.id))
    assert not aws.cloud.things()


@pytest.mark.parametrize(
    ("config", "arn"),
    [
        ({}, "arn:aws:sts::123456789012:assumed-role/deployer/session"),
        ({"profile": "team"}, "arn:aws:sts::123456789012:assumed-role/team/session"),
        (
            {"assumeRoles": '[{"roleArn": "arn:aws:iam::123456789012:role/a/b"}]', "profile": "team"},
            "arn:aws:sts::123456789012:assumed-role/b/session",
        ),
        ({"accessKey": "AKIA"}, "arn:aws:iam::123456789012:user/AKIA"),
    ],
)
def test_aws_signs_in_as_its_provider_is_told(aws: Aws, config: dict[str, str], arn: str) -> None:
    aws.configure({"region": "us-east-1", **config})
    assert aws.invoke("aws:index/getCallerIdentity:getCallerIdentity", {})["arn"] == arn


# --- aws ---


def test_aws_needs_a_region(cloud: Cloud) -> None:
    with pytest.raises(CloudError, match="aws:region"):
        Aws(cloud).configure({})


def test_what_is_in_use_cannot_be_deleted(aws: Aws) -> None:
    vpc = aws.create(request(VPC, {"cidrBlock": "10.0.0.0/16"}))
    subnet = aws.create(request(SUBNET, {"vpcId": vpc.id, "cidrBlock": "10.0.0.0/24"}))
    with pytest.raises(CloudError, match="DependencyViolation"):
        aws.delete(request(VPC, {}, id=vpc.id))
    aws.delete(request(SUBNET, {}, id=subnet.id))
    aws.delete(request(VPC, {}, id=vpc.id))
    assert not aws.cloud.things()


def test_deleting_what_is_not_there_is_an_error(aws: Aws) -> None:
    with pytest.raises(CloudError, match="does not exist"):
        aws.delete(request(VPC, {}, id="vpc-0123456789abcdef0"))


def test_ids_that_nothing_has_are_refused(aws: Aws) -> None:
    with pytest.raises(CloudError, match="vpc-0123456789abcdef0 does not exist"):
        aws.create(request(SUBNET, {"vpcId": "vpc-0123456789abcdef0"}))


def test_a_repository_with_images_is_kept(aws: Aws) -> None:
    made = aws.create(request(REPOSITORY, {"name": "model"}))
    aws.cloud.push(made.values["repositoryUrl"], "1", "sha256:1")
    with pytest.raises(CloudError, match="RepositoryNotEmpty"):
        aws.delete(request(REPOSITORY, {}, id="model"))
    aws.update(request(REPOSITORY, {"name": "model", "forceDelete": True}, id="model"))
    aws.delete(request(REPOSITORY, {}, id="model"))


def test_chosen_names_stay(aws: Aws) -> None:
    first = aws.check(request(REPOSITORY, {}, seed=b"1"))["name"]
    assert first.startswith("x-")
    assert aws.check(request(REPOSITORY, {}, seed=b"2", olds={"name": first}))["name"] == first


def test_documents_must_be_json(aws: Aws) -> None:
    with pytest.raises(CloudError, match="invalid JSON"):
        aws.check(request("aws:ecr/repositoryPolicy:RepositoryPolicy", {"repository": "model", "policy": "{"}))


def test_types_without_a_replacement_rule_are_refused(aws: Aws) -> None:
    with pytest.raises(CloudError, match="add it to REPLACES"):
        aws.check(request("aws:s3/bucket:Bucket", {}))


def test_what_replaces(aws: Aws, kubernetes: Kubernetes) -> None:
    assert aws.replaces(VPC, "cidrBlock", {})
    assert not aws.replaces(VPC, "tags.owner", {})
    assert kubernetes.replaces(DEPLOYMENT, "spec.selector.matchLabels.app", {})
    assert not kubernetes.replaces(DEPLOYMENT, "spec.selectors", {})
    assert kubernetes.replaces("kubernetes:core/v1:Secret", "stringData.key", {})


def network(aws: Aws) -> tuple[str, list[str]]:
    """A VPC with a subnet in each of two zones, by their ids."""
    vpc = aws.create(request(VPC, {"cidrBlock": "10.0.0.0/16"})).id
    zones = [{"vpcId": vpc, "availabilityZone": f"us-east-1{zone}"} for zone in "ab"]
    return vpc, [aws.create(request(SUBNET, inputs)).id for inputs in zones]


def in_subnets(*subnets: str) -> dict[str, Any]:
    return {**CLUSTER_INPUTS, "vpcConfig": {"subnetIds": list(subnets), "endpointPrivateAccess": True}}


def test_a_network_outlives_its_own_clusters(aws: Aws) -> None:
    networks = [network(aws), network(aws)]
    tables = [aws.create(request(ROUTE_TABLE, {"vpcId": vpc})).id for vpc, _ in networks]
    of_the_cluster, elsewhere = (aws.create(request(ROUTE, {"routeTableId": table})).id for table in tables)
    aws.create(request(EKS_CLUSTER, in_subnets(*networks[0][1])))
    with pytest.raises(CloudError, match="would lose their way out"):
        aws.delete(request(ROUTE, {}, id=of_the_cluster))
    aws.delete(request(ROUTE, {}, id=elsewhere))


def test_a_cluster_is_in_one_vpc_and_stays_there(aws: Aws) -> None:
    (vpc, one), (_, other) = network(aws), network(aws)
    for wrong, reason in [([one[0], other[1]], "the same VPC"), ([one[0]], "at least two different zones")]:
        with pytest.raises(CloudError, match=reason):
            aws.create(request(EKS_CLUSTER, in_subnets(*wrong)))
    aws.create(request(EKS_CLUSTER, in_subnets(*one)))
    with pytest.raises(CloudError, match="subnets must be in the VPC of the cluster"):
        aws.update(request(EKS_CLUSTER, in_subnets(*other), id="c"))
    more = aws.create(request(SUBNET, {"vpcId": vpc, "availabilityZone": "us-east-1a"})).id
    aws.update(request(EKS_CLUSTER, in_subnets(*one, more), id="c"))


def test_whoever_asks_for_a_name_that_another_stack_has_is_refused(aws: Aws) -> None:
    """One account has one name of a kind, whatever stack asks for it."""
    for type_, name in [
        (REPOSITORY, "model"),
        (LOG_GROUP, "/aws/eks/c/cluster"),
        (EKS_CLUSTER, "c"),
        ("aws:kms/alias:Alias", "alias/model"),
        ("aws:iam/role:Role", "nodes"),
    ]:
        inputs = {**CLUSTER_INPUTS, "name": name} if type_ == EKS_CLUSTER else {"name": name}
        aws.create(request(type_, inputs))
        with pytest.raises(CloudError, match="already exists"):
            aws.create(Request(type_, f"urn:pulumi:staging::p::{type_}::x", inputs))


def test_a_log_group_may_only_be_encrypted_with_a_key_that_says_so(aws: Aws) -> None:
    statement = {
        "Principal": {"Service": "logs.us-east-1.amazonaws.com"},
        "Condition": {"ArnLike": {"kms:EncryptionContext:aws:logs:arn": "arn:aws:logs:us-east-1:*:log-group:flow-*"}},
    }
    key = aws.create(request(KEY, {"policy": json.dumps({"Statement": [statement]})})).values["arn"]
    aws.create(request(LOG_GROUP, {"name": "flow-1", "kmsKeyId": key}))
    with pytest.raises(CloudError, match="AccessDenied"):
        aws.create(request(LOG_GROUP, {"name": "other", "kmsKeyId": key}))
    aws.create(request(LOG_GROUP, {"name": "other"}))
    with pytest.raises(CloudError, match="AccessDenied"):
        aws.update(request(LOG_GROUP, {"name": "other", "kmsKeyId": key}, id="other"))


# --- docker ---


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "context").mkdir()
    (tmp_path / "context/Dockerfile").write_text("ARG BASE\nFROM $BASE\nCOPY --chown=1 app.py /\n")
    (tmp_path / "context/app.py").write_text("1")
    return tmp_path / "context"


def image(cloud: Cloud, name: str, **build: Any) -> Thing:
    docker = Docker(cloud)
    inputs = {"imageName": name, "build": {"context": "context", "dockerfile": "context/Dockerfile", **build}}
    return docker.create(request(IMAGE, docker.check(request(IMAGE, inputs)), name))


def test_a_digest_is_of_content_and_build(cloud: Cloud, context: Path) -> None:
    first = image(cloud, "registry/a:1").values["repoDigest"]
    (context / "app.py").write_text("2")
    second = image(cloud, "registry/a:2").values["repoDigest"]
    assert first != second
    cloud.remove(cloud.things(IMAGE)[0])
    cloud.remove(cloud.things(IMAGE)[0])
    (context / "app.py").write_text("1")
    assert image(cloud, "registry/a:1").values["repoDigest"] == first
    assert image(cloud, "registry/a:3").values["repoDigest"] != first, "another build of it has other bytes"


def test_a_build_follows_the_dockerfile(cloud: Cloud, context: Path) -> None:
    with pytest.raises(CloudError, match="no ARG BAES"):
        image(cloud, "registry/a:1", args={"BAES": "python"})
    (context / "app.py").unlink()
    with pytest.raises(CloudError, match=r"COPY failed: app\.py"):
        image(cloud, "registry/a:1")
    (context / "Dockerfile").unlink()
    with pytest.raises(CloudError, match="could not open dockerfile"):
        image(cloud, "registry/a:1")


def test_a_push_needs_a_login_a_repository_and_a_free_tag(aws: Aws, cloud: Cloud, context: Path) -> None:
    aws.invoke("aws:ecr/getAuthorizationToken:getAuthorizationToken", {})
    ((server, (login,)),) = cloud.logins().items()
    docker = Docker(cloud)

    def push(registry: dict[str, str]) -> None:
        inputs = {
            "imageName": f"{server}/model:1",
            "registry": registry,
            "build": {"context": "context", "dockerfile": "context/Dockerfile"},
        }
        docker.outputs(request(IMAGE, docker.check(request(IMAGE, inputs))), "")

    good = {"server": server, "username": "AWS", "password": login.split(":")[1]}
    with pytest.raises(CloudError, match="no basic auth"):
        push({**good, "password": "guess"})
    with pytest.raises(CloudError, match="does not exist"):
        push(good)
    aws.create(request(REPOSITORY, {"name": "model", "imageTagMutability": "IMMUTABLE"}))
    push(good)
    with pytest.raises(CloudError, match="immutable"):
        push(good)


def test_the_tags_of_a_real_registry_that_is_ecr_do_not_move(
    aws: Aws, cloud: Cloud, context: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(REGISTRY_VARIABLE, "localhost:5000")
    aws.create(request(REPOSITORY, {"name": "model", "imageTagMutability": "IMMUTABLE"}))
    first = image(cloud, "localhost:5000/model:1")
    (context / "app.py").write_text("2")
    again = {"imageName": "localhost:5000/model:1", "build": {"context": "context"}}
    docker = Docker(cloud)
    with pytest.raises(CloudError, match="immutable"):
        docker.update(request(IMAGE, docker.check(request(IMAGE, again)), id=first.id))


# --- kubernetes ---


def deployment(image: str = "registry/a@sha256:1", **spec: Any) -> dict[str, Any]:
    labels = {"app": "a"}
    pod = {"containers": [{"name": "a", "image": image}], **spec}
    return {
        "metadata": {"name": "a", "namespace": "default"},
        "spec": {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": pod}},
    }


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What never comes is not waited for; who runs the tests is the deployer."""
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    monkeypatch.setattr("time.sleep", lambda _: None)
    wait = Cloud.wait
    monkeypatch.setattr(Cloud, "wait", lambda self, found, otherwise: wait(self, found, otherwise, seconds=0))


def test_a_kubeconfig_names_a_server() -> None:
    assert server_of(KUBECONFIG) == SERVER
    assert server_of(wire.UNKNOWN) == server_of("no yaml: [") == server_of("{}") == ""


def test_a_cluster_that_is_gone_is_unreachable(kubernetes: Kubernetes) -> None:
    kubernetes.cloud.remove(kubernetes.cloud.only(CLUSTER))
    with pytest.raises(CloudError, match="unreachable"):
        kubernetes.create(request(DEPLOYMENT, deployment()))


def reached(aws: Aws, *options: str) -> Kubernetes:
    """What is on the only cluster of EKS, for whoever `aws eks get-token` with these options signs in."""
    server = aws.cloud.only(EKS_CLUSTER).values["endpoint"]
    kubeconfig = component._kubeconfig({**PARTS, "server": server, "credentials": {}})
    kubeconfig["users"][0]["user"]["exec"]["args"] += options
    service = Kubernetes(aws.cloud)
    service.configure({"kubeconfig": json.dumps(kubeconfig)})
    return service


@pytest.fixture
def eks(aws: Aws) -> Aws:
    """AWS with a cluster that the deployer made, open to one address."""
    access = {"endpointPublicAccess": True, "publicAccessCidrs": ["203.0.113.7/32"]}
    inputs = {**CLUSTER_INPUTS, "vpcConfig": {"subnetIds": [], **access}}
    aws.create(request("aws:eks/cluster:Cluster", inputs))
    return aws


@pytest.mark.parametrize(
    ("options", "profile"),
    [(["--profile", "other"], ""), (["--role-arn", "arn:aws:iam::123456789012:role/other"], ""), ([], "other")],
)
def test_a_cluster_of_eks_lets_in_its_creator_and_whoever_has_an_access_entry(
    eks: Aws, monkeypatch: pytest.MonkeyPatch, options: list[str], profile: str
) -> None:
    reached(eks).create(request(DEPLOYMENT, deployment()))
    monkeypatch.setenv("AWS_PROFILE", profile)
    with pytest.raises(CloudError, match="Unauthorized"):
        reached(eks, *options).read(request(DEPLOYMENT, {}, id="default/a"))
    eks.create(entry_of("arn:aws:iam::123456789012:role/other"))
    assert reached(eks, *options).read(request(DEPLOYMENT, {}, id="default/a"))


def test_a_cluster_of_eks_answers_the_addresses_that_it_is_open_to(eks: Aws) -> None:
    eks.cloud.move_caller("198.51.100.1")
    with pytest.raises(CloudError, match="i/o timeout"):
        reached(eks).create(request(DEPLOYMENT, deployment()))
    eks.cloud.move_caller("203.0.113.7")
    reached(eks).create(request(DEPLOYMENT, deployment()))


def test_a_namespace_must_be_there(kubernetes: Kubernetes) -> None:
    inputs = deployment()
    inputs["metadata"]["namespace"] = "models"
    with pytest.raises(CloudError, match='namespaces "models" not found'):
        kubernetes.create(request(DEPLOYMENT, inputs))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"serviceAccountName": "robot"}, "ServiceAccount 'robot'"),
        ({"volumes": [{"name": "key", "secret": {"secretName": "key"}}]}, "Secret 'key'"),
        ({"image": "registry/known@sha256:2"}, "ImagePullBackOff"),
    ],
)
def test_pods_that_cannot_start_leave_a_broken_deployment(
    kubernetes: Kubernetes, spec: dict[str, Any], message: str
) -> None:
    kubernetes.cloud.push("registry/known", "1", "sha256:1")
    with pytest.raises(HalfDone, match=message):
        kubernetes.create(request(DEPLOYMENT, deployment(**spec)))
    assert kubernetes.cloud.find(DEPLOYMENT, "default/a", SERVER)


def test_labels_must_match(kubernetes: Kubernetes) -> None:
    inputs = deployment()
    inputs["spec"]["template"]["metadata"]["labels"] = {"app": "b"}
    with pytest.raises(CloudError, match="does not match"):
        kubernetes.create(request(DEPLOYMENT, inputs))
    service = {"metadata": {"name": "s", "namespace": "default"}, "spec": {"selector": {"app": "c"}}}
    kubernetes.create(request(DEPLOYMENT, deployment()))
    with pytest.raises(HalfDone, match="does not target any Pods"):
        kubernetes.create(request(SERVICE, service))


def test_a_load_balancer_class_stays(kubernetes: Kubernetes) -> None:
    service = {"metadata": {"name": "s", "namespace": "default"}, "spec": {"selector": {"app": "a"}}}
    kubernetes.create(request(DEPLOYMENT, deployment()))
    kubernetes.create(request(SERVICE, service))
    changed = {**service, "spec": {**service["spec"], "loadBalancerClass": "other"}}
    with pytest.raises(CloudError, match="may not change"):
        kubernetes.update(request(SERVICE, changed, id="default/s"))


def test_custom_resources_are_those_of_auto_mode(kubernetes: Kubernetes) -> None:
    pool = {"apiVersion": "karpenter.sh/v1", "kind": "NodePool", "metadata": {"name": "a"}, "spec": {}}
    assert not kubernetes.foreign_failures("kubernetes:karpenter.sh/v1:NodePool", pool)
    wrong = dict(kubernetes.foreign_failures("kubernetes:karpenter.sh/v1:NodePool", {**pool, "spek": {}}))
    assert wrong.keys() == {"spek"}
    assert kubernetes.foreign_failures("kubernetes:karpenter.sh/v1:NodePools", pool)
