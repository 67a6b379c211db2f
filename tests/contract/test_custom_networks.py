"""Networks of other people: the contract of docs/extending.md, and a line for each breach of it."""

import re
import sys

import msgspec
import numpy as np
import pytest
import torch

from soulsai.algorithms.compile.form import NotCompilable
from soulsai.algorithms.custom_networks import random_leaves
from soulsai.algorithms.registry import BUILT_IN
from soulsai.client.actor import Actor
from soulsai.config import load
from soulsai.config.schema import Config, check
from soulsai.errors import ConfigError
from soulsai.training_node import onnx_export, start
from soulsai.training_node.forecast import forecast
from soulsai.training_node.start import check_fit, export
from soulsai.types import Leaf, Spec, Weights, zeros
from tests.contract.algorithm_cases import (
    BOX,
    CASES,
    FEATURES,
    FOUR,
    MASKED,
    NETWORK,
    SEEN,
    Case,
    case,
    make,
    stream,
)
from tests.contract.network_cases import __name__ as HERE

torch.set_num_threads(1)
CUSTOM = {name: case for name, case in CASES.items() if case.config.learner.custom}
PLAIN = {
    "dqn": (Spec(MASKED, FOUR), 16),
    "ppo": (Spec(MASKED, FOUR), 4),
    "sac": (Spec(SEEN, BOX), 4),
}


def with_network(algorithm: str, name: str, setting: str = "network") -> Case:
    settings = msgspec.structs.replace(CASES[algorithm].config.learner, **{setting: name})
    return case(algorithm, PLAIN[algorithm][0], **{algorithm: settings})


def test_every_algorithm_is_tried_with_both():
    tried = {
        (c.config.algorithm.name, name) for c in CUSTOM.values() for name in c.config.learner.custom
    }
    assert tried == {(a, name) for a in BUILT_IN for name in ("network", "feature_extractor")}


@pytest.mark.parametrize("name", CUSTOM)
def test_a_client_computes_what_the_network_computes_and_needs_no_class(name):
    config, spec = CUSTOM[name]
    algorithm = make(CUSTOM[name])
    list(algorithm.learn(iter(stream(CUSTOM[name], 200))))
    program = export(config, algorithm.policy, spec)
    arrays = onnx_export.weights(algorithm.policy, program)
    actor = Actor.load(program, Weights("run", 1, 1, arrays), spec)
    rows = random_leaves({n: spec.obs[n] for n in algorithm.policy.inputs}, 5)
    memory = {n: zeros(leaf, 5) for n, leaf in algorithm.policy.memory.items()}
    got, _ = actor(rows, memory)
    policy = algorithm.policy.twin()
    with torch.no_grad():
        wanted, _ = policy(
            *({n: torch.from_numpy(x) for n, x in d.items()} for d in (rows, memory))
        )
    for output in policy.outputs:
        assert np.allclose(got[output], wanted[output].numpy(), atol=1e-5)


@pytest.mark.parametrize("name", CUSTOM)
def test_every_part_of_it_learns(name):
    algorithm = make(CUSTOM[name])
    parts = [part for part in algorithm.parts.values() if isinstance(part, torch.nn.Module)]
    before = [{n: p.clone() for n, p in part.named_parameters()} for part in parts]
    list(algorithm.learn(iter(stream(CUSTOM[name], 400))))
    for part, weights in zip(parts, before, strict=True):
        for n, parameter in part.named_parameters():
            assert not torch.equal(parameter, weights[n]), n


class Witness(torch.nn.Linear):
    """Notes what it is given, once it has been tried."""

    def __init__(self, leaves, outputs):
        super().__init__(1, outputs)
        self.leaves, self.seen = leaves, {}

    def forward(self, obs):
        self.seen = {name: leaf.clone() for name, leaf in obs.items()}
        return super().forward(obs["place"][:, :1].float())


