"""The trainer in a cluster, and the template of its Jobs: rendered, validated, and read by the code that uses it."""

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest

from services.trainer.engine_kubernetes import job_of
from services.trainer.settings import TrainerSettings
from tests.unit.deploy.rendering import KUBERNETES, Object, Overlay, pod_of, render, with_components


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Overlay:
    components = ["gpu", "vllm", "s3", "network-policies", "trainer", "pod-security"]
    return Overlay("trainer", render(with_components(tmp_path_factory.mktemp("overlay"), components)))


@pytest.fixture
def job(cluster: Overlay) -> Object:
    """A Job as the trainer makes it."""
    template = cluster.named("CronJob", "training")["spec"]["jobTemplate"]
    return job_of(template, "training-1", "{}", TrainerSettings(job_nodes=2))


@pytest.mark.parametrize("version", KUBERNETES)
def test_every_object_matches_the_schema_of_kubernetes(cluster: Overlay, job: Object, version: str) -> None:
    for one in [*cluster.objects, job]:
        kubernetes_validate.validate(one, version, strict=True)


def test_a_job_keeps_to_the_restricted_standard_and_its_limits(job: Object) -> None:
    pod = pod_of(job)
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {"cpu", "memory", "nvidia.com/gpu"} == set(container["resources"]["limits"])
    assert all("sizeLimit" in volume["emptyDir"] for volume in pod["volumes"] if "emptyDir" in volume)
    assert container["image"].endswith("-cuda")


def test_stories_go_before_trainings(cluster: Overlay, job: Object) -> None:
    training = cluster.named("PriorityClass", pod_of(job)["priorityClassName"])
    stories = cluster.named("PriorityClass", "narrative-interactive")
    assert training["value"] < stories["value"]
    assert training["preemptionPolicy"] == "Never"


def test_the_template_itself_never_runs(cluster: Overlay) -> None:
    assert cluster.named("CronJob", "training")["spec"]["suspend"] is True


def test_all_pods_of_a_training_find_one_another(cluster: Overlay, job: Object) -> None:
    assert (job["spec"]["completions"], job["spec"]["parallelism"]) == (2, 2)
    labels = job["spec"]["template"]["metadata"]["labels"]
    service = cluster.named("Service", pod_of(job)["subdomain"])
    assert service["spec"]["selector"].items() <= labels.items()
    assert service["spec"]["clusterIP"] == "None"
    policy = cluster.named("NetworkPolicy", "training")["spec"]
    assert policy["podSelector"]["matchLabels"].items() <= labels.items()


def test_what_a_job_mentions_exists(cluster: Overlay, job: Object) -> None:
    def names(kind: str) -> set[str]:
        return {one["metadata"]["name"] for one in cluster.of(kind)}

    pod = pod_of(job)
    assert pod["serviceAccountName"] in names("ServiceAccount")
    claims = {one["persistentVolumeClaim"]["claimName"] for one in pod["volumes"] if "persistentVolumeClaim" in one}
    assert claims <= names("PersistentVolumeClaim")
    mentioned = {one["configMapRef"]["name"] for one in pod["containers"][0]["envFrom"] if "configMapRef" in one}
    assert mentioned <= names("ConfigMap")


def test_the_trainer_may_do_what_it_does_and_no_more(cluster: Overlay) -> None:
    rules = cluster.named("Role", "trainer")["rules"]
    rights = {(resource, verb) for rule in rules for resource in rule["resources"] for verb in rule["verbs"]}
    assert rights == {
        ("jobs", "get"),
        ("jobs", "create"),
        ("jobs", "delete"),
        ("cronjobs", "get"),
        ("pods", "list"),
        ("pods/log", "get"),
    }
    assert not cluster.of("ClusterRole", "ClusterRoleBinding")
    (binding,) = cluster.of("RoleBinding")
    assert [subject["name"] for subject in binding["subjects"]] == ["trainer"]


def test_service_and_jobs_read_their_settings(cluster: Overlay, job: Object, monkeypatch: pytest.MonkeyPatch) -> None:
    service = cluster.named("Deployment", "trainer")
    for workload in (service, job):
        with monkeypatch.context() as patch:
            for name, value in cluster.environment(workload).items():
                patch.setenv(name, value)
            patch.setenv("NARRATIVE_TRAINER__OBJECT_STORE_URL", "s3://bucket")
            settings = TrainerSettings()
        assert settings.engine == "kubernetes"
        mounts: list[dict[str, Any]] = pod_of(workload)["containers"][0]["volumeMounts"]
        assert str(settings.trainings_folder) in {mount["mountPath"] for mount in mounts}
        assert settings.results_folder.is_relative_to(settings.trainings_folder)
    mounts = pod_of(service)["containers"][0]["volumeMounts"]
    assert str(settings.kubernetes_credentials) in {mount["mountPath"] for mount in mounts}
    assert pod_of(job)["terminationGracePeriodSeconds"] > settings.stop_s
    assert settings.job_template == cluster.named("CronJob", "training")["metadata"]["name"]
    gateway = cluster.environment(cluster.named("StatefulSet", "gateway"))
    assert gateway["NARRATIVE_GATEWAY__TRAINER_TARGET"] == f"dns:///trainer:{settings.port}"
    assert Path(settings.kubernetes_credentials).name == "serviceaccount"
