"""Pickles: never loaded unasked, and what a malicious one tries in the sandbox is contained."""

from __future__ import annotations

import hashlib
import os
import socket
from pathlib import Path

import pytest

from tests.model.harness import Outcome, package, run_in
from tools import environment
from tools.model import pickles as resaving
from tools.model import sandbox
from tools.model.errors import ModelError

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 and not Path("/proc/self/ns/user").exists(), reason="this kernel has no user namespaces"
)

_SCRIPT = """
import pickle
import joblib, numpy as np
from sklearn.linear_model import LogisticRegression

class Payload:
    def __init__(self, code): self.code = code
    def __reduce__(self): return eval, (self.code,)

rows = np.random.default_rng(0).random((50, 3))
model = LogisticRegression().fit(rows, rows[:, 0] > 0.5)
joblib.dump(model, "good.joblib", compress=3)
pickle.dump(model, open("good.pkl", "wb"))
for name, code in PAYLOADS.items():
    pickle.dump(Payload(code), open(f"{name}.pkl", "wb"))
"""


@pytest.fixture(scope="module")
def pickles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    here = tmp_path_factory.mktemp("pickles")
    payloads = {
        "write": f"open({str(here / 'evil')!r}, 'w')",
        "program": "open('/usr/evil', 'w')",
        "keys": f"[open(path).read() for path in [{str(here / 'secret')!r}]]",
        "homes": "print('seen:', *__import__('os').listdir(__import__('os').path.expanduser('~')))",
        "variables": "exec(\"import os\\nassert 'SECRET' not in os.environ, 'read it'\\nraise OSError('none')\")",
        "bomb": "[__import__('os').fork() for _ in range(12)]",
        "parent": f"__import__('os').kill({os.getpid()}, 9)",
        "mount": "__import__('subprocess').run(['mount', '-t', 'tmpfs', 'tmpfs', '/usr'], check=True)",
        "link": "exec(\"import os\\nos.symlink('/etc/passwd', '/output/model.skops')\\nos._exit(0)\")",
        "endless": "[None for _ in __import__('itertools').count()]",
    }
    (here / "secret").write_text("a key")
    run_in("sklearn", f"PAYLOADS = {payloads!r}\n{_SCRIPT}", here)
    return here


def _trusting(here: Path, name: str) -> Outcome:
    digest = hashlib.sha256((here / name).read_bytes()).hexdigest()
    return package(here, name, "--trust=pickle", f"--sha256={digest}", to=f"{name}-made")


@pytest.mark.parametrize("name", ["good.joblib", "good.pkl"])
def test_a_trusted_pickle_is_saved_again(pickles: Path, name: str) -> None:
    made = _trusting(pickles, name)
    assert made.description["source"]["format"] == "scikit-learn (skops)"
    assert "was loaded in a sandbox and saved again as good.skops" in made.output


@pytest.mark.parametrize("more", [[], ["--trust=pickle"]])
def test_a_pickle_is_not_loaded_unasked(pickles: Path, more: list[str]) -> None:
    outcome = package(pickles, "write.pkl", *more, to="unasked")
    assert outcome.status == 1
    assert "skops.io.dump" in outcome.errors
    digest = hashlib.sha256((pickles / "write.pkl").read_bytes()).hexdigest()
    assert f"--trust pickle --sha256 {digest}" in outcome.errors
    assert not (pickles / "evil").exists()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("write", "No such file or directory"),
        ("program", "Read-only file system"),
        ("keys", "No such file or directory"),
        ("homes", "holds a builtins.NoneType"),
        ("variables", "OSError: none"),
        ("bomb", "could not be saved again"),
        ("parent", "could not be saved again"),
        ("mount", "could not be saved again"),
        ("link", "it left no model"),
    ],
)
def test_a_malicious_pickle_is_contained(
    pickles: Path, monkeypatch: pytest.MonkeyPatch, name: str, reason: str
) -> None:
    monkeypatch.setenv("SECRET", "a key")
    outcome = _trusting(pickles, f"{name}.pkl")
    assert outcome.status == 1
    assert reason in outcome.errors
    assert not (pickles / "evil").exists()
    assert not Path("/usr/evil").exists()
    assert not outcome.folder.exists()


def test_the_network_is_out_of_reach(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        code = f"__import__('socket').create_connection(('127.0.0.1', {port}), 5)"
        run_in("sklearn", f"PAYLOADS = {{'net': {code!r}}}\n{_SCRIPT}", tmp_path)
        outcome = _trusting(tmp_path, "net.pkl")
        listener.settimeout(0.1)
        with pytest.raises(TimeoutError):
            listener.accept()
    assert "Network is unreachable" in outcome.errors


def test_an_endless_pickle_is_ended(pickles: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sandbox, "_MAX_SECONDS", 3)
    root = Path(__file__).resolve().parents[2]
    python = environment.separate(root, "tools/model/requirements-sklearn.lock") / "python"
    with pytest.raises(ModelError, match=r"after 3 seconds|could not be saved again"):
        resaving.save_again(python, pickles / "endless.pkl", tmp_path)


def test_a_machine_without_a_sandbox_refuses(pickles: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sandbox, "_PROGRAMS", ("no-such-program",))
    with pytest.raises(ModelError, match=r"cannot provide the sandbox .* no-such-program"):
        sandbox.run(Path("python"), Path("script.py"), pickles / "good.pkl", tmp_path / "output")
