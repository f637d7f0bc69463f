# Each target runs one `python -m pipelines.<stage> …`, which also works without make.

COMP ?= digits
RECIPE ?=
RUN ?=
RUNS ?=
SET ?=
ARCHIVE ?=
METRIC ?=
SOLUTION ?=
MSG ?=
AGAIN ?=
PORT ?= 8917
TRY ?=
RECIPES ?=
SEEDS ?=
DOGS ?=
PHOTOS ?=
WEIGHTS ?=
QUICK ?=
NPROC ?=
PYTHON ?= python3

# The user's values reach the stages as they were typed. Without this, make would expand a $ in them.
TYPED := COMP RECIPE RUN SET RUNS ARCHIVE METRIC SOLUTION MSG AGAIN PORT TRY RECIPES SEEDS DOGS PHOTOS WEIGHTS QUICK NPROC
$(foreach each,$(TYPED),$(eval override $(each) := $$(value $(each))))

# A misspelt variable would be ignored: the stages would use the defaults.
UNKNOWN := $(filter-out PYTHON VENV,$(foreach each,$(.VARIABLES),$(if $(findstring command,$(origin $(each))),$(each))))
ifneq ($(strip $(UNKNOWN)),)
$(error Unknown variable: $(UNKNOWN). The variables are $(TYPED) PYTHON; make help explains them)
endif

# $(call text,NAME) is the value of NAME as one word of the shell, in quotes if it needs them: the line that make prints
# can be pasted. $(call option,NAME,--name) is empty if NAME is.
define NEWLINE


endef
SPECIAL := " ' ` $$ & ; | < > ( ) [ ] { } * ? ~ ! \ \#
special = $(strip $(foreach each,$(SPECIAL),$(findstring $(each),$(1)))$(word 2,.$(1).)$(if $(1),,empty))
quoted = $(if $(call special,$(1)),'$(subst ','\'',$(1))',$(1))
text = $(call quoted,$(subst $(NEWLINE), ,$($(1))))
option = $(if $($(1)), $(2)=$(call text,$(1)))

# With -C, the commands that the stages print name this folder.
export CALLED_FROM := $(value PWD)

VENV := .venv
RUNNER := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
SIDE_BY_SIDE := -n 2 --dist loadfile
# The module of a stage, or with NPROC= that which runs it in several processes.
shared = $(if $(NPROC),pipelines.tools.launch $(call text,NPROC) $(1),pipelines.$(1))
WORDS = $(call text,COMP)$(call option,RECIPE,--recipe)$(call option,RUN,--run)$(call option,SET,--set)

.DEFAULT_GOAL := help
.NOTPARALLEL:
TARGETS := help install demo doctor new download split look train folds retrain predict blend runs submit submissions score report reproduce all audit kernel kaggle-standin sweep compare test test-slow test-processors lint docs profile bench gpu-check clean
.PHONY: $(TARGETS)

# make itself would notice such a word only after the targets before it: make train cifar-10 would train digits.
STRAY := $(filter-out $(TARGETS) $(INSTALLED),$(MAKECMDGOALS))
ifneq ($(STRAY),)
$(error There is no target $(STRAY). Is it a value? Write COMP=$(firstword $(STRAY)), without spaces around the =. make help lists the targets)
endif

help:  ## list the targets and their variables
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo '  COMP=digits        competition: a name in this folder or in pipelines/competitions, or the path of a TOML; new: its name at Kaggle'
	@echo '  RECIPE=default     a recipe in the competition'\''s TOML'
	@echo '  RUN=               name of the run; default: the name of the recipe; runs: the runs to compare, RUN="a b"'
	@echo '  RUNS="default best"   blend: the runs to combine; RUN= then names the blend'
	@echo '  SET="train.epochs=5 input.mean=[0.5, 0.5, 0.5]"   override settings (docs/settings.md lists them)'
	@echo '  ARCHIVE=           download, new: an archive or folder to use instead of Kaggle; bench: cifar-10.zip'
	@echo '  METRIC="…"         new: the metric, in Kaggle'\''s words; default: from Kaggle, else a guess'
	@echo '  DOGS= PHOTOS= WEIGHTS=   bench: dog-breed-identification.zip, a zip of full-size photos, weights of MobileNetV2'
	@echo '  MSG="…" AGAIN=1    submit: your own message; send a file again that was already sent'
	@echo '  SOLUTION=          score, kaggle-standin: CSV of true labels'
	@echo '  PORT=8917          kaggle-standin: its port'
	@echo '  TRY="train.lr=1e-3,3e-4 model.dropout=0,0.5"   sweep: try all combinations of these values'
	@echo '  RECIPES="default scratch" SEEDS=3              compare: the recipes; compare, folds: the number of seeds'
	@echo '  NPROC=2            train, retrain, predict: the number of processes, or gpu: one for each GPU; folds: trainings at a time'
	@echo '  QUICK=1            bench: small sizes, three minutes'

