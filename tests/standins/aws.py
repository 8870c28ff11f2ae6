"""The stand-in for AWS: ids and ARNs, names that are unique, and what may not be deleted while it is in use."""

from __future__ import annotations

import base64
import fnmatch
import hashlib
import json
import os
import re
import time
import uuid
from typing import Any

from tests.standins import schema, sign_in, wire
from tests.standins.behaviour import Request, Service
from tests.standins.cloud import ACCOUNT, REGISTRY_VARIABLE, CloudError, Thing
from tests.standins.sign_in import ACCESS_ENTRY

EKS_CLUSTER = "aws:eks/cluster:Cluster"
VPC = "aws:ec2/vpc:Vpc"
SUBNET = "aws:ec2/subnet:Subnet"
ROUTE_TABLE = "aws:ec2/routeTable:RouteTable"
REPOSITORY = "aws:ecr/repository:Repository"
KEY = "aws:kms/key:Key"
LOG_GROUP = "aws:cloudwatch/logGroup:LogGroup"
ZONE = "aws:route53/zone:Zone"

REPLACES: dict[str, frozenset[str]] = {
    type_: frozenset(paths.split())
    for type_, paths in {
        VPC: "cidrBlock instanceTenancy",
        SUBNET: "vpcId cidrBlock availabilityZone",
        "aws:ec2/internetGateway:InternetGateway": "",
        "aws:ec2/eip:Eip": "domain",
        "aws:ec2/natGateway:NatGateway": "subnetId allocationId connectivityType",
        ROUTE_TABLE: "vpcId",
        "aws:ec2/route:Route": "routeTableId destinationCidrBlock",
        "aws:ec2/routeTableAssociation:RouteTableAssociation": "subnetId",
        "aws:ec2/vpcEndpoint:VpcEndpoint": "vpcId serviceName vpcEndpointType",
        "aws:ec2/flowLog:FlowLog": "vpcId trafficType logDestination iamRoleArn maxAggregationInterval",
        "aws:ec2/securityGroup:SecurityGroup": "name description vpcId",
        "aws:ec2/securityGroupRule:SecurityGroupRule": "type fromPort toPort protocol cidrBlocks securityGroupId",
        "aws:ec2/defaultSecurityGroup:DefaultSecurityGroup": "vpcId",
        "aws:iam/role:Role": "name path",
        "aws:iam/rolePolicy:RolePolicy": "name role",
        "aws:iam/rolePolicyAttachment:RolePolicyAttachment": "role policyArn",
        "aws:iam/instanceProfile:InstanceProfile": "name",
        "aws:ecr/lifecyclePolicy:LifecyclePolicy": "repository policy",
        "aws:ecr/repositoryPolicy:RepositoryPolicy": "repository",
        REPOSITORY: "name encryptionConfigurations",
        EKS_CLUSTER: "name roleArn encryptionConfig bootstrapSelfManagedAddons kubernetesNetworkConfig.ipFamily"
        " kubernetesNetworkConfig.serviceIpv4Cidr accessConfig.bootstrapClusterCreatorAdminPermissions",
        "aws:eks/addon:Addon": "clusterName addonName",
        ACCESS_ENTRY: "clusterName principalArn type",
        "aws:eks/accessPolicyAssociation:AccessPolicyAssociation": "clusterName principalArn policyArn accessScope",
        "aws:kms/key:Key": "customerMasterKeySpec keyUsage multiRegion",
        "aws:kms/keyPolicy:KeyPolicy": "keyId",
        "aws:kms/alias:Alias": "name",
        "aws:cloudwatch/logGroup:LogGroup": "name logGroupClass",
        "aws:acm/certificate:Certificate": "domainName subjectAlternativeNames keyAlgorithm",
        "aws:acm/certificateValidation:CertificateValidation": "certificateArn validationRecordFqdns",
        "aws:route53/record:Record": "zoneId name type setIdentifier",
    }.items()
}
"""The types that a stack of this project may make, and which changed inputs replace them."""

