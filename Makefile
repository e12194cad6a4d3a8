# Everything a newcomer needs: `make demo` and `make test`. Both fetch what is
# missing; `make help` lists the rest.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:

IMG  := cmd/manager/img
TOOL := go tool -modfile=$(CURDIR)/tools/go.mod
# Finds or fetches the emulator, and ends the recipe if it can't.
WITH_QEMU = qemu=$$(scripts/qemu); export MANAGER_QEMU_BIN_PATH="$$qemu";

export CGO_ENABLED ?= 0

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 22

.PHONY: deps-demo deps-test
deps-demo:
	@scripts/deps demo
deps-test:
	@scripts/deps test

.PHONY: build
build: ## build the binaries into build/
	@mkdir -p build
	@for name in manager agent cli; do \
		scripts/stage "building build/cocos-$$name" go build -trimpath -o build/cocos-$$name ./cmd/$$name; \
	done

.PHONY: hal
hal: ## build the guest image into cmd/manager/img
	@go run ./cmd/hal build

.PHONY: hal-update
hal-update: ## resolve the guest image's packages anew and write its lock file
	@go run ./cmd/hal update

.PHONY: demo
demo: deps-demo build hal ## run one computation from end to end in a VM
	@$(WITH_QEMU) go build -o build/demo ./test/demo; exec build/demo

.PHONY: check
check: ## formatting, vet, staticcheck, protocol contracts
	@unformatted=$$(gofmt -l .); \
	if [ -n "$$unformatted" ]; then echo "gofmt these files:"; echo "$$unformatted"; exit 1; fi
	@scripts/stage "checking go.mod" go mod tidy -diff
	@scripts/stage "go vet" go vet ./...
	@scripts/stage "staticcheck" $(TOOL) staticcheck ./...
	@cd api && ../scripts/stage "linting the protocols" $(TOOL) buf lint
	@cd api && ../scripts/stage "comparing the protocols with their baseline" $(TOOL) buf breaking --against baseline.binpb

.PHONY: test
test: deps-test build hal check ## every test, in real VMs where it takes one
	@$(WITH_QEMU) export CGO_ENABLED=1; \
	$(TOOL) gotestsum --format pkgname-and-test-fails -- -race -count=1 -timeout 25m ./...

.PHONY: test-vsock-kernel
test-vsock-kernel: deps-test hal ## vsock over the kernel's device, in a VM inside a VM (minutes)
	@$(WITH_QEMU) go run ./test/vsock-kernel

.PHONY: bench
bench: deps-test build hal ## measure, print a table, write build/bench.json
	@$(WITH_QEMU) go run ./test/bench -out build/bench.json

.PHONY: proto
proto: ## generate Go from the protocols
	cd api && $(TOOL) buf generate

.PHONY: proto-baseline
proto-baseline: ## accept the protocols as they are as the contract to keep
	cd api && $(TOOL) buf build -o baseline.binpb

.PHONY: clean
clean: ## remove what was built; downloads stay in the cache folder
	rm -rf build $(IMG)/bzImage $(IMG)/rootfs.cpio.gz $(IMG)/python.img $(IMG)/image.json
