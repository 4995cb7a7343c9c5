from gateway.settings import GatewaySettings
from services.asr.settings import AsrSettings


def test_a_call_may_outlast_the_longest_recordings_that_wait_before_it() -> None:
    asr, gateway = AsrSettings(), GatewaySettings()
    longest_wait_s = gateway.max_concurrent_narratives * gateway.asr_deadline_s
    assert asr.max_deadline_s > longest_wait_s
    assert asr.triton_timeout_s >= asr.max_deadline_s