def test_it_gets_numbers_normalised_and_everything_else_as_it_is():
    leaves = {
        "place": Leaf((2, 2), "<f8"),
        "far": Leaf((), "<f4"),
        "kind": Leaf((2,), "|u1", categories=3),
        "eye": Leaf((6, 5, 1), "|u1", 0, 0.0, 255.0),
        "lamp": Leaf((), "|b1"),
    }
    leaves["place"] = Leaf((2,), "<f8")
    witness = f"{__name__}:Witness"
    settings = msgspec.structs.replace(CASES["dqn"].config.dqn, network=witness)
    policy = make(case("dqn", Spec(leaves, FOUR), dqn=settings)).policy
    policy.observation.mean.copy_(torch.tensor([1.0, 2.0, 3.0]))
    policy.observation.inv_std.copy_(torch.tensor([2.0, 1.0, 0.5]))
    obs = {name: torch.from_numpy(row) for name, row in random_leaves(leaves, 7).items()}
    policy(obs, {})
    module = policy.values.network.module
    assert list(module.seen) == list(leaves)
    assert module.leaves == leaves
    place = (obs["place"].float() - torch.tensor([1.0, 2.0])) * torch.tensor([2.0, 1.0])
    assert torch.allclose(module.seen["place"], place)
    assert torch.allclose(module.seen["far"], (obs["far"] - 3.0) * 0.5)
    assert module.seen["place"].dtype == torch.float32
    for name in ("kind", "eye", "lamp"):
        assert torch.equal(module.seen[name], obs[name])
        assert module.seen[name].dtype == obs[name].dtype


BREACHES = {
    "without_outputs": r"cannot be made as Class\(leaves, outputs\): TypeError: .*2 were given",
    "no_module": "gives function, not a torch.nn.Module",
    "one_too_many": r"returns float32 \[4, {more}\] for 4 observations; wanted .* \[B, {n}\]",
    "flat_values": r"returns float32 \[4\] for 4 observations",
    "other_width": r"raised RuntimeError: .* at \S+cases.py:\d+, given place float32 \[4, 3\]",
    "in_double": "raised RuntimeError: .*Double",
    "frozen": "the parameter 'inner.weight' is frozen; register it as a buffer",
    "left_over": "its outputs do not depend on the parameter 'spare.weight'; remove it",
    "with_dropout": "is not deterministic: .*leave out dropout and noise",
    "with_batch_norm": "its forward pass changes buffers; use LayerNorm",
    "with_plain_batch_norm": "depend on the others of its batch; use LayerNorm",
    "drawn_by_numpy": "is not deterministic: the same seed gives other weights",
    "constant": "has no parameters, so it cannot learn",
    "not_finite": "returns numbers that are not finite",
    "in_evaluation": "gives other outputs in evaluation than in training",
    "WithMemory": "returns tuple; wanted one tensor .*memory",
    "Detached": "no gradient reaches its parameters; leave out detach",
    "Uncopied": "cannot be copied: ",
    "Broken": "raised KeyError: 'nowhere' at ",
    "Missing": "has no 'Missing'; it defines rows, width, Net, Features, plain, Rows, ",
}


