"""Kubeconfigs for the tests of what reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml


def kubeconfig(name: str = "kind", server: str = "", **user: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": name,
        "contexts": [{"name": name, "context": {"cluster": f"{name}-cluster", "user": f"{name}-user"}}],
        "clusters": [{"name": f"{name}-cluster", "cluster": {"server": server or f"https://{name}:6443"}}],
        "users": [{"name": f"{name}-user", "user": user or {"token": "user-token"}}],
    }


def both() -> dict[str, Any]:
    one, other = kubeconfig("kind"), kubeconfig("other")
    return {**one, **{key: one[key] + other[key] for key in ("contexts", "clusters", "users")}}


def write(path: Path, content: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content))
    return path
