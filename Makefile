# Every recipe is one `python -m pipelines.<stage> …`, which works by itself with the same words.

COMP ?= digits
RECIPE ?= default
RUN ?=
SET ?=
ARCHIVE ?=
SOLUTION ?=
MSG ?=
AGAIN ?=
PORT ?= 8917
export MSG
TRY ?=
RECIPES ?=
SEEDS ?=
DOGS ?=
PHOTOS ?=
WEIGHTS ?=
QUICK ?=
PYTHON ?= python3

VENV := .venv
RUNNER := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
SIDE_BY_SIDE := -n 2
WORDS = $(COMP) --recipe $(RECIPE) $(if $(RUN),--run $(RUN)) $(if $(SET),--set $(SET))

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help install demo doctor download split train retrain predict submit submissions score reproduce all audit kernel kaggle-standin sweep compare test test-slow lint docs profile bench clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo '  COMP=digits        competition: a name in pipelines/competitions, or the path of a TOML'
	@echo '  RECIPE=default     recipe of the competition'
	@echo '  RUN=               name of the run; empty: the recipe'\''s name'
	@echo '  SET="train.epochs=5 train.lr=1e-3"   settings to override (python -m pipelines.train --help lists them)'
	@echo '  ARCHIVE=           download: an archive or folder to take instead of Kaggle; bench: cifar-10.zip'
	@echo '  DOGS= PHOTOS= WEIGHTS=   bench: dog-breed-identification.zip, one of full-size photos, MobileNetV2 weights'
	@echo '  MSG="…" AGAIN=1    submit: a message of your own; send a file that was sent before once more'
	@echo '  SOLUTION=          score, kaggle-standin: CSV of true labels'
	@echo '  PORT=8917          kaggle-standin: where it listens'
	@echo '  TRY="train.lr=1e-3,3e-4 model.dropout=0,0.5"   sweep: values to try, in all combinations'
	@echo '  RECIPES="default scratch" SEEDS=3              compare: which recipes, over how many seeds'
	@echo '  QUICK=1            bench: small sizes, in three minutes'

install: $(INSTALLED)  ## set up .venv with everything that is needed

$(INSTALLED): requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	@echo 'Setting up .venv. PyTorch is large: this takes some minutes, once.'
	$(RUNNER) -m pip install --disable-pip-version-check -r requirements.txt
	@touch $@

demo: override COMP := digits
demo: all score  ## all stages on the bundled digits, in a minute: submission, score and pictures
	@echo
	@echo 'Next: make help, or your own competition: README.md, "From a Kaggle archive to a submission".'

doctor: $(INSTALLED)  ## check the machine, the credentials and the competition; say what to do
	$(RUNNER) -m pipelines.tools.doctor $(WORDS)

download: $(INSTALLED)  ## get the competition's data into data/<c>/raw
	$(RUNNER) -m pipelines.download $(WORDS) $(if $(ARCHIVE),--archive "$(ARCHIVE)")

split: $(INSTALLED)  ## divide the labelled rows: data/<c>/split.csv and train_valid_test/
	$(RUNNER) -m pipelines.split $(WORDS)

audit: $(INSTALLED)  ## look for what makes scores lie: duplicates across the split, wrong labels
	$(RUNNER) -m pipelines.tools.audit $(WORDS)

train: $(INSTALLED)  ## train and validate: runs/<c>/<run>/
	$(RUNNER) -m pipelines.train $(WORDS)

retrain: $(INSTALLED)  ## train again on all labelled rows: final.pt
	$(RUNNER) -m pipelines.retrain $(WORDS)

predict: $(INSTALLED)  ## predict the test images: submissions/<c>/<run>.csv
	$(RUNNER) -m pipelines.predict $(WORDS)

submit: $(INSTALLED)  ## send the submission to Kaggle and wait for its score
	$(RUNNER) -m pipelines.submit $(WORDS) $(if $(MSG),--message="$$MSG") $(if $(AGAIN),--again)

submissions: $(INSTALLED)  ## read all scores back: local against public against private
	$(RUNNER) -m pipelines.tools.submissions $(WORDS)

score: $(INSTALLED)  ## score the submission where true labels are known
	$(RUNNER) -m pipelines.tools.score $(WORDS) $(if $(SOLUTION),--solution "$(SOLUTION)")

reproduce: $(INSTALLED)  ## make a run's submission again from its record alone, and compare the bytes
	$(RUNNER) -m pipelines.tools.reproduce $(WORDS)

all: download split train retrain predict  ## download, split, train, retrain and predict

kernel: $(INSTALLED)  ## run all stages on Kaggle, on a GPU of theirs, and fetch the results
	$(RUNNER) -m pipelines.tools.kernel $(WORDS)

kaggle-standin: $(INSTALLED)  ## stand in for Kaggle on this machine, to try the round trip
	$(RUNNER) -m pipelines.tools.kaggle_standin $(COMP) --port $(PORT) $(if $(ARCHIVE),--archive "$(ARCHIVE)") $(if $(SOLUTION),--solution "$(SOLUTION)")

sweep: $(INSTALLED)  ## try settings of the head on cached features, seconds each
	$(RUNNER) -m pipelines.tools.sweep $(WORDS) $(if $(TRY),--try $(TRY))

compare: $(INSTALLED)  ## train recipes side by side over several seeds; draw their curves
	$(RUNNER) -m pipelines.tools.compare $(WORDS) $(if $(RECIPES),--recipes $(RECIPES)) $(if $(SEEDS),--seeds $(SEEDS))

test: $(INSTALLED)  ## run the tests (under 5 minutes)
	$(RUNNER) -m pytest -q $(SIDE_BY_SIDE)

test-slow: $(INSTALLED)  ## run the long trials
	$(RUNNER) -m pytest -q $(SIDE_BY_SIDE) -m slow

lint: $(INSTALLED)  ## check style and types
	$(RUNNER) -m ruff check .
	$(RUNNER) -m ruff format --check .
	$(RUNNER) -m mypy

docs: $(INSTALLED)  ## regenerate docs/settings.md
	$(RUNNER) -m pipelines.tools.docs

profile: $(INSTALLED)  ## say where the time of a training goes, part by part
	$(RUNNER) -m benchmarks.profile $(WORDS)

bench: $(INSTALLED)  ## measure what the README claims; writes benchmarks/RESULTS.md
	$(RUNNER) -m benchmarks $(if $(ARCHIVE),--archive "$(ARCHIVE)") $(if $(DOGS),--dogs "$(DOGS)") $(if $(PHOTOS),--photos "$(PHOTOS)") $(if $(WEIGHTS),--weights "$(WEIGHTS)") $(if $(QUICK),--quick)

clean:  ## remove caches and compiled files; never raw data, runs or submissions
	rm -rf data/*/cache .mypy_cache .ruff_cache .pytest_cache
	find pipelines tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
