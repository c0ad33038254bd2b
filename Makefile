# Two commands for a newcomer: `make run` and `make test`. Both make their own environment in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
ENGINE ?= embedded
SCENARIO ?= cross-industry
ALSO := $(if $(filter file,$(origin SCENARIO)$(DATA)), shared-customers)

.DEFAULT_GOAL := help
.PHONY: help install run test e2e browser containers nightly docs sbom check format lint types imports house up receipts renew down clean

help: ## Show the targets.
	@grep -E '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "wanted Python 3.11 or newer, got $$($(PYTHON) --version); set PYTHON=" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

install: $(READY) ## Make the environment in .venv, which every other target makes by itself.

run: $(READY) ## Run both ways to be cross-industry and say in short what they brought (SCENARIO=NAME: one; DATA=public downloads, DATA=DIR reads).
	$(if $(filter public,$(DATA)),$(BIN)/consortia data get all --data public-data)
	$(BIN)/consortia run $(SCENARIO)$(ALSO) --engine $(ENGINE) $(if $(DATA),--data $(patsubst public,public-data,$(DATA)))

test: $(READY) ## Run the quick tests.
	$(BIN)/python -m pytest -q -n 2 -m "not end_to_end and not containers"

e2e: $(READY) ## Run the end-to-end tests (real processes).
	$(BIN)/python -m pytest -q -rs -n 3 --dist loadfile --no-loadscope-reorder -m end_to_end --durations=25

browser: ## Install Debian's Chromium (as root) for the end-to-end test of the dashboard.
	@command -v chromium >/dev/null || { apt-get update -qq && \
	apt-get install --yes --no-install-recommends chromium fonts-dejavu-core >/dev/null; }

containers: $(READY) ## Run the tests that need a Docker engine (CONTAINERS=tests/... for some of them).
	$(BIN)/python -m pytest -q -rs -m containers --durations=10 $(CONTAINERS)

nightly: $(READY) ## Break everything in docs/faults.md, containers too: an hour, as root (WRITE=docs/faults.md; PARTS="'Hosts and links'").
	$(BIN)/python benchmarks/fault_table.py $(if $(WRITE),--write $(WRITE)) $(if $(PARTS),--parts $(PARTS))

docs: $(READY) ## Build the documentation site into site/, offline; every link is checked.
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

sbom: $(READY) ## Write what the images are made of into sbom/, in CycloneDX (TORCH=cuda: the other variant).
	$(BIN)/python platform/locks/supply.py sbom --torch $(or $(TORCH),cpu)

check: format lint types imports house ## Format, lint, types, import rules and the layout.

format: $(READY)
	$(BIN)/ruff format --check .

lint: $(READY)
	$(BIN)/ruff check .

types: $(READY)
	$(BIN)/mypy

imports: $(READY)
	$(BIN)/lint-imports

house: $(READY)
	$(BIN)/python tests/helpers/house.py

# A container's user: the caller, so that ./homes and ./runs are the caller's own; root is never used.
CALLER := $(shell id -u)
ifneq ($(CALLER),0)
export CONSORTIA_UID ?= $(CALLER)
export CONSORTIA_GID ?= $(shell id -g)
endif
COMPOSE := SCENARIO=$(SCENARIO) docker compose

# `make up BASE=python@sha256:…` is CONSORTIA_BASE, and .env keeps it: the next `make up` builds on the same base.
ifeq ($(origin BASE),command line)
export CONSORTIA_BASE := $(BASE)
KEEP_BASE := $(BASE)
endif

# Without one, the base is the digest that its tag has (platform/base.sh), which .env keeps, too.
setting = $(or $($(1)),$(shell sed -n 's/^$(1)=//p' .env 2>/dev/null),$(2))
ifeq ($(MAKECMDGOALS),up)
ifeq ($(call setting,CONSORTIA_BASE),)
export CONSORTIA_BASE := $(shell sh platform/base.sh python:3.11-slim-bookworm)
KEEP_BASE := $(if $(findstring @sha256:,$(CONSORTIA_BASE)),$(CONSORTIA_BASE))
endif
endif

