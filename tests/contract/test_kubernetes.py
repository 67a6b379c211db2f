"""The manifests as Kubernetes would see them: rendered by kubectl, held against its own schemas."""

import shutil
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
from ruamel.yaml import YAML

from soulsai.config import load
from soulsai.identity.folder import init
from tests.programs import installed

pytestmark = pytest.mark.tools

DEPLOY = Path(__file__).parents[2] / "deploy"
VERSION = "1.32"
Manifest = dict[str, Any]


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> list[Manifest]:
    folder = tmp_path_factory.mktemp("deploy")
    for part in ("kubernetes", "redis"):
        shutil.copytree(DEPLOY / part, folder / part, ignore=shutil.ignore_patterns("secrets"))
    secrets = folder / "kubernetes" / "secrets"
    init(secrets, now=datetime.now(UTC))
    for role in ("operator", "viewer"):
        (secrets / f"web_{role}.token").write_text("t" * 48)
    command = [installed("kubectl"), "kustomize", str(folder / "kubernetes")]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return list(YAML(typ="safe").load_all(text))


def pods(rendered: list[Manifest]) -> Iterator[tuple[str, Manifest]]:
    for manifest in rendered:
        if manifest["kind"] in ("Deployment", "StatefulSet"):
            yield manifest["metadata"]["name"], manifest["spec"]["template"]


def of_kind(rendered: list[Manifest], kind: str) -> dict[str, Manifest]:
    return {each["metadata"]["name"]: each for each in rendered if each["kind"] == kind}


def test_every_resource_is_what_its_schema_says(rendered: list[Manifest]) -> None:
    for manifest in rendered:
        kubernetes_validate.validate(manifest, VERSION, strict=True)
    assert {name for name, _ in pods(rendered)} == {
        "redis", "training-node", "telemetry-node", "evaluator", "client"
    }  # fmt: skip


def test_a_misspelt_key_is_found(rendered: list[Manifest]) -> None:
    claim = of_kind(rendered, "PersistentVolumeClaim")["saves"]
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(claim | {"specs": {}}, VERSION, strict=True)


def test_pods_have_no_rights(rendered: list[Manifest]) -> None:
    for _, template in pods(rendered):
        pod = template["spec"]
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "readOnlyRootFilesystem": True,
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["limits"]["memory"]


def test_each_role_is_given_its_own_secrets_only(rendered: list[Manifest]) -> None:
    files = {name: set(each["data"]) for name, each in of_kind(rendered, "Secret").items()}
    given = {}
    for role, template in pods(rendered):
        mounted = [each["secret"] for each in template["spec"]["volumes"] if "secret" in each]
        given[role] = set().union(*(files[secret["secretName"]] for secret in mounted))
    assert given == {
        "redis": {"users.acl", "metrics.secret"},
        "training-node": {"training_node.secret", "manifest.key"},
        "telemetry-node": {"telemetry_node.secret", "web_operator.token", "web_viewer.token"},
        "evaluator": set(),
        "client": {"redis.secret", "manifest.pub"},
    }


def test_only_the_server_is_spoken_to(rendered: list[Manifest]) -> None:
    policies = of_kind(rendered, "NetworkPolicy")
    assert policies["nobody-unless-told"]["spec"]["podSelector"] == {}
    (rule,) = policies["speaks-to-redis"]["spec"]["egress"][:1]
    assert rule["to"] == [{"podSelector": {"matchLabels": {"app": "redis"}}}]
    speaking = {
        role
        for role, template in pods(rendered)
        if template["metadata"]["labels"].get("speaks-to") == "redis"
    }
    assert speaking == {"training-node", "telemetry-node", "client"}


def test_services_and_scaling_name_pods_that_exist(rendered: list[Manifest]) -> None:
    labels = {template["metadata"]["labels"]["app"] for _, template in pods(rendered)}
    for service in of_kind(rendered, "Service").values():
        assert service["spec"]["selector"]["app"] in labels
    target = of_kind(rendered, "HorizontalPodAutoscaler")["client"]["spec"]["scaleTargetRef"]
    assert target["name"] in of_kind(rendered, target["kind"])


def test_the_settings_are_valid() -> None:
    assert load(DEPLOY / "kubernetes" / "config.yaml", {}, []).run.max_env_steps == 0
