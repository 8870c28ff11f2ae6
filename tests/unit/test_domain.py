from __future__ import annotations

import pytest

from infra import domain
from infra.domain import Domain, DomainArgs
from tests.unit import mocked

TAGS = {"project": "p", "stack": "s"}
OPTION = {
    "domainName": "predict.example.com",
    "resourceRecordName": "_token.predict.example.com.",
    "resourceRecordType": "CNAME",
    "resourceRecordValue": "_answer.acm-validations.aws.",
}
OUTPUTS = {
    "aws:acm/certificate:Certificate": {"domainValidationOptions": [OPTION]},
    "aws:route53/record:Record": lambda record: {"fqdn": record.inputs["name"].rstrip(".")},
}


def make(*, hosted_zone: str | None = None, preview: bool = False, point_to: str = "") -> mocked.Run[Domain]:
    def program() -> Domain:
        made = Domain("domain", DomainArgs(domain="predict.example.com", hosted_zone=hosted_zone, tags=TAGS))
        if point_to:
            made.point_to(point_to)
        return made

    return mocked.run(program, preview=preview, outputs=OUTPUTS)


@pytest.mark.parametrize(("given", "zone"), [(None, "example.com"), ("com", "com")])
def test_zone_is_looked_up_among_public_ones(given: str | None, zone: str) -> None:
    assert domain.zone_name("predict.example.com", given) == zone
    assert make(hosted_zone=given).call("getZone").args == {"name": zone, "privateZone": False}


def test_certificate_is_validated_by_dns() -> None:
    certificate = make().one("Certificate").inputs
    assert certificate["domainName"] == "predict.example.com"
    assert certificate["validationMethod"] == "DNS"
    assert TAGS.items() <= certificate["tags"].items()


def test_certificate_arn_waits_for_the_validation() -> None:
    run = make()
    record = run.named("domain-validation").inputs
    assert record["name"] == "_token.predict.example.com."
    assert record["type"] == "CNAME"
    assert record["records"] == ["_answer.acm-validations.aws."]
    assert record["zoneId"] == "Z0123456789"
    assert record["allowOverwrite"] is True
    validation = run.one("CertificateValidation").inputs
    assert validation["validationRecordFqdns"] == ["_token.predict.example.com"]
    assert validation["certificateArn"].endswith("domain-certificate")
    assert mocked.resolve(run.result.certificate_arn).value == validation["certificateArn"]


def test_address_is_an_alias_of_the_network_load_balancer() -> None:
    run = make(point_to="lb-1.elb.us-east-1.amazonaws.com")
    assert run.call("getHostedZoneId").args == {"loadBalancerType": "network"}
    record = run.named("domain-address").inputs
    assert record == {
        "zoneId": "Z0123456789",
        "name": "predict.example.com",
        "type": "A",
        "aliases": [
            {"name": "lb-1.elb.us-east-1.amazonaws.com", "zoneId": "Z26RNL4JYFTOTI", "evaluateTargetHealth": True}
        ],
    }


def test_users_of_the_host_name_wait_for_the_address() -> None:
    args = DomainArgs(domain="predict.example.com", hosted_zone=None, tags=TAGS)
    run = mocked.run(lambda: Domain("domain", args).point_to("lb-1"), outputs=OUTPUTS)
    assert mocked.resolve(run.result).value == "predict.example.com"


def test_first_preview_has_the_same_resources() -> None:
    run = make(preview=True, point_to="lb-1")
    assert len(run.resources) == len(make(point_to="lb-1").resources)
    assert run.named("domain-validation").inputs["name"] is mocked.UNKNOWN
    assert not mocked.resolve(run.result.certificate_arn).known
