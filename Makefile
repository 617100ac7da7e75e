# Every target does all its own set-up: git, make and Python are enough to begin with.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
COMPILED := $(VENV)/compiled
PROCESSES ?= auto
PYTEST := $(BIN)/pytest -n $(PROCESSES) --dist loadgroup
# What needs neither a real Kubernetes nor other programs, and no minutes for a single test.
FAST := -m "not real and not long and not csi and not image" $(addprefix --ignore=tests/,benchmarks browser chart real_parts)

# Tests start very many processes: each would compile all modules again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: dev test-fast coverage mutation lint-python lint-image lint-workflows lint-chart pre-commit release-dry-run
.PHONY: help test test-real test-long test-oldest test-csi test-image test-image-python demo sandbox bench bench-full bench-guard soak dist lint format lock reference docs clean

help: ## Show all targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 20

# Python compiles what is imported; to compile all that is installed takes a third of the time. The
# lock file has all dependencies.
$(READY): pyproject.toml requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; name one with make PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --no-compile --no-deps --disable-pip-version-check --require-hashes -r requirements-dev.txt
	touch $@

# Else each of the processes that share the tests would compile them, and what they import.
$(COMPILED): $(READY)
	-@$(BIN)/pytest --collect-only --quiet >/dev/null
	touch $@

dev: $(READY) ## Set up for work on it: the environment, and git hooks that lint each commit
	$(BIN)/pre-commit install

test-fast: $(COMPILED) ## Run the tests that need nothing but Python
	$(PYTEST) $(FAST) $(ARGS)

test: $(COMPILED) ## Run all tests; with a Go toolchain also those on a real Kubernetes
	@if command -v go >/dev/null; then $(BIN)/python -m tests.real_parts.build >/dev/null; else \
		echo "NOT TESTED AGAINST A REAL KUBERNETES: there is no Go toolchain" >&2; fi
	$(PYTEST) $(ARGS)

test-real: $(COMPILED) ## The same, but a real Kubernetes that is missing is a failure
	$(BIN)/python -m tests.real_parts.build >/dev/null
	REQUIRE_REAL_PARTS=1 $(PYTEST) $(ARGS)

test-long: $(COMPILED) ## The tests that take minutes, the whole crash matrix among them
	$(BIN)/python -m tests.real_parts.build >/dev/null
	REQUIRE_REAL_PARTS=1 $(PYTEST) -m long $(ARGS)
	$(MAKE) test-oldest

test-oldest: export REAL_KUBERNETES := oldest
test-oldest: $(READY) ## The contract suite and the main job on the oldest Kubernetes that is tested
	$(BIN)/python -m tests.real_parts.build >/dev/null
	REQUIRE_REAL_PARTS=1 $(PYTEST) -m "real and not long" tests/contracts tests/e2e/test_main_scenario.py

test-csi: $(COMPILED) ## LINBIT's CSI driver, its sidecars and the scheduler beside the service
	$(BIN)/python -m tests.real_parts.build --csi >/dev/null
	REQUIRE_REAL_PARTS=1 $(PYTEST) -m csi tests/csi $(ARGS)

test-image: $(READY) ## Build the image from the Dockerfile and run it as the chart does; as root
	$(BIN)/pytest -m image tests/image $(ARGS)

test-image-python: $(READY) ## Unit tests, and those on the fakes, with the Python of the image; as root
	$(BIN)/python -m tests.real_parts.image_python $(ARGS)

demo: $(READY) ## Run the main scenario and print the results; REAL=1 on a real Kubernetes
	$(BIN)/python -m demo $(if $(REAL),--real) $(ARGS)

sandbox: $(READY) ## Leave LINSTOR, Kubernetes and the service running, to try things out; REAL=1 as above
	$(BIN)/python -m demo --sandbox $(if $(REAL),--real) $(ARGS)

bench: $(COMPILED) ## Measure on a real Kubernetes, some minutes; ARGS=--help shows the options
	$(BIN)/python -m benchmarks $(ARGS)

