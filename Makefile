# make demo   the whole way on real data that needs no download
# make test   style, types, tests; of each law some networks
# make test-all   all of it: the laws over all networks, 278 published architectures among them, long ways, then make test
# All make .venv first, the demo without linters and test tools. Needs Python >= 3.11, pip and make; PYTHON says which one.

PYTHON ?= python3
# Test processes; each gets one thread. More than two cores have work for: many tests wait for devices and programs.
TEST_JOBS ?= 3
PYTEST_ARGS ?=
# Pretrained networks and data sets of the tests; tests that need them skip without.
export EDGESPA_DATA ?= ../shared/data
# Hundreds of processes of tests load the package, which is to be compiled once.
unexport PYTHONDONTWRITEBYTECODE

VENV := .venv
BIN := $(VENV)/bin
USER_STAMP := $(VENV)/.installed-for-use
STAMP := $(VENV)/.installed
# Apart from the environment: the product works without torchvision and timm, and its tests must show it.
ZOO := .zoo
# Other runtimes of exported files than those of the product.
RUNTIMES := .runtimes
RUNTIME_NAMES := tflite-runtime tensorflow onnxruntime-1.19 onnxruntime-1.10
# The published library of structured pruning adapters, which benchmarks compare with: never a part of the product.
PEER := .peer
DEVICE_ARM64 := .device-arm64
PIP := $(BIN)/python -m pip --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help venv zoo runtimes demo picture test test-more test-all test-zoo device-arm64 test-arm64 fuzz lint format docs clean distclean peer bench-spa-quick

help:
	@echo 'make venv    install into $(VENV), exact versions of constraints.txt'
	@echo 'make demo    the whole way on real data that needs no download; installs what a user needs'
	@echo 'make test    style, types and tests; PYTEST_ARGS="-k name" for some'
	@echo 'make test-all  what make test leaves out (make test-more: laws over more networks, the zoo), then make test'
	@echo 'make test-zoo  masked = compacted over all networks of torchvision and families of timm and transformers'
	@echo 'make bench-spa-quick  adapters against fine-pruning, a slice of ten minutes'
	@echo 'make fuzz    damaged and hostile bundles, archives, task files and programs by the ten thousand'
	@echo 'make runtimes  tflite-runtime, TensorFlow, old ONNX Runtimes: exported files are tried in them too (make test)'
	@echo 'make device-arm64  an emulated 64-bit Raspberry Pi (root on Debian, five minutes); make test-arm64: tests on it'
	@echo 'make picture  the picture in README, of a demo made now'
	@echo 'make lint    style and types only'
	@echo 'make format  let ruff correct the style'
	@echo 'make docs    write docs/reference from the source; build/site: the documentation to read in a browser'
	@echo 'make clean   remove caches and builds; make distclean: $(VENV), $(ZOO) and $(PEER) too'

venv: $(STAMP)

# pip, and a line for each file that it fetches: some are large. Its own status is the step's.
comma := ,
define install
@{ rc=$$({ { $(PIP) install --progress-bar off -c constraints.txt $(1); echo $$? >&3; } | awk \
	'/^ *Downloading / && $$3 ~ /^\(/ { print "    " $$2, $$3, $$4 } /^Installing collected/ { print "    unpacking" } { fflush() }' \
	>&4; } 3>&1); exit $$rc; } 4>&1
endef

# What a user needs; torch by itself and first: a range that admits a newer one pulls gigabytes of CUDA. Where the index
# has only CUDA builds of this version too, PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu gives the small one.
$(USER_STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo 'edgespa needs Python >= 3.11, and $(PYTHON) is older or absent: make PYTHON=python3.11 ...' >&2; exit 1; }
	@echo '1 of 3: a Python environment, $(VENV)'
	@$(PYTHON) -m venv $(VENV)
	@echo '2 of 3: torch'
	$(call install,torch==2.13.0)
	@echo '3 of 3: edgespa, with the converters and runtimes of ONNX and TFLite'
	$(call install,-e '.[all]')
	@touch $@

# What its tests and checks need, too.
$(STAMP): $(USER_STAMP)
	@echo 'for development: linters, types, tests'
	$(call install,-e '.[all$(comma)dev]')
	@touch $@

zoo: $(ZOO)/.installed

# Without dependencies: all are there, and torchvision's would replace torch by a build for another device.
$(ZOO)/.installed: $(STAMP)
	$(PIP) install --quiet --no-deps -c constraints.txt --target $(ZOO) --upgrade torchvision timm torch-pruning onnx2torch
	@touch $@

peer: $(PEER)/.installed