# Two checkouts never share an image: the tag follows from what the images are made of. `make up` keeps it in .env, where
# `docker compose` finds it; a tag that the caller sets is the caller's.
KEEP_TAG := true
ifndef CONSORTIA_TAG
up renew: export CONSORTIA_TAG = $(shell sh platform/build_id.sh . \
	$(call setting,CONSORTIA_BASE,python:3.11-slim-bookworm) $(call setting,TORCH,cpu))
KEEP_TAG := { grep -sv '^CONSORTIA_TAG=$(if $(KEEP_BASE),\|^CONSORTIA_BASE=)' .env; echo "CONSORTIA_TAG=$$CONSORTIA_TAG"; \
	$(if $(KEEP_BASE),echo "CONSORTIA_BASE=$(KEEP_BASE)";) } >.env.new; mv .env.new .env
endif

# GNU make turns a failed recipe into its own status 2, which here means bad input. Asked with -q it runs only the lines marked `+`,
# and passes their 1 on as its own: the status of a failed run.
ifeq ($(MAKECMDGOALS),up)
MAKEFLAGS += -q
endif

# Build first: `up --build` would recreate services whose image did not change.
up: ## Run a scenario as containers (SCENARIO=cross-industry); exits with the run's status. The federation stays up.
	+@test -f scenarios/$(SCENARIO).compose.yml || { \
	echo "SCENARIO=$(SCENARIO): wanted scenarios/$(SCENARIO).compose.yml, got nothing; consortia compose $(SCENARIO)" >&2; exit 2; }; \
	$(COMPOSE) build || exit 2; $(KEEP_TAG); \
	export CONSORTIA_IMAGE=$$(docker image inspect --format '{{.Id}}' consortia:$$CONSORTIA_TAG); \
	{ $(COMPOSE) config --format json && docker network inspect $$(docker network ls --quiet); } | \
	docker run --rm --interactive --network host --read-only --cap-drop ALL --env CONSORTIA_SUBNETS \
	consortia:$$CONSORTIA_TAG python -m consortia.deploy.subnets || exit 2; \
	docker version --format '{{.Server.Version}}' | grep -Eq '^(2[89]|[3-9][0-9])\.' || echo "this engine is older than 28:" \
	"participants reach what listens on this host unless a rule forbids it; see docs/how_to/containers.md, The host" >&2; \
	$(COMPOSE) up --detach || { $(COMPOSE) logs --no-color keys homes register >&2; \
	case $$($(COMPOSE) ps --all --format '{{.ExitCode}}' keys) in 2) exit 2 ;; *) exit 1 ;; esac; }; \
	runner=$$($(COMPOSE) ps --all --quiet runner) && \
	since=$$(docker inspect --format '{{.State.StartedAt}}' $$runner) && \
	docker logs --follow --since $$since $$runner && \
	case $$(docker wait $$runner) in 0) ;; 2) exit 2 ;; *) exit 1 ;; esac

receipts: ## Show what joining paid, each participant's receipt read in its own container (SCENARIO=cross-industry).
	@running=$$($(COMPOSE) ps --format '{{.ID}} {{.Service}}' | sed -n 's/-app$$//p') && \
	{ test -n "$$running" || { echo "SCENARIO=$(SCENARIO): wanted its containers, got none that run; make up" >&2; exit 2; }; } && \
	printf '%s\n' "$$running" | xargs -P 4 -L 1 sh -c \
	'text=$$(docker exec "$$0" consortia receipt "$$1") || exit 1; printf "%s\n" "$$text"'

renew: ## Renew the coordinator's certificates (with CONSORTIA_ADDRESS=HOST:PORT for that host, too). No participant restarts.
	@CONSORTIA_RENEW=1 $(COMPOSE) run --rm --no-deps keys
	@$(COMPOSE) kill --signal USR2 proxy
	@$(COMPOSE) restart superlink

down: ## Stop the containers; ./homes (ledgers) and ./runs stay. VOLUMES=--volumes also forgets the keys.
	@$(COMPOSE) down --remove-orphans $(VOLUMES)

clean: ## Remove the environment and what runs wrote.
	rm -rf $(VENV) runs site .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
