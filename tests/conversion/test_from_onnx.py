"""Networks of ONNX files compute what ONNX Runtime makes of the file, or are refused in a sentence."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import mrecg
import toys
from command_line import run
from mrecg.conversion.onnx_files import LARGEST_FILE
from mrecg.errors import ModelError
from mrecg.export.onnx.runtimes import open_file


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return toys.normal(*shape, seed=seed).numpy()


def write(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    constants: dict[str, np.ndarray],
    shape: Sequence[int | str] = ("n", 2, 8, 8),
    kind: int = TensorProto.FLOAT,
    made: int = TensorProto.FLOAT,
) -> Path:
    """Write a graph from `x` to `y`."""
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", kind, list(shape))],
        [helper.make_tensor_value_info("y", made, None)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("vendor", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    return path


def node(kind: str, inputs: str, output: str, **settings: Any) -> onnx.NodeProto:
    return helper.make_node(kind, inputs.split(), output.split(), **settings)


def constant(array: Any, name: str) -> onnx.NodeProto:
    return helper.make_node(
        "Constant", [], [name], value=numpy_helper.from_array(np.array(array), name)
    )


WEIGHTS = {
    "w1": normal(8, 2, 3, 3) / 4,
    "w2": normal(8, 8, 3, 3, seed=1) / 8,
    "matrix": normal(8, 6, seed=2),
    "bias": normal(6, seed=3),
}
STEM = [node("Conv", "x w1", "a", pads=[1, 1, 1, 1]), node("Relu", "a", "b")]


def tokens_by_computed_sizes() -> list[onnx.NodeProto]:
    """As exporters write `x.flatten(2).transpose(1, 2) @ w + b`: sizes from sizes, constants as nodes."""
    return [
        *STEM,
        node("Shape", "b", "size"),
        constant(np.array([0, 1]), "places"),
        node("Gather", "size places", "first"),
        constant(np.array([-1]), "rest"),
        node("Concat", "first rest", "target", axis=0),
        node("Reshape", "b target", "c"),
        node("Transpose", "c", "d", perm=[0, 2, 1]),
        node("MatMul", "d matrix", "e"),
        node("Add", "e bias", "f"),
        node("ReduceMean", "f", "y", axes=[1], keepdims=0),
    ]


GRAPHS: dict[str, list[onnx.NodeProto]] = {
    "tokens": tokens_by_computed_sizes(),
    "resize, split and slice": [
        *STEM,
        constant(np.array([1, 1, 2, 2], np.float32), "scales"),
        helper.make_node("Resize", ["b", "", "scales"], ["c"], mode="nearest",
                         coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
        constant(np.array([3, 5]), "parts"),
        node("Split", "c parts", "d e", axis=1),
        *(constant(np.array([one]), name) for name, one in {"from": 0, "to": 3, "axis": 1}.items()),
        node("Slice", "e from to axis", "f"),
        node("Add", "d f", "g"),
        node("Concat", "g e", "h", axis=1),
        node("Conv", "h w2", "y", pads=[1, 1, 1, 1]),
    ],
    "resized to a size of sizes": [
        *STEM,
        node("Shape", "b", "size"),
        constant(np.array([1, 1, 2, 2]), "factors"),
        node("Mul", "size factors", "target"),  # the batch is in it
        helper.make_node("Resize", ["b", "", "", "target"], ["c"], mode="linear",
                         coordinate_transformation_mode="half_pixel"),
        node("Conv", "c w2", "y", pads=[1, 1, 1, 1]),
    ],
    "hard swish, written out": [
        *STEM[:1],
        constant(np.float32(3), "three"), constant(np.float32(0), "low"), constant(np.float32(6), "six"),
        node("Add", "three a", "b"), node("Clip", "b low six", "c"), node("Mul", "a c", "d"),
        node("Div", "d six", "e"), node("Conv", "e w2", "y", pads=[1, 1, 1, 1]),
    ],
    "gemm and norm": [
        *STEM,
        node("GlobalAveragePool", "b", "c"),
        node("Flatten", "c", "d"),
        node("Gemm", "d matrix bias", "y", transB=0),
    ],
    "asymmetric padding": [
        node("Conv", "x w1", "a", pads=[0, 0, 1, 1], strides=[2, 2]),
        node("HardSigmoid", "a", "b", alpha=0.25),
        node("Conv", "b w2", "y", auto_pad="SAME_UPPER"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", GRAPHS)
def test_a_network_is_quantized_and_exported_again(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / "float.onnx", GRAPHS[name], WEIGHTS)
    model, x = mrecg.from_onnx(path), toys.images(16)
    wanted = torch.from_numpy(open_file("onnxruntime", path)(x.numpy())[0])
    torch.testing.assert_close(model(x), wanted, rtol=1e-4, atol=1e-5)
    quantized = mrecg.quantize(model, x, recipe=mrecg.preset("w8a8-rtn").for_backend("onnxruntime"))
    assert quantized.record.left_in_float == ()
    assert (quantized.model(x) - wanted).norm() < 0.05 * wanted.norm()
    file = mrecg.export_onnx(quantized, tmp_path / "quantized.onnx")
    assert mrecg.verify_onnx(quantized, file, x, repeats=0).largest_distance < 0.51


@pytest.mark.parametrize("number", range(3))
def test_names_that_the_exporter_gives_are_free(number: int, tmp_path: Path) -> None:
    """torch's exporter numbers its own values, so a file of its making holds weights of such names."""
    name = f"val_{number}"
    nodes = [node("Conv", f"x {name}", "a"), node("HardSigmoid", "a", "b"), node("Mul", "a b", "y")]
    path = write(tmp_path / "float.onnx", nodes, {name: WEIGHTS["w1"]})
    model, x = mrecg.from_onnx(path), toys.images(16)
    quantized = mrecg.quantize(model, x, recipe=mrecg.preset("w8a8-rtn"))
    assert mrecg.export_onnx(quantized, tmp_path / "quantized.onnx").exists()