bench-full: $(COMPILED) ## Measure everything that goals are set for, up to 50,000 volumes; hours
	$(BIN)/python -m benchmarks --full $(ARGS)

bench-guard: $(COMPILED) ## Wide limits on speed and requests that hold on any machine; two minutes
	$(BIN)/python -m benchmarks.guard $(ARGS)

soak: $(READY) ## Half an hour of random faults and changes around the service; ARGS=--help shows the options
	$(BIN)/python -m benchmarks.soak $(ARGS)

dist: $(READY) ## Wheel, sdist, chart and bill of materials, all of one version, in dist/
	$(BIN)/python packaging/versions.py
	rm -rf dist && mkdir dist
	$(BIN)/hatchling build -d dist -t wheel -t sdist
	$(BIN)/python -m tests.real_parts.build >/dev/null
	$(BIN)/python -m tests.real_parts.run helm package chart --destination dist
	$(BIN)/cyclonedx-py requirements --pyproject pyproject.toml --mc-type application \
		--output-reproducible --of JSON -o dist/sbom.cdx.json requirements.txt

release-dry-run: dist ## Make and check all that a release publishes, and print where each part goes
	$(BIN)/python packaging/release.py $(ARGS)

# The test that is left out sends signals until the process is gone, which leaves no time to save what was counted.
coverage: $(READY) ## Branch coverage of the package by the fast tests; fails below 95 %
	$(PYTEST) $(FAST) --cov --cov-report=term-missing:skip-covered --cov-fail-under=95 \
		--deselect=tests/faults/test_shutdown.py::test_repeated_signals_do_not_cut_shutdown_short $(ARGS)

mutation: $(READY) ## Mutate model/ and see which mutants its unit tests miss; half an hour
	$(BIN)/python -m mutmut run --max-children $$(nproc) $(ARGS)
	$(BIN)/python -m mutmut export-cicd-stats
	$(BIN)/python -m mutmut results

lint: lint-python lint-image ## Formatters, linters, types, import contracts; with a Go toolchain workflows and chart
	@if command -v go >/dev/null; then $(MAKE) --no-print-directory lint-workflows lint-chart; else \
		echo "WORKFLOWS AND CHART NOT LINTED: there is no Go toolchain" >&2; fi

lint-python: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy .
	$(BIN)/lint-imports

lint-image: $(READY)
	$(BIN)/hadolint Dockerfile

lint-workflows: $(READY)
	$(BIN)/python -m tests.real_parts.run actionlint -shellcheck= -pyflakes=
	$(BIN)/zizmor --offline --quiet --no-progress .github

lint-chart: $(READY)
	$(BIN)/python -m tests.real_parts.run helm lint chart --strict --quiet --set linstor.endpoint=http://linstor:3370

pre-commit: $(READY) ## What the git hooks check, on all files
	$(BIN)/pre-commit run --all-files

format: $(READY) ## Let the formatter decide
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# With the extras, because pip would look for the newest version of "coverage[toml]" if only "coverage" had a pin.
COMPILE := $(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-strip-extras \
	--upgrade --no-emit-index-url --no-emit-find-links --quiet

lock: $(READY) ## Pin the newest versions of all dependencies, with their hashes
	$(BIN)/pip install --quiet uv
	$(COMPILE) pyproject.toml -o requirements.txt
	$(COMPILE) --group dev --group build pyproject.toml -o requirements-dev.txt
	$(COMPILE) --group pyproject.toml:build -o requirements-build.txt

reference: $(READY) ## Write the reference pages of the documentation from the code
	PYTHONPATH=. $(BIN)/python packaging/reference.py

docs: $(READY) ## Build the documentation as a site in site/; a link that leads nowhere is a failure
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean: ## Remove what was made here; what was built for all checkouts stays in the cache
	rm -rf $(VENV) dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache mutants .coverage*
	find . -name __pycache__ -prune -exec rm -rf {} +