_ID_PREFIX = {
    VPC: "vpc",
    SUBNET: "subnet",
    "aws:ec2/internetGateway:InternetGateway": "igw",
    "aws:ec2/eip:Eip": "eipalloc",
    "aws:ec2/natGateway:NatGateway": "nat",
    ROUTE_TABLE: "rtb",
    "aws:ec2/route:Route": "r-rtb",
    "aws:ec2/routeTableAssociation:RouteTableAssociation": "rtbassoc",
    "aws:ec2/vpcEndpoint:VpcEndpoint": "vpce",
    "aws:ec2/flowLog:FlowLog": "fl",
    "aws:ec2/securityGroup:SecurityGroup": "sg",
    "aws:ec2/securityGroupRule:SecurityGroupRule": "sgrule",
    "aws:ec2/defaultSecurityGroup:DefaultSecurityGroup": "sg",
}
_NAMED_BY = {
    "aws:eks/addon:Addon": ("clusterName", "addonName"),
    ACCESS_ENTRY: ("clusterName", "principalArn"),
    "aws:eks/accessPolicyAssociation:AccessPolicyAssociation": ("clusterName", "principalArn", "policyArn"),
    "aws:iam/rolePolicy:RolePolicy": ("role", "name"),
    "aws:iam/rolePolicyAttachment:RolePolicyAttachment": ("role", "policyArn"),
    "aws:ecr/lifecyclePolicy:LifecyclePolicy": ("repository",),
    "aws:ecr/repositoryPolicy:RepositoryPolicy": ("repository",),
    "aws:route53/record:Record": ("zoneId", "name", "type"),
    "aws:iam/role:Role": ("name",),
    "aws:iam/instanceProfile:InstanceProfile": ("name",),
    REPOSITORY: ("name",),
    EKS_CLUSTER: ("name",),
    "aws:cloudwatch/logGroup:LogGroup": ("name",),
    "aws:kms/alias:Alias": ("name",),
}
"""The types whose id is made of inputs, so that there can be only one."""

_AUTO_NAMED = {
    "aws:iam/role:Role",
    "aws:iam/rolePolicy:RolePolicy",
    "aws:iam/instanceProfile:InstanceProfile",
    REPOSITORY,
    EKS_CLUSTER,
    "aws:cloudwatch/logGroup:LogGroup",
    "aws:kms/alias:Alias",
    "aws:ec2/securityGroup:SecurityGroup",
}
_DOCUMENTS = ("policy", "assumeRolePolicy", "configurationValues")
_REFERENCE = re.compile(r"(vpc|subnet|igw|eipalloc|nat|rtb|sg|vpce)-[0-9a-f]{8,17}")
_SLOW_TO_DELETE = {EKS_CLUSTER: 0.5, "aws:ec2/natGateway:NatGateway": 0.2}
"""Seconds: long enough that whatever does not wait for them is caught."""