def test_every_product_with_a_constant_matrix_is_a_layer(tmp_path: Path) -> None:
    model = mrecg.from_onnx(write(tmp_path / "x.onnx", GRAPHS["tokens"], WEIGHTS))
    chain = mrecg.prepare(model, toys.images(), recipe=mrecg.preset("w8a8-rtn")).graph.chain
    kinds = [layer.kind for unit in chain.units for layer in unit.layers]
    assert kinds == ["conv2d", "linear"]


def test_a_size_that_the_file_leaves_open_is_given(tmp_path: Path) -> None:
    open_size = ("n", 2, "h", "w")
    path = write(tmp_path / "x.onnx", GRAPHS["tokens"], WEIGHTS, open_size)
    with pytest.raises(
        ModelError, match=r"input 'x' of .* is 2×\?×\?, got no size; give its shape"
    ):
        mrecg.from_onnx(path)
    for shape in ((2, 6, 6), {"x": (2, 6, 6)}):
        assert mrecg.from_onnx(path, shape)(toys.normal(3, 2, 6, 6)).shape == (3, 6)
    wrong: list[tuple[Any, str]] = [
        (5, "The shape is an int, expected a Sequence"),
        ("2x6", "A size of the input 'x' is a str, expected an int; give sizes without the batch"),
        ({"x": 5}, "The shape of the input 'x' is an int, expected a Sequence"),
        ((2, 6.0, 6), "A size of the input 'x' is a float"),
    ]
    for given, message in wrong:
        with pytest.raises(ModelError, match=message):
            mrecg.from_onnx(path, given)


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("batch", [1, 4])
def test_a_fixed_batch_becomes_any_batch(name: str, batch: int, tmp_path: Path) -> None:
    x = toys.images(5)
    free = mrecg.from_onnx(write(tmp_path / "free.onnx", GRAPHS[name], WEIGHTS))
    fixed = mrecg.from_onnx(write(tmp_path / "x.onnx", GRAPHS[name], WEIGHTS, (batch, 2, 8, 8)))
    torch.testing.assert_close(fixed(x), free(x))


def test_weights_beside_the_file_are_read(tmp_path: Path) -> None:
    path = write(tmp_path / "x.onnx", GRAPHS["tokens"], WEIGHTS)
    wanted = mrecg.from_onnx(path)(toys.images())
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    torch.testing.assert_close(mrecg.from_onnx(path)(toys.images()), wanted)


