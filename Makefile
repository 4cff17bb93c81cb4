# make setup   a virtual environment .venv with the pinned dependencies and this package
# make demo    train, test and compare a small RAMiT x2 on real photographs
# make test    the whole test suite
# make lint    ruff and mypy

PYTHON ?= python3
BIN := .venv/bin
WORKERS ?= 2

.PHONY: setup demo test lint clean

setup: .venv/installed

# torch and the build tools come first: basicsr imports torch in its setup, and in an isolated build it would
# download a second one.
.venv/installed: requirements.txt setup.py
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	sed '/^basicsr/d' requirements.txt > .venv/without-basicsr.txt
	$(BIN)/python -m pip install --disable-pip-version-check -q -r .venv/without-basicsr.txt
	$(BIN)/python -m pip install --disable-pip-version-check -q --no-build-isolation -r requirements.txt
	$(BIN)/python -m pip install --disable-pip-version-check -q --no-build-isolation --no-deps -e .
	$(BIN)/python -m pip check
	touch $@

demo: setup
	$(BIN)/python data_prep/prepare_quickstart.py
	$(BIN)/basicsr train -opt options/quickstart_RAMiT_SRx2.yml
	$(BIN)/basicsr test -opt options/test_quickstart_RAMiT_SRx2.yml
	$(BIN)/basicsr compare -opt options/test_quickstart_RAMiT_SRx2.yml

test: setup
	$(BIN)/python -m pytest -n $(WORKERS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:
	rm -rf .venv build *.egg-info
