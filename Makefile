# Two commands for everybody: `make demo` and `make test`. Each makes .venv first, when it is missing or older than pyproject.toml.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test slow docs clean

demo: .venv/installed
	$(BIN)/landseg demo --out demo

# Two processes of one thread each: within one, torch and OpenCV leave the second core idle for most of the time. Each takes a file at a
# time, in the order of tests/conftest.py: what a file's tests share is made once, and none is left waiting for a long one at the end.
test: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# What takes minutes and changes seldom: every network with ten encoders; a run killed at every change of its files.
slow: .venv/installed
	$(BIN)/python -m pytest -m slow

docs: .venv/installed
	$(BIN)/python docs/generate.py

.venv/installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[all,test]'
	touch $@

clean:
	rm -rf .venv demo build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
