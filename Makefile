# make test, quick, lint, soak, slurm, demo, bench, calibrate, docs: each first makes the environment,
# if it is missing.
# make lock and audit need uv: `pipx install uv`, or UV=/path/to/uv.
# VENV may name an environment kept between runs; it is made again when requirements.txt changes.
VENV ?= .venv
PYTHON3 ?= python3
HASH := $(shell sha256sum requirements.txt 2>/dev/null | cut -c1-12 || shasum -a 256 requirements.txt | cut -c1-12)
READY := $(VENV)/ready-$(HASH)
PYTHON := $(abspath $(VENV))/bin/python

.PHONY: test quick soak demo bench calibrate lint env docs slurm lock audit

env: $(READY)

$(READY): | requirements.txt  # the hash in its name stands for the content
	rm -rf "$(VENV)"
	$(PYTHON3) -m venv "$(VENV)"
	"$(PYTHON)" -m pip install --quiet --disable-pip-version-check -r requirements.txt
	"$(PYTHON)" pipeline/compile_kernels.py --quiet
	touch "$@"

# all tests, two processes; what is not marked slow: make quick
TESTS := -n 2 --dist worksteal
test: env lint
	"$(PYTHON)" -m pytest $(TESTS) --durations=15

quick: env
	"$(PYTHON)" -m pytest $(TESTS) -m "not slow"

# faults and fuzzing for a set time: make soak SECONDS=3600
SECONDS ?= 600
soak: env
	SOAK_SECONDS=$(SECONDS) "$(PYTHON)" -m pytest tests/soak --durations=0

# the cohort on a real SLURM, which it starts on this machine: about 25 minutes
slurm: env
	SLURM_TESTS=1 "$(PYTHON)" -m pytest tests/slurm

lint: env
	"$(PYTHON)" -m ruff check .
	"$(PYTHON)" -m ruff format --check .
	"$(abspath $(VENV))/bin/typos"
	"$(PYTHON)" -m ty check --output-format concise --python "$(VENV)"
	"$(abspath $(VENV))/bin/oxlint" --quiet --deny-warnings common

demo: env
	PYTHON="$(PYTHON)" pipeline/demo.sh

# against the field's renderers and registration, and how cost grows: about 30 minutes on two cores
bench: env
	"$(PYTHON)" benchmarks/rendering.py -o benchmarks/results --overwrite
	"$(PYTHON)" benchmarks/registration.py -o benchmarks/results --overwrite
	"$(PYTHON)" benchmarks/sequence.py -o benchmarks/results --overwrite
	"$(PYTHON)" benchmarks/table.py -o benchmarks/results --overwrite

# the verdict put to the test by phantoms: a quarter of an hour per patient. The numbers in use also
# need X-rays of others (fits.py --also), so they are not replaced
calibrate: env
	"$(PYTHON)" benchmarks/fits.py -w calibration --patients 12
	"$(PYTHON)" benchmarks/calibrate.py -w calibration

docs: env
	"$(PYTHON)" docs/make_review_figures.py
	"$(PYTHON)" -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo docs/_build/html/index.html

# Every package with its hashes, from requirements.txt; UPGRADE=--upgrade takes newer releases of what
# it does not pin. Without a GPU, PyTorch is left out: its builds are not on PyPI.
UV ?= uv
LOCK = "$(UV)" pip compile --quiet --generate-hashes --universal --python-version 3.11 \
	--custom-compile-command "make lock" $(UPGRADE) requirements.txt
CUDA = sed -nE 's/^(torch|torchvision|triton|cuda-[a-z-]+|nvidia-[a-z0-9-]+)==.*/--no-emit-package \1/p'
lock:
	$(LOCK) -o requirements.lock
	$(LOCK) -o requirements-cpu.lock $$($(CUDA) requirements.lock)

# known vulnerabilities of the locked packages; a package that cannot be asked about is an error
audit:
	"$(UV)" tool run pip-audit --strict --disable-pip --require-hashes -r requirements.lock
