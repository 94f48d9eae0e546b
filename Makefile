# Every target makes its own .venv when there is none; PYTHON chooses the interpreter for it.
PYTHON ?= python3
# Images of containers set it; then every process compiles anew what it imports.
unexport PYTHONDONTWRITEBYTECODE
BIN := .venv/bin

.PHONY: demo test check docs wheel-test test-lowest bench soak gpu format clean

demo: .venv/ready
	$(BIN)/mrecg demo

# A process per core with one thread each: the tests' networks are too small for threads.
test: .venv/ready
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist worksteal

check: .venv/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest tests/test_rooms.py

# The site, in site/; a dead link or anchor is an error.
docs: .venv/ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

# A wheel in an environment of its own, without the checkout: the quick start as it is written.
wheel-test: .venv/ready
	.ci/wheel-test

# The lowest versions that pyproject.toml admits, in an environment of their own.
test-lowest: .venv/ready
	.ci/test-lowest

# Direct dependencies only: what they need themselves is installed in today's versions, as a user gets it. But for torch: its
# older builds bring gigabytes of CUDA.
constraints-lowest.txt: pyproject.toml
	$(BIN)/uv pip compile --quiet --no-deps --resolution lowest-direct --no-annotate --no-emit-package torch \
		--custom-compile-command "make constraints-lowest.txt" --extra onnx $< --output-file $@

bench: .venv/ready
	$(BIN)/pytest -m slow
	$(BIN)/python -m benchmarks.accuracy measure
	$(BIN)/python -m benchmarks.accuracy measure --schedule paper --bits w2a2 --methods brecq qdrop
	for steps in 500 20000; do \
		$(BIN)/python -m benchmarks.accuracy measure --without everything --bits w2a2 --methods qdrop --steps $$steps || exit 1; done
	for name in nothing early-stop network-stage learned-ranges budget-rate reshuffling float32; do \
		$(BIN)/python -m benchmarks.accuracy measure --without $$name --bits w2a2 --methods qdrop-mrecg || exit 1; done
	$(BIN)/python -m benchmarks.accuracy measure --codes 500 --bits w2a4 w2a2 --methods qdrop-mrecg
	$(BIN)/python -m benchmarks.accuracy render
	$(BIN)/python -m benchmarks.held_out measure
	$(BIN)/python -m benchmarks.held_out judges
	$(BIN)/python -m benchmarks.held_out render
	for name in step network-step pipeline scaling memory range-memory kept-memory; do $(BIN)/python -m benchmarks.performance $$name || exit 1; done
	$(BIN)/python -m benchmarks.performance pipeline --networks resnet18 mobilenetv2_100 regnetx_600m resnet50 \
		--methods qdrop-mrecg --bits w4a4 --steps default
	$(BIN)/python -m benchmarks.performance network-step --batch 8 --networks mobilenetv2_100@224 resnet18@224 regnetx_600m@224
	$(BIN)/python -m benchmarks.performance memory --network mobilenetv2_100 --images 64
	$(BIN)/python -m benchmarks.performance threads # on an otherwise idle machine
	for steps in 20 2000; do \
		$(BIN)/python -m benchmarks.performance memory --network resnet18_small --side 28 --images 256 --steps $$steps || exit 1; done
	for name in native-kernels fused-clipping adam-gathered-once channels-last hand-written-gradients calibrated-image-scale float32; do \
		$(BIN)/python -m benchmarks.performance step --networks resnet18_small@28 mobilenetv2_small@28 --without $$name || exit 1; done
	$(BIN)/python -m benchmarks.performance render
	$(BIN)/pip install --quiet --no-deps --constraint constraints.txt timm torchvision # never another torch
	$(BIN)/python -m benchmarks.architectures measure
	$(BIN)/python -m benchmarks.architectures render
	for name in measure speed render draw; do $(BIN)/python -m benchmarks.detector $$name || exit 1; done
	$(BIN)/python -m benchmarks.export measure
	$(BIN)/python -m benchmarks.export measure --speed
	$(BIN)/python -m benchmarks.export render
	$(BIN)/python -m benchmarks.pictures render

# Runs that are killed, disks that fail, thousands of damaged inputs, memory over many runs: an hour.
soak: .venv/ready
	$(BIN)/python -m benchmarks.reliability measure
	$(BIN)/python -m benchmarks.reliability render

# On a machine with a CUDA device.
gpu: .venv/ready
	for options in "" "--precision tfloat32" "--precision tfloat32 --cuda-graphs" "--precision bfloat16 --cuda-graphs"; do \
		$(BIN)/python -m benchmarks.performance gpu $$options || exit 1; done
	$(BIN)/python -m benchmarks.performance render

format: .venv/ready
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt uv
	.ci/install --constraint constraints.txt torch
	.ci/install --constraint constraints.txt --editable ".[dev]"
	touch .venv/ready

clean:
	rm -rf .venv dist runs site
