# One line of meaning each; CI calls the same targets. Needs only python3 (>= 3.11) and make.
UV_VERSION := 0.13.9
PYTHON     ?= python3
UV         := .tools/bin/uv
export UV_PYTHON_DOWNLOADS := never
export UV_PROJECT_ENVIRONMENT := .venv

.PHONY: up test check bench clean
up: .venv/.runtime           ## set up and start the bridge (gateway :8000, management :9999)
	@exec .venv/bin/llm-bridge up

test: .venv/.dev             ## run every test
	.venv/bin/python -m pytest

check: .venv/.dev            ## format, lint, types, import layers, house rules
	.venv/bin/ruff format --check . && .venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports --no-cache
	.venv/bin/python -m pytest tests/test_house_rules.py

bench: .venv/.dev            ## measure the gateway beside nginx, in one run
	.venv/bin/python -m bench

$(UV):
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "llm-bridge needs Python 3.11 or newer: make PYTHON=python3.12 up")'
	$(PYTHON) -m venv .tools
	.tools/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r tools/uv.txt

.venv/.runtime: $(UV) pyproject.toml uv.lock
	$(UV) sync --quiet --frozen --no-dev --inexact --python $(PYTHON)
	@touch $@

.venv/.dev: $(UV) pyproject.toml uv.lock
	$(UV) sync --quiet --frozen --python $(PYTHON)
	@touch $@ .venv/.runtime

clean:
	rm -rf .venv .tools
