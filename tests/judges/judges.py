"""kube-score and checkov: where they come from, how they are asked, and which of their findings are waived."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tools import environment, go
from tools.cache import default_cache, digest, machine, once

HERE = Path(__file__).parent
MANIFESTS, PLAN = "manifests.yaml", "plan.json"
"""Files of a stack, in a folder of its name."""

_ROOT = HERE.parents[1]
_KUBE_SCORE = HERE / "kubescore"
_GRADE_OK = 10
_NO_PROXY = "http://127.0.0.1:9"
"""Nobody answers on the discard port: what checkov asks of the network fails at once."""


class JudgeError(Exception):
    """A judge has not judged all that it was given."""


@dataclass(frozen=True, order=True)
class Finding:
    stack: str
    tool: str
    check: str
    """The tool's id of the rule."""
    resource: str
    """`<kind or Terraform type>.<name>`."""
    text: str

    def __str__(self) -> str:
        return f"{self.tool} {self.check} on {self.resource} in {self.stack}: {self.text}"


@dataclass(frozen=True, kw_only=True)
class Waiver:
    """An accepted finding."""

    tool: str
    check: str
    resource: str
    """Kind or Terraform type."""
    stacks: tuple[str, ...]
    """Stacks in which it is accepted, and in each of which it has to be found."""
    reason: str
    remove_when: str

    def covers(self, finding: Finding) -> bool:
        kind = finding.resource.partition(".")[0]
        rule = (finding.tool, finding.check, kind) == (self.tool, self.check, self.resource)
        return rule and finding.stack in self.stacks


def read_waivers(file: Path) -> list[Waiver]:
    """Read a waiver file; ValueError if an entry gives no stacks, no reason or no condition for its removal."""
    found = [Waiver(**{**entry, "stacks": tuple(entry["stacks"])}) for entry in yaml.safe_load(file.read_text())]
    for waiver in found:
        if not (waiver.stacks and waiver.reason and waiver.remove_when):
            raise ValueError(f"the waiver of {waiver.tool} {waiver.check} needs stacks, reason and remove_when")
    return found


def problems(findings: Iterable[Finding], waivers: Iterable[Waiver]) -> list[str]:
    """List the findings that no waiver covers, and the waivers that cover nothing in one of their stacks."""
    findings, waivers = sorted(findings), list(waivers)
    open_ = [f"not waived: {finding}" for finding in findings if not any(w.covers(finding) for w in waivers)]
    stale = [
        f"covers nothing, remove it: the waiver of {waiver.tool} {waiver.check} on {waiver.resource} in {stack}"
        for waiver in waivers
        for stack in waiver.stacks
        if not any(waiver.covers(finding) for finding in findings if finding.stack == stack)
    ]
    return open_ + stale


def kube_score(folder: Path) -> list[Finding]:
    """Judge the manifests of each stack in `folder`, by the optional rules as well."""
    version = yaml.safe_load((_ROOT / "Pulumi.yaml").read_text())["config"]["kubernetesVersion"]["default"]
    command = [
        *(str(_kube_score_folder() / "kube-score"), "score", "--all-default-optional"),
        *("--disable-ignore-checks-annotations", f"--kubernetes-version=v{version}", "--output-format=json"),
    ]
    findings: list[Finding] = []
    for file in sorted(folder.glob(f"*/{MANIFESTS}")):
        for judged in _json([*command, str(file)], {}):
            kind, *_, name = judged["object_name"].split("/")
            findings += [
                Finding(file.parent.name, "kube-score", check["check"]["id"], f"{kind}.{name}", _text(check))
                for check in judged["checks"]
                if not check["skipped"] and check["grade"] < _GRADE_OK
            ]
    return findings


def kube_score_unavailable() -> str | None:
    """The reason why there is no kube-score here and what to do; None when there is."""
    return None if _kube_score_cache().is_dir() else go.unavailable()


def checkov(folder: Path) -> list[Finding]:
    """Judge the manifests and the plan of each stack in `folder`; JudgeError if it has passed over some."""
    program = environment.separate(_ROOT, "tests/judges/requirements.lock") / "checkov"
    frameworks = ["kubernetes", "terraform_plan"]
    command = [str(program), f"--directory={folder}", "--framework", *frameworks, "--skip-download", "--output=json"]
    offline = {"HOME": str(folder), "HTTPS_PROXY": _NO_PROXY, "CKV_SKIP_PACKAGE_UPDATE_CHECK": "true"}
    reports = {report["check_type"]: report for report in _json(command, offline)}
    planned = [json.loads(file.read_text())["planned_values"] for file in folder.glob(f"*/{PLAN}")]
    wanted = sum(len(plan["root_module"]["resources"]) for plan in planned)
    judged = reports["terraform_plan"]["summary"]["resource_count"]
    unread = [error for report in reports.values() for error in report["results"]["parsing_errors"]]
    if unread or judged != wanted:
        raise JudgeError(f"checkov has seen {judged} of {wanted} AWS resources, and could not read: {unread}")
    return [
        Finding(Path(x["file_path"]).parent.name, "checkov", x["check_id"], x["resource"], x["check_name"])
        for report in reports.values()
        for x in report["results"]["failed_checks"]
    ]


def _kube_score_cache() -> Path:
    return default_cache() / f"kube-score-{machine()}-{digest(_KUBE_SCORE / name for name in ('go.mod', 'go.sum'))}"


def _kube_score_folder() -> Path:
    package = "github.com/zegl/kube-score/cmd/kube-score"
    return once(_kube_score_cache(), lambda partial: go.build(_KUBE_SCORE, package, partial, name="kube-score"))


def _text(check: dict[str, Any]) -> str:
    comments = [f"{comment['path']} {comment['summary']}".strip() for comment in check["comments"] or ()]
    return "; ".join([check["check"]["name"], *comments])


def _json(command: list[str], settings: dict[str, str]) -> Any:
    """Run a judge with these settings and none of the user's; what it prints. Its exit status tells what that says."""
    done = subprocess.run(
        command, env={"PATH": os.environ["PATH"]} | settings, capture_output=True, text=True, check=False, timeout=120
    )
    try:
        return json.loads(done.stdout)
    except ValueError as error:
        raise JudgeError(f"{command[0]} printed no JSON:\n{done.stdout[-1000:]}{done.stderr[-2000:]}") from error
