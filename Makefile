# Everything a person does with a clone. `make demo` and `make test` do all their own set-up.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo demo-voice test lint types install uninstall deb soak fuzz bench clean help
.DEFAULT_GOAL := help

help: ## List what can be made.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 18

$(VENV)/.run: pyproject.toml
	@echo "== setting up $(VENV) (packages to run: once, about a minute)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -q --upgrade pip
	@PYTHONWARNINGS=ignore $(BIN)/python -m pip -q install --disable-pip-version-check -e '.[all]'
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	@echo "== adding what tests need to $(VENV)"
	@PYTHONWARNINGS=ignore $(BIN)/python -m pip -q install --disable-pip-version-check -e '.[dev]'
	@touch $@

demo: $(VENV)/.run ## Run an edge and a cloud node on this machine on real photographs. ONCE=1 ends by itself.
	@$(BIN)/python -m sparkd.demo $(if $(ONCE),--once)

$(VENV)/.voice: $(VENV)/.run
	@echo "== adding speech to $(VENV) (engines and models: once, about 400 MB)"
	@PYTHONWARNINGS=ignore $(BIN)/python -m pip -q install --disable-pip-version-check -e '.[all,voice,voice-services,voice-models]'
	@touch $@

demo-voice: $(VENV)/.voice ## Play recordings through wake word, speech to text, answers and speech, with real models.
	@$(BIN)/python -m sparkd.demo_voice

test: $(VENV)/.dev ## Run the tests.
	@echo "== running the tests"
	@$(BIN)/python -m pytest $(PYTEST)

lint: $(VENV)/.dev ## Check style.
	@$(BIN)/ruff check sparkd plugins tests benchmarks .ci
	@$(BIN)/ruff format --check sparkd plugins tests benchmarks .ci

types: $(VENV)/.dev ## Check types.
	@$(BIN)/mypy

install: ## Install into /opt/sparkd with its units and its account; as root. Upgrades what is there, keeps the config.
	@PYTHON=$(PYTHON) sh systemd/install.sh install

uninstall: ## Remove what install put there; config and state stay.
	@sh systemd/install.sh uninstall

deb: $(VENV)/.run ## Build a Debian package into dist/. ARCH=arm64, RELEASE=trixie, REVISION=2.
	@$(BIN)/python .ci/deb.py $(if $(ARCH),--arch $(ARCH)) $(if $(RELEASE),--release $(RELEASE)) $(if $(REVISION),--revision $(REVISION))

soak: $(VENV)/.dev ## The long runs: 1,000 kills, 500 of the memory, 1 GB of backlog, chaos for 2 hours, fuzzing for one, tunnels for one (as root). Results go to benchmarks/results/.
	@$(BIN)/python benchmarks/soak.py $(SOAK)
	@SPARKD_MEMORY_KILLS=500 $(BIN)/python -m pytest -q tests/system/test_memory_kills.py
	@$(BIN)/python benchmarks/chaos.py $(CHAOS)
	@$(MAKE) -s fuzz
	@$(BIN)/python benchmarks/tunnel_soak.py $(TUNNEL)

fuzz: $(VENV)/.dev ## Fuzz all that takes bytes from others, FUZZ_SECONDS=360 each: an hour. Finds go to fuzz-found/.
	@$(BIN)/python -m tests.fuzz.fuzz_run $$($(BIN)/python -c 'from tests.fuzz.fuzz_targets import TARGETS; print(*TARGETS)') \
	  --seconds $(or $(FUZZ_SECONDS),360) --work fuzz-found 2>&1 | tee fuzz-found.log | grep -E '^==|executed_units|^broken'; \
	  ! grep -q '^broken' fuzz-found.log

bench: $(VENV)/.dev ## Measure what design promises, each beside its baseline.
	@$(BIN)/python benchmarks/run.py

clean: ## Remove what was made.
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
