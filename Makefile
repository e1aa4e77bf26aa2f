# Python that creates the environment, the environment (made if missing; an existing one is added to, and nothing
# in it that works is replaced), and what to install as Detectron2 (empty: keep it or install the tested build).
PYTHON ?= python3
VENV ?= .venv
DETECTRON2 ?=

PY := $(VENV)/bin/python
STAMP := $(VENV)/.dvis_d2-installed

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow lint docs wheel stats clean

help:
	@echo 'make demo        train on drawn shapes, evaluate, draw a sheet to output/demo/ (10 to 20 minutes, CPU)'
	@echo 'make test        run the tests'
	@echo 'make test-slow   run the slow tests too'
	@echo 'make lint        check style with ruff and types with mypy'
	@echo 'make docs        build the site of the documents to output/docs/'
	@echo 'make wheel       build the wheel and try it in a fresh environment'
	@echo 'make stats       figures of the code against their goals'
	@echo 'make install     only make the environment and install into it; every target above but wheel and stats does so first'
	@echo 'make clean       remove caches and build files (not $(VENV), output/ or data sets)'
	@echo
	@echo 'PYTHON=python3.11        Python (>= 3.10) that creates the environment   [$(PYTHON)]'
	@echo 'VENV=/path/to/env        environment to use, made if it is missing       [$(VENV)]'
	@echo 'DETECTRON2=source        Detectron2 for pip to install: git+https://..., a folder or a wheel'
	@echo '                         (default: the one in the environment, else a tested build)'

install: $(STAMP)

demo: $(STAMP)
	$(PY) -m dvis_d2 train --config-file configs/shapes/shapes_easy.yaml --resume OUTPUT_DIR output/demo

test: $(STAMP)
	$(PY) -m pytest -m "not slow"

test-slow: $(STAMP)
	$(PY) -m pytest

lint: $(STAMP)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

docs: $(STAMP)
	$(PY) -m sphinx -W --keep-going -q docs output/docs

wheel:
	$(PYTHON) tools/check_wheel.py

stats:
	@$(PYTHON) tools/stats.py

clean:
	rm -rf build *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis output/docs
	find dvis_d2 experiments demo tools tests -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp holds the DETECTRON2 that was installed, so that naming another one installs it.
ifneq ($(strip $(DETECTRON2)),)
ifneq ($(strip $(DETECTRON2)),$(shell cat '$(STAMP)' 2>/dev/null))
.PHONY: $(STAMP)
endif
endif

$(STAMP): requirements.txt setup.py tools/install.py dvis_d2/_detectron2.py | $(PY)
	$(PY) tools/install.py --stamp '$@' --detectron2 '$(strip $(DETECTRON2))'

# ensurepip is looked for first: without it `venv` fails half-way and leaves a folder that looks complete.
$(PY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo 'dvis_d2 needs Python 3.10 or later, and $(PYTHON) is not one: make PYTHON=python3.11 ...' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo '$(PYTHON) cannot make environments: its venv or ensurepip is missing.' >&2; \
	  echo 'Install it (Debian, Ubuntu: apt install python3-venv) or name an environment: make VENV=/path ...' >&2; \
	  exit 1; }
	$(PYTHON) -m venv '$(VENV)'