install: $(INSTALLED)  ## create .venv and install all packages in it

$(INSTALLED): requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	@echo 'Installing into .venv. PyTorch is large: this takes a few minutes, once.'
	$(RUNNER) -m pip install --disable-pip-version-check -r requirements.txt
	@touch $@

demo: override COMP := digits
demo: all score  ## run all stages on the bundled digits, in a minute: submission, score, pictures
	@echo
	@echo 'Next: make help. To add your own competition, see docs/competitions.md.'

doctor: $(INSTALLED)  ## check the machine, the credentials and the competition; print what to do
	$(RUNNER) -m pipelines.tools.doctor $(WORDS)

new: $(INSTALLED)  ## write the TOML of a new competition from its data
	$(RUNNER) -m pipelines.tools.new $(call text,COMP)$(call option,ARCHIVE,--archive)$(call option,METRIC,--metric)

download: $(INSTALLED)  ## download the competition's data to data/<c>/raw
	$(RUNNER) -m pipelines.download $(WORDS)$(call option,ARCHIVE,--archive)

split: $(INSTALLED)  ## split the labelled rows: data/<c>/split.csv and train_valid_test/
	$(RUNNER) -m pipelines.split $(WORDS)

look: $(INSTALLED)  ## draw the data before training: data/<c>/look.png and look.csv
	$(RUNNER) -m pipelines.tools.look $(WORDS)

audit: $(INSTALLED)  ## find duplicates across the split and labels that may be wrong
	$(RUNNER) -m pipelines.tools.audit $(WORDS)

train: $(INSTALLED)  ## train and validate: runs/<c>/<run>/
	$(RUNNER) -m $(call shared,train) $(WORDS)

folds: $(INSTALLED)  ## train on every fold of the split: out-of-fold predictions and their score
	$(RUNNER) -m pipelines.tools.folds $(WORDS)$(call option,SEEDS,--seeds)$(call option,NPROC,--at-once)

retrain: $(INSTALLED)  ## train on all labelled rows: final.pt
	$(RUNNER) -m $(call shared,retrain) $(WORDS)

predict: $(INSTALLED)  ## predict the test images: submissions/<c>/<run>.csv
	$(RUNNER) -m $(call shared,predict) $(WORDS)

blend: $(INSTALLED)  ## combine predicted runs (RUNS=): weights, submission, what each is worth
	$(RUNNER) -m pipelines.tools.blend $(WORDS)$(call option,RUNS,--runs)

runs: $(INSTALLED)  ## list all runs, best first; with RUN="a b": is b really better than a?
	$(RUNNER) -m pipelines.tools.runs $(WORDS)

submit: $(INSTALLED)  ## send the submission to Kaggle and wait for its score
	$(RUNNER) -m pipelines.submit $(WORDS)$(call option,MSG,--message) $(if $(filter-out 0 no false,$(AGAIN)),--again)

submissions: $(INSTALLED)  ## fetch the scores of all submissions: local, public and private
	$(RUNNER) -m pipelines.tools.submissions $(WORDS)

score: $(INSTALLED)  ## score the submission where the true labels are known
	$(RUNNER) -m pipelines.tools.score $(WORDS)$(call option,SOLUTION,--solution)

report: $(INSTALLED)  ## one page on all runs: scores, curves, mistakes, the submission
	$(RUNNER) -m pipelines.tools.report $(WORDS)

