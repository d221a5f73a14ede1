# make demo   draw a picture and describe it in a real ComfyUI, headless
# make test   lint, type check and every test, those in a real browser (Chromium) included
# make screenshots   every picture of README, help pages and templates, anew (Chromium, minutes)
# make mini   train the miniature Janus from nothing, into build/janus-mini (hours on a CPU)
# All set up what they need in .venv and in your cache; COMFYUI_PATH=... uses a ComfyUI of your own.
PYTHON ?= python3
VENV := .venv/bin/python
RUN := PYTHONPATH=.:tests/setup:tests/support $(VENV)

.PHONY: help setup browser demo test screenshots mini clean

help:
	@sed -n 's/^# //p' Makefile

setup:
	@$(PYTHON) tests/setup/prepare.py

browser:
	@$(PYTHON) tests/setup/prepare.py --browser

demo: setup
	@$(RUN) tests/setup/demo.py

test:
	@$(PYTHON) tests/setup/prepare.py --browser --triton
	$(VENV) -m ruff check .
	$(VENV) -m ruff format --check .
	$(VENV) -m basedpyright
	$(VENV) -m pytest

screenshots: browser
	$(RUN) tests/setup/screenshots.py

mini: setup
	$(VENV) -m janus_core train all --out build/janus-mini --processes 2 $(if $(shell command -v g++),--compile)

clean:
	rm -rf .venv demo
