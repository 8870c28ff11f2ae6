"""Domain: the endpoint's own host name and its certificate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pulumi
import pulumi_aws as aws


@dataclass(frozen=True, kw_only=True)
class DomainArgs:
    domain: str
    """Host name of the endpoint; changing it makes a new certificate before the old one goes."""
    hosted_zone: str | None
    """Name of the public Route 53 zone that holds it; None: the domain without its first label."""
    tags: Mapping[str, str]
    """Tags of every resource that takes them."""


class Domain(pulumi.ComponentResource):
    """A certificate validated through Route 53, and on request the record that leads to the load balancer."""

    host: str
    """Host name that callers use."""
    certificate_arn: pulumi.Output[str]
    """Certificate for the load balancer's listener; known once the certificate is issued."""

    def __init__(self, name: str, args: DomainArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("model-endpoint:domain:Domain", name, None, opts)
        self._name = name
        self.host = args.domain
        self._invoke_opts = pulumi.InvokeOutputOptions(parent=self)
        child = pulumi.ResourceOptions(parent=self)
        self._zone_id = aws.route53.get_zone_output(
            name=zone_name(args.domain, args.hosted_zone), private_zone=False, opts=self._invoke_opts
        ).zone_id
        certificate = aws.acm.Certificate(
            f"{name}-certificate",
            domain_name=args.domain,
            validation_method="DNS",
            tags={**args.tags, "Name": args.domain},
            opts=child,
        )
        # A certificate for one name has exactly one option, so that the number of records is known before ACM answers.
        option = certificate.domain_validation_options[0]
        proof = aws.route53.Record(
            f"{name}-validation",
            zone_id=self._zone_id,
            name=option.resource_record_name,
            type=option.resource_record_type,
            records=[option.resource_record_value],
            ttl=300,
            # The record is the same for every certificate of this name and account: the next one finds it there.
            allow_overwrite=True,
            opts=child,
        )
        self.certificate_arn = aws.acm.CertificateValidation(
            f"{name}-validated",
            certificate_arn=certificate.arn,
            validation_record_fqdns=[proof.fqdn],
            opts=child,
        ).certificate_arn
        self.register_outputs({"certificateArn": self.certificate_arn})

    def point_to(self, hostname: pulumi.Input[str]) -> pulumi.Output[str]:
        """Make the record that leads to the network load balancer `hostname`; call it once.

        The host name that is returned is known once the record exists.
        """
        balancers = aws.lb.get_hosted_zone_id_output(load_balancer_type="network", opts=self._invoke_opts)
        return aws.route53.Record(
            f"{self._name}-address",
            zone_id=self._zone_id,
            name=self.host,
            type="A",
            aliases=[aws.route53.RecordAliasArgs(name=hostname, zone_id=balancers.id, evaluate_target_health=True)],
            opts=pulumi.ResourceOptions(parent=self),
        ).fqdn


def zone_name(domain: str, hosted_zone: str | None) -> str:
    """Name of the zone that holds `domain`."""
    return hosted_zone or domain.partition(".")[2]
