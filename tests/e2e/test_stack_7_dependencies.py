"""A model with packages of its own gets layers of its own. State after: the project's own model, three pods."""

from __future__ import annotations

import hashlib
import json

from tests.e2e.providers import registry
from tests.e2e.stack import Stack
from tools.model.dependencies import lock_requirements

REQUIREMENTS = "humanize\n"
HOOKS = "import humanize\n\n\ndef preprocess(inputs):\n    humanize.naturalsize(1)\n    return inputs\n"
WHERE = "import humanize, numpy; print(humanize.__file__, numpy.__file__)"


def test_another_version_keeps_the_layer_of_the_models_packages_and_a_plain_model_has_none(served: Stack) -> None:
    model = served.root / "app/model"

    def layers(version: str) -> list[str]:
        """Ship the model as it stands, under this version; the image's layers, the base's first."""
        described = json.loads((model / "model.json").read_text())
        (model / "model.json").write_text(json.dumps({**described, "version": version}))
        served.up()
        assert served.version() == version
        return list(registry.layers(served.live.registry, "team/model", served.output("imageDigest")))

    served.restore("app/model/model.json")
    plain = layers("10")
    described = json.loads((model / "model.json").read_text())
    described["hooks"] = {"sha256": hashlib.sha256(HOOKS.encode()).hexdigest()}
    (model / "model.json").write_text(json.dumps(described))
    added = {
        "hooks.py": HOOKS.encode(),
        "requirements.txt": REQUIREMENTS.encode(),
        "requirements.lock": lock_requirements(REQUIREMENTS, what="the model"),
    }
    try:
        for name, content in added.items():
            (model / name).write_bytes(content)
        first = layers("11")
        pod = served.ready()[0]["metadata"]["name"]
        own, shared = served.python(pod, WHERE).split()
        assert own.startswith("/dependencies/")
        assert shared.startswith("/packages/"), "what the server has at the same version is installed once"
        second = layers("12")
    finally:
        for name in added:
            (model / name).unlink(missing_ok=True)
        served.restore("app/model/model.json")
    assert second[:-1] == first[:-1]
    assert second[-1] != first[-1]
    assert len(first) > len(plain)
    assert layers("13")[:-1] == plain[:-1]
