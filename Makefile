# `make` lists the targets. The scripts in .ci install what they need, print what they
# install, and install nothing the second time.
.PHONY: $(shell sed -n 's/^\([a-z-]*\):.*\#\# .*/\1/p' Makefile) venv

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile | expand -t 22

wasm: ## build the filter: dist/graygate.wasm, and dist/graygate-requests.wasm for policies without breakers
	@.ci/wasm

image: wasm ## write both modules as OCI images for Istio, dist/image and dist/image-requests; print their digests and how to push them
	@.ci/image

tool: ## build the command line tool: target/release/graygate
	cargo build --release --locked --no-default-features --features tool --bin graygate

demo: wasm venv ## show in a real Envoy what graygate does, also as pictures in target/demo.html; takes half a minute
	@.venv/bin/python envoy/demo.py

up: wasm venv ## run Envoy with graygate for use with curl, until Ctrl-C
	@.venv/bin/python envoy/demo.py up

pictures: wasm tool venv ## draw the pictures in docs/pictures again, from runs of real proxies and from simulate
	@.venv/bin/python envoy/demo.py pictures
	@target/release/graygate simulate docs/pictures/schedule.yaml --svg docs/pictures/simulate.svg
	@.ci/prometheus
	@.venv/bin/python -m observability.picture
	@.ci/chromium
	@.venv/bin/python envoy/status_picture.py

compare: wasm venv ## send the same users through weighted_clusters, with and without use_hash_policy, and graygate; takes a minute
	@.venv/bin/python envoy/compare.py

faults: wasm venv ## compare graygate, Envoy's outlier detection and neither under faults and healthy events; takes six minutes
	@.venv/bin/python -m faults

bench: wasm venv ## compare CPU time per request with Lua and filters that do nothing; takes eight minutes
	@.ci/bench
	@.venv/bin/python -m bench --json target/bench.json

sizes: wasm venv ## measure what large policies cost: an update, an idle proxy, memory; takes ten minutes
	@.venv/bin/python envoy/sizes.py

apiserver: tool ## apply mistakes to a real API server with Istio's types; builds it from source, ten minutes the first time; needs Go
	@.ci/manifests --check
	@.ci/apiserver

peers: wasm tool venv ## run the tests that build more of other projects: Istio 1.30, Envoy Gateway, Flagger, Argo Rollouts, an API server; half an hour the first time; needs Go
	@.ci/manifests --check
	@.ci/peers

test-matrix: wasm tool venv ## run the tests in a real Envoy on each version that is supported; takes over an hour
	@.ci/integration-tools
	@.ci/matrix

docker-test: wasm venv ## build the Dockerfiles and run the compose files in a docker of their own; takes half an hour; needs root on Debian
	@.ci/docker

soak: wasm venv ## check that memory stays constant under a million requests and a hundred policies; takes two minutes; HOURS=1 runs an Envoy for an hour under faults and rollouts
	@.ci/soak

chaos: wasm tool venv ## count what users lose with graygate and without it while upstreams, Envoy, VMs and servers fail; takes seven minutes
	@.ci/wasm faults
	@.ci/clock
	@.venv/bin/python -m chaos

# Checks itself at the end.
release: wasm tool venv ## write all of a release into dist/release, and test it; half an hour the first time
	@.ci/release

release-test: ## push dist/release to a registry on the loopback, sign it, verify it, let Istio's agent pull it; needs Go
	@.ci/release-test

reproducible: wasm ## build the modules again in another folder, and compare the bytes
	@.ci/reproducible

deny: ## check licences, sources and known vulnerabilities of all crates
	@.ci/deny

instructions: ## count the instructions that the core takes for a request, with valgrind
	@.ci/instructions

fuzz: ## look for inputs on which the core fails, with libFuzzer; takes six minutes, a minute for each target
	@.ci/fuzz

traps: ## list which functions of the modules can end a VM in a callback; fail if one has no reason in tests/traps.yaml; takes some minutes
	@.ci/traps

# Runs the fastest first, and one after the other, as they would compete for the same cores.
test: ## run all checks and tests
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory unit
	@$(MAKE) --no-print-directory wasm-test
	@$(MAKE) --no-print-directory host-test
	@$(MAKE) --no-print-directory configs
	@$(MAKE) --no-print-directory istio-test
	@$(MAKE) --no-print-directory integration

lint: ## check the format and run the linters
	cargo fmt --check
	@.ci/lint
	cargo clippy --all-targets --locked --no-default-features --features tool -- -D warnings
	cargo clippy --lib --locked -- -D warnings
	cargo clippy --lib --locked --no-default-features --features host -- -D warnings
	cargo clippy --lib --locked --features faults -- -D warnings

format: ## format everything but Go, and apply the safe fixes of the linters
	cargo fmt
	@.ci/lint --write

unit: ## run unit, property and documentation tests natively
	cargo test --locked --no-default-features --features tool

coverage: ## print how many lines of src/ the native tests reach, for each layer
	@.ci/coverage

wasm-test: ## run the core's tests on wasm32 under Node
	@.ci/wasm-test

host-test: wasm ## test the module alone under Node: host calls per request, exports, size, memory
	@.ci/host-test

configs: tool venv ## validate the configurations in envoy/ with Envoy and the tool; fail if docs/reference or istio/observability is stale
	@.ci/configs
	@.ci/observability --check
	@.ci/reference --check

reference: tool ## write docs/reference again from the tables in the code
	@.ci/reference

manifests: tool ## render istio/base again from istio/policies and the table of keys
	@.ci/manifests

observability: venv ## write the PrometheusRule and the dashboard in istio/observability again
	@.ci/observability

istio-test: wasm tool venv ## test istio/ with Istio's control plane, agent and istioctl, and checks with the kubelet's prober; needs Go
	@.ci/manifests --check
	@.ci/istio

controllers-test: wasm tool venv ## test the metrics and routes of Flagger and Argo Rollouts by their own code; needs Go
	@.ci/controllers

gateway-test: wasm tool venv ## run the filter in Envoy Gateway, with its own control plane; builds it from source the first time; needs Go
	@.ci/gateway

integration: wasm tool venv ## test the behaviour in a real Envoy
	@.ci/integration-tools
	.venv/bin/python -m pytest tests -n 2

venv:
	@.ci/venv

clean: ## remove what was built; keep what was installed
	rm -rf target dist
