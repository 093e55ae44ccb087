# Two commands on a fresh machine with Python 3.11 or newer: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
JOBS ?= auto
DEMO := runs/demo

.PHONY: demo test lint docs

$(VENV)/ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Vertebra needs Python 3.11 or newer; name one: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	@touch $@

demo: $(VENV)/ready
	@rm -rf $(DEMO)
	$(BIN)/vertebra data shapes --save=$(DEMO)/shapes
	$(BIN)/vertebra train classification --config=demo.yaml --data.path=$(DEMO)/shapes --output=$(DEMO)/run
	$(BIN)/vertebra evaluate $(DEMO)/run/best.safetensors --data.path=$(DEMO)/shapes
	$(BIN)/vertebra predict $(DEMO)/run/best.safetensors $(DEMO)/shapes/val/star --save=$(DEMO)/predictions
	@echo
	@echo "Everything is in $(DEMO):"
	@echo "  shapes/          the pictures, a folder per class"
	@echo "  run/report.html  curves, confusion matrix, the most wrong pictures: open it in a browser"
	@echo "  run/             the model (best.safetensors), its config and history"
	@echo "  predictions/     pictures with the model's answers drawn in"
	@echo "Next, with your own pictures in a folder per class:"
	@echo "  source $(BIN)/activate"
	@echo "  vertebra data pictures/"
	@echo "  vertebra train classification --data.path=pictures/ --model.backbone=resnet18 --epochs=30"

test: $(VENV)/ready
	$(BIN)/python -m pytest -n $(JOBS)

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/ready
	$(BIN)/mkdocs build --strict --quiet
