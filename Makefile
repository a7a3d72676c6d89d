# The front door: `make` lists what there is. The scripts in .ci install what they
# need, say so, and do nothing the second time.
.PHONY: help wasm image tool demo up compare faults bench test lint format unit wasm-test host-test integration configs manifests istio-test soak instructions coverage venv clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile | expand -t 22

wasm: ## build the filter: dist/graygate.wasm
	@.ci/wasm

image: wasm ## the filter as an OCI image, for Istio: dist/image, its digest, how to push it
	@.ci/image

tool: ## build the command line tool: target/release/graygate
	cargo build --release --locked --no-default-features --features tool --bin graygate

demo: wasm venv ## show in a real Envoy what graygate does, in half a minute
	@.venv/bin/python envoy/demo.py

up: wasm venv ## leave Envoy with graygate running, for curl, until Ctrl-C
	@.venv/bin/python envoy/demo.py up

compare: wasm venv ## the same users through Envoy's weighted_clusters and through graygate, half a minute
	@.venv/bin/python envoy/compare.py

faults: wasm venv ## upstreams that fail in eight ways, through graygate, Envoy's outlier detection and nothing, two minutes
	@.venv/bin/python envoy/faults.py

bench: wasm venv ## what graygate costs a request in CPU time, beside Lua and a filter that does nothing, four minutes
	@.ci/bench
	@.venv/bin/python -m bench --json target/bench.json

soak: wasm venv ## a million requests and a hundred policies, under Node and in Envoy: memory stays flat, two minutes
	@.ci/soak

instructions: ## how many instructions the core takes for a request, by valgrind
	@.ci/instructions

# Fastest first. One after the other: they would share the same cores.
test: ## all checks and tests
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory unit
	@$(MAKE) --no-print-directory wasm-test
	@$(MAKE) --no-print-directory host-test
	@$(MAKE) --no-print-directory configs
	@$(MAKE) --no-print-directory istio-test
	@$(MAKE) --no-print-directory integration

lint: ## formatting and linters
	cargo fmt --check
	@.ci/lint
	cargo clippy --all-targets --locked --no-default-features --features tool -- -D warnings
	cargo clippy --lib --locked --features host -- -D warnings
	cargo clippy --lib --locked --features faults -- -D warnings

format: ## format all but Go, and mend what the linters can
	cargo fmt
	@.ci/lint --write

unit: ## unit and property tests, native
	cargo test --locked --no-default-features --features tool

coverage: ## how many lines of src/ the native tests reach, for each layer
	@.ci/coverage

wasm-test: ## the core's tests on wasm32, under Node
	@.ci/wasm-test

host-test: wasm ## the module alone, under Node: the calls a request costs, exports, size, memory
	@.ci/host-test

configs: tool venv ## the configurations in envoy/, read by Envoy and the tool
	@.ci/configs

manifests: tool ## write istio/base anew from istio/policies
	@.ci/manifests

istio-test: wasm tool venv ## istio/ on Istio's own control plane, agent and istioctl, and a real Envoy behind them; wants Go
	@.ci/manifests --check
	@.ci/istio

integration: wasm tool venv ## behaviour in a real Envoy
	@.ci/grpc-health-probe
	@.ci/clock
	@.ci/wasm faults
	@.ci/bench
	.venv/bin/python -m pytest tests -n 2

venv:
	@.ci/venv

clean: ## remove what was built; what was installed stays
	rm -rf target dist
