"""The program inside a .pt2 file: PyTorch's JSON, read as the data it should be and written anew.

PyTorch looks up what a node calls by dotted names below `torch`, evaluates size expressions as Python, builds Python
source from the names of tensors, arguments and modules, imports modules that tree specs name, and checks hardly any
member's type [pytorch 2.15: torch/_export/serde/serialize.py, torch/fx/graph.py, torch/utils/_pytree.py]. So every
member that is passed on is declared here, with the little that it may be; what is not declared stays behind: guards
(Python code), stack traces, module names, custom metadata. Members are named as in torch/_export/serde/schema.py 8.20.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal, TypeAlias, TypeVar

import msgspec
from msgspec import UNSET, UnsetType


class _Checked(str):
    """String that PyTorch does not only pass on."""

    __slots__ = ()
    pattern: ClassVar[re.Pattern[str]]
    unlike: ClassVar[str]


class Name(_Checked):
    """Name of a variable or an argument in generated Python code."""

    pattern = re.compile(r"[A-Za-z_][A-Za-z0-9_]*|")
    unlike = "names something {!r}, which is no name"


class Path(_Checked):
    """Path of a module's attributes, in generated Python code as well."""

    pattern = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*")
    unlike = "has a tensor {!r}, which is no path of names"


class Operator(_Checked):
    """Dotted name that is looked up, and called when the model runs."""

    pattern = re.compile(
        r"torch\.ops\.(aten|prims)\.(?!name\.|__(?!(and|or|xor|lshift|rshift)__))\w+\.(?!_|op\b|overloads\b|op_overloads\b)\w+"
        r"|torch\.ops\.higher_order\.(cond|while_loop|scan|wrap_with_set_grad_enabled|wrap_with_autocast)"
        r"|torch\.sym_(int|float|max|min|not|ite|sum|sqrt)"
        r"|_operator\.(add|sub|mul|floordiv|truediv|mod|pow|neg|pos|lt|le|gt|ge|eq|ne|and_|or_|xor|getitem)"
        r"|math\.(ceil|floor|trunc|sqrt)",
        re.ASCII,
    )
    unlike = "calls {!r}, which is not one of PyTorch's own operators"


class Expression(_Checked):
    """Arithmetic on sizes, evaluated as Python code."""

    pattern = re.compile(
        r"([(), ]|true|false|-?\d{1,19}|'-?[\d.]{1,40}(e[+-]?\d{1,3})?'|precision=\d{1,3}"
        r"|Symbol\('(s|u|zf|zuf)\d{1,6}'(, (integer|positive|nonnegative|nonzero|real|finite)=(True|False))*\)"
        r"|(Integer|Float|Rational|Add|Mul|Pow|Min|Max|Mod|PythonMod|FloorDiv|CleanDiv|CeilDiv|CeilToInt|FloorToInt"
        r"|TruncToInt|TruncToFloat|RoundToInt|IntTrueDiv|FloatTrueDiv|PowByNatural|FloatPow|ToFloat|ModularIndexing"
        r"|Where|Identity|Equality|Unequality|StrictLessThan|LessThan|StrictGreaterThan|GreaterThan|And|Or|Not)\()*",
        re.ASCII,
    )
    unlike = "holds the size {!r}, which is not arithmetic on sizes"


class Dropped:
    """Member that PyTorch demands, and that is not passed on."""


_MAX_SHOWN = 60
"""Characters of a value that a message shows."""
_MODES = frozenset(
    {"approximate", "assert_msg", "driver", "equation", "indexing", "interpolation", "mode", "norm", "ord", "p"}
    | {"pad_mode", "padding", "padding_side", "reduce", "rounding_mode", "side", "UPLO"}
)
"""Arguments that are strings, of operators that only choose by them. None is a file's name (aten::from_file, save)."""
_Symbol: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"\A(s|u|zf|zuf)\d{1,6}\Z")]
_Float: TypeAlias = float | Literal["Infinity", "-Infinity", "NaN"]


