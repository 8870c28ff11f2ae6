# From a model to an endpoint. `make` lists what there is; tools/run.py does it.
#   STACK=local|dev|prod  the stack (any that has a Pulumi.<stack>.yaml)
#   YES=1                 do not ask before changing a stack other than local

STACK ?= local
export STACK
run := @tools/python -m tools.run

.DEFAULT_GOAL := help
.PHONY: help up preview output down model example env test check e2e bench docs pictures lock

help: ## list the targets
	@sed -n 's/^\([a-z0-9]*\):.* ## /\1\t/p' Makefile | tr -s '$$' | while IFS="$$(printf '\t')" read -r name text; do printf '  make %-8s %s\n' "$$name" "$$text"; done
	@sed -n 's/^#   /  /p' Makefile

up: ## bring the stack up; prints the endpoint and a curl that works
	$(run) up

preview: ## show what `up` would change
	$(run) preview

output: ## print the endpoint and nothing else
	$(run) output

down: ## destroy what the stack made
	$(run) down

model: ## package a model file: FROM=model.pth CLASS=net.py:Net DATA=train.csv; without FROM: what can be set
	@tools/python -m tools.model.make $(foreach name,$(.VARIABLES),$(if $(findstring command line,$(origin $(name))),$(name)))

example: ## package one of the worked examples: NAME=chat, credit, movies, photos or sentences
	@tools/python -m tools.example $(NAME)

env: ## print the shell lines for bare `pulumi` commands: eval "$$(make -s env)"
	$(run) env

test: ## run every test that needs no root and no cluster
	$(run) test

check: ## lint, format, types and import contracts
	$(run) check

e2e: ## run the tests on a real cluster
	$(run) e2e

bench: ## measure the figures in docs/benchmarks.md
	$(run) bench

docs: ## write the generated parts of docs/
	$(run) docs

pictures: ## take the pictures in docs/images anew
	$(run) pictures

lock: ## compile the lock files again from the .in files
	$(run) locks