@pytest.mark.parametrize("algorithm", PLAIN)
@pytest.mark.parametrize("name", BREACHES)
def test_a_breach_of_the_contract_is_one_line(algorithm, name):
    _, outputs = PLAIN[algorithm]
    said = BREACHES[name].replace("{n}", str(outputs)).replace("{more}", str(outputs + 1))
    with pytest.raises(ConfigError, match=said) as caught:
        make(with_network(algorithm, f"{HERE}:{name}"))
    assert str(caught.value).startswith(f"{algorithm}.network: {HERE}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("algorithm", PLAIN)
def test_a_feature_extractor_is_tried_alike(algorithm):
    for name, said in (
        ("with_outputs", r"cannot be made as Class\(leaves\)"),
        (
            "scalar_features",
            r"returns float32 \[4\] for 4 observations; wanted one tensor \[B, F\]",
        ),
    ):
        with pytest.raises(ConfigError, match=said) as caught:
            make(with_network(algorithm, f"{HERE}:{name}", "feature_extractor"))
        assert str(caught.value).startswith(f"{algorithm}.feature_extractor: {HERE}:{name}")


@pytest.mark.parametrize(
    ("name", "said"),
    [("Branching", "GuardOnDataDependentSymNode: "), ("Looping", "cannot be exported to ONNX: ")],
)
def test_what_cannot_be_exported_is_one_line_for_a_run_and_for_check_env(name, said, capfd):
    config, spec = with_network("dqn", f"{HERE}:{name}")
    policy = make(Case(config, spec)).policy
    for attempt in (lambda: export(config, policy, spec), lambda: forecast(config, spec)):
        with pytest.raises(ConfigError, match=said) as caught:
            attempt()
        assert str(caught.value).startswith(
            f"dqn.network: {HERE}:{name} cannot be exported to ONNX"
        )
        assert str(caught.value).endswith("and no loops over the batch")
        assert "\n" not in str(caught.value)
    assert "".join(capfd.readouterr()) == "", "the exporter says nothing besides"


def test_what_is_too_large_is_named(monkeypatch):
    config, spec = with_network("sac", NETWORK)
    policy = make(Case(config, spec)).policy
    with monkeypatch.context() as patch:
        patch.setattr(start, "MAX_LEAF_BYTES", 100)
        with pytest.raises(ConfigError, match=r"weight 'tower.module.enter.weight' .* narrower"):
            export(config, policy, spec)
    with monkeypatch.context() as patch:
        patch.setattr(start, "MOST_FILE_BYTES", 100)
        with pytest.raises(ConfigError, match=r"weights take .* together.* narrower"):
            export(config, policy, spec)


@pytest.mark.parametrize("setting", ["network", "feature_extractor"])
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nowhere_at_all:Net", "there is no module 'nowhere_at_all'; install its package"),
        ("nowhere.py:Net", r"nowhere.py: no such file \(looked for in "),
        ("own_of_test:Net", "no module 'own_of_test'; name the file: own_of_test.py:Net"),
        ("own_of_test.py:Nat", "own_of_test.py has no 'Nat'; it defines Net$"),
        ("sick.py:Net", r"sick.py:Net cannot be imported: ZeroDivisionError: .*sick.py:1"),
        ("hungry.py:Net", "hungry.py:Net: ModuleNotFoundError: .*'a_library'.*; install it"),
    ],
)
def test_what_cannot_be_imported_is_one_line(setting, name, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    (tmp_path / "own_of_test.py").write_text("class Net: pass\n")
    (tmp_path / "sick.py").write_text("1 / 0\n")
    (tmp_path / "hungry.py").write_text("import a_library\n")
    with pytest.raises(ConfigError, match=said) as caught:
        make(with_network("ppo", name, setting))
    assert str(caught.value).startswith(f"ppo.{setting}: ")


def test_a_file_in_the_current_folder_is_a_network(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    (tmp_path / "mine.py").write_text("from tests.contract.network_cases import Net\n")
    policy = make(with_network("ppo", "mine.py:Net")).policy
    assert type(policy.actor.module).__name__ == "Net"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["dqn.network=resnet"],
            "dqn.network: 'resnet'; wanted layers, residual, module:Class or f",
        ),
        (["ppo.network=residual"], "ppo.network: 'residual'; wanted layers, module:Class or file"),
        (["sac.feature_extractor=x"], "sac.feature_extractor: 'x'; wanted module:Class or file.py"),
        (
            [f"dqn.feature_extractor={FEATURES}", "dqn.vision=nature"],
            "dqn.vision: nature, but feature_extractor takes its place; leave it out",
        ),
        ([f"dqn.network={NETWORK}", "dqn.noisy=true"], "dqn.noisy: needs our last layer"),
        ([f"dqn.network={NETWORK}", "dqn.sampled=true"], "dqn.sampled: needs our last layer"),
        ([f"ppo.network={NETWORK}", "ppo.memory=8"], "ppo.memory: a network of your own has none"),
        ([f"sac.network={NETWORK}", "sac.dropout=0.1"], "sac.dropout: needs our own layers"),
        (
            [f"sac.network={NETWORK}", f"sac.feature_extractor={FEATURES}"],
            "sac.feature_extractor: a network of your own reads the observation itself",
        ),
    ],
)
def test_settings_that_contradict_a_network_are_one_line(words, said, tmp_path):
    (tmp_path / "empty.yaml").write_text("")
    with pytest.raises(ConfigError, match=re.escape(said)):
        load(tmp_path / "empty.yaml", {}, words)


def test_an_observation_called_action_is_refused_for_critics_only():
    spec = Spec({"action": Leaf((2,), "<f4")}, BOX)
    settings = CASES["sac"].config.sac
    own = case("sac", spec, sac=msgspec.structs.replace(settings, network=NETWORK))
    with pytest.raises(ConfigError, match=r"sac\.network: .*'action'.* feature_extractor instead"):
        make(own)
    make(case("sac", spec, sac=msgspec.structs.replace(settings, feature_extractor=FEATURES)))


def test_a_checkpoint_remembers_its_network():
    before, after = with_network("dqn", NETWORK).config, with_network("dqn", "layers").config
    with pytest.raises(ConfigError) as caught:
        check_fit(before, after)
    assert str(caught.value) == (
        f'dqn.network: "{NETWORK}" in the checkpoint, layers now; set it back, or start a new run'
    )


@pytest.mark.parametrize("algorithm", ["dqn", "sac"])
def test_buffers_of_its_own_are_not_compiled_and_it_says_why(algorithm):
    with pytest.raises(NotCompilable, match="buffers of its own"):
        make(with_network(algorithm, FEATURES, "feature_extractor")).forms()


def test_ours_are_no_custom_networks():
    assert check(Config()).learner.custom == {}
    assert load(None, {}, ["dqn.network=residual"]).learner.custom == {}