class _Union(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Tagged union: one member, of several that are possible."""


class Device(msgspec.Struct):
    type: Literal["cpu"]
    index: int | None = None


class Hint(_Union):
    as_int: int | UnsetType = UNSET
    as_bool: bool | UnsetType = UNSET
    as_float: _Float | UnsetType = UNSET


class SymExpr(msgspec.Struct):
    expr_str: Expression
    hint: Hint | None = None


class SymInt(_Union):
    as_expr: SymExpr | UnsetType = UNSET
    as_int: int | UnsetType = UNSET


class SymFloat(_Union):
    as_expr: SymExpr | UnsetType = UNSET
    as_float: _Float | UnsetType = UNSET


class SymBool(_Union):
    as_expr: SymExpr | UnsetType = UNSET
    as_bool: bool | UnsetType = UNSET


class TensorMeta(msgspec.Struct):
    dtype: int
    sizes: list[SymInt]
    requires_grad: bool
    device: Device
    strides: list[SymInt]
    storage_offset: SymInt
    layout: int


class Named(msgspec.Struct):
    name: Name


class SymArgument(_Union):
    as_name: Name | UnsetType = UNSET
    as_int: int | UnsetType = UNSET
    as_float: _Float | UnsetType = UNSET
    as_bool: bool | UnsetType = UNSET


class OptionalTensor(_Union):
    as_tensor: Named | UnsetType = UNSET
    as_none: bool | UnsetType = UNSET


class Complex(msgspec.Struct):
    real: _Float
    imag: _Float


class GraphArgument(msgspec.Struct):
    name: Name
    graph: Graph


class Argument(_Union):
    as_none: bool | UnsetType = UNSET
    as_tensor: Named | UnsetType = UNSET
    as_tensors: list[Named] | UnsetType = UNSET
    as_int: int | UnsetType = UNSET
    as_ints: list[int] | UnsetType = UNSET
    as_float: _Float | UnsetType = UNSET
    as_floats: list[_Float] | UnsetType = UNSET
    as_string: str | UnsetType = UNSET
    as_sym_int: SymArgument | UnsetType = UNSET
    as_sym_ints: list[SymArgument] | UnsetType = UNSET
    as_scalar_type: int | UnsetType = UNSET
    as_memory_format: int | UnsetType = UNSET
    as_layout: int | UnsetType = UNSET
    as_device: Device | UnsetType = UNSET
    as_bool: bool | UnsetType = UNSET
    as_bools: list[bool] | UnsetType = UNSET
    as_sym_bool: SymArgument | UnsetType = UNSET
    as_sym_bools: list[SymArgument] | UnsetType = UNSET
    as_graph: GraphArgument | UnsetType = UNSET
    as_optional_tensors: list[OptionalTensor] | UnsetType = UNSET
    as_sym_float: SymArgument | UnsetType = UNSET
    as_sym_floats: list[SymArgument] | UnsetType = UNSET
    as_optional_tensor: OptionalTensor | UnsetType = UNSET
    as_complex: Complex | UnsetType = UNSET


class NamedArgument(msgspec.Struct):
    name: Name
    arg: Argument
    kind: int | None = None

    def __post_init__(self) -> None:
        if self.arg.as_string not in (UNSET, "cpu") and self.name not in _MODES:
            raise ValueError(
                f"gives the text {self.arg.as_string[:_MAX_SHOWN]!r} to an operator as its {str(self.name)!r}"
            )


class Node(msgspec.Struct):
    target: Operator
    inputs: list[NamedArgument]
    outputs: list[Argument]
    metadata: Dropped
    is_hop_single_tensor_return: bool | None = None
    name: Name | None = None


class Graph(msgspec.Struct):
    inputs: list[Argument]
    outputs: list[Argument]
    nodes: list[Node]
    tensor_values: dict[str, TensorMeta]
    sym_int_values: dict[str, SymInt]
    sym_bool_values: dict[str, SymBool]
    is_single_tensor_return: bool = False
    sym_float_values: dict[str, SymFloat] = {}


class ArgumentSpec(msgspec.Struct):
    arg: Argument


class ParameterSpec(msgspec.Struct):
    arg: Named
    parameter_name: Path


class BufferSpec(msgspec.Struct):
    arg: Named
    buffer_name: Path
    persistent: bool


class TensorConstantSpec(msgspec.Struct):
    arg: Named
    tensor_constant_name: Path


class BufferMutationSpec(msgspec.Struct):
    buffer_name: Path

    def __post_init__(self) -> None:
        raise ValueError(
            f"changes its buffer {str(self.buffer_name)!r} when it runs, so that an answer would depend on those"
            " before it: call the model's .eval() before it is exported"
        )


class InputSpec(_Union):
    user_input: ArgumentSpec | UnsetType = UNSET
    parameter: ParameterSpec | UnsetType = UNSET
    buffer: BufferSpec | UnsetType = UNSET
    tensor_constant: TensorConstantSpec | UnsetType = UNSET


class OutputSpec(_Union):
    user_output: ArgumentSpec | UnsetType = UNSET
    buffer_mutation: BufferMutationSpec | UnsetType = UNSET


class Signature(msgspec.Struct):
    input_specs: list[InputSpec]
    output_specs: list[OutputSpec]


class Range(msgspec.Struct):
    min_val: int | None
    max_val: int | None


class CallSignature(msgspec.Struct):
    inputs: list[Argument]
    outputs: list[Argument]
    in_spec: str
    out_spec: str
    forward_arg_names: list[Name] | None = None


class Call(msgspec.Struct):
    fqn: Literal[""]
    signature: CallSignature


class GraphModule(msgspec.Struct):
    graph: Graph
    signature: Signature
    module_call_graph: list[msgspec.Raw]


class Version(msgspec.Struct):
    major: int
    minor: int


class Program(msgspec.Struct):
    """Whole file models/model.json."""

    graph_module: GraphModule
    opset_version: dict[str, int]
    range_constraints: dict[_Symbol, Range]
    schema_version: Version
    verifiers: list[Literal["ATEN", "TRAINING"]]
    torch_version: str = ""


class Payload(msgspec.Struct):
    """One tensor of a config."""

    path_name: str
    is_param: bool
    use_pickle: bool
    tensor_meta: TensorMeta | None

    def __post_init__(self) -> None:
        if self.use_pickle or not re.fullmatch(r"(weight|tensor)_\d{1,9}", self.path_name):
            raise ValueError("keeps an object or a tensor as a pickle, which can run code when it is loaded")


class Payloads(msgspec.Struct):
    """File that says which tensor is kept where."""

    config: dict[Annotated[str, msgspec.Meta(pattern=rf"\A({Path.pattern.pattern})\Z")], Payload]


class Tree(msgspec.Struct):
    """Nesting of arguments or results."""

    type: Literal["builtins.tuple", "builtins.list", "builtins.dict"] | None
    context: Annotated[str, msgspec.Meta(pattern=r"\A(null|\[(\"[^\"\\]*\"(, ?\"[^\"\\]*\")*)?\])\Z")] | None
    children_spec: list[Tree]

    @property
    def is_flat(self) -> bool:
        """Whether it is one tensor, or several that are not nested further."""
        return all(child.type is None for child in self.children_spec)


_Decoded = TypeVar("_Decoded")


def program(content: bytes) -> bytes:
    """Rewrite models/model.json; raises a ValueError when it holds more than tensors in, operators, tensors out."""
    found = _decode(content, Program)
    calls = found.graph_module.module_call_graph[:1]  # the others serve to take the program apart into modules again
    if not calls:
        raise ValueError("does not say how it is called")
    call = _decode(calls[0], Call)
    call.signature.in_spec = _spec(call.signature.in_spec, _takes_tensors)
    call.signature.out_spec = _spec(call.signature.out_spec, _gives_tensors)
    found.graph_module.module_call_graph = [msgspec.Raw(_encode(call))]
    return _encode(found)


def payloads(content: bytes) -> tuple[bytes, set[str]]:
    """Rewrite a config of weights or constants, and list the files it names; raises a ValueError like `program`."""
    found = _decode(content, Payloads)
    return _encode(found), {payload.path_name for payload in found.config.values()}


def _spec(text: str, holds: Callable[[Tree], bool]) -> str:
    version, tree = _decode(text.encode(), tuple[Literal[1], Tree])
    if not holds(tree):
        raise ValueError(
            "takes its inputs by keyword, or takes or gives nested tuples, lists or dicts: export a model"
            " whose forward() takes tensors by position and gives tensors"
        )
    return _encode((version, tree)).decode()


def _takes_tensors(tree: Tree) -> bool:
    return len(tree.children_spec) == 2 and tree.children_spec[0].is_flat and not tree.children_spec[1].children_spec


def _gives_tensors(tree: Tree) -> bool:
    return tree.is_flat


def _decode(content: bytes | msgspec.Raw, kind: type[_Decoded]) -> _Decoded:
    try:
        return msgspec.json.decode(content, type=kind, dec_hook=_check)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"is not a plain exported program: {error}") from None


def _check(kind: type[Any], value: Any) -> Any:
    """Decode the types that are not msgspec's own."""
    if kind is Dropped:
        return Dropped()
    if not isinstance(value, str) or not kind.pattern.fullmatch(value):
        raise ValueError(kind.unlike.format(value[:_MAX_SHOWN] if isinstance(value, str) else value))
    return kind(value)


def _encode(value: Any) -> bytes:
    return msgspec.json.encode(value, enc_hook=lambda each: str(each) if isinstance(each, str) else {})
