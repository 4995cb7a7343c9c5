"""What Kubernetes would say about the rendered objects, and what we promise about them."""

import kubernetes_validate
import pytest

from tests.unit.deploy.rendering import KUBERNETES, WORKLOADS, Overlay, containers_of, names, pod_of


@pytest.mark.parametrize("version", KUBERNETES)
def test_every_object_matches_the_schema_of_kubernetes(overlay: Overlay, version: str) -> None:
    for one in overlay.objects:
        kubernetes_validate.validate(one, version, strict=True)


def test_a_misspelt_field_does_not_match(overlay: Overlay) -> None:
    workload = overlay.named("Deployment", "asr")

    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate({**workload, "spec": {**workload["spec"], "replica": 2}}, "1.37", strict=True)


def test_pods_keep_to_the_restricted_standard(overlay: Overlay) -> None:
    assert overlay.named("Namespace", "narrative")["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == (
        "restricted"
    )
    allowed = {"configMap", "emptyDir", "persistentVolumeClaim", "secret", "projected"}
    for workload in overlay.workloads():
        pod = pod_of(workload)
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        for volume in pod["volumes"]:
            assert set(volume) - {"name"} <= allowed
        for container in containers_of(workload):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }


def test_every_container_has_limits(overlay: Overlay) -> None:
    for workload in overlay.workloads():
        for container in containers_of(workload):
            assert {"cpu", "memory"} <= set(container["resources"]["limits"]), container["name"]
            assert {"cpu", "memory"} <= set(container["resources"]["requests"]), container["name"]


def test_every_scratch_volume_is_bounded(overlay: Overlay) -> None:
    for workload in overlay.workloads():
        for volume in pod_of(workload)["volumes"]:
            assert "emptyDir" not in volume or "sizeLimit" in volume["emptyDir"]


def test_images_are_pinned(overlay: Overlay) -> None:
    for workload in overlay.workloads():
        for container in containers_of(workload):
            _, _, tag = container["image"].partition(":")
            assert tag, container["image"]
            assert tag != "latest"


def test_every_process_is_probed(overlay: Overlay) -> None:
    for workload in overlay.workloads():
        (container,) = pod_of(workload)["containers"]
        ports = {port["containerPort"] for port in container["ports"]} | {port["name"] for port in container["ports"]}
        for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
            probe = container[kind]
            asked = probe.get("grpc") or probe["httpGet"]
            assert asked["port"] in ports
        startup = container["startupProbe"]
        assert startup["periodSeconds"] * startup["failureThreshold"] >= 120


def test_liveness_of_a_service_needs_no_weights(overlay: Overlay) -> None:
    for name in ("asr", "prompt", "translation", "diffusion"):
        (container,) = pod_of(overlay.named("Deployment", name))["containers"]
        assert container["livenessProbe"]["grpc"]["service"] == "liveness"
        assert container["startupProbe"]["grpc"]["service"] == "liveness"
        assert "service" not in container["readinessProbe"]["grpc"]


def test_clients_see_every_replica_of_a_service(overlay: Overlay) -> None:
    for name in ("asr", "prompt", "translation", "diffusion"):
        assert overlay.named("Service", name)["spec"]["clusterIP"] == "None"


def test_services_select_pods_that_there_are(overlay: Overlay) -> None:
    pods = [one["spec"]["template"]["metadata"]["labels"] for one in overlay.workloads()]
    # Those of trainings come from the template of their Jobs.
    pods += [one["spec"]["jobTemplate"]["spec"]["template"]["metadata"]["labels"] for one in overlay.of("CronJob")]
    for service in overlay.of("Service", "PodDisruptionBudget"):
        selector = service["spec"]["selector"]
        wanted = selector.get("matchLabels", selector)
        assert any(wanted.items() <= labels.items() for labels in pods), service["metadata"]["name"]


def test_every_workload_may_be_disrupted_but_not_whole(overlay: Overlay) -> None:
    budgets = names(overlay.of("PodDisruptionBudget"))

    # A drain leaves the pods of a DaemonSet where they are.
    assert budgets == names(overlay.of("Deployment", "StatefulSet"))


def test_an_update_keeps_what_works_until_the_new_is_ready(overlay: Overlay) -> None:
    """So a wrong image takes nothing away: its pod never gets ready, and the old one stays."""
    for workload in overlay.of("Deployment"):
        strategy = workload["spec"].get("strategy", {})
        has_gpu = "nvidia.com/gpu" in pod_of(workload)["containers"][0]["resources"]["limits"]
        if strategy.get("type") == "Recreate":
            # A GPU has no room for a second pod.
            assert has_gpu, workload["metadata"]["name"]
        else:
            stays = strategy.get("rollingUpdate", {}).get("maxUnavailable") == 0
            assert stays or workload["spec"].get("replicas") == 1, workload["metadata"]["name"]
    (gateway,) = overlay.of("StatefulSet")
    assert gateway["spec"].get("updateStrategy", {}).get("type", "RollingUpdate") == "RollingUpdate"
    assert pod_of(gateway)["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"] >= 5


