"""A PyTorch state dict: tensors by name, loaded into the network that the user's own class builds."""

from __future__ import annotations

from importlib import import_module
from typing import Any, cast

from tools.model.conversion import Conversion
from tools.model.converters import pickle_imports, torch_network
from tools.model.errors import ModelError, first_line
from tools.model.settings import Settings
from tools.model.training_data import Table

torch: Any = import_module("torch")

_KEYS = ("state_dict", "model_state_dict", "model", "net", "network", "weights")
"""Keys under which training loops put the state dict in a checkpoint."""
_WRAPPERS = ("module.", "_orig_mod.", "model.")
"""Prefixes that DataParallel, torch.compile and Lightning give each name."""


def convert(settings: Settings, table: Table | None) -> Conversion:
    """Build the network with these weights and turn it into ONNX."""
    notes: list[str] = []
    state = state_dict(settings, notes)
    built = torch_network.build(settings)
    load(settings, built, state, notes)
    return torch_network.convert(settings, table, built, notes)


def state_dict(settings: Settings, notes: list[str]) -> dict[str, Any]:
    """Read the tensors by name, without running any code in the file."""
    loaded = _read(settings)
    if settings.key:
        for part in settings.key.split("."):
            if part not in _members(loaded):
                raise ModelError(f"--key {settings.key}: there is no {part}; {_contents(loaded)}")
            loaded = _members(loaded)[part]
    elif not _is_state_dict(loaded):
        found = [key for key in _KEYS if _is_state_dict(_members(loaded).get(key))]
        if len(found) != 1:
            raise ModelError(
                f"{settings.source.name} is not a state dict; {_contents(loaded)}: name the part, --key ..."
            )
        loaded = _members(loaded)[found[0]]
        notes.append(f"the state dict is the checkpoint's {found[0]!r}")
    if not _is_state_dict(loaded):
        raise ModelError(f"{settings.source.name} has no state dict there; {_contents(loaded)}")
    return _members(loaded)


def _read(settings: Settings) -> Any:
    path = settings.source
    try:
        with path.open("rb") as file:
            zipped_or_pickled = file.read(1) in (b"P", b"\x80")
        if not zipped_or_pickled:
            return import_module("safetensors.torch").load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # it has many, and what it says is about its own options
        raise ModelError(_refusal(path.name, pickle_imports.imports_of_torch(path), error)) from None


def _refusal(name: str, imports: list[str], error: Exception) -> str:
    strange = [each for each in imports if not each.startswith(("torch.", "collections.OrderedDict"))]
    networks = [each for each in imports if each.startswith("torch.nn.modules.")]
    if strange or networks:
        called = ", ".join((strange or networks)[:8])
        return (
            f"{name} is more than tensors: loading it would run {called}. It was not loaded.\n"
            "  Save the tensors alone: torch.save(network.state_dict(), 'model.pth'), and name the class with --class"
        )
    return f"{name} cannot be read as a PyTorch file: {first_line(error)}"


def _members(value: Any) -> dict[str, Any]:
    """The dict's members; none of anything else."""
    return dict(cast("dict[str, Any]", value)) if isinstance(value, dict) else {}


def _is_state_dict(value: Any) -> bool:
    members = _members(value)
    return bool(members) and all(torch.is_tensor(each) for each in members.values())


def _contents(value: Any) -> str:
    if isinstance(value, dict):
        return f"it has {', '.join(str(key) for key in list(_members(value))[:20]) or 'nothing in it'}"
    return f"it holds a {type(value).__name__}"


def load(settings: Settings, built: Any, state: dict[str, Any], notes: list[str]) -> None:
    """Load the tensors into the network; a ModelError lists what does not fit."""
    floats = {tensor.dtype for tensor in state.values() if tensor.dtype.is_floating_point}
    if floats == {torch.float64}:
        built.double()  # loading would round its tensors
    wanted = built.state_dict()
    for prefix in _WRAPPERS:
        stripped = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
        if all(name.startswith(prefix) for name in state) and len(set(stripped) & set(wanted)) > len(
            set(state) & set(wanted)
        ):
            state = stripped
            notes.append(f"{prefix!r} before each name was left out")
    mistakes = [f"the network has {name}, the file has not" for name in wanted if name not in state]
    mistakes += [f"the file has {name}, the network has not" for name in state if name not in wanted]
    mistakes += [
        f"{name} is {list(state[name].shape)} in the file, {list(tensor.shape)} in the network"
        for name, tensor in wanted.items()
        if name in state and state[name].shape != tensor.shape
    ]
    if mistakes:
        more = f"\n  and {len(mistakes) - 10} more" if len(mistakes) > 10 else ""
        listed = "\n  ".join(mistakes[:10])
        raise ModelError(
            f"{settings.source.name} does not fit {settings.class_name}: is it this class, made with these --args?\n"
            f"  {listed}{more}"
        )
    built.load_state_dict(state)
