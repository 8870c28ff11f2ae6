"""`python -m tests.e2e`: makes what takes minutes before the tests on a cluster begin, and says how far it is.

pytest would hold the progress back. What is there already is kept; what cannot be had here is left to the tests, which
say why they are skipped.
"""

from __future__ import annotations

import os

from tests.e2e import load, providers
from tests.e2e.cluster import programs, unavailable
from tests.e2e.providers import base
from tools.cache import default_cache


def main() -> None:
    if unavailable() or providers.unavailable():
        return
    if not os.environ.get("E2E_KUBECONFIG"):
        programs.programs(default_cache())
    providers.kubernetes_plugin()
    base.layer()
    load.program()


if __name__ == "__main__":
    main()
