"""Destroyed, made again, and made to serve somebody else's image. State after: the prebuilt image, three pods."""

from __future__ import annotations

import json
from pathlib import Path

from tests.e2e import timeline
from tests.e2e.cluster import images
from tests.e2e.providers import registry
from tests.e2e.providers.builder import Builder
from tests.e2e.stack import Stack, built_at
from tests.support.figures import Figures
from tools import go

KINDS = (
    "deployments,replicasets,pods,services,endpointslices,hpa,pdb,networkpolicies,serviceaccounts,secrets,configmaps"
)
SERVER = """\
package main

import (
	"encoding/json"
	"net/http"
)

func main() {
	http.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(204) })
	http.HandleFunc("POST /predict", func(w http.ResponseWriter, r *http.Request) {
		var body struct{ Numbers []float64 }
		if json.NewDecoder(r.Body).Decode(&body) != nil {
			http.Error(w, "numbers, please", 422)
			return
		}
		sum := 0.0
		for _, number := range body.Numbers {
			sum += number
		}
		json.NewEncoder(w).Encode(map[string]float64{"sum": sum})
	})
	http.ListenAndServe(":8080", nil)
}
"""


def everything(stack: Stack) -> set[str]:
    """Every object of the cluster that a stack can have made, by kind and name."""
    found = json.loads(stack.live.kubectl("get", f"namespaces,{KINDS}", "--all-namespaces", "-o", "json"))["items"]
    return {f"{item['kind']} {item['metadata'].get('namespace', '')}/{item['metadata']['name']}" for item in found}


def test_destroy_leaves_nothing_and_up_makes_it_again(served: Stack, daemon: Builder, figures: Figures) -> None:
    digest, image = (
        served.output("imageDigest"),
        served.deployment()["spec"]["template"]["spec"]["containers"][0]["image"],
    )
    gone = served.namespace()
    served.pulumi("destroy", "--yes", "--skip-preview")
    left = {name for name in everything(served) if gone in name}
    assert not left
    assert registry.layers(served.live.registry, "team/model", digest)
    with timeline.Timeline(served) as line:
        served.up()
    assert served.output("imageDigest") == digest, image
    assert len(served.ready()) == 3
    begun = min(timeline.started(served, pod["metadata"]["name"]) for pod in served.pods())
    found = timeline.phases(line.moments, built_at(served, daemon), begun)
    found["image"] = found.pop("build") + found.pop("push")
    for phase, seconds in found.items():
        figures.add(phase, seconds)
    figures.add("first answer", line.moments["answered"] - line.moments["up"])
    figures.add("up", line.moments["over"] - line.moments["up"])


def test_a_prebuilt_image_of_another_language_is_served(served: Stack, tmp_path: Path) -> None:
    (tmp_path / "main.go").write_text(SERVER)
    (tmp_path / "go.mod").write_text("module sum\n\ngo 1.24\n")
    go.build(tmp_path, ".", tmp_path, name="sum")
    image = images.push(served.live.registry, "sum", tmp_path / "sum")
    paths = {"livenessPath": "/healthz", "readinessPath": "/healthz"}
    with served.prebuilt(image, '{"numbers": [1, 2]}', **paths), served.traffic() as sent:
        served.up()
    assert served.predict('{"numbers": [1, 2, 3.5]}').json() == {"sum": 6.5}
    # Its numbers have another name than the rows that are asked about, which it takes for none, or refuses.
    assert {each.code for each in sent.seen} <= {200, 422}, sent.seen
