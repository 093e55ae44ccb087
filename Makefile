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
	$(BIN)/vertebra data shapes --save=$(DEMO)/shapes --format=coco
	$(BIN)/vertebra train instance --config=demo.yaml --data.path=$(DEMO)/shapes --output=$(DEMO)/run
	$(BIN)/vertebra evaluate $(DEMO)/run/best.safetensors --data.path=$(DEMO)/shapes
	$(BIN)/vertebra predict $(DEMO)/run/best.safetensors '$(DEMO)/shapes/images/val/00001*.png' --save=$(DEMO)/predictions
	@echo
	@echo "Everything is in $(DEMO):"
	@echo "  shapes/          the images, with boxes, masks and keypoints as COCO JSON"
	@echo "  run/report.html  curves, precision and recall, confusion matrix, the worst images: open it in a browser"
	@echo "  run/             the model (best.safetensors), its config and history"
	@echo "  predictions/     images with the detections drawn in, and the same as COCO JSON and CSV"
	@echo "Next, with your own images and their annotations (COCO, Pascal VOC, YOLO or masks in files):"
	@echo "  source $(BIN)/activate"
	@echo "  vertebra data my_coco/"
	@echo "  vertebra train instance --data.path=my_coco/ --model.backbone=resnet18"
	@echo "Or with a folder of images for each class: vertebra train classification --data.path=images/"

test: $(VENV)/ready
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/ready
	$(BIN)/mkdocs build --strict --quiet
