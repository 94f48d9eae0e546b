"""What the comparison with other tools promises where none of them is installed."""

import ast
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from benchmarks.peers.__main__ import asked_peers, write_module
from benchmarks.peers.environments import PEERS, PROGRAMS, Peer
from benchmarks.peers.render import lead, rows
from mrecg.paper.networks import build


def _result(tool: str, top1: float, seconds: float | None, bits: str = "w4a4") -> dict[str, object]:
    return {"network": "n", "bits": bits, "tool": tool, "top1": top1, "seconds": seconds}


def test_programs_need_nothing_of_ours() -> None:
    assert {peer.program for peer in PEERS} <= {path.name for path in PROGRAMS.iterdir()}
    for path in PROGRAMS.glob("*.py"):
        tree = list(ast.walk(ast.parse(path.read_text())))
        imported = {
            name.name for node in tree if isinstance(node, ast.Import) for name in node.names
        }
        imported |= {str(node.module) for node in tree if isinstance(node, ast.ImportFrom)}
        assert not {name.partition(".")[0] for name in imported} & {"mrecg", "benchmarks"}, path


def test_every_version_is_pinned_and_every_row_is_another() -> None:
    assert all(peer.version for peer in PEERS)
    assert len({(peer.name, peer.bits) for peer in PEERS}) == len(PEERS)


def test_peers_are_asked_for_by_name_package_and_widths() -> None:
    assert asked_peers([], []) == list(PEERS)
    assert {peer.name for peer in asked_peers(["brevitas"], ["w2a4"])} == {
        "Brevitas, GPTQ",
        "Brevitas, Qronos",
    }
    assert len(asked_peers(["NNCF, defaults"], [])) == 1


def test_a_written_network_is_read_without_our_classes(tmp_path: Path) -> None:
    model, images = build("resnet18_small").eval(), torch.rand(2, 1, 28, 28)
    write_module(model, tmp_path / "float.pt")
    with zipfile.ZipFile(tmp_path / "float.pt") as parts:
        (pickled,) = (parts.read(name) for name in parts.namelist() if name.endswith("data.pkl"))
    assert b"mrecg" not in pickled
    assert b"jaxtyping" not in pickled
    read = torch.load(tmp_path / "float.pt", weights_only=False)
    with torch.no_grad():
        assert torch.equal(read(images), model(images))


def test_a_peer_that_is_not_installed_is_named(tmp_path: Path) -> None:
    peer = Peer("Some tool", "w8a8", "some-tool==1.0", (), "nncf_ptq.py")
    with pytest.raises(SystemExit, match=r"nncf_ptq\.py .* failed:[^$]*No module named 'nncf'"):
        peer.run(Path(sys.executable), tmp_path)


def test_a_peer_without_a_result_is_not_measured() -> None:
    peers = [Peer("a", "w4a4", "a==1", (), "a.py"), Peer("b", "w2a4", "b==2", (), "b.py")]
    found = [_result("float", 93, None, ""), _result("a", 91.234, 1.25) | {"processor": "c"}]
    assert rows(found, peers) == [
        ["n", "float", "", "93.00", "", "", ""],
        ["n", "2/4", "b", "not measured", "", "2", ""],
        ["n", "4/4", "a", "91.23", "1.2", "", "c"],
    ]
    assert rows([], peers) == []


def test_the_fastest_is_one_that_is_as_good() -> None:
    found = [_result("best", 92, 30.0), _result("as good", 91.8, 2), _result("fast", 90, 1)]
    assert "n 4/4 as good (91.80 % in 2.0 s)" in lead(found)
    assert lead([]) == lead(found[:1]) == "Nothing is compared yet."