class Aws(Service):
    REPLACES = REPLACES
    region = "us-east-1"
    principal = sign_in.DEPLOYER

    def configure(self, config: dict[str, Any]) -> None:
        if not config.get("region"):
            raise CloudError("missing region configuration: set aws:region")
        self.region = config["region"]
        self.principal = sign_in.provider_principal(config)

    # --- inputs ---

    def check(self, asked: Request) -> dict[str, Any]:
        if asked.type not in self.REPLACES:
            raise CloudError(f"the stand-in does not know what replaces {asked.type}: add it to REPLACES")
        for key in _DOCUMENTS:
            self._check_document(key, asked.values.get(key))
        given = asked.inputs
        if asked.type not in _AUTO_NAMED or "name" in given or "namePrefix" in given:
            return given
        if asked.olds.get("name"):
            return {**given, "name": asked.olds["name"]}
        prefix = "alias/" if asked.type == "aws:kms/alias:Alias" else ""
        return {**given, "name": f"{prefix}{asked.name}-{asked.suffix(7)}"}

    @staticmethod
    def _check_document(key: str, text: Any) -> None:
        if not isinstance(text, str) or text == wire.UNKNOWN:
            return
        try:
            json.loads(text)
        except ValueError as error:
            raise CloudError(f"{key} contains an invalid JSON: {error}") from None

    def new_id(self, asked: Request) -> str:
        if asked.type in _NAMED_BY:
            return ":".join(str(asked.values[key]) for key in _NAMED_BY[asked.type])
        if asked.type in _ID_PREFIX:
            return f"{_ID_PREFIX[asked.type]}-{uuid.uuid4().hex[:17]}"
        if asked.type == "aws:acm/certificate:Certificate":
            return self._arn("acm", f"certificate/{uuid.uuid4()}")
        return str(uuid.uuid4())

    # --- outputs ---

    def _arn(self, service: str, what: str) -> str:
        region = "" if service == "iam" else self.region
        return f"arn:aws:{service}:{region}:{ACCOUNT}:{what}"

    def outputs(self, asked: Request, id_: str) -> dict[str, Any]:
        found = schema.resource_class(asked.type)
        known = schema.output_names(found) if found else frozenset[str]()
        module, kind = asked.type.split(":")[1].split("/")
        service = {"cloudwatch": "logs"}.get(module, module)
        what = id_ if module == "cloudwatch" else f"{kind.lower()}/{id_}"
        common = {
            "arn": self._arn(service, what),
            "region": self.region,
            "tagsAll": asked.values.get("tags", {}),
            "ownerId": ACCOUNT,
        }
        return {
            **{key: value for key, value in common.items() if key in known},
            **_special(asked.type, {**asked.values, "region": self.region}, id_),
        }

    # --- the cloud's rules ---

    def before_create(self, asked: Request) -> None:
        text = json.dumps(asked.values)
        known = {thing.id for thing in self.cloud.things("aws:ec2/")}
        for found in sorted({m.group() for m in _REFERENCE.finditer(text)} - known - self._made_by_aws()):
            raise CloudError(f"{found} does not exist")
        if asked.type == "aws:eks/addon:Addon":
            self._check_addon(asked.values)
        if asked.type.startswith(("aws:eks/access", "aws:eks/addon")):
            self._require(EKS_CLUSTER, asked.values["clusterName"])
        if asked.type == ACCESS_ENTRY:
            self._check_access_entry(asked.values)
        if asked.type == EKS_CLUSTER:
            self._check_cluster(asked.values)
        if asked.type == LOG_GROUP:
            self._check_log_group(asked.values)

    def _check_access_entry(self, values: dict[str, Any]) -> None:
        who = values["principalArn"]
        if sign_in.may_enter(self.cloud.things(ACCESS_ENTRY), values["clusterName"], who):
            raise CloudError(
                f"409 ResourceInUseException: {values['clusterName']} has an access entry of {who} already"
            )

    def create(self, asked: Request) -> Thing:
        thing = super().create(asked)
        if thing.type == EKS_CLUSTER and wire.get(thing.values, "accessConfig.bootstrapClusterCreatorAdminPermissions"):
            self.cloud.add(sign_in.creator_entry(thing.id, self.principal))
        return thing

    def _check_log_group(self, values: dict[str, Any]) -> None:
        """CloudWatch must be allowed to use a group's key, for this very group."""
        if not (key_arn := values.get("kmsKeyId")):
            return
        statements = [
            statement
            for key in self.cloud.things(KEY)
            if key.values["arn"] == key_arn
            for statement in json.loads(key.values["policy"])["Statement"]
        ]
        arn = self._arn("logs", f"log-group:{values['name']}")
        context = "ArnLike.kms:EncryptionContext:aws:logs:arn"
        for statement in statements:
            service = statement["Principal"].get("Service") == f"logs.{self.region}.amazonaws.com"
            if service and fnmatch.fnmatchcase(arn, wire.get(statement.get("Condition"), context) or ""):
                return
        raise CloudError(f"AccessDeniedException: the KMS key {key_arn} is not allowed to be used with {arn}")

    def _require(self, type_: str, id_: str) -> Thing:
        thing = self.cloud.find(type_, id_)
        if thing is None:
            raise CloudError(f"No {type_.split(':')[-1].lower()} found for name: {id_}")
        return thing

    def _made_by_aws(self) -> set[str]:
        """The ids of what AWS itself makes with a VPC or a cluster."""
        text = json.dumps([t.values for t in self.cloud.things("aws:") if t.type in {VPC, EKS_CLUSTER}])
        return {match.group() for match in _REFERENCE.finditer(text)}

    def _check_addon(self, values: dict[str, Any]) -> None:
        cluster = self._require(EKS_CLUSTER, values["clusterName"])
        automatic = wire.get(cluster.values, "computeConfig.enabled")
        if values["addonName"] == "coredns" and automatic:
            raise CloudError(
                f"waiting for EKS Add-On ({values['clusterName']}:coredns) create: unexpected state 'DEGRADED':"
                " InsufficientNumberOfReplicas: under Auto Mode no node takes the add-on's pods"
            )

    def _check_cluster(self, values: dict[str, Any]) -> None:
        modes = [
            wire.get(values, path)
            for path in (
                "computeConfig.enabled",
                "storageConfig.blockStorage.enabled",
                "kubernetesNetworkConfig.elasticLoadBalancing.enabled",
            )
        ]
        if len({bool(mode) for mode in modes}) != 1:
            raise CloudError("compute, block storage and load balancing must all be automatic, or none")
        if modes[0] and wire.get(values, "accessConfig.authenticationMode") not in {"API", "API_AND_CONFIG_MAP"}:
            raise CloudError("InvalidParameterException: Auto Mode needs the authentication mode API")
        vpc = values["vpcConfig"]
        if not vpc.get("endpointPublicAccess", True) and not vpc.get("endpointPrivateAccess"):
            raise CloudError("InvalidParameterException: private and public endpoint access cannot both be false")
        subnets = [thing.values for id_ in vpc["subnetIds"] if (thing := self.cloud.find(SUBNET, id_))]
        if len({subnet["vpcId"] for subnet in subnets}) > 1:
            raise CloudError("InvalidParameterException: subnets must be in the same VPC")
        if len({subnet["availabilityZone"] for subnet in subnets}) == 1:
            raise CloudError("InvalidParameterException: subnets must be in at least two different zones")

    def _vpc_of(self, values: dict[str, Any]) -> str | None:
        """The VPC that a thing is in, as far as its own values or those of its subnet or route table say."""
        places = [(SUBNET, id_) for id_ in wire.get(values, "vpcConfig.subnetIds") or ()]
        places += [(SUBNET, values.get("subnetId", "")), (ROUTE_TABLE, values.get("routeTableId", ""))]
        found = (self.cloud.find(type_, id_) for type_, id_ in places)
        return values.get("vpcId") or next((thing.values["vpcId"] for thing in found if thing), None)

    def before_delete(self, thing: Thing) -> None:
        time.sleep(_SLOW_TO_DELETE.get(thing.type, 0))
        if thing.type == EKS_CLUSTER:
            self._check_cluster_delete(thing)
        if thing.type == REPOSITORY:
            self._check_repository_delete(thing)
        if thing.type == "aws:iam/role:Role" and self._users(thing.id, "aws:iam/"):
            raise CloudError(f"DeleteConflict: cannot delete {thing.id}, must detach all policies first")
        if thing.type in _ID_PREFIX and (users := self._users(thing.id, "aws:")):
            raise CloudError(f"DependencyViolation: {thing.id} is used by {', '.join(users)}")
        if thing.type.startswith(("aws:ec2/natGateway", "aws:ec2/route", "aws:ec2/internetGateway")):
            self._check_way_out(thing)

    def _check_way_out(self, thing: Thing) -> None:
        vpc = self._vpc_of(thing.values)
        if clusters := [c.id for c in self.cloud.things(EKS_CLUSTER) if vpc and self._vpc_of(c.values) == vpc]:
            raise CloudError(f"{thing.id}: the nodes of {', '.join(clusters)} would lose their way out")

    def _check_cluster_delete(self, thing: Thing) -> None:
        left = self.cloud.things("kubernetes:", scope=thing.values["endpoint"])
        if left:
            raise CloudError(f"{thing.id} still holds {', '.join(sorted(t.id for t in left))}: they would be orphans")
        if thing.values.get("deletionProtection"):
            raise CloudError(f"ResourceInUseException: deletion protection is on for {thing.id}")
        for entry in self.cloud.things(ACCESS_ENTRY):
            if entry.values["clusterName"] == thing.id:
                self.cloud.remove(entry)

    def _check_repository_delete(self, thing: Thing) -> None:
        url = thing.values["repositoryUrl"]
        if self.cloud.images(url) and not thing.values.get("forceDelete"):
            raise CloudError(f"RepositoryNotEmptyException: {thing.id} cannot be deleted because it still has images")
        self.cloud.drop_images(url)

    def _users(self, id_: str, kind: str) -> list[str]:
        quoted = json.dumps(id_)
        others = [t for t in self.cloud.things(kind) if t.id != id_]
        return sorted(f"{t.type.split(':')[-1]} {t.id}" for t in others if quoted in json.dumps(t.inputs))

    def before_update(self, asked: Request, thing: Thing) -> None:
        if asked.type == EKS_CLUSTER:
            self._check_cluster(asked.values)
            if (vpc := self._vpc_of(thing.values)) != self._vpc_of(asked.values):
                raise CloudError(f"InvalidParameterException: subnets must be in the VPC of the cluster, {vpc}")
        if asked.type == LOG_GROUP:
            self._check_log_group(asked.values)

    # --- functions ---

    def invoke(self, token: str, arguments: dict[str, Any]) -> dict[str, Any]:
        answer = getattr(self, schema.python_name(token), None)
        if answer is None:
            return super().invoke(token, arguments)
        return {"id": self.region, **answer(arguments)}

    def get_region(self, arguments: dict[str, Any]) -> dict[str, Any]:
        return {
            "region": self.region,
            "name": self.region,
            "description": "US East (N. Virginia)",
            "endpoint": f"ec2.{self.region}.amazonaws.com",
        }

    def get_caller_identity(self, arguments: dict[str, Any]) -> dict[str, Any]:
        kind, name = re.split("[:/]", self.principal)[5], self.principal.rpartition("/")[2]
        session = f"arn:aws:sts::{ACCOUNT}:assumed-role/{name}/session"
        arn = session if kind == "role" else self.principal
        return {"id": ACCOUNT, "accountId": ACCOUNT, "arn": arn, "userId": "AROAEXAMPLE:session"}

    def get_partition(self, arguments: dict[str, Any]) -> dict[str, Any]:
        return {"id": "aws", "partition": "aws", "dnsSuffix": "amazonaws.com", "reverseDnsPrefix": "com.amazonaws"}

    def get_availability_zones(self, arguments: dict[str, Any]) -> dict[str, Any]:
        letters = "abcdf"
        return {
            **arguments,
            "names": [f"{self.region}{letter}" for letter in letters],
            "zoneIds": [f"use1-az{n}" for n, _ in enumerate(letters, 1)],
            "groupNames": [self.region],
            "region": self.region,
        }

    def get_authorization_token(self, arguments: dict[str, Any]) -> dict[str, Any]:
        password, server = uuid.uuid4().hex * 4, _registry(self.region)
        self.cloud.allow_login(server, "AWS", password)
        token = base64.b64encode(f"AWS:{password}".encode()).decode()
        return {
            "authorizationToken": token,
            "expiresAt": "2030-01-01T00:00:00Z",
            "password": password,
            "userName": "AWS",
            "proxyEndpoint": f"https://{server}",
            "region": self.region,
        }

    def get_zone(self, arguments: dict[str, Any]) -> dict[str, Any]:
        name = arguments.get("name", "").rstrip(".")
        for zone in self.cloud.things(ZONE):
            if zone.values["name"].rstrip(".") == name or zone.id == arguments.get("zoneId"):
                return {
                    "id": zone.id,
                    "zoneId": zone.id,
                    "name": zone.values["name"],
                    "privateZone": False,
                    "arn": f"arn:aws:route53:::hostedzone/{zone.id}",
                }
        raise CloudError(f"no matching Route 53 Hosted Zone found for {name!r}")

    def get_hosted_zone_id(self, arguments: dict[str, Any]) -> dict[str, Any]:
        network = arguments.get("loadBalancerType") == "network"
        return {"id": "Z26RNL4JYFTOTI" if network else "Z35SXDOTRQ7X7K", "region": self.region}


