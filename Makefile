# make demo          draw a picture and describe it in a real ComfyUI, without a browser
# make check         lint, types and the fast unit tests, in about a minute
# make test          lint, types and every test, also in a real browser (Chromium)
# make test-newest   the browser tests on the last frontend that ComfyUI published, not a pinned one
# make soak          an hour of damaged files, wrong prompts and killed servers; SEED=1 for others, SCALE=0.02 for fewer
# make screenshots   retake every picture of README, help pages and templates (Chromium, minutes)
# make mini          train the miniature Janus from nothing, into build/janus-mini (hours on a CPU)
# make clean         delete .venv and the demo's pictures
# Each installs what it needs into .venv and your cache folder; COMFYUI_PATH=... uses a ComfyUI of your own.
PYTHON ?= python3
VENV := .venv/bin/python
RUN := PYTHONPATH=.:tests/setup:tests/support $(VENV)
# PyTorch's compiler needs a C++ compiler, and a path without a space.
COMPILE = $(if $(shell command -v g++),$(if $(filter 1,$(words $(CURDIR))),--compile))

# Tests that start no ComfyUI run in two processes.
PARALLEL := -n 2 --dist worksteal

SEED ?= 0
SCALE ?= 1

.PHONY: help setup browser demo lint unit check test test-newest soak screenshots mini clean

help:
	@sed -n '/^PYTHON/q; s/^# //p' Makefile

setup:
	@$(PYTHON) tests/setup/prepare.py

browser:
	@$(PYTHON) tests/setup/prepare.py --browser

demo: setup
	@$(RUN) tests/setup/demo.py

lint: setup
	$(VENV) -m ruff check .
	$(VENV) -m ruff format --check .
	$(VENV) -m basedpyright

unit: setup
	$(VENV) -m pytest -q $(PARALLEL) -m "not slow" tests/unit

check: setup
	@$(MAKE) --no-print-directory -j2 lint unit

test: lint
	@$(PYTHON) tests/setup/prepare.py --browser --triton --ray
	$(VENV) -m pytest $(PARALLEL) $(addprefix tests/,unit rehearsal kernels parity training ray soak)
	$(VENV) -m pytest tests/comfy tests/browser

test-newest: export FRONTEND = newest
test-newest: setup
	@$(PYTHON) tests/setup/prepare.py --browser
	$(VENV) -m pytest tests/browser -k newest

soak: setup
	@OMP_NUM_THREADS=1 $(RUN) tests/soak/campaign.py --seed $(SEED) --scale $(SCALE)

screenshots: browser
	$(RUN) tests/setup/screenshots.py

mini: setup
	$(VENV) -m torch.distributed.run --standalone --nproc-per-node 2 -m janus_core train all --out build/janus-mini $(COMPILE)

clean:
	rm -rf .venv demo
