# make demo   pre-train a small R-MAE on rendered scenes, ending with pictures of it beside shipped weights
# make test   ruff, mypy and every test that is not slow; ARGS="..." goes to pytest
#
# Both make .venv and install everything first. PYTHON=python3.12 chooses the interpreter it is made
# of, VENV=path puts it elsewhere. An existing .venv with torch >= 2.6 keeps its torch.

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
# Test files that run side by side, each with one thread. 0 for one after another, as debuggers want it.
JOBS ?= 2

BIN := $(VENV)/bin
PY := $(BIN)/python
STAMP := $(VENV)/.rmae_d2-installed
CONSTRAINTS := $(VENV)/constraints.txt
SCENES := datasets/scenes
DEMO := output/demo/rmae_tiny_scenes

# Nothing of the caller's Python set-up may leak in: other packages, or installs that go elsewhere.
unexport PYTHONPATH PYTHONHOME PYTHONSTARTUP PIP_TARGET PIP_PREFIX PIP_USER PIP_CONSTRAINT \
	PIP_REQUIRE_HASHES VIRTUAL_ENV CONDA_PREFIX
export PYTHONNOUSERSITE := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1
export MPLBACKEND := Agg
# Caches of pip, matplotlib and iopath need a home; where there is none (containers), .venv is it.
ifeq ($(strip $(HOME)),)
export HOME := $(abspath $(VENV))/home
endif

# What `make gpu-wheels` gathers beside this package and Detectron2.
WHEELS := output/wheels
FROZEN := $(VENV)/frozen.txt
GPU_PYTHON ?= 3.12
PURE := fvcore iopath yacs omegaconf hydra-core antlr4-python3-runtime lvis portalocker cloudpickle termcolor \
	tabulate tqdm cycler pyparsing python-dateutil six tensorboard absl-py Markdown Werkzeug pytest pluggy iniconfig \
	sortedcontainers
# Not OpenCV, which is larger than all others together: Detectron2's pictures and LVIS need it, the kit does not.
COMPILED := pycocotools faster-coco-eval shapely matplotlib contourpy kiwisolver fonttools grpcio protobuf \
	tensorboard-data-server hypothesis

.DEFAULT_GOAL := help
.PHONY: help install demo test lint docs notebooks release-check gpu-wheels clean

help:
	@echo "make demo     pre-train a small R-MAE on rendered scenes; show it beside the shipped weights"
	@echo "make test     check style and types, run the tests (ARGS=\"-k masking\" goes to pytest)"
	@echo "make lint     check style and types only"
	@echo "make docs     build the documentation into output/site"
	@echo "make notebooks  execute the notebooks again, in place"
	@echo "make install  make $(VENV) and install everything (demo and test do so themselves)"
	@echo "make release-check   build wheel and sdist, check them, use them in an empty environment"
	@echo "make gpu-wheels   gather what a machine with torch and without an index lacks (GPU_PYTHON=3.12)"
	@echo "make clean    remove caches and build folders; $(VENV), datasets and output stay"

install: $(STAMP)

demo: $(STAMP)
	@echo "==> rendering scenes into $(SCENES) (skipped if they are there)"
	@$(BIN)/rmae-d2 scenes --output $(SCENES)
	@echo "==> pre-training R-MAE on them"
	@# A second run continues, or shows where the first one's pictures are; remove output/demo to start over.
	@DETECTRON2_DATASETS=datasets $(BIN)/rmae-d2 train --config-file demo/rmae_tiny_scenes.py \
		$(if $(wildcard $(DEMO)/last_checkpoint),--resume)
	@test -f $(DEMO)/model_final.pth || { echo "stopped before its end: \`make demo\` continues it" >&2; exit 1; }
	@echo "==> the first images of $(SCENES)/val: what this run makes of them, and what the shipped weights do"
	@$(BIN)/rmae-d2 visualize reconstruction --weights $(DEMO)/model_final.pth rmae-d2://rmae_scenes \
		--names "this short run" "shipped weights" --input $(SCENES)/val --max-images 4 \
		--output output/demo/beside_shipped