def _registry(region: str) -> str:
    return os.environ.get(REGISTRY_VARIABLE) or f"{ACCOUNT}.dkr.ecr.{region}.amazonaws.com"


def _repository_outputs(values: dict[str, Any], id_: str) -> dict[str, Any]:
    return {
        "repositoryUrl": f"{_registry(values['region'])}/{id_}",
        "registryId": ACCOUNT,
        "arn": f"arn:aws:ecr:{values['region']}:{ACCOUNT}:repository/{id_}",
    }


def _cluster_outputs(values: dict[str, Any], id_: str) -> dict[str, Any]:
    key = hashlib.sha256(id_.encode()).hexdigest()[:32].upper()
    issuer = f"https://oidc.eks.{values['region']}.amazonaws.com/id/{key}"
    authority = base64.b64encode(f"certificate of {id_}".encode()).decode()
    return {
        "endpoint": f"https://{key}.gr7.{values['region']}.eks.amazonaws.com",
        "status": "ACTIVE",
        "certificateAuthority": {"data": authority},
        "identities": [{"oidcs": [{"issuer": issuer}]}],
        "platformVersion": "eks.9",
        "createdAt": "2026-01-01",
        "version": values.get("version", "1.34"),
    }


def _certificate_outputs(values: dict[str, Any], id_: str) -> dict[str, Any]:
    domain = values["domainName"]
    token = hashlib.sha256(domain.encode()).hexdigest()[:32]
    option = {
        "domainName": domain,
        "resourceRecordName": f"_{token}.{domain}.",
        "resourceRecordType": "CNAME",
        "resourceRecordValue": "_x.acm-validations.aws.",
    }
    return {"arn": id_, "domainValidationOptions": [option], "status": "PENDING_VALIDATION"}


def _special(type_: str, values: dict[str, Any], id_: str) -> dict[str, Any]:
    """The outputs that only this type has, as far as a stack of this project reads them."""
    match type_.split(":")[-1]:
        case "Vpc":
            parts = {"defaultSecurityGroupId": "sg", "mainRouteTableId": "rtb", "defaultRouteTableId": "rtb"}
            return {output: f"{prefix}-{id_[-17:]}" for output, prefix in parts.items()}
        case "Eip":
            return {"publicIp": "198.51.100.7", "allocationId": id_}
        case "NatGateway":
            return {"publicIp": "198.51.100.7"}
        case "Key":
            return {"keyId": id_}
        case "Repository":
            return _repository_outputs(values, id_)
        case "Cluster":
            return _cluster_outputs(values, id_)
        case "Certificate":
            return _certificate_outputs(values, id_)
        case "Record":
            return {"fqdn": values["name"].rstrip(".")}
        case _:
            return {}


SERVICE = Aws
