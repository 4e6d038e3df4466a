# What a reader or a contributor runs. Needs Python 3.11-3.13, make and git; everything else goes into .venv and .uv.

UV := .uv/bin/uv
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
SITE := _build/html/index.html
EXECUTED := $(patsubst book/%,_build/executed/%,$(wildcard book/*.ipynb))
CODE := $(shell find gsa -type f ! -name '*.pyc') $(shell find results -name '.*' -prune -o -print) tools/executed.py
TEXT := $(shell find book -name '.*' -prune -o -type f -print) _config.yml _toc.yml
COPIES := _build/colab
JOBS := 2

.PHONY: help setup book test browser serve lint pins bench minutes gpu gpu-pack gpu-results colab rehearse repository clean
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
unexport PYTHONDONTWRITEBYTECODE # where a container sets it, every process would compile torch anew

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' Makefile | while IFS='|' read -r name what; do printf '  make %-11s %s\n' "$$name" "$$what"; done

setup: $(READY) ## Install the pinned environment into .venv (the other targets do it when needed)

$(READY): requirements.txt pyproject.toml | $(UV)
	@$(UV) venv --quiet --clear --python '>=3.11,<3.14' $(VENV)
	@echo "Setting up $(VENV) with $$($(BIN)/python --version)"
	@$(UV) pip sync --python $(BIN)/python requirements.txt
	@$(UV) pip install --python $(BIN)/python --quiet --no-deps --editable .
	@touch $@

$(UV):
	@python3 -m venv .uv || { echo "make: needs a python3 with venv; Debian has it in python3-venv" >&2; exit 1; }
	@.uv/bin/python -m pip install --quiet --constraint requirements.txt uv || \
		{ echo "make: no uv: is there a network?" >&2; exit 1; }

book: $(READY) ## Build the site, executing every notebook on the embedded data
	@$(MAKE) --no-print-directory --keep-going --jobs $(JOBS) $(SITE)
	@echo "The book: $(CURDIR)/$(SITE)"

$(SITE): $(READY) $(EXECUTED) $(CODE) $(TEXT)
	@rm -rf _build/html _build/jupyter_execute
	GSA_BUDGET=smoke OMP_NUM_THREADS=1 $(BIN)/jupyter-book build . --all -n -W --keep-going

_build/executed/%.ipynb: book/%.ipynb $(READY) $(CODE)
	@mkdir -p $(@D)
	@GSA_BUDGET=smoke OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -p tools.executed --nbval-lax --nbval-current-env $< \
		>$@.log 2>&1 || { cat $@.log; exit 1; }
	@echo "$<: $$(tail -n 1 $@.log)"

test: lint book browser ## Check everything: style, types, book, package, every page in a browser
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder tests/test_site.py tests

browser: $(READY)
	@command -v chromium >/dev/null || $(BIN)/playwright install chromium 2>/dev/null || \
		echo "make: no Chromium here and none to be fetched: the browser tests will be skipped"

serve: book ## Serve the built site on localhost
	$(BIN)/python -m http.server 8000 --bind localhost --directory $(dir $(SITE))

lint: $(READY) ## Check style, types, the direction of imports, dependencies, and that notebooks have no outputs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/nbstripout --verify --keep-id --keep-count book/*.ipynb
	$(BIN)/basedpyright
	$(BIN)/lint-imports --no-cache
	$(BIN)/deptry gsa
	$(BIN)/deptry tools tests book/_ext --ignore DEP002,DEP004

pins: $(UV) ## Update requirements.txt to the newest versions that pyproject.toml allows
	$(UV) pip compile pyproject.toml --all-extras --universal --python-version 3.11 --upgrade --quiet \
		--annotation-style line --custom-compile-command "make pins" --output-file requirements.txt

bench: $(READY) ## Measure speed and memory
	$(BIN)/python -m tools.bench

minutes: book ## Write into each chapter's card how long it takes to read and, as this build measured, to run
	$(BIN)/python -m tools.minutes

gpu: ## Do what a GPU is needed for, with the Python that is there: PART=one or two, UNTIL=seconds, STUDIES=names, DEVICE=cpu
	$(or $(wildcard $(BIN)/python),python3) -m tools.gpu run $(PART) $(if $(UNTIL),--until $(UNTIL)) \
		$(if $(STUDIES),--studies $(STUDIES)) $(if $(DEVICE),--device $(DEVICE))

gpu-pack: $(READY) ## Put together what a machine with a GPU and no network lacks, and print what to run there
	$(BIN)/python -m tools.gpu pack

gpu-results: $(READY) ## Take what a GPU has measured into results/: make gpu-results ARCHIVE=file
	$(BIN)/python -m tools.gpu results $(ARCHIVE)

colab: $(READY) ## Write the clean copies of the notebooks that open in Colab
	$(BIN)/python -m tools.colab --out $(COPIES)

rehearse: ## Run those copies with the Jupyter that is on the PATH, as in Colab's runtime image
	cd $(COPIES) && GSA_BUDGET=smoke jupyter execute book/*.ipynb

repository: $(READY) ## Move to a new address: make repository URL=https://github.com/you/gsa
	$(BIN)/python -m tools.repository $(URL)

clean: ## Remove the site, the environment and all caches
	rm -rf _build $(VENV) .uv .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
