# Everything that a newcomer or CI runs. Needs Python >= 3.11 with pip, and make; brings uv and the rest.

PYTHON ?= python3
UV := $(shell command -v uv 2>/dev/null || echo .uv/bin/uv)
export UV_PYTHON_DOWNLOADS := never
RUN := $(UV) run --no-sync

.DEFAULT_GOAL := help

.PHONY: help
help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

.uv/bin/uv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "redline needs Python >= 3.11; set PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target .uv uv

.PHONY: install
install: $(if $(findstring .uv/,$(UV)),.uv/bin/uv) ## install the locked dependencies into .venv
	@$(UV) sync --quiet --locked --extra embedded --extra grafana

.PHONY: demo
demo: install ## the whole pipeline on a simulated fleet, with incidents; opens the page
	$(RUN) redline demo

.PHONY: up
up: install ## the embedded stack on your own redline.yaml
	$(RUN) redline up

.PHONY: test
test: install ## all tests; what cannot run here is skipped with its reason
	$(RUN) pytest

.PHONY: test-kafka
test-kafka: install ## the broker's contract suite on real Apache Kafka (needs a JDK and Maven)
	$(RUN) python -m tests.contracts.kafka.apache -- $(RUN) pytest tests/contracts/kafka -m kafka

.PHONY: lint
lint: install ## ruff, mypy, import-linter
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy
	$(RUN) lint-imports

.PHONY: check
check: lint test ## what CI runs

.PHONY: format
format: install ## format the code
	$(RUN) ruff check --fix-only .
	$(RUN) ruff format .

.PHONY: screenshots
screenshots: install ## the pictures in docs/images, from a real demo run (needs chromium)
	$(RUN) python -m tests.screenshots

.PHONY: compose-check
compose-check: ## is docker-compose.yml well formed?
	@command -v docker >/dev/null || { echo "skipped: no docker command"; exit 0; }; \
	docker compose version >/dev/null 2>&1 || { echo "skipped: docker has no compose plug-in here"; exit 0; }; \
	docker compose --env-file deploy/compose/example.env -f docker-compose.yml config --quiet && echo "docker-compose.yml: ok"

.PHONY: clean
clean: ## remove what install and the runs made here
	rm -rf .venv .uv .redline .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .kafka
