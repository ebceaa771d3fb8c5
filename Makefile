# Commands of this repository. `make help` lists them; scripts/ holds what does not fit one line.
.DEFAULT_GOAL := help
.PHONY: help setup test demo demo-engine package fmt lint tidy fuzz clean

# Seconds that each fuzz target runs as part of `make test`.
FUZZ_SECONDS ?= 8

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Install what building and testing need (Debian 12, root; repeatable)
	@scripts/setup

test: ## The gate: format, lints, licences, house rules, fuzzing, all tests
	@FUZZ_SECONDS=$(FUZZ_SECONDS) scripts/gate

demo: ## Show all of it at work: two machines lose their site, run at another, and come home (DEMO=--keep leaves it running)
	@scripts/demo $(DEMO)

demo-engine: ## Show the engine alone: replicate a disk under load, roll it back, prove the result
	@scripts/demo-engine

package: ## Build the Debian packages, for release, into target/debian (docs/guides/install.md)
	@scripts/packages

fmt: ## Format the code
	cargo fmt --all

lint: ## Compiler and clippy warnings, as the gate judges them
	cargo clippy --workspace --all-targets -- -D warnings

tidy: ## House rules that clippy cannot check
	cargo xtask tidy

fuzz: ## Fuzz each decoder for FUZZ_SECONDS (default 8)
	fuzz/run $(FUZZ_SECONDS)

clean: ## Remove everything built, the guest lab included
	cargo clean
