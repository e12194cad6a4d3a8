# Everything a newcomer needs: `make demo` and `make test`. Both fetch what is
# missing; `make help` lists the rest.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:

IMG  := cmd/manager/img
# Parsers of what strangers send: evidence, policies, manifests, receipts,
# attested TLS, firmware, vsock, images, secrets and what registries send.
FUZZED := ./attest/... ./receipt ./manifest ./atls ./hal/measure ./hal/ovmf ./internal/vsock/... ./internal/oci ./internal/source
TOOL := go tool -modfile=$(CURDIR)/tools/go.mod
# Finds or fetches the emulator, and ends the recipe if it can't.
WITH_QEMU = qemu=$$(scripts/qemu); export MANAGER_QEMU_BIN_PATH="$$qemu";

export CGO_ENABLED ?= 0
# Whatever is built here names no folder of this machine; and with one set of flags
# for all of it each package is compiled once.
export GOFLAGS := $(strip $(GOFLAGS) -trimpath)

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
	@for name in manager agent cli computations; do \
		scripts/stage "building build/cocos-$$name" go build -o build/cocos-$$name ./cmd/$$name; \
	done

.PHONY: hal
hal: ## build the guest image into cmd/manager/img
	@go run ./cmd/hal build

.PHONY: hal-disk
hal-disk: hal ## build the bootable disk of the guest image, too
	@go run ./cmd/hal disk

.PHONY: hal-update
hal-update: ## resolve the guest image's packages anew and write its lock file
	@go run ./cmd/hal update

.PHONY: demo
demo: deps-demo build hal ## let people compute in a VM, through the service (EXAMPLE=iris, aggregate-wasm, container-stats, hospitals or psi; KEEP=1: keep the service)
	@$(WITH_QEMU) go build -o build/demo ./test/demo; exec build/demo -example="$(EXAMPLE)" -keep=$(or $(KEEP),0)

.PHONY: check
check: ## formatting, vet, staticcheck, protocol contracts
	@unformatted=$$(gofmt -l .); \
	if [ -n "$$unformatted" ]; then echo "gofmt these files:"; echo "$$unformatted"; exit 1; fi
	@scripts/stage "checking go.mod" go mod tidy -diff
	@scripts/stage "go vet" go vet ./...
	@scripts/stage "staticcheck" $(TOOL) staticcheck ./...
	@cd api && ../scripts/stage "linting the protocols" $(TOOL) buf lint
	@cd api && ../scripts/stage "comparing the protocols with their baseline" $(TOOL) buf breaking --against baseline.binpb

.PHONY: servers
servers: ## compile the servers that tests take datasets from
	@scripts/stage "compiling an S3 server and a registry for the tests" go build -C test/servers/programs -o /dev/null ./... tool

# What waits for the network goes beside what waits for the processors. MAKE is
# named apart from its use, so that make -n only says what it would do.
AGAIN = $(MAKE) --no-print-directory
.PHONY: test
test: deps-test ## every test, in real VMs where it takes one
	@scripts/fetch & fetched=$$!; trap 'wait $$fetched || :' EXIT; \
	$(AGAIN) build hal hal-disk servers check; \
	scripts/fuzz 20s $(FUZZED); \
	trap - EXIT; wait $$fetched
	@$(WITH_QEMU) $(TOOL) gotestsum --format pkgname-and-test-fails --raw-command -- scripts/test

.PHONY: fuzz
fuzz: ## fuzz every parser, each for DURATION (20s)
	@scripts/fuzz $(or $(DURATION),20s) ./...

.PHONY: vuln
vuln: ## look for known vulnerabilities of dependencies, where their database can be reached
	@$(TOOL) govulncheck ./...

.PHONY: test-vsock-kernel
test-vsock-kernel: deps-test hal ## vsock over the kernel's device, in a VM inside a VM (minutes)
	@$(WITH_QEMU) go run ./test/vsock-kernel

.PHONY: bench
bench: deps-test build hal ## measure, print a table, write build/bench.json
	@$(WITH_QEMU) go run ./test/bench -out build/bench.json

# Under sudo nothing is built: what an ordinary user has built is installed.
.PHONY: install
install: ## install Manager, image, service, CLI and units (PREFIX=/usr/local, DESTDIR=)
	@if [ -z "$${SUDO_UID:-}" ]; then $(MAKE) --no-print-directory build hal; fi
	@PREFIX="$(PREFIX)" DESTDIR="$(DESTDIR)" packaging/install install

.PHONY: uninstall
uninstall: ## end the VMs and remove what was installed; edited configuration stays
	@PREFIX="$(PREFIX)" DESTDIR="$(DESTDIR)" packaging/install uninstall

.PHONY: run
run: ## start the installed Manager
	@packaging/install run

.PHONY: stop
stop: ## stop the installed Manager; its VMs go on
	@packaging/install stop

.PHONY: deb
deb: build hal ## make the Debian packages in build/
	@rm -f build/cocos-manager_*.deb build/cocos-computations_*.deb build/cocos-cli_*.deb
	@scripts/stage "making the Debian packages" packaging/deb build

.PHONY: release
release: build hal hal-disk ## gather all that is released, with digests, in build/release
	@scripts/stage "gathering the release" packaging/release build/release

.PHONY: proto
proto: ## generate Go from the protocols
	cd api && $(TOOL) buf generate

.PHONY: proto-baseline
proto-baseline: ## accept the protocols as they are as the contract to keep
	cd api && $(TOOL) buf build -o baseline.binpb

.PHONY: clean
clean: ## remove what was built; downloads stay in the cache folder
	rm -rf build $(IMG)/bzImage $(IMG)/rootfs.cpio.gz $(IMG)/python.img $(IMG)/image.json $(IMG)/disk.qcow2 $(IMG)/disk.json
