"""A folder of the user's own on target local: started, replaced on the same port, kept when the next does not start."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engine.conftest import MakeProject
from tests.support.engine_project import ROOT, Project
from tools import environment, run

SERVER = """
use IO::Socket::INET; $| = 1;
my $listener = IO::Socket::INET->new(
    LocalAddr => $ENV{HOST}, LocalPort => $ENV{PORT}, Listen => 16, ReuseAddr => 1
) or die "no port: $!";
while (my $client = $listener->accept) {
    my $length = 0;
    while (my $line = <$client>) { $length = $1 if $line =~ /^content-length: (\\d+)/i; last if $line =~ /^\\r?\\n$/ }
    read($client, my $body, $length) if $length;
    my $answer = '{"prediction": VERSION}';
    my $length_of = length($answer);
    print $client "HTTP/1.1 200 OK\\r\\nContent-Length: $length_of\\r\\nConnection: close\\r\\n\\r\\n$answer";
    close $client;
}
"""


def predict(url: str) -> Any:
    request = urllib.request.Request(f"{url}/predict", b'{"input": [1, 2, 3]}')
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10) as answer:
        return json.load(answer)


@pytest.fixture(scope="module")
def project(make_project: MakeProject) -> Iterator[Project]:
    project = make_project("own")
    yield project
    project.pulumi("destroy", "--yes", "--skip-preview")


def write(project: Project, version: int, code: str = SERVER) -> None:
    folder = Path(project.root, "service")
    folder.mkdir(exist_ok=True)
    (folder / "Dockerfile").write_text("FROM scratch\n")
    (folder / "Procfile").write_text("web: perl server.pl\n")
    (folder / "example.json").write_text('{"input": [1, 2, 3]}')
    (folder / "server.pl").write_text(code.replace("VERSION", str(version)))


def endpoint(project: Project) -> str:
    return project.pulumi("stack", "output", "endpoint").stdout.strip()


def up(project: Project, *, ok: bool = True) -> str:
    return project.pulumi("up", "--yes", "--skip-preview", ok=ok).text


def test_a_service_in_another_language(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    write(project, 1)
    project.configure({"build": "service"})
    up(project)
    first = endpoint(project)
    assert predict(first) == {"prediction": 1}
    monkeypatch.setattr(run, "ROOT", project.root)
    assert run.example(run.Pulumi(project.stack, project.environment)) == '{"input": [1, 2, 3]}'

    write(project, 2)
    up(project)
    assert (endpoint(project), predict(first)) == (first, {"prediction": 2})

    write(project, 3, "die 'no model here';")
    assert "no model here" in up(project, ok=False)
    assert predict(first) == {"prediction": 2}

    project.forget("build")
    up(project)
    assert "model" in predict(endpoint(project))


def test_the_documents_example(project: Project) -> None:
    python = environment.separate(ROOT, "app/requirements.lock", "app/requirements-torch.lock") / "python"
    project.configure({"build": "examples/document", "command": f"{python} app.py"})
    up(project)
    mean, spread = predict(endpoint(project))["prediction"]
    assert mean == pytest.approx(2, abs=0.3)
    assert spread == pytest.approx(2, abs=0.3)