def test_what_is_mentioned_exists(overlay: Overlay) -> None:
    claims = names(overlay.of("PersistentVolumeClaim"))
    accounts = names(overlay.of("ServiceAccount"))
    classes = names(overlay.of("PriorityClass"))
    config_maps = names(overlay.of("ConfigMap"))
    for workload in overlay.workloads():
        pod = pod_of(workload)
        assert pod["serviceAccountName"] in accounts
        assert pod["priorityClassName"] in classes
        volumes = {volume["name"] for volume in pod["volumes"]}
        volumes |= {claim["metadata"]["name"] for claim in workload["spec"].get("volumeClaimTemplates", [])}
        for volume in pod["volumes"]:
            assert "persistentVolumeClaim" not in volume or volume["persistentVolumeClaim"]["claimName"] in claims
        for container in containers_of(workload):
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
            sources = [source for source in container.get("envFrom", []) if "configMapRef" in source]
            assert {source["configMapRef"]["name"] for source in sources} <= config_maps


def test_secrets_are_only_mentioned(overlay: Overlay) -> None:
    assert overlay.of("Secret") == []
    secret = ("API_KEY", "ACCESS_KEY", "PASSWORD", "_TOKEN", "SECRET", "DATABASE_URL")
    for one in overlay.of("ConfigMap"):
        assert not [name for name in one["data"] if any(word in name for word in secret)], one["metadata"]["name"]
    for workload in overlay.workloads():
        for container in containers_of(workload):
            for entry in container.get("env", []):
                assert "value" not in entry or not any(word in entry["name"] for word in secret), entry["name"]


def test_gateways_that_share_work_share_what_it_is_kept_in(overlay: Overlay) -> None:
    gateway = overlay.named("StatefulSet", "gateway")
    variables = {entry["name"]: entry for entry in pod_of(gateway)["containers"][0]["env"]}

    executor = variables["NARRATIVE_GATEWAY__EXECUTOR_ID"]["valueFrom"]
    assert executor["fieldRef"]["fieldPath"] == "metadata.name"
    if gateway["spec"]["replicas"] > 1:
        assert {"NARRATIVE_DATABASE_URL", "NARRATIVE_GATEWAY__OBJECT_STORE_URL"} <= set(variables)


def test_all_read_and_write_the_same_objects(overlay: Overlay) -> None:
    """Adapters are put into the object store by one process and drawn with by another."""
    places = []
    for kind, name in (("StatefulSet", "gateway"), ("Deployment", "asr"), ("Deployment", "diffusion")):
        workload = overlay.named(kind, name)
        (container,) = pod_of(workload)["containers"]
        (url,) = [one for one in container["env"] if one["name"] == f"NARRATIVE_{name.upper()}__OBJECT_STORE_URL"]
        place = url.get("value") or url["valueFrom"]["secretKeyRef"]
        if place == "/objects":
            (mount,) = [one["name"] for one in container["volumeMounts"] if one["mountPath"] == place]
            (place,) = [one["persistentVolumeClaim"] for one in pod_of(workload)["volumes"] if one["name"] == mount]
        else:
            assert {"secretRef": {"name": place["name"]}} in container["envFrom"]
        places.append(place)

    assert places[0] == places[1] == places[2]


def test_whoever_asks_for_a_gpu_tolerates_its_taint(overlay: Overlay) -> None:
    for workload in overlay.workloads():
        (container,) = pod_of(workload)["containers"]
        if "nvidia.com/gpu" in container["resources"]["limits"]:
            assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in pod_of(workload)[
                "tolerations"
            ]


def test_on_cuda_only_with_a_gpu(overlay: Overlay) -> None:
    for name in ("asr", "diffusion"):
        workload = overlay.named("Deployment", name)
        (container,) = pod_of(workload)["containers"]
        device = overlay.environment(workload).get(f"NARRATIVE_{name.upper()}__DEVICE", "cpu")
        has_gpu = "nvidia.com/gpu" in container["resources"]["limits"]

        assert (device == "cuda") == has_gpu == container["image"].endswith("-cuda")


def test_residency_sees_the_gpus_of_its_node_and_takes_none(overlay: Overlay) -> None:
    for workload in overlay.of("DaemonSet"):
        pod = pod_of(workload)
        assert pod["runtimeClassName"] == "nvidia"
        assert pod["nodeSelector"] == {"nvidia.com/gpu.present": "true"}
        assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in pod["tolerations"]
        assert "nvidia.com/gpu" not in pod["containers"][0]["resources"]["limits"]
        assert overlay.named("Service", workload["metadata"]["name"])["spec"]["internalTrafficPolicy"] == "Local"


def test_the_autoscaler_owns_the_number_of_replicas(overlay: Overlay) -> None:
    for scaler in overlay.of("HorizontalPodAutoscaler"):
        target = scaler["spec"]["scaleTargetRef"]
        assert target["kind"] in WORKLOADS
        assert "replicas" not in overlay.named(target["kind"], target["name"])["spec"]
