"""Target `local`: the app as a supervised process on this machine."""

from infra.local.provider import ProcessProvider as _Provider

# States written before the provider had a module of its own name it `infra.local:_Provider`; `pulumi refresh` and
# `pulumi destroy` load it by that name, without running the program. An `up` that changes nothing keeps the name in the
# state, so this import goes only with a release that demands a changing `up` (or `destroy`) before it.
__all__ = ["_Provider"]
