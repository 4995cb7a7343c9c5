"""Owners count GPUs as the residency service does."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(("chosen", "order"), [("", "PCI_BUS_ID"), ("FASTEST_FIRST", "FASTEST_FIRST")])
def test_a_process_with_leases_counts_gpus_by_pci_address_unless_it_was_told_otherwise(chosen: str, order: str):
    code = "import narrative.runtime.residency, os; print(os.environ['CUDA_DEVICE_ORDER'])"
    environment = {"CUDA_DEVICE_ORDER": chosen} if chosen else {}
    printed = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert printed.stdout.strip() == order