reproduce: $(INSTALLED)  ## rebuild a run's submission from its record alone, and compare the bytes
	$(RUNNER) -m pipelines.tools.reproduce $(WORDS)

all: download split train retrain predict  ## download, split, train, retrain and predict

kernel: $(INSTALLED)  ## run all stages on a GPU at Kaggle, and fetch the results
	$(RUNNER) -m pipelines.tools.kernel $(WORDS)

kaggle-standin: $(INSTALLED)  ## run a stand-in for Kaggle on this machine, to try submit and kernel
	$(RUNNER) -m pipelines.tools.kaggle_standin $(call text,COMP)$(call option,PORT,--port)$(call option,ARCHIVE,--archive)$(call option,SOLUTION,--solution)

sweep: $(INSTALLED)  ## try settings of the head on cached features, seconds each
	$(RUNNER) -m pipelines.tools.sweep $(WORDS)$(call option,TRY,--try)

compare: $(INSTALLED)  ## train several recipes with several seeds, and draw their curves
	$(RUNNER) -m pipelines.tools.compare $(WORDS)$(call option,RECIPES,--recipes)$(call option,SEEDS,--seeds)

test: $(INSTALLED)  ## run the tests (a few minutes)
	$(RUNNER) -m pytest -q $(SIDE_BY_SIDE)

test-slow: $(INSTALLED)  ## run the slow tests
	$(RUNNER) -m pytest -q $(SIDE_BY_SIDE) -m slow

# The instructions that oneDNN and ATen may use, and the number of threads: every pair of two values occurs.
define PROCESSORS
ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=default OMP_NUM_THREADS=1
ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 OMP_NUM_THREADS=2
ONEDNN_MAX_CPU_ISA=AVX512_CORE ATEN_CPU_CAPABILITY=default OMP_NUM_THREADS=2
ONEDNN_MAX_CPU_ISA=AVX512_CORE ATEN_CPU_CAPABILITY=avx2 OMP_NUM_THREADS=1
ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16 ATEN_CPU_CAPABILITY=default OMP_NUM_THREADS=1
ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16 ATEN_CPU_CAPABILITY=avx2 OMP_NUM_THREADS=2
ATEN_CPU_CAPABILITY=default OMP_NUM_THREADS=2
ATEN_CPU_CAPABILITY=avx2 OMP_NUM_THREADS=1
OMP_NUM_THREADS=2
endef
export PROCESSORS

test-processors: $(INSTALLED)  ## run the tests as other processors would: nine runs, an hour
	@echo "$$PROCESSORS" | while read -r variables; do \
		echo "Tests with $$variables"; \
		env -u ONEDNN_MAX_CPU_ISA -u ATEN_CPU_CAPABILITY $$variables $(RUNNER) -m pytest -q $(SIDE_BY_SIDE) </dev/null \
			|| { echo "Failed with $$variables"; exit 1; }; \
	done

lint: $(INSTALLED)  ## check style and types
	$(RUNNER) -m ruff check .
	$(RUNNER) -m ruff format --check .
	$(RUNNER) -m mypy

docs: $(INSTALLED)  ## regenerate docs/settings.md
	$(RUNNER) -m pipelines.tools.docs

profile: $(INSTALLED)  ## measure how long each part of a training takes
	$(RUNNER) -m benchmarks.profile $(WORDS)

bench: $(INSTALLED)  ## measure what docs/performance.md claims; writes benchmarks/RESULTS.md
	$(RUNNER) -m benchmarks$(call option,ARCHIVE,--archive)$(call option,DOGS,--dogs)$(call option,PHOTOS,--photos)$(call option,WEIGHTS,--weights) $(if $(filter-out 0 no false,$(QUICK)),--quick)

gpu-check: $(INSTALLED)  ## try everything on the GPU of this machine, in six minutes; writes gpu-check.json
	$(RUNNER) -m benchmarks.gpu_check

clean:  ## remove caches and compiled files; keep raw data, runs and submissions
	rm -rf data/*/cache .mypy_cache .ruff_cache .pytest_cache
	find pipelines tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