def stored_elsewhere(path: Path, location: str) -> Path:
    """Change where the file wants its first weight from."""
    model = onnx.load(path)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", location
    path.write_bytes(model.SerializeToString())
    return path


def linked(path: Path) -> Path:
    (path.parent / "weights.bin").symlink_to("/etc/hostname")
    return stored_elsewhere(path, "weights.bin")


def cut_off(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:-100])
    return path


def of_nodes(*nodes: onnx.NodeProto, **settings: Any) -> Callable[[Path], Path]:
    return lambda path: write(path, nodes, WEIGHTS, **settings)


def of_text(path: Path) -> Path:
    path.write_text("hello")
    return path


def huge(path: Path) -> Path:
    with path.open("r+b") as file:
        file.truncate(LARGEST_FILE + 1)  # sparse
    return path


def other_shape(path: Path) -> Path:
    model = onnx.load(path)
    model.graph.initializer[0].dims[0] = 2**40
    path.write_bytes(model.SerializeToString())
    return path


REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "no file": (lambda path: path.with_name("none.onnx"), "cannot be read: No such file"),
    "text": (of_text, "is no ONNX model"),
    "cut off": (cut_off, "is no ONNX model"),
    "huge": (huge, "bytes, expected at most"),
    "more dimensions than data": (other_shape, "is damaged"),
    "weights above": (lambda path: stored_elsewhere(path, "../w.bin"), "expected a file in its own folder"),
    "weights anywhere": (lambda path: stored_elsewhere(path, "/etc/passwd"), "expected a file in its own folder"),
    "weights behind a link": (linked, "expected a file in its own folder"),
    "weights missing": (lambda path: stored_elsewhere(path, "w.bin"), "which is not there"),
    "another domain": (of_nodes(node("Fancy", "x", "y", domain="vendor")), "holds Fancy of the domain 'vendor'"),
    "quantized": (of_nodes(constant(np.float32(1), "s"), node("QuantizeLinear", "x s", "q"),
                           node("DequantizeLinear", "q s", "y")), "is quantized already"),
    "half precision": (of_nodes(node("Relu", "x", "y"), kind=TensorProto.FLOAT16, made=TensorProto.FLOAT16),
                       "is float16, expected float32"),
    "no fixed shape": (of_nodes(node("NonZero", "x", "y"), made=TensorProto.INT64), "NonZero .* no fixed shape"),
    "mixed batch": (of_nodes(constant(np.array([6, 8, 8]), "all"), node("Reshape", "x all", "y"), shape=(3, 2, 8, 8)),
                    "dynamic batch"),
    "an enormous tensor": (of_nodes(constant(np.array([2**20, 2**20]), "big"), node("ConstantOfShape", "big", "z"),
                                    node("ReduceSum", "z", "s", keepdims=0), node("Add", "x s", "y")),
                           "elements, expected at most"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_taken_is_refused_in_a_sentence(name: str, tmp_path: Path) -> None:
    change, message = REFUSED[name]
    path = change(write(tmp_path / "x.onnx", GRAPHS["tokens"], WEIGHTS))
    with pytest.raises(ModelError, match=message) as caught:
        mrecg.from_onnx(path)
    assert "\n" not in str(caught.value)


def test_a_module_that_computes_something_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "mrecg.conversion.onnx_modules.functional.linear", lambda x, w, b: x @ w.T + 1.01 * b
    )
    path = write(tmp_path / "x.onnx", GRAPHS["gemm and norm"], WEIGHTS)
    with pytest.raises(
        ModelError, match=r"The output 'y' of .* differs from ONNX Runtime's by 0.0"
    ):
        mrecg.from_onnx(path)


def test_the_command_line_takes_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = WEIGHTS | {"w1": normal(8, 1, 3, 3) / 4}
    path = write(tmp_path / "x.onnx", GRAPHS["gemm and norm"], weights, ("n", 1, 28, 28))
    arguments = ["plan", "--network", f"onnx:{path}", "--preset", "w8a8-brecq"]
    assert run(arguments, capsys).returncode == 0  # images of the file's size
    refused = run([*arguments, "--weights", str(path)], capsys)
    assert refused.returncode == 1
    assert "has weights of its own; leave out the checkpoint" in refused.stderr
