"""The URL that a platform makes of a service's load balancer."""

from __future__ import annotations

from typing import Any

import pulumi
import pytest

from infra.cluster_platform import Platform, Repository, endpoint_url
from infra.domain import Domain, DomainArgs
from infra.load_balancer import plain
from tests.unit import mocked


@pytest.mark.parametrize(
    ("host", "port", "https", "expected"),
    [
        ("lb.example.com", 80, False, "http://lb.example.com"),
        ("lb.example.com", 443, True, "https://lb.example.com"),
        ("lb.example.com", 80, True, "https://lb.example.com:80"),
        ("lb.example.com", 443, False, "http://lb.example.com:443"),
        ("127.0.0.1", 8080, False, "http://127.0.0.1:8080"),
        ("2001:db8::7", 80, False, "http://[2001:db8::7]"),
        ("2001:db8::7", 8080, False, "http://[2001:db8::7]:8080"),
    ],
)
def test_endpoint_url(host: str, port: int, https: bool, expected: str) -> None:
    assert endpoint_url(host, port, https=https) == expected


def platform(domain: Domain | None) -> Platform:
    text = pulumi.Output.from_input("text")
    return Platform(
        kubeconfig=text,
        workloads=pulumi.ResourceOptions(),
        repository=Repository(repository_url=text, server=text, username=None, password=None),
        pull_secret=None,
        load_balancer=plain(),
        domain=domain,
        node_selector={},
        tolerations=[],
    )


def url_of(hostname: str, port: int, domain: str = "", **options: Any) -> mocked.Run[pulumi.Output[str]]:
    def program() -> pulumi.Output[str]:
        args = DomainArgs(domain=domain, hosted_zone=None, tags={})
        made = platform(Domain("domain", args) if domain else None)
        return made.url(pulumi.Output.from_input(hostname), port)

    option = {"resourceRecordName": "_t", "resourceRecordType": "CNAME", "resourceRecordValue": "_a"}
    outputs = {
        "aws:acm/certificate:Certificate": {"domainValidationOptions": [option]},
        "aws:route53/record:Record": {"fqdn": domain},
    }
    return mocked.run(program, outputs=outputs, **options)


@pytest.mark.parametrize(
    ("hostname", "url"),
    [("lb.example.com", "http://lb.example.com:8000"), ("2001:db8::7", "http://[2001:db8::7]:8000")],
)
def test_without_a_domain_the_url_is_the_load_balancers(hostname: str, url: str) -> None:
    assert mocked.resolve(url_of(hostname, 8000).result).value == url


def test_under_a_domain_the_url_is_https_and_known_once_the_record_exists() -> None:
    run = url_of("lb.example.com", 443, "predict.example.com")
    assert mocked.resolve(run.result).value == "https://predict.example.com"
    assert run.named("domain-address").inputs["aliases"][0]["name"] == "lb.example.com"
    preview = url_of("lb.example.com", 443, "predict.example.com", preview=True)
    assert not mocked.resolve(preview.result).known