$(PEER)/.installed: zoo
	$(PIP) install --quiet --no-deps -c constraints.txt --target $(PEER) --upgrade structured-pruning-adapters
	@touch $@

# Ten minutes on one core: the code of benchmarks/spa, with too few images and epochs to compare methods by.
bench-spa-quick: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/spa/run.py measure --quick

# Each with its own Python packages, for the first Python named that is there; those without one are said
# and left out. tflite-runtime 2.14 is the last; onnxruntime 1.19 is JetPack 5's, 1.10 the oldest that is written for.
runtimes: $(RUNTIME_NAMES:%=$(RUNTIMES)/%/.installed)

$(RUNTIMES)/tflite-runtime/.installed: PYTHONS := python3.11 python3.10 python3.9
$(RUNTIMES)/tflite-runtime/.installed: PACKAGES := 'tflite-runtime==2.14.0' 'numpy<2' pillow
$(RUNTIMES)/tensorflow/.installed: PYTHONS := python3.11 python3.12 python3.13 python3.10
$(RUNTIMES)/tensorflow/.installed: PACKAGES := 'tensorflow-cpu==2.21.0' pillow
$(RUNTIMES)/onnxruntime-1.19/.installed: PYTHONS := python3.8 python3.11 python3.12 python3.10 python3.9
$(RUNTIMES)/onnxruntime-1.19/.installed: PACKAGES := 'onnxruntime==1.19.2' pillow
$(RUNTIMES)/onnxruntime-1.10/.installed: PYTHONS := python3.8 python3.9
$(RUNTIMES)/onnxruntime-1.10/.installed: PACKAGES := 'onnxruntime==1.10.0' 'numpy<2' pillow

# pyenv shows only the versions that PYENV_VERSION names.
$(RUNTIMES)/%/.installed:
	@export PYENV_VERSION="$$(pyenv versions --bare 2>/dev/null | paste -sd: -)"; \
	for python in $(PYTHONS); do \
		$$python -c 'import ensurepip, venv' 2>/dev/null || continue; \
		echo "$*: $$python -m pip install $(subst ',,$(PACKAGES))"; \
		$$python -m venv $(@D) && $(@D)/bin/python -m pip --disable-pip-version-check install --quiet $(PACKAGES) \
			&& touch $@; exit; \
	done; \
	echo 'RUNTIME ABSENT: $* needs one of $(PYTHONS), with venv: its tests are skipped' >&2

demo: $(USER_STAMP)
	$(BIN)/edgespa demo

# The picture in README: of the demo's report, in a headless Chromium.
picture: demo $(STAMP)
	$(BIN)/python docs/make_picture.py edgespa-demo/report.html

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# One file, one process: fixtures of a module are made once; the files whose tests take long come first
# (tests/conftest.py), so that none is left alone at the end. pytest comes last, so that its closing line does too.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_JOBS)
BY_FILE := --dist loadfile --no-loadscope-reorder --ignore tests/zoo
# A network of the zoo has a process of its own anyway.
BY_NETWORK := --dist worksteal tests/zoo

test: lint zoo runtimes
	PYTHONPATH=$(ZOO) $(PYTEST) -q -m 'not more' $(BY_NETWORK)
	$(PYTEST) -m 'not more' $(BY_FILE) $(PYTEST_ARGS)

test-more: zoo
	PYTHONPATH=$(ZOO) $(PYTEST) -q -m more $(BY_NETWORK)
	$(PYTEST) -m more $(BY_FILE) $(PYTEST_ARGS)

test-all: test-more
	$(MAKE) test

test-zoo: zoo
	PYTHONPATH=$(ZOO) $(PYTEST) $(BY_NETWORK) $(PYTEST_ARGS)

# Built once: Debian for arm64, whose programs qemu-user runs. See tests/arm64/build.sh.
device-arm64:
	tests/arm64/build.sh $(DEVICE_ARM64)

# Set up, profile and ship on it: the same values as here. Its times mean nothing.
test-arm64: $(STAMP) device-arm64
	EDGESPA_ARM64=$(DEVICE_ARM64) OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/arm64 $(PYTEST_ARGS)

# The readers of manifests, archives, signatures, task files and saved programs, with thirty times the inputs of make test.
fuzz: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_JOBS) --hypothesis-profile=deep -k fuzz \
		tests/bundle tests/tasks/test_fuzz.py tests/models/test_fuzz.py $(PYTEST_ARGS)

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(STAMP)
	$(BIN)/python docs/make_reference.py
	$(BIN)/python docs/make_site.py

clean:
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find edgespa tests docs benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV) $(ZOO) $(RUNTIMES) $(PEER) $(DEVICE_ARM64)
