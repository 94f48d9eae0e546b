"""Stored graphs made to execute code or to fill the memory: refused in one sentence."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from refusals import assert_refused
from run_folders import change_graph, operator, rename_tensor, seal


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("builtins.eval", ["CODE"]),
        ("builtins.exec.default", ["CODE"]),
        ("os.system", ["COMMAND"]),
        ("operator.attrgetter", ["__globals__"]),
        ("operator.methodcaller", ["system"]),
        ("operator.pow", [9, 999_999_999]),
        ("operator.lshift", [1, 1 << 40]),
        ("torch.load", ["CANARY"]),
        ("torch.ops.load_library", ["CANARY"]),
        ("aten.save.default", [{"node": "IMAGES"}, "CANARY"]),
        ("aten.from_file.default", ["CANARY", True, 8]),
        ("aten.manual_seed.default", [1]),
        ("aten.set_grad_enabled.default", [True]),
        ("aten.relu_.default", [{"node": "IMAGES"}]),
        ("aten.resize.default", [{"node": "IMAGES"}, [1 << 40]]),
        ("aten.sparse_csr_tensor.default", [[0], [0], [1.0]]),
        ("aten.segment_reduce.default", [{"node": "IMAGES"}, "sum"]),
        ("aten.fbgemm_linear_fp16_weight.default", [{"node": "IMAGES"}] * 3),
        ("aten.max_unpool2d.out", [{"node": "IMAGES"}] * 4),
        ("aten.embedding_bag.default", [{"node": "IMAGES"}] * 3),
        ("aten._embedding_bag.default", [{"node": "IMAGES"}] * 3),
        ("aten.avg_pool2d_backward.default", [{"node": "IMAGES"}] * 2),
        ("aten.lstm.data", [{"node": "IMAGES"}] * 2),
        ("aten.combinations.default", [{"node": "IMAGES"}, 1 << 30]),
        ("aten.linalg_svd.default", [{"node": "IMAGES"}]),
        ("aten.rand.default", [[2]]),
        ("aten.randn_like.default", [{"node": "IMAGES"}]),
        ("aten.bernoulli.p", [{"node": "IMAGES"}, 0.5]),
        ("aten.multinomial.default", [{"node": "IMAGES"}, 1]),
        ("aten.relu.__globals__", []),
        ("aten.__class__.default", []),
        ("aten.relu.__class__", []),
        ("aten.relu.default.__call__.__globals__", []),
        ("aten.pow.int_to_int", [9, 999_999_999]),
        ("aten.mul.left_t", [[1], 1 << 40]),
        ("aten.factorial.int", [1 << 30]),
        ("c10d.send.default", []),
        ("prim.device", []),
        ("inductor._alloc_from_pool.default", []),
        ("profiler._record_function_enter.default", ["CANARY"]),
        ("", []),
        ("aten..", []),
        ("x" * 100_000, []),
    ],
)
def test_operators_that_no_network_computes_with(
    name: str, args: list[Any], run: Path, canary: Path
) -> None:
    graph = json.loads((run / "graph.json").read_text())
    places = {
        "CANARY": str(canary),
        "COMMAND": f"touch {canary}",
        "CODE": f"open({str(canary)!r}, 'w')",
    }
    filled = [
        {"node": graph["input"]}
        if isinstance(arg, dict)
        else places.get(arg, arg)
        if isinstance(arg, str)
        else arg
        for arg in args
    ]
    change_graph(run, operator(name, *filled))
    assert_refused(run, canary, r"its operator .* is not one that a run may hold\.$")


def rename_input(graph: dict[str, Any], name: str) -> None:
    text = json.dumps(graph["nodes"]).replace(
        json.dumps({"node": graph["input"]}), json.dumps({"node": name})
    )
    graph["nodes"], graph["input"] = json.loads(text), name


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


INJECTION = "x=open('{canary}', 'w')"
GRAPHS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "code as a node's name": (
        lambda g: g["nodes"][0].update(name=INJECTION),
        "an operator has the name",
    ),
    "code as the input's name": (lambda g: rename_input(g, INJECTION), "its input has the name"),
    "code as a keyword": (
        operator("aten.relu.default", **{INJECTION: 1}),
        "other arguments than it has",
    ),
    "code as a module": (
        lambda g: g["nodes"][0].update(module='"); open("{canary}", "w'),
        "comes from a module",
    ),
    "code as a tensor's name": (
        lambda g: rename_tensor(g, 'w") or open("{canary}", "w'),
        "disagree on",
    ),
    "a keyword as a name": (lambda g: g["nodes"][0].update(name="class"), "has the name 'class'"),
    "two nodes of one name": (
        lambda g: g["nodes"].append(g["nodes"][0]),
        "an operator has the name",
    ),
    "a later node": (lambda g: g["nodes"].reverse(), "which is unknown"),
    "a node that is not there": (operator("aten.relu.default", {"node": "nobody"}), "'nobody'"),
    "an unknown kind": (operator("aten.relu.default", {"global": "os"}), "the global 'os'"),
    "two kinds": (operator("aten.relu.default", {"node": "a", "tensor": "b"}), "has the keys"),
    "a kind that is no text": (operator("aten.relu.default", {"node": ["a"]}), "which is unknown"),
    "a dtype by path": (
        operator("aten.zeros.default", [1], dtype={"dtype": "ops.aten"}),
        "the dtype 'ops.aten'",
    ),
    "another device": (
        operator("aten.zeros.default", [1], device={"device": "meta"}),
        "the device 'meta'",
    ),
    "a list repeated": (
        operator("operator.mul", [1], 1 << 40),
        "computes a number from something else",
    ),
    "a text repeated": (
        operator("operator.mul", "x", 1 << 40),
        "computes a number from something else",
    ),
    "huge values": (operator("aten.zeros.default", [1 << 20, 1 << 20]), "gives .* elements"),
    "numbers beyond every type": (
        operator("aten.zeros.default", [10**40]),
        "do not fit each other",
    ),
    "a huge input": (lambda g: g.update(input_shape=[1 << 39, 1 << 39]), "its input is"),
    "a huge tensor": (
        lambda g: next(iter(g["tensors"].values())).update(shape=[1 << 39]),
        "expected at most 2,147,483,648 elements",
    ),
    "another shape": (
        lambda g: next(iter(g["tensors"].values())).update(shape=[1 << 31]),
        "expected float32 of",
    ),
    "a huge packed tensor": (
        lambda g: g["tensors"]["0.quantized_weight.codes"].update(shape=[1 << 15] * 2),
        "bytes for codes of the shape",
    ),
    "codes without a width": (
        lambda g: g["tensors"]["0.quantized_weight.codes"].update(grid=[0, 0]),
        "holds codes from 0 to 0",
    ),
    "codes of any width": (
        lambda g: g["tensors"]["0.quantized_weight.codes"].update(grid=[0, 1 << 62]),
        "holds codes from",
    ),
    **{
        f"codes as {dtype}": (
            lambda g, dtype=dtype: g["tensors"]["0.quantized_weight.codes"].update(dtype=dtype),
            f"holds codes from .* as {dtype}",
        )
        for dtype in ("float32", "int64", "bool")
    },
    "too many operators": (
        lambda g: g.update(nodes=g["nodes"][:1] * 30_001),
        "has 30,001 operators, expected at most 30,000",
    ),
    "dropout in attention": (
        operator("aten.scaled_dot_product_attention.default", *[{"node": "relu"}] * 3, None, 0.5),
        "aten.scaled_dot_product_attention.default' draws random numbers in planted",
    ),
    "dropout": (
        operator("aten.native_dropout.default", {"node": "relu"}, 0.5, None),
        "draws random numbers",
    ),
    "dropout switched by a tensor": (
        operator("aten.feature_dropout.default", {"node": "relu"}, 0.5, train={"node": "relu"}),
        "draws random numbers",
    ),
    "a negative size": (
        lambda g: next(iter(g["tensors"].values())).update(shape=[-1]),
        "is no stored graph",
    ),
    "an unknown key": (lambda g: g.update(code="x"), "is no stored graph: code"),
    "another format": (lambda g: g.update(format=2), "is no stored graph: format"),
    "nodes that are none": (lambda g: g.update(nodes=[1]), r"is no stored graph: nodes\.0"),
    "deep nesting": (operator("aten.relu.default", nested(10_000)), "is no stored graph"),
    "a deep output": (lambda g: g.update(output=nested(500)), "is no stored graph"),
    "a dictionary that is none": (lambda g: g.update(output={"dict": 1}), "than a list"),
    "a dictionary without pairs": (lambda g: g.update(output={"dict": [[1]]}), "than pairs"),
    "a named tuple of one thing": (lambda g: g.update(output={"namedtuple": ["P"]}), "no three"),
    "a named tuple without values": (
        lambda g: g.update(output={"namedtuple": ["P", ["a"], []]}),
        "other fields than values",
    ),
    "code as the name of a tuple": (
        lambda g: g.update(output={"namedtuple": [INJECTION, ["a"], [1]]}),
        "a namedtuple has the names",
    ),
    "code as the name of a field": (
        lambda g: g.update(output={"namedtuple": ["P", [INJECTION], [1]]}),
        "a namedtuple has the names",
    ),
    "a field that Python has": (
        lambda g: g.update(output={"namedtuple": ["P", ["__class__"], [1]]}),
        "a namedtuple has the names",
    ),
    "a field that is a number": (
        lambda g: g.update(output={"namedtuple": ["P", [1], [1]]}),
        "a namedtuple has the names",
    ),
    "two fields of one name": (
        lambda g: g.update(output={"namedtuple": ["P", ["a", "a"], [1, 1]]}),
        "a namedtuple has the names",
    ),
    "a thousand fields": (
        lambda g: g.update(
            output={"namedtuple": ["P", [f"a{i}" for i in range(1000)], list(range(1000))]}
        ),
        "a namedtuple has the names",
    ),
    "a key that is a list": (lambda g: g.update(output={"dict": [[[1], 2]]}), "has a key"),
}


BATCH = ("batch", "aten.sym_size.int", ["IMAGES", 0])
COLUMN = ("column", "aten.full.default", [[1 << 26, 1, 1], 1.0])
WEIGHT = ("weight", "aten.full.default", [[4, 1], 1.0])
LSTM = ["column", ["column", "column"], ["weight", "weight"], False, 1, 0.0, False, False, False]
LONG = ("long", "aten.full.default", [[1 << 30], 1.0])
GROWING: dict[str, tuple[list[tuple[str, str, list[Any]]], str]] = {
    "a number squared again and again": (
        [(f"x{i}", "operator.mul", [f"x{i - 1}" if i else 3] * 2) for i in range(40)],
        "from more than 32 others",
    ),
    "a size squared again and again": (
        [
            BATCH,
            *((f"x{i}", "operator.mul", [f"x{i - 1}" if i else "batch"] * 2) for i in range(40)),
        ],
        "from more than 32 others",
    ),
    "a long number": ([("x", "operator.mul", [10**100, 2])], "a number from something else"),
    "a value that grows with the batch": (
        [
            BATCH,
            ("x", "operator.mul", ["batch", 1 << 40]),
            ("y", "aten.full.default", [["x"], 1.0]),
        ],
        "aten.full.default gives 2,199,023,255,552 elements\\.$",
    ),
    "a billion results": (
        [LONG, ("x", "aten.unbind.int", ["long"])],
        "cuts an axis of 1,073,741,824",
    ),
    "a million steps": ([COLUMN, WEIGHT, ("x", "aten.lstm.input", LSTM)], "cuts an axis"),
    "a large value": (
        [("x", "aten.full.default", [[1 << 16, (1 << 15) + 1], 1.0])],
        "gives 2,147,549,184 elements",
    ),
    "a billion parts": ([LONG, ("x", "aten.split.Tensor", ["long", 1])], "cuts an axis"),
}


@pytest.mark.parametrize("name", GROWING)
def test_graphs_that_would_fill_the_memory(name: str, run: Path, canary: Path) -> None:
    added, message = GROWING[name]
    names = {one for one, _, _ in added} | {"IMAGES"}

    def reference(value: Any, images: str) -> Any:
        if isinstance(value, list):
            return [reference(one, images) for one in value]
        is_name = isinstance(value, str) and value in names
        return {"node": images if value == "IMAGES" else value} if is_name else value

    def change(graph: dict[str, Any]) -> None:
        graph["nodes"] += [
            {"name": node, "operator": operator, "args": reference(args, graph["input"])}
            for node, operator, args in added
        ]

    change_graph(run, change)
    assert_refused(run, canary, message)


@pytest.mark.parametrize("name", GRAPHS)
def test_graphs_that_no_network_has(name: str, run: Path, canary: Path) -> None:
    change, message = GRAPHS[name]

    def with_path(graph: dict[str, Any]) -> None:
        change(graph)
        text = json.dumps(graph).replace("{canary}", str(canary))
        graph.clear()
        graph.update(json.loads(text))

    with_limit = pytest.raises(RecursionError) if name == "deep nesting" else None
    if with_limit is not None:  # Python's own writer gives up on it
        with with_limit:
            change_graph(run, change)
        text = (
            (run / "graph.json").read_text().replace('"output":', f'"x":{"[" * 99_999},"output":')
        )
        (run / "graph.json").write_text(text)
        seal(run)
    else:
        change_graph(run, with_path)
    assert_refused(run, canary, message)
