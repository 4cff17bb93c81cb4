# make setup   a virtual environment .venv with the pinned dependencies and this package; PYTHON=python3.12 chooses one
# make demo    restore a photograph with a packaged network, then train, test and compare a small RAMiT x2
# make test    the whole test suite
# make lint    ruff and mypy
# make docs    the documentation site in site/; a broken link or a missing docstring is an error
# make reference   the references of options and commands and the JSON Schema, from the code
# make bench   speed and memory beside other implementations
# make stress   wrong input, kills at random moments, endings of trainings

PYTHON ?= python3
BIN := .venv/bin
WORKERS ?= 2

.PHONY: setup demo test lint docs reference bench stress clean

setup:
	@$(PYTHON) install/environment.py $(if $(filter file,$(origin PYTHON)),,--this-python)

DEMO := quickstart_RAMiT_SRx2
DATA := datasets/quickstart/test/LRx2
NETWORK := experiments/$(DEMO)/models/net_g_latest.pth
TABLE := results/$(DEMO)/comparison_quickstart_test.txt
RESTORED := results/demo/astronaut_x2.png

demo: $(RESTORED) $(TABLE)
	@echo "Restored by a packaged network: $(RESTORED)"
	@cat $(TABLE)
	@echo "Comparison sheet: $(TABLE:.txt=.png)"

$(DATA): | setup
	$(BIN)/python data_prep/prepare_quickstart.py

$(RESTORED): | setup $(DATA)
	$(BIN)/basicsr restore $(DATA)/astronaut.png -o $@ --overwrite

$(NETWORK): options/$(DEMO).yml | setup $(DATA)
	$(BIN)/basicsr train -opt options/$(DEMO).yml --auto_resume

$(TABLE): $(NETWORK) options/test_$(DEMO).yml
	$(BIN)/basicsr test -opt options/test_$(DEMO).yml
	$(BIN)/basicsr compare -opt options/test_$(DEMO).yml > /dev/null  # `demo` shows the table

test: setup
	$(BIN)/python -m pytest -n $(WORKERS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check -q .
	$(BIN)/mypy

docs: setup
	$(BIN)/python -m pip install -q -r docs/requirements.txt
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build
	@echo "Open site/index.html."

reference: setup
	$(BIN)/python -m ramit_arch.cli.reference docs

# One after the other, as each needs all cores; nothing else should run meanwhile.
bench: setup
	$(BIN)/python benchmarks/network.py --operators
	$(BIN)/python benchmarks/growth.py
	$(BIN)/python benchmarks/training.py
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/preparing.py
	$(BIN)/python benchmarks/loader.py

stress: $(DATA)
	rm -rf stress
	$(BIN)/python tests/stress/bad_inputs.py --work stress/bad_inputs
	$(BIN)/python tests/stress/kill_training.py --work stress/kill_training
	$(BIN)/python tests/stress/kill_prepare.py --images datasets/quickstart/test/HR --work stress/kill_prepare
	$(BIN)/python tests/stress/endings.py --work stress/endings

clean:
	[ ! -e .venv/installed ] || rm -rf .venv
	rm -rf build site *.egg-info datasets/quickstart experiments/$(DEMO) results/$(DEMO) results/demo
