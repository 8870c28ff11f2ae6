"""The make targets: `tools/python -m tools.run <command>`, with STACK and YES from the environment.

Each command first sees to what it needs (the virtual environment, the Pulumi CLI, a place for state), says so only when
there is something to do, and then hands over to the real thing.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from tools import environment, passphrase, pulumi_cli, shell, state
from tools.console import say

ROOT = Path(__file__).parents[1]
EMBEDDED_STACK = "local"
"""The one stack that needs no config file."""
TARGET_PIN = "::model-endpoint:target:Target::"
"""Stands in the URN of the marker that a live stack carries, before the name of its target."""
LOCAL_PACKAGES = {"model-endpoint", "pulumi", "pulumi-python"}
"""The packages of what a local stack holds: processes and the program's own components."""
NEW_STACK_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
"""Of a stack that a command can make here: what Pulumi takes, and no shell or CLI takes for something else."""
MAX_PASTED_CHARACTERS = 1000
"""A longer example is printed as the name of a file."""
MAX_REASON_CHARACTERS = 300
"""Of what Pulumi said, where it is quoted."""
END_TO_END_TESTS = ROOT / "tests/e2e"
CLUSTER_FIGURES = ROOT / "bench/results/cluster.json"


class UsageError(Exception):
    """A command that cannot be done as it was given; the message says what can."""