test: lint
	@echo "==> pytest (all but the slow ones)"
	@OMP_NUM_THREADS=1 $(PY) -m pytest -m "not slow" -n $(JOBS) --dist loadfile $(ARGS)

docs: $(STAMP)
	@$(PY) -m mkdocs build --quiet && echo "output/site/index.html"

# Of the standard library alone: it makes environments of its own. ARGS="--torch 2.6.0 2.15.0" names versions.
release-check:
	@$(PYTHON) tools/release_check.py $(ARGS)

# For a machine that has torch, torchvision, timm and scikit-image, and reaches no index. What is compiled is for
# GPU_PYTHON; what is not, for any.
gpu-wheels: $(STAMP)
	@rm -rf $(WHEELS) && mkdir -p $(WHEELS)
	@$(PY) -m pip freeze | grep '^[A-Za-z0-9_.-]*==' > $(FROZEN)
	@$(BIN)/rmae-d2 install-detectron2 --build-only $(WHEELS)
	@$(PY) -m pip wheel --quiet --no-deps --no-build-isolation -c $(FROZEN) -w $(WHEELS) . $(PURE)
	@$(PY) -m pip download --quiet --no-deps --only-binary :all: -c $(FROZEN) -d $(WHEELS) \
		--python-version $(GPU_PYTHON) --platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64 $(COMPILED)
	@du -sh $(WHEELS)
	@echo "there: pip install --no-deps $(WHEELS)/*.whl"
	@echo "       rmae-d2 benchmark gpu --output output/gpu"

notebooks: $(STAMP)
	@$(PY) notebooks/execute.py

lint: $(STAMP)
	@echo "==> ruff check, ruff format --check"
	@$(PY) -m ruff check --quiet --output-format concise .
	@$(PY) -m ruff format --quiet --check . || \
		{ echo "formatting differs; remedy: $(PY) -m ruff format ."; exit 1; }
	@echo "==> mypy rmae_d2"
	@$(PY) -m mypy rmae_d2

clean:
	@rm -rf build dist rmae_d2.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find configs notebooks rmae_d2 tests tools -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
	@echo "removed caches and build folders; $(VENV), datasets and output are still there"

$(PY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "rmae_d2 needs Python 3.10 or later as $(PYTHON); name another: make PYTHON=python3.12"; exit 1; }
	@echo "==> making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV) || \
		{ rm -f $(PY); echo "python -m venv failed; on Debian and Ubuntu: apt install python3-venv"; exit 1; }

# Not $(PY) as a normal prerequisite: its date is that of the interpreter behind the link.
$(STAMP): setup.py constraints.txt rmae_d2/commands/install_detectron2.py | $(PY)
	@mkdir -p "$$HOME" 2>/dev/null || true
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PY) -m ensurepip --upgrade >/dev/null
	@# A torch that is already there must not be exchanged for the tested one.
	@if $(PY) -c 'import re, sys; from importlib.metadata import version as v; v("torchvision"); \
		sys.exit(tuple(map(int, re.findall(r"\d+", v("torch"))[:2])) < (2, 6))' 2>/dev/null; then \
		echo "==> torch: keeping the one in $(VENV)"; \
		grep -vE '^torch(vision)?==' constraints.txt > $(CONSTRAINTS); \
	else \
		cp constraints.txt $(CONSTRAINTS); \
		echo "==> torch: installing the tested pair; on Linux PyPI's torch is the CUDA build (it runs on"; \
		echo "    CPUs too), about 3 GB to download: expect minutes"; \
		$(PY) -m pip install --quiet -c $(CONSTRAINTS) torch torchvision; \
	fi
	@echo "==> rmae_d2 and what it needs, with the versions of constraints.txt"
	@$(PY) -m pip install --quiet -c $(CONSTRAINTS) "setuptools>=64" "wheel>=0.40"
	@$(PY) -m pip install --quiet -c $(CONSTRAINTS) --no-build-isolation -e ".[dev]"
	@echo "==> Detectron2"
	@PIP_CONSTRAINT=$(CONSTRAINTS) $(BIN)/rmae-d2 install-detectron2
	@touch $@
