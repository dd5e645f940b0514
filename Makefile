# `make demo` and `make test` do their whole set-up, in .venv, with the versions of constraints.txt.
PYTHON ?= python3
PY := .venv/bin/python

.PHONY: demo test test-all test-sb3 fuzz soak lint format docs clean

demo: .venv/ready
	$(PY) scripts/demo.py

test: lint
	$(PY) -m pytest -n auto --dist worksteal -m "not slow"

test-all: lint
	$(PY) -m pytest -n auto --dist worksteal

# Stable-Baselines3's own tests, with Norm policies in place of its policies; needs the package index
test-sb3: .venv/ready
	$(PY) tests/sb3/run.py --record docs/results/sb3-tests.md -- -n auto

# 100,000 inputs for each parser, one or two hours; needs the package index, for atheris (Linux)
fuzz: .venv/ready
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt atheris
	$(PY) -m tests.trust.fuzz --record results/fuzz.csv

# A million commits through each normalizer with state: half an hour of processor time
soak: .venv/ready
	SOAK_COMMITS=1000000 $(PY) -m pytest -n auto --dist worksteal -m slow tests/trust/test_soak.py

lint: .venv/ready
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy -n auto
	.venv/bin/lint-imports

format: .venv/ready
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

docs: .venv/ready
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict
	@echo "open site/index.html"

# torch first and by itself: later steps then find it there and leave it as it is
.venv/ready: pyproject.toml constraints.txt
	@echo "setting up .venv: some minutes, once"
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' constraints.txt)"
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[test]"
	touch .venv/ready

# JAX in an environment of its own, for `python -m benchmarks peers`
.venv-jax/ready: benchmarks/jax-requirements.txt
	$(PYTHON) -m venv .venv-jax
	.venv-jax/bin/python -m pip install --quiet --disable-pip-version-check -r benchmarks/jax-requirements.txt
	touch .venv-jax/ready

clean:
	rm -rf .venv .venv-jax build dist site *.egg-info
