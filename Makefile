# make demo: train a small RetinaNet by back-propagation, lean and with MAN, end with a table and pictures
# make test: run the test suite                                 make setup: what all need, once
# make lint: format, lint, types, spelling, documentation       make check: lint and test
# make test-long: the tests that take minutes, and those of MMSegmentation and MMPose, which it installs
# make test-matrix: a tenth of the tests on the oldest and the newest Python and torch, python3.10 and python3.12
# make docs: build the documentation to docs/_build/html
PYTHON ?= python3.11
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --disable-pip-version-check -c requirements/constraints.txt
STAMP := $(VENV)/.set-up
STAMP_LONG := $(VENV)/.set-up-long
# A folder of prebuilt wheels, if there is one: mmcv with its ops takes ten minutes to compile on two cores.
WHEELS ?= $(wildcard ../shared/wheels)
export PIP_FIND_LINKS := $(strip $(abspath $(WHEELS)) $(PIP_FIND_LINKS))

.PHONY: setup demo test test-long test-matrix lint docs check format clean

setup: $(STAMP)

$(STAMP): requirements/constraints.txt requirements/stack.txt requirements/sr.txt requirements/tests.txt requirements/docs.txt requirements/analysis.txt
	$(PYTHON) -c 'import sys; assert sys.version_info[:2] == (3, 11), f"Python 3.11 is needed, found {sys.version}; set PYTHON="'
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@echo '== 1/3 torch =='
	$(PIP) torch torchvision 'setuptools<80' wheel ninja
	@echo '== 2/3 mmcv with its ops (compiles for about ten minutes unless a wheel is found) =='
	CFLAGS=-g0 MMCV_WITH_OPS=1 $(PIP) --no-build-isolation mmcv
	@echo '== 3/3 the rest =='
	$(PIP) -r requirements/stack.txt -r requirements/sr.txt -r requirements/tests.txt -r requirements/docs.txt -r requirements/analysis.txt
	@# opencv-python wants a display library that servers lack; the headless build has the same modules
	$(PY) -c 'import cv2' 2>/dev/null || $(PIP) --force-reinstall --no-deps opencv-python-headless
	$(PIP) --no-build-isolation --no-deps -e .
	$(PY) -c 'import man_mm, mmdet, mmpretrain, mmagic, mmcv.ops; print("man_mm", man_mm.__version__, "is set up")'
	touch $@

$(STAMP_LONG): $(STAMP) requirements/long.txt
	$(PIP) --no-deps -r requirements/long.txt
	touch $@

demo: setup
	$(PY) benchmarks/demo/demo.py

test: setup
	$(PY) -m pytest -n auto --dist loadfile -m 'not long'  # a worker a core; tests run on one thread

test-long: $(STAMP_LONG)
	$(PY) -m pytest -m long

test-matrix:
	$(PYTHON) benchmarks/version_matrix.py

docs: setup
	$(PY) -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo 'docs/_build/html/index.html'

lint: setup
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/codespell
	$(MAKE) docs

check: lint test

format: setup
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

clean:
	rm -rf $(VENV) work_dirs build docs/_build *.egg-info