@dataclass(frozen=True)
class Pulumi:
    """The CLI, ready to run on one stack."""

    stack: str
    variables: dict[str, str]
    """Environment variables that it needs besides the user's own."""

    @property
    def name(self) -> str:
        """The stack's name without organization and project."""
        return self.stack.rpartition("/")[2]

    def __call__(self, *arguments: str) -> int:
        """Run it in front of the user."""
        return subprocess.run(["pulumi", *arguments], cwd=ROOT, env=self.environment, check=False).returncode

    def select(self) -> int:
        """Make the stack, if it is new, and the current one, so that bare commands mean it as well."""
        return self("stack", "select", "--create", self.stack)

    def output(self, name: str) -> str | None:
        """A stack output, or None when the stack has no such output."""
        return self._answer("stack", "output", name) or None

    def config(self, key: str) -> dict[str, Any]:
        """What the program would read for one of its keys, as `value` and `secret`; empty when that cannot be told.

        Pulumi's own word: the defaults of Pulumi.yaml and the stack's environments are in it.
        """
        return json.loads(self._answer("config", "get", key, "--json") or "{}")

    def deployment(self) -> dict[str, Any] | None:
        """The stack's state; None: no state to read. An empty backend stays empty."""
        # In the layout of today the CLI writes its version into an empty backend; a version that is there comes first.
        reader = replace(self, variables=self.variables | {"PULUMI_DIY_BACKEND_LEGACY_LAYOUT": "true"})
        exported = reader.ask("stack", "export")
        return None if exported.returncode else json.loads(exported.stdout)["deployment"]

    def ask(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command that changes nothing, unseen."""
        command = ["pulumi", *arguments, "--stack", self.stack, "--non-interactive"]
        return subprocess.run(
            command,
            cwd=ROOT,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    def _answer(self, *arguments: str) -> str:
        """Stdout of a command that changes nothing; empty when it fails."""
        answer = self.ask(*arguments)
        return "" if answer.returncode else answer.stdout.strip()

    @property
    def environment(self) -> dict[str, str]:
        """The user's environment with what the CLI needs."""
        return os.environ | self.variables


def variables() -> dict[str, str]:
    """PATH, Pulumi's own variables and the exemption from proxies, as `make env` prints them."""
    cli = pulumi_cli.ensure(pulumi_cli.Source())
    path = os.environ.get("PATH", os.defpath).split(os.pathsep)
    found = {} if str(cli) in path else {"PATH": os.pathsep.join([str(cli), *path])}
    if "PULUMI_SKIP_UPDATE_CHECK" not in os.environ:
        found["PULUMI_SKIP_UPDATE_CHECK"] = "true"
    if "USER" not in os.environ:
        found["USER"] = f"uid-{os.getuid()}"  # the CLI needs one where the system's list of users has no entry for it
    return found | shell.loopback_exemption(os.environ) | state.variables(ROOT, os.environ)


def pulumi() -> Pulumi:
    """Prepare the CLI for the stack that STACK names, with the program's environment in place."""
    stack = os.environ.get("STACK") or EMBEDDED_STACK
    known = sorted(
        {EMBEDDED_STACK} | {file.name[len("Pulumi.") : -len(".yaml")] for file in ROOT.glob("Pulumi.*.yaml")}
    )
    name = Pulumi(stack, {}).name
    if name not in known:
        near = difflib.get_close_matches(name.lower(), known, n=1)
        raise UsageError(
            f"STACK={shlex.quote(stack)}: there is no {shlex.quote(f'Pulumi.{name}.yaml')}. Stacks here:"
            f" {', '.join(known)}{f'; did you mean {near[0]}?' if near else '.'}\n"
            + (
                f'  To make another: eval "$(make -s env)" && pulumi stack init {stack}'
                f" && pulumi config set target <local|kubernetes|eks> --stack {stack}"
                if NEW_STACK_NAME.fullmatch(stack)
                else "  The name of another begins with a letter or a digit, and has letters, digits, `-`, `_` and `.`"
            )
        )
    environment.enter(ROOT, "tools.run", *sys.argv[1:])
    return Pulumi(stack, variables())


def unlocked() -> Pulumi:
    """`pulumi()`, once it is known that the stack's secrets can be read."""
    cli = pulumi()
    if problem := passphrase.problem(ROOT / f"Pulumi.{cli.name}.yaml", cli.environment, cli.stack, cli.deployment()):
        raise UsageError(problem)
    return cli


def consent(reason_to_ask: str | None) -> list[str]:
    """Choose the flags of a command that changes the stack: Pulumi shows the plan and asks, unless it is told not to.

    Target local creates nothing outside the clone, and is not asked about.
    """
    if reason_to_ask is None:
        return ["--yes", "--skip-preview"]
    if os.environ.get("YES") == "1":
        return ["--yes"]
    say(f"Pulumi: will ask before it changes the stack, because {reason_to_ask}; YES=1 answers yes")
    return []


def reason_to_ask(cli: Pulumi) -> str | None:
    """Explain why the stack may be more than a process here; None: config and state both say that it is none."""
    config, state_export = cli.ask("config", "get", "target", "--json"), cli.ask("stack", "export")
    for name, answer in (("config", config), ("state", state_export)):
        if answer.returncode:
            return f"its {name} cannot be read ({' '.join(answer.stderr.split())[:MAX_REASON_CHARACTERS]})"
    target = json.loads(config.stdout).get("value")
    resources: list[dict[str, Any]] = json.loads(state_export.stdout)["deployment"].get("resources") or []
    pins = {urn.rpartition("::")[2] for urn in (resource["urn"] for resource in resources) if TARGET_PIN in urn}
    packages = {resource["type"].partition(":")[0] for resource in resources} - LOCAL_PACKAGES
    if target == "local" and pins <= {"local"} and not packages:
        return None
    held = [f"target {pin}" for pin in sorted(pins)] + [f"resources of {package}" for package in sorted(packages)]
    return f"its config says target {target}, and its state holds {' and '.join(held) or 'nothing'}"


def up() -> int:
    """Bring the stack up, then print where it answers and how to call it."""
    cli = unlocked()
    failed = cli.select()
    if failed:
        return failed
    reason = reason_to_ask(cli)
    if "PULUMI_BACKEND_URL" in cli.variables and reason:
        say(
            f"Pulumi: no login, so the only record of what {cli.stack} makes is {state.FOLDER}/ in this clone:\n"
            "  keep it until `make down`, or log in first (pulumi login), or what is paid for is lost from sight"
        )
    failed = cli("up", "--stack", cli.stack, *consent(reason))
    if failed:
        return failed
    endpoint = cli.output("endpoint")
    if endpoint:
        print(f"\nendpoint: {endpoint}\n\n  {curl(cli, endpoint)}\n")
    return 0


def curl(cli: Pulumi, endpoint: str) -> str:
    """Write a call that works when it is pasted into a shell; it fetches a key, and does not show it."""
    key = ""
    if cli.config("apiKey").get("value"):
        ask = f"pulumi config get apiKey --stack {cli.stack}"
        if cli.variables:
            ask = f'eval "$(make -s env)" && {ask}'
        key = f' -H "Authorization: Bearer $({ask})"'
    direct = " --noproxy 127.0.0.1" if "no_proxy" in cli.variables and endpoint.startswith("http://127.0.0.1:") else ""
    return f"curl{direct} {endpoint}/predict{key} -d {pasted(example(cli), cli.name)}"


def pasted(body: str, stack: str) -> str:
    """Write `body` as curl's argument: quoted, or as the name of a file that holds it where it is long."""
    if len(body) <= MAX_PASTED_CHARACTERS:
        return shlex.quote(body)
    file = ROOT / f".build/{stack}.example.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(body)
    return f"@{file.relative_to(ROOT)}"


def example(cli: Pulumi) -> str:
    """The body of a prediction that the stack's model understands."""
    configured = cli.config("example")
    if configured.get("value") and not configured["secret"]:
        return configured["value"]
    if build := cli.config("build").get("value"):
        return (ROOT / build / "example.json").read_text().strip()
    model = json.loads((ROOT / (cli.config("model").get("value") or "app/model") / "model.json").read_text())
    return json.dumps(model["example"])


def preview() -> int:
    """Show what `up` would change."""
    cli = unlocked()
    return cli.select() or cli("preview", "--stack", cli.stack)


def output() -> int:
    """Print the endpoint and nothing else."""
    cli = pulumi()
    return cli("stack", "output", "endpoint", "--stack", cli.stack)


def down() -> int:
    """Destroy what the stack made; the stack itself, its config and its history stay."""
    cli = unlocked()
    return cli("stack", "select", cli.stack) or cli("destroy", "--stack", cli.stack, *consent(reason_to_ask(cli)))


def env() -> int:
    """Print the shell lines that make bare `pulumi` commands work in the clone."""
    environment.ensure(ROOT)
    for name, value in variables().items():
        print(f"export {name}={shlex.quote(value)}")
    return 0


def in_environment(*command: str, cli: bool = False) -> int:
    """Run a program of the virtual environment, with what the tests need installed; `cli` puts Pulumi on its PATH."""
    programs = environment.ensure(ROOT, tests=True)
    path = {"PATH": variables().get("PATH", os.environ["PATH"])} if cli else {}
    settings = os.environ | shell.loopback_exemption(os.environ) | path
    return subprocess.run([str(programs / command[0]), *command[1:]], cwd=ROOT, env=settings, check=False).returncode


def check() -> int:
    """Lint, format, types and import contracts; all of them run, whatever the first one finds."""
    results = [
        in_environment("ruff", "check"),
        in_environment("ruff", "format", "--check"),
        in_environment("basedpyright"),
        in_environment("lint-imports", "--no-logo"),
        in_environment("python", "-m", "tools.docs", "--check"),
    ]
    return max(results)


def test() -> int:
    """Run every test that needs no root and no cluster."""
    return in_environment("pytest", "--numprocesses=auto", "--dist=loadfile", f"--ignore={END_TO_END_TESTS}", cli=True)


def e2e() -> int:
    """Run the tests on a real cluster, one after the other; show what was skipped and the figures, which are kept."""
    # Prepared before pytest, which would hold back how far it is.
    return in_environment("python", "-m", "tests.e2e") or in_environment(
        "pytest", str(END_TO_END_TESTS), f"--keep-figures={CLUSTER_FIGURES}", cli=True
    )


def locks() -> int:
    """Compile the lock files again; in an order in which each is held to those before it."""
    uv = ("uv", "pip", "compile", "--quiet", "--universal", "--python-version=3.11", "--generate-hashes", "--no-header")
    held = "--constraints=app/requirements.lock"
    app = [
        ("app/requirements.lock", "app/pyproject.toml"),
        ("requirements.lock", "requirements.in"),
        ("app/requirements-otel.lock", "--group=app/pyproject.toml:otel", held, "--constraints=requirements.lock"),
        ("app/requirements-torch.lock", "--group=app/pyproject.toml:torch", held),
    ]
    sources = ["tools/uv.in", *sorted(str(file.relative_to(ROOT)) for file in ROOT.glob("**/requirements*.in"))]
    others = [(f"{source.removesuffix('.in')}.lock", source) for source in sources if not source.startswith(".venv")]
    for lock, *arguments in dict.fromkeys([*app, *others]):
        failed = in_environment(*uv, f"--output-file={lock}", *arguments)
        if failed:
            return failed
    return 0


COMMANDS: dict[str, Callable[[], int]] = {
    command.__name__: command for command in (up, preview, output, down, env, check, test, e2e, locks)
} | {
    "bench": partial(in_environment, "python", "-m", "bench", cli=True),
    "docs": partial(in_environment, "python", "-m", "tools.docs"),
    "pictures": partial(in_environment, "python", "-m", "tests.browser.pictures"),
}


def main(arguments: list[str]) -> int:
    """Run one command; its exit status."""
    if len(arguments) != 1 or arguments[0] not in COMMANDS:
        say(f"one of: {', '.join(COMMANDS)}")
        return 2
    try:
        return COMMANDS[arguments[0]]()
    except (UsageError, pulumi_cli.CliError, environment.EnvironmentMissingError, OSError) as error:
        say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
