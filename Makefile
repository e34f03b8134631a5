# Two commands do all the set-up on a fresh machine; they need Python >= 3.11, make and pip.
#   make demo   makes .venv, installs, trains two models on real data
#   make test   makes .venv if need be, installs what the tests need too, runs the whole suite
# make install only makes the environment with the command hogshead, make venv with everything the tests need; make clean
# removes it.
# Options: PYTHON=/path/to/python3.12   PYTEST_ARGS="-k hogwild"   HOGSHEAD_LONG_TESTS=1 (a few minutes more of them)

VENV := .venv
BIN := $(VENV)/bin
PYTEST_ARGS ?=
PIP := $(BIN)/python -m pip --disable-pip-version-check

# Found when the environment is made, not at every call.
FIND_PYTHON = for python in $(or $(PYTHON),python3 python3.14 python3.13 python3.12 python3.11 python); do \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$python"; exit; }; done

.PHONY: demo test venv install clean
.NOTPARALLEL:
.DELETE_ON_ERROR:

demo: $(VENV)/installed
	@echo "The first run compiles its kernels: about ten seconds before the first line."
	@echo "Sparse support vector machine on UCI Adult, Hogwild! in 2 processes"
	@$(BIN)/hogshead train examples/adult_hogwild.toml
	@echo
	@echo "Multi-layer perceptron on handwritten digits, asynchronous EASGD in 2 processes"
	@$(BIN)/hogshead train examples/digits_easgd.toml

test: $(VENV)/installed-test
	$(BIN)/python -m pytest -n auto --maxprocesses 8 $(PYTEST_ARGS)

venv: $(VENV)/installed-test

install: $(VENV)/installed

clean:
	rm -rf $(VENV)

# Editable, so that the checkout itself is what runs.
$(VENV)/installed: pyproject.toml | $(BIN)/python
	$(PIP) install -e .
	@touch $@

$(VENV)/installed-test: pyproject.toml | $(BIN)/python
	$(PIP) install -e '.[test]'
	@touch $(VENV)/installed $@

# Some systems ship Python without ensurepip; their own pip then installs pip into the environment.
$(BIN)/python:
	@python="$$($(FIND_PYTHON))"; \
	if [ -z "$$python" ]; then \
		echo "Hogshead needs Python 3.11 or newer; found: $(or $(PYTHON),python3), $$($(or $(PYTHON),python3) --version 2>&1)." >&2; \
		echo "Install one, or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; \
		exit 1; \
	fi; \
	echo "making $(VENV) with $$python ($$("$$python" --version))"; \
	rm -rf $(VENV); \
	"$$python" -m venv $(VENV) >$(VENV).log 2>&1 && { rm -f $(VENV).log; exit 0; }; \
	rm -rf $(VENV); \
	"$$python" -m venv --without-pip $(VENV) >>$(VENV).log 2>&1 && \
	"$$python" -m pip --python $(BIN)/python install pip >>$(VENV).log 2>&1 && { rm -f $(VENV).log; exit 0; }; \
	cat $(VENV).log >&2; rm -rf $(VENV) $(VENV).log; \
	echo "The environment could not be made: $$python needs its modules venv and pip (Debian: python3-venv)." >&2; \
	exit 1
